"""AMPLIFY's inverse dynamics: frozen numbers, sizes, and what each head may and may not see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weights import numpy_variables, run

from t2p.io import UserError
from t2p.models.dit import position_table
from t2p.models.inverse_dynamics import GAUSSIAN, make_inverse_dynamics

PARTS = ("image", "proprio", "codes")
SMALL = {"width": 16, "depth": 1, "heads": 2, "actions": (5, 3), "parts": PARTS}
UNET = {"step_dim": 8, "down_dims": (8, 16), "kernel_size": 3, "groups": 4}
KINDS = {"gaussian": {}, "diffusion": {"condition": 10}, "flow": {}, "unet": {"unet": UNET}}
FROZEN = {
    "gaussian": [0.845742, -0.461729, 0.330476, 0.990263],
    "diffusion": [0.415328, -0.726012, 0.314769, 0.410058],
    "flow": [0.18308, 2.952744, -0.543575, -4.96663],
    "unet": [3.822573, 0.32389, -1.84729, 0.022428],
}


def make(kind, **changes):
    return make_inverse_dynamics(kind, **{**SMALL, **KINDS[kind], **changes})


def observed(seed=0, batch=2):
    rng = np.random.default_rng(seed)
    shapes = {"image": (4, 5), "text": (1, 7), "proprio": (1, 9), "codes": (5, 16)}
    return {part: rng.standard_normal((batch, *shape), np.float32) for part, shape in shapes.items()}


def noisy(kind, batch=2):
    if kind == "gaussian":
        return ()
    x = np.random.default_rng(1).standard_normal((batch, 5, 3), np.float32)
    return x, (np.float32([0.2, 0.7]) if kind == "flow" else np.array([3, 70]))[:batch]


def output(result):
    return result[0] if isinstance(result, tuple) else result


@pytest.fixture(scope="module")
def models():
    return {kind: (net := make(kind), numpy_variables(net, observed(), *noisy(kind))) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_numbers(models, kind):
    """Recorded when the released heads agreed with the official implementation to 1e-5."""
    net, variables = models[kind]
    y = output(run(net, variables, observed(), *noisy(kind)))
    assert y.shape == (2, 5, 3) and y.dtype == jnp.float32
    np.testing.assert_allclose(np.ravel(y)[[0, 10, 20, 29]], FROZEN[kind], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "ordered"), [("gaussian", False), ("flow", False), ("unet", False), ("diffusion", True)]
)
def test_whether_the_condition_has_an_order(models, kind, ordered):
    """Only the diffusion transformer learns positions of its tokens."""
    net, variables = models[kind]
    x = observed()
    turned = {**x, "image": x["image"][:, ::-1]}
    got, want = (output(run(net, variables, given, *noisy(kind))) for given in (turned, x))
    assert (np.abs(got - want).max() > 1e-4) == ordered


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_matters_and_no_other(models, kind):
    net, variables = models[kind]
    x = observed()
    want = output(run(net, variables, x, *noisy(kind)))
    for part in x:
        got = output(run(net, variables, {**x, part: x[part] + 1}, *noisy(kind)))
        assert (np.abs(got - want).max() > 1e-4) == (part in PARTS), part


@pytest.mark.parametrize(("kind", "see"), [("flow", False), ("diffusion", True), ("unet", True)])
def test_whether_actions_see_each_other(models, kind, see):
    net, variables = models[kind]
    x, time = noisy(kind)
    moved = x.copy()
    moved[:, 0] += 1
    change = np.abs(run(net, variables, observed(), moved, time) - run(net, variables, observed(), x, time))
    assert change[:, 0].max() > 1e-3
    assert (change[:, 1:].max() > 1e-3) == see


def test_parts_are_ordered_and_those_not_asked_for_ignored():
    x = observed()
    net = make("gaussian", parts=("codes", "text"))
    variables = numpy_variables(net, x)
    assert set(variables["params"]) == {"project_text", "head"}
    tokens = run(net, variables, x, method="condition")
    assert tokens.shape == (2, 6, 16)
    np.testing.assert_array_equal(tokens[:, 1:], x["codes"])


@pytest.mark.parametrize("kind", ["diffusion", pytest.param("flow", marks=pytest.mark.long)])
def test_dropout_only_in_training(models, kind):
    net, variables = models[kind]

    @jax.jit
    def train(key):
        return net.apply(variables, observed(), *noisy(kind), train=True, rngs={"dropout": key})

    first, second = train(jax.random.key(0)), train(jax.random.key(1))
    still = run(net, variables, observed(), *noisy(kind))
    assert np.abs(first - second).max() > 1e-3 and np.abs(first - still).max() > 1e-3


def test_learned_numbers_are_taken_as_they_are(models):
    """In the release neither the standard deviation nor the scale of the mean goes through an exponential."""
    net = make("gaussian", spread="scalar", learned_scale=True)
    _, variables = models["gaussian"]
    head = {**variables["params"]["head"], "std": np.float32(-0.3), "scale": np.float32(2)}
    mean, aux = run(net, {"params": {**variables["params"], "head": head}}, observed())
    np.testing.assert_allclose(mean, 2 * output(run(*models["gaussian"], observed())), rtol=1e-5)
    np.testing.assert_allclose(aux["std"], [[[-0.3]]])
    assert aux["bound"] == 2


def test_a_predicted_spread_is_one_for_all_numbers_of_an_action():
    net = make("gaussian", spread="predicted", squash=False)
    mean, aux = run(net, numpy_variables(net, observed()), observed())
    assert aux["std"].shape == (2, 5, 1) and np.min(aux["std"]) > 0 and np.ptp(aux["std"]) > 0
    assert np.abs(mean).max() > 1


def test_positions_are_by_turns():
    table = position_table(3, 4)
    np.testing.assert_allclose(table[2], [np.sin(2), np.cos(2), np.sin(0.02), np.cos(0.02)], atol=1e-6)


@pytest.mark.parametrize(("kind", "count"), [("gaussian", 57_460_999), ("diffusion", 43_991_047), ("flow", 35_839_495)])
def test_published_sizes(kind, count):
    assert sum(x.size for x in jax.tree.leaves(published(kind))) == count


def published(kind):
    """Shapes of the released model's parameters: two views of 49 tokens, 15 codes, 16 actions of 7 numbers."""
    settings = {"width": 768, "depth": 4, "heads": 8, "actions": (16, 7), "parts": PARTS}
    settings |= {"condition": 65} if kind == "diffusion" else GAUSSIAN["released"] if kind == "gaussian" else {}
    x = {"image": jnp.zeros((1, 49, 1024)), "proprio": jnp.zeros((1, 1, 9)), "codes": jnp.zeros((1, 15, 768))}
    given = () if kind == "gaussian" else (jnp.zeros((1, 16, 7)), jnp.zeros(1))
    return jax.eval_shape(make_inverse_dynamics(kind, **settings).init, jax.random.key(0), x, *given)["params"]


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_keeps_output_and_parameters_in_float32(kind):
    half = make(kind, dtype=jnp.bfloat16)
    given = observed(), *noisy(kind)
    made = jax.eval_shape(half.init, jax.random.key(0), *given)
    assert {p.dtype for p in jax.tree.leaves(made)} == {jnp.dtype("float32")}
    assert output(jax.eval_shape(half.apply, made, *given)).dtype == jnp.float32


@pytest.mark.long
def test_bfloat16_is_near(models):
    net, variables = models["diffusion"]
    half = make("diffusion", dtype=jnp.bfloat16)
    want, got = (run(m, variables, observed(), *noisy("diffusion")) for m in (net, half))
    np.testing.assert_allclose(got, want, atol=0.1 * np.abs(want).max())


@pytest.mark.parametrize(
    ("kind", "settings", "inputs", "words"),
    [
        ("mse", {}, {}, "'mse'; expected one of gaussian, diffusion, flow, unet"),
        ("gaussian", {"parts": ()}, {}, "expected one or more of image, text"),
        ("gaussian", {"parts": ("depth",)}, {}, "'depth'"),
        ("gaussian", {"spread": "wide"}, {}, "'wide'; expected one of fixed, scalar, predicted"),
        ("gaussian", {}, {"proprio": None}, "proprio has shape None"),
        ("gaussian", {}, {"proprio": np.zeros((2, 9))}, r"proprio has shape \(2, 9\)"),
        ("gaussian", {}, {"codes": np.zeros((2, 5, 8))}, r"expects \[batch, tokens, 16\]"),
        ("diffusion", {"condition": 9}, {}, "has 10 tokens; this diffusion head has positions for 9"),
    ],
)
def test_what_does_not_fit_is_refused(kind, settings, inputs, words):
    with pytest.raises(UserError, match=words):
        net = make_inverse_dynamics(kind, **{**SMALL, **KINDS.get(kind, {}), **settings})
        jax.eval_shape(lambda: net.init(jax.random.key(0), {**observed(), **inputs}, *noisy(kind)))
