"""The optimiser step: accumulation, freezing, averages, schedules, randomness."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from train_fakes import FakeStage, Net, rows

from t2p.io import UserError
from t2p.train.defaults import base_config
from t2p.train.optimizer import make_optimizer, make_schedule
from t2p.train.sharding import make_mesh
from t2p.train.state import initial_state
from t2p.train.step import TrainStep, ema_decay, step_key


@dataclass(frozen=True)
class Linear:
    """loss = mean (w . x - y)^2, and a metric that reports the key."""

    def init(self, rng, batch):
        return {"params": {"w": jnp.ones(8), "held": jnp.ones(())}, "batch_stats": {}, "frozen": {}}

    def loss(self, variables, batch, rng, train):
        p = variables["params"]
        loss = jnp.square(batch.proprio["x"] @ p["w"] * p["held"] - batch.actions[:, 0]).mean()
        return loss, {"metrics": {"draw": jax.random.uniform(rng)}, "batch_stats": {}}


def one_step(stage, accumulation: int, batch, held=frozenset(), ema=0.0, optimizer=None):
    tx = optimizer or optax.sgd(0.1)
    step = TrainStep(stage, tx, optax.constant_schedule(0.1), held, 3, accumulation, ema)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jax.dtypes.canonicalize_dtype(x.dtype)), batch)
    with jax.set_mesh(make_mesh(base_config())):
        state = initial_state(stage, tx, held, ema > 0, shapes, 3)
        return state, *jax.jit(step)(state, batch)


def test_accumulated_gradients_are_the_mean_over_the_whole_batch():
    batch = rows(0, np.arange(12))
    _, whole, metrics = one_step(Linear(), 1, batch)
    _, parts, accumulated = one_step(Linear(), 3, batch)
    np.testing.assert_allclose(parts.params["w"], whole.params["w"], rtol=1e-5)
    np.testing.assert_allclose(accumulated["loss"], metrics["loss"], rtol=1e-5)
    np.testing.assert_allclose(accumulated["grad_norm"], metrics["grad_norm"], rtol=1e-5)


def test_every_microbatch_has_the_key_of_step_and_microbatch():
    _, _, metrics = one_step(Linear(), 2, rows(0, np.arange(4)))
    expected = np.mean([jax.random.uniform(step_key(3, 0, m)) for m in range(2)])
    np.testing.assert_allclose(metrics["draw"], expected, rtol=1e-6)


def test_held_parameters_neither_change_nor_count():
    batch = rows(0, np.arange(4))
    before, after, metrics = one_step(Linear(), 1, batch, frozenset({"held"}), optimizer=optax.adamw(0.1))
    assert after.params["held"] == before.params["held"] == 1.0
    assert not np.array_equal(after.params["w"], before.params["w"])
    assert len(jax.tree.leaves(after.opt_state[0].mu)) == 1  # no optimiser slot
    _, _, both = one_step(Linear(), 1, batch)
    assert metrics["grad_norm"] < both["grad_norm"]


def test_average_follows_parameters():
    before, after, _ = one_step(Linear(), 1, rows(0, np.arange(4)), ema=0.75)
    expected = 0.75 * np.asarray(before.params["w"]) + 0.25 * np.asarray(after.params["w"])
    np.testing.assert_allclose(after.ema["w"], expected, rtol=1e-6)
    assert after.inference_variables["params"] is after.ema
    assert after.variables["params"] is after.params


def test_a_growing_average_copies_twice_and_then_follows_its_power():
    """Diffusion Policy's rule at power 0.75: the third update weighs with 1 - 2^-0.75."""
    step = TrainStep(Linear(), optax.sgd(0.1), optax.constant_schedule(0.1), frozenset(), 3, 1, 0.9, 0.75)
    weights = []
    with jax.set_mesh(make_mesh(base_config())):
        state = initial_state(Linear(), optax.sgd(0.1), frozenset(), True, rows(0, np.arange(4)), 3)
        for _ in range(3):
            state = jax.jit(step)(state, rows(0, np.arange(4)))[0]
            weights.append((np.asarray(state.params["w"]), np.asarray(state.ema["w"])))
    for params, average in weights[:2]:
        np.testing.assert_allclose(average, params, atol=1e-6)
    decay = 1 - 2**-0.75
    expected = decay * weights[1][1] + (1 - decay) * weights[2][0]
    np.testing.assert_allclose(weights[2][1], expected, atol=1e-6)
    assert not np.allclose(weights[2][1], weights[2][0], rtol=1e-4)
    np.testing.assert_allclose(ema_decay(0.9, 0.75, 10_000), 0.9, rtol=1e-6)


def test_batch_statistics_pass_through_all_microbatches():
    batch = rows(0, np.arange(8))
    stage = FakeStage(Net(0.0))
    before, after, _ = one_step(stage, 2, batch)
    x, mean = jnp.asarray(batch.proprio["x"]), before.batch_stats["norm"]["mean"]
    kernel = before.params["encoder"]["kernel"]
    for part in (x[0::2], x[1::2]):
        mean = 0.9 * mean + 0.1 * (part @ kernel).mean(0)
    np.testing.assert_allclose(after.batch_stats["norm"]["mean"], mean, rtol=1e-5, atol=1e-6)


def settings(**changes):
    c = base_config()
    c.steps = 100
    c.optimizer.update(changes)
    return c


def test_schedule_is_linear_then_half_a_cosine():
    c = settings(learning_rate=1e-4, warmup_steps=5, warmup_init=1e-5, final=1e-6)
    schedule = make_schedule(c)
    for e in range(5):
        np.testing.assert_allclose(schedule(e), 1e-5 + (1e-4 - 1e-5) * e / 5, rtol=1e-5)
    for e in (5, 30, 99, 100):
        cosine = 0.5 * (1 + np.cos(np.pi * (e - 5) / 95))
        np.testing.assert_allclose(schedule(e), 1e-6 + (1e-4 - 1e-6) * cosine, rtol=1e-4)
    assert make_schedule(settings(schedule="constant", learning_rate=0.5))(77) == 0.5


def test_clipping_and_weight_decay():
    grads, params = {"w": jnp.full(4, 10.0)}, {"w": jnp.full(4, 2.0)}
    common = {"schedule": "constant", "learning_rate": 0.1, "b1": 0.0, "b2": 0.0, "eps": 1.0, "clip_norm": 1.0}

    def update(**changes):
        tx, _ = make_optimizer(settings(**common, **changes))
        return np.asarray(tx.update(grads, tx.init(params), params)[0]["w"])

    clipped = 0.5  # of norm 20, each entry 10
    np.testing.assert_allclose(update(name="adam"), -0.1 * clipped / (clipped + 1), rtol=1e-5)
    decayed = clipped + 0.3 * 2.0  # L2 is part of the gradient
    np.testing.assert_allclose(update(name="adam", weight_decay=0.3), -0.1 * decayed / (decayed + 1), rtol=1e-5)
    decoupled = clipped / (clipped + 1) + 0.3 * 2.0
    np.testing.assert_allclose(update(name="adamw", weight_decay=0.3), -0.1 * decoupled, rtol=1e-5)


@pytest.mark.parametrize("changes", [{"name": "sgd"}, {"schedule": "step"}, {"warmup_steps": 100}])
def test_wrong_settings_are_refused(changes):
    with pytest.raises(UserError, match=next(iter(changes))):
        make_optimizer(settings(**changes))
