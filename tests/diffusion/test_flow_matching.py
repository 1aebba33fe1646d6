"""Flow matching: the path, the solvers' orders, and optimal pairs."""

import jax
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from t2p.diffusion.flow_matching import interpolate, pair_optimally, sample, target
from t2p.io import UserError


def draws(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def test_the_path_leads_from_noise_to_data_at_the_targets_speed():
    noise, data = draws(3, 4, 2), draws(3, 4, 2, seed=1)
    np.testing.assert_array_equal(interpolate(noise, data, 0.0), noise)
    np.testing.assert_array_equal(interpolate(noise, data, 1.0), data)
    early, late = np.float32([0.1, 0.2, 0.3]), np.float32([0.4, 0.9, 0.5])
    moved = interpolate(noise, data, late) - interpolate(noise, data, early)
    np.testing.assert_allclose(moved, (late - early)[:, None, None] * target(noise, data), atol=1e-6)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2)])
def test_order_of_convergence(solver, order):
    """dx/dt = -2 t x, whose end is x_0 / e: half the step, 2^order times less error."""
    x = draws(5)
    exact = x.astype(np.float64) / np.e
    errors = [np.abs(np.float64(sample(lambda x, t: -2 * t * x, x, n, solver)) - exact).max() for n in (8, 16, 32)]
    measured = np.log2(errors[:-1]) - np.log2(errors[1:])
    np.testing.assert_allclose(measured, order, atol=0.2)


@pytest.mark.parametrize("solver", ["euler", "midpoint"])
def test_a_straight_flow_needs_one_step(solver):
    noise, data = draws(3, 4), draws(3, 4, seed=1)
    got = sample(lambda x, t: target(noise, data), noise, 1, solver)
    np.testing.assert_allclose(got, data, atol=1e-6)


@pytest.mark.parametrize(("solver", "times"), [("euler", [0, 0.25, 0.5, 0.75]), ("midpoint", np.arange(8) / 8)])
def test_times_at_which_the_network_is_asked(solver, times):
    seen = []

    def velocity(x, t):
        jax.debug.callback(lambda t: seen.append(float(t)), t, ordered=True)
        return x

    sample(velocity, draws(2), 4, solver)
    jax.effects_barrier()
    np.testing.assert_allclose(seen, times)


pair = jax.jit(pair_optimally)


def test_optimal_pairs():
    noise, data = draws(16, 3, 2), draws(16, 3, 2, seed=1)
    paired = np.asarray(pair(noise, data))
    assert sorted(map(tuple, paired.reshape(16, -1))) == sorted(map(tuple, noise.reshape(16, -1)))
    cost = np.square(data[:, None] - noise[None]).sum((2, 3))
    rows, columns = linear_sum_assignment(cost)
    found = np.square(data - paired).sum()
    np.testing.assert_allclose(found, cost[rows, columns].sum(), rtol=1e-5)
    assert found < 0.95 * np.trace(cost)


def test_pairs_that_are_optimal_stay():
    data = draws(16, 3, 2)
    np.testing.assert_array_equal(pair(data + np.float32(0.01), data), data + np.float32(0.01))


@pytest.mark.parametrize(
    ("steps", "solver", "words"), [(4, "heun", "'heun'; expected one of euler, midpoint"), (0, "euler", "got 0")]
)
def test_what_cannot_be_sampled_is_refused(steps, solver, words):
    with pytest.raises(UserError, match=words):
        sample(lambda x, t: x, draws(2), steps, solver)
