"""The diffusion head: what enters its loss, what a sample depends on, and that it learns."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from t2p.diffusion.schedules import Schedule
from t2p.io import UserError
from t2p.methods.heads import DiffusionHead, configure
from t2p.models.unet1d import ConditionalUnet1D

STEPS, NUMBERS, CONDITION = 5, 4, 6


def head(**changes) -> DiffusionHead:
    net = ConditionalUnet1D(NUMBERS, CONDITION, step_dim=16, down_dims=(16,), kernel_size=3, groups=8)
    settings = {"schedule": Schedule(20, prediction="sample"), "method": "ddim", "inference_steps": 5, **changes}
    return DiffusionHead(net, actions=(STEPS, NUMBERS), **settings)


@pytest.fixture(scope="module")
def given(compilation_cache):
    rng = np.random.default_rng(0)
    condition = jnp.asarray(rng.standard_normal((3, CONDITION)), jnp.float32)
    actions = jnp.asarray(rng.uniform(-0.9, 0.9, (3, STEPS, NUMBERS)), jnp.float32)
    params = jax.jit(head().init)(jax.random.key(1), condition)
    return params, condition, actions


def loss(h, given, actions=None, valid=None):
    params, condition, kept = given
    actions = kept if actions is None else actions
    valid = jnp.ones(actions.shape[:2], bool) if valid is None else valid
    return float(jax.jit(h.loss)(params, condition, actions, valid, jax.random.key(2)))


class Echo:
    """A network whose output is the noisy sequence itself: what a step yields depends on that step alone."""

    input_dim = NUMBERS

    def apply(self, variables, x, t, condition):
        return x, {}


def test_padded_and_invalid_steps_do_not_enter_the_loss(given):
    """With a network that mixes no steps, whatever stands at an invalid step is nobody's business."""
    h = head()
    object.__setattr__(h, "net", Echo())
    _, condition, actions = given
    valid = jnp.arange(STEPS)[None] < jnp.array([[STEPS], [3], [2]])
    echo = jax.jit(lambda x, ok: h.loss({}, condition, x, ok, jax.random.key(2)))
    run = lambda x, ok: float(echo(x, ok))  # noqa: E731
    other = jnp.where(valid[..., None], actions, 7.0)
    assert run(actions, valid) == pytest.approx(run(other, valid), rel=1e-6)
    assert run(actions, valid) != pytest.approx(run(jnp.where(valid[..., None], 0.5, actions), valid), rel=1e-3)
    # the filling steps: a longer filling adds noisy steps and changes neither sum nor count of the real ones
    x0 = actions[:1]
    noise_free = head(schedule=Schedule(1, prediction="sample"))
    object.__setattr__(noise_free, "net", Echo())
    a = float(noise_free.loss({}, condition[:1], x0, jnp.ones((1, STEPS), bool), jax.random.key(0)))
    assert noise_free.length == 8 and np.isfinite(a)
    expected = _by_hand(noise_free, x0, jax.random.key(0))
    assert a == pytest.approx(expected, rel=1e-5)


def _by_hand(h, x0, key):
    """The echo's error over the real steps: x_t - x_0, summed over numbers, the mean over steps."""
    noise = jax.random.normal(jax.random.split(key)[1], (1, h.length, NUMBERS))
    a = h.schedule.alphas_cumprod[0]
    error = (np.sqrt(a) - 1) * x0 + np.sqrt(1 - a) * noise[:, :STEPS]
    return float(np.square(error).sum() / STEPS)


def test_rows_without_valid_steps_do_not_count(given):
    valid = jnp.ones((3, STEPS), bool).at[2].set(False)
    changed = given[2].at[2].set(-0.3)
    assert loss(head(), given, valid=valid) == pytest.approx(loss(head(), given, changed, valid), rel=1e-6)
    assert loss(head(), given, valid=jnp.zeros((3, STEPS), bool)) == 0


def test_sum_and_mean_differ_by_the_numbers_of_an_action(given):
    whole, each = loss(head(), given), loss(head(reduction="mean"), given)
    assert whole == pytest.approx(NUMBERS * each, rel=1e-5)


@pytest.mark.parametrize("method", ["ddpm", "ddim"])
def test_a_sample_depends_on_its_own_condition_and_key_alone(given, method):
    h = head(method=method)
    params, condition, _ = given
    keys = jax.random.split(jax.random.key(3), 3)
    run = jax.jit(h.sample)
    both = np.asarray(run(params, condition, keys))
    assert both.shape == (3, STEPS, NUMBERS)
    turned = np.asarray(run(params, condition[::-1], keys[::-1]))
    np.testing.assert_allclose(turned[::-1], both, atol=2e-5)
    others = keys.at[1].set(jax.random.key(9))
    changed = np.asarray(run(params, condition, others))
    np.testing.assert_allclose(changed[[0, 2]], both[[0, 2]], atol=2e-5)
    assert np.abs(changed[1] - both[1]).max() > 1e-3


def test_a_tiny_head_learns_a_sequence_and_samples_it(given):
    h = head(draws=8)
    _, condition, actions = given
    params, tx = given[0], optax.adam(3e-3)
    valid = jnp.ones((3, STEPS), bool)

    @jax.jit
    def step(params, state, key):
        grads = jax.grad(h.loss)(params, condition, actions, valid, key)
        updates, state = tx.update(grads, state)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for key in jax.random.split(jax.random.key(4), 200):
        params, state = step(params, state, key)
    found = jax.jit(h.sample)(params, condition, jax.random.split(jax.random.key(5), 3))
    assert float(jnp.abs(found - actions).mean()) < 0.05
    apart = float(jnp.abs(actions[0] - actions[1]).mean())
    assert apart > 0.3  # so it tells the conditions apart


def test_bad_settings_are_named():
    model = ml_collections.ConfigDict()
    configure(model)
    for key, value in (("method", "euler"), ("reduction", "median"), ("inference_steps", 101)):
        bad = ml_collections.ConfigDict({"unet": dict(model.unet), "diffusion": {**model.diffusion, key: value}})
        with pytest.raises(UserError, match=rf"model\.diffusion\.{key} is"):
            DiffusionHead.from_config(bad, (STEPS, NUMBERS), CONDITION, jnp.float32)
