"""What AMPLIFY's inverse dynamics learns from, and how it acts."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm, truncnorm

from t2p.diffusion.schedules import Schedule
from t2p.io import UserError
from t2p.methods.inverse_heads import (
    FLOW,
    GAUSSIAN,
    DiffusionActions,
    FlowActions,
    GaussianActions,
    gaussian_nll,
    valid_mean,
)
from t2p.models.inverse_dynamics import make_inverse_dynamics

VALID = np.array([[True] * 4, [True, True, False, False], [False] * 4])
KEY = jax.random.key(0)


@dataclass(frozen=True)
class Line:
    """A network of one number: w times what it is given, and the condition's sum. Compiles at once."""

    gaussian: bool = False
    actions: tuple[int, int] = (4, 3)

    @property
    def head(self):
        return self

    def apply(self, variables, *arguments, method=None, train=False, rngs=None):
        read = lambda inputs: inputs["codes"].sum((1, 2))[:, None, None]  # noqa: E731
        if method == "read":
            return read(arguments[0])
        if self.gaussian:
            mean = variables["params"]["w"] * read(arguments[0]) * jnp.ones(self.actions)
            return mean, {"std": jnp.full((1, 1, 1), 0.1), "bound": jnp.float32(1)}
        x, _, memory = arguments if method == "denoise" else (*arguments[1:], read(arguments[0]))
        return variables["params"]["w"] * x + memory


def head_of(kind, net=None, **changes):
    net = net or Line(kind == "gaussian")
    if kind == "gaussian":
        return GaussianActions(net, **changes)
    if kind == "diffusion":
        return DiffusionActions(net, Schedule(10), **{"inference_steps": 10, **changes})
    return FlowActions(net, **{"steps": 6, **changes})


def observed():
    return {"codes": np.random.default_rng(0).uniform(-0.2, 0.2, (3, 2, 8)).astype(np.float32)}


def demonstrated():
    return np.random.default_rng(1).uniform(-0.9, 0.9, (3, 4, 3)).astype(np.float32)


def parameters(w=0.7):
    return {"w": np.float32(w)}


@partial(jax.jit, static_argnums=0)
def loss_of(head, params, actions, valid):
    return head.loss(params, observed(), actions, valid, KEY, train=False)


@pytest.mark.parametrize("kind", ["gaussian", "diffusion", "flow"])
def test_networks_fit_their_heads(kind):
    """Shapes only: initial parameters, a loss in training (dropout has its key) and a sample."""
    settings = {"width": 8, "depth": 1, "heads": 2, "actions": (4, 3), "parts": ("codes",)}
    net = make_inverse_dynamics(kind, **settings, **({"condition": 2} if kind == "diffusion" else {}))
    head = head_of(kind, net)
    params = jax.eval_shape(head.init, KEY, observed())
    loss = partial(head.loss, train=True)
    assert jax.eval_shape(loss, params, observed(), demonstrated(), VALID, KEY).shape == ()
    assert jax.eval_shape(head.sample, params, observed(), jax.random.split(KEY, 3)).shape == (3, 4, 3)


@pytest.mark.parametrize("std", [0.1, np.full((2, 3, 1), 0.7)])
def test_likelihood_is_the_truncated_normal(std):
    rng = np.random.default_rng(0)
    mean, actions = rng.uniform(-1, 1, (2, 2, 3, 4))
    low, high = (-1.5 - mean) / std, (1.5 - mean) / std
    want = -truncnorm.logpdf(actions, low, high, loc=mean, scale=std)
    np.testing.assert_allclose(gaussian_nll(actions, mean, std, 1.5), want, atol=1e-3)
    np.testing.assert_allclose(gaussian_nll(actions, mean, std), -norm.logpdf(actions, mean, std), rtol=1e-4)


@pytest.mark.parametrize("reading", GAUSSIAN)
def test_gaussian_loss(reading):
    """Against a loop over what counts."""
    head = head_of("gaussian", **GAUSSIAN[reading])
    mean = np.asarray(head.apply(parameters(), observed())[0])
    terms = []
    for row, step in zip(*np.nonzero(VALID)):
        given = (demonstrated()[row, step], mean[row, step], 0.1)
        each = gaussian_nll(*given, 1.0) if reading == "released" else -norm.logpdf(*given)
        terms.append(0.99**step * np.asarray(each))
    want = np.mean(terms) if reading == "released" else np.sum(terms) / 2  # two rows have steps that count
    np.testing.assert_allclose(loss_of(head, parameters(), demonstrated(), VALID), want, rtol=1e-4)


@pytest.mark.parametrize("kind", ["gaussian", "diffusion", "flow"])
def test_only_steps_that_count_give_a_loss(kind):
    head = head_of(kind)
    changed = demonstrated()
    changed[~VALID] += 1
    losses = [float(loss_of(head, parameters(), x, VALID)) for x in (demonstrated(), changed)]
    assert losses[0] == losses[1] > 0
    assert loss_of(head, parameters(), changed, np.zeros_like(VALID)) == 0
    changed[0, 0] += 1
    assert loss_of(head, parameters(), changed, VALID) != losses[0]


def test_mean_over_what_counts():
    x = np.arange(24.0).reshape(2, 4, 3)
    valid = np.array([[True, False, False, False], [False, False, True, True]])
    np.testing.assert_allclose(valid_mean(x, valid), x[valid].mean())


def test_optimal_pairs_shorten_the_way():
    """With a network that always says the same the loss is the squared distance of the pairs, but for a constant."""
    drawn, paired = (
        loss_of(head_of("flow", pairing=pairing), parameters(0.0), demonstrated(), np.ones_like(VALID))
        for pairing in ("independent", "optimal")
    )
    assert paired < drawn


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("gaussian", {}),
        ("diffusion", {}),
        pytest.param("diffusion", {"method": "ddim", "inference_steps": 5}, marks=pytest.mark.long),
        ("flow", {}),
        pytest.param("flow", {"solver": "euler"}, marks=pytest.mark.long),
    ],
)
def test_a_row_depends_on_itself_and_its_key_alone(kind, changes):
    head = head_of(kind, **changes)
    params, keys = parameters(), jax.random.split(KEY, 3)
    act = jax.jit(head.sample)
    actions = np.asarray(act(params, observed(), keys))
    order = np.array([2, 0, 1])
    turned = act(params, {part: x[order] for part, x in observed().items()}, keys[order])
    assert actions.shape == (3, 4, 3) and act._cache_size() == 1
    np.testing.assert_allclose(turned, actions[order], atol=1e-5)
    others = act(params, observed(), jax.random.split(jax.random.key(1), 3))
    assert (np.abs(others - actions).max() > 1e-3) == (kind != "gaussian")


@pytest.mark.parametrize(("kind", "steps", "traced"), [("diffusion", 10, 1), ("flow", 6, 2)])
def test_the_condition_is_read_once_and_the_network_traced_once(kind, steps, traced, monkeypatch):
    head, calls = head_of(kind), {"read": 0, "denoise": 0}
    apply = type(head).apply

    def counted(self, *arguments, **options):
        calls[options["method"]] += 1
        return apply(self, *arguments, **options)

    monkeypatch.setattr(type(head), "apply", counted)
    jax.eval_shape(head.sample, parameters(), observed(), jax.random.split(KEY, 3))
    assert calls["read"] == 1 and traced <= calls["denoise"] <= 2 * traced < steps


def test_readings():
    released, paper = (head_of("flow", **FLOW[name]) for name in ("released", "paper"))
    assert (released.steps, released.pairing) == (100, "independent")
    assert (paper.steps, paper.pairing, paper.solver) == (10, "optimal", "midpoint")


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("gaussian", {"reduction": "max"}, "'max'; expected one of mean, sum"),
        ("diffusion", {"method": "heun"}, "'heun'; expected one of ddpm, ddim"),
        ("diffusion", {"inference_steps": 11}, "11 steps of a chain of 10"),
        ("flow", {"pairing": "best"}, "'best'; expected one of independent, optimal"),
        ("flow", {"solver": "rk4"}, "'rk4'; expected one of euler, midpoint"),
        ("flow", {"steps": 0}, "got 0"),
    ],
)
def test_what_does_not_fit_is_refused(kind, changes, words):
    with pytest.raises(UserError, match=words):
        head_of(kind, **changes)
