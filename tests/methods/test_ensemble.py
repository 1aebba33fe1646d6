"""Temporal ensembling against a plain loop over all chunks that were ever given."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2p.methods import ensemble


def chunks(steps=9, environments=2, horizon=4, width=3):
    x = np.random.default_rng(0).standard_normal((steps, environments, horizon, width), np.float32)
    x[3, 0, 1:] = 0  # a chunk that is padded at its end
    x[5, 1, 0] = 0  # the newest action of its step
    return x


def plain_loop(given, decay):
    """[steps, e, a], written as the definition reads."""
    steps, environments, horizon, width = given.shape
    out = np.zeros((steps, environments, width))
    for now in range(steps):
        first = max(0, now - horizon + 1)
        for e in range(environments):
            actions = [given[began, e, now - began] for began in range(first, now + 1)]  # oldest first
            weights = [np.exp(-decay * i) * bool(np.any(a)) for i, a in enumerate(actions)]
            out[now, e] = sum(w * a for w, a in zip(weights, actions)) / (sum(weights) + 1e-8)
    return out


step = jax.jit(partial(ensemble.step, decay=0.3))


def run(given, state=None):
    state = ensemble.empty_chunks(given.shape[1], *given.shape[2:]) if state is None else state
    actions = []
    for chunk in given:
        action, state = step(state, chunk)
        actions.append(np.asarray(action))
    return np.stack(actions), state


def test_against_a_plain_loop():
    before = step._cache_size()
    got, _ = run(chunks())
    np.testing.assert_allclose(got, plain_loop(chunks(), 0.3), atol=1e-6)
    assert step._cache_size() - before <= 1  # the state keeps its shapes and types


def test_old_chunks_weigh_most():
    given = np.zeros((2, 1, 4, 1), np.float32) + np.float32([1, 3])[:, None, None, None]
    action = run(given)[0][1, 0, 0]
    np.testing.assert_allclose(action, (1 + 3 * np.exp(-0.3)) / (1 + np.exp(-0.3)), rtol=1e-6)


def test_one_environment_starts_anew():
    given = chunks()
    _, state = run(given[:5])
    empty = ensemble.empty_chunks(2, *given.shape[2:])
    again = np.array([False, True])
    state = jax.tree.map(lambda old, new: jnp.where(again.reshape(-1, *[1] * (old.ndim - 1)), new, old), state, empty)
    got, _ = run(given[5:], state)
    np.testing.assert_allclose(got[:, 0], plain_loop(given, 0.3)[5:, 0], atol=1e-6)
    np.testing.assert_allclose(got[:, 1], plain_loop(given[5:], 0.3)[:, 1], atol=1e-6)


def test_without_any_action_there_is_none():
    got, _ = run(np.zeros((2, 1, 4, 3), np.float32))
    assert not got.any()


@pytest.mark.parametrize("shape", [(2,), (1, 2)])
def test_any_weighting(shape):
    """The mean is weighted by exp(log_weight) of the valid ones."""
    actions = np.float32([[[2.0], [4.0]], [[6.0], [np.inf]]])
    weights = np.log(np.float32([1, 3])).reshape(shape)
    got = ensemble.ensemble(actions[:1], np.ones((1, 2), bool), weights)
    np.testing.assert_allclose(got, [[3.5]], rtol=1e-6)
