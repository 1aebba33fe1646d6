"""Flow matching along straight lines (Lipman et al. 2023, Liu et al. 2023): what training takes, and the samplers.

A point of the path at time t in [0, 1] is x_t = (1 - t) x_0 + t x_1, from noise x_0 to data x_1; the network learns
its velocity, and a sample is the end of the curve that the learned velocity draws. Draws are arguments: the same
noise, the same sample.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from t2p.io import UserError
from t2p.types import Array

SOLVERS = ("euler", "midpoint")  # one and two evaluations a step; errors fall as 1/n and 1/n^2

# (x, t) -> dx/dt, of x's shape. t: float32 scalar in [0, 1].
Velocity = Callable[[Array, Array], Array]


def interpolate(noise: Array, data: Array, t: Array) -> Array:
    """x_t, float32. noise, data: [b, ...]; t: [b] or a scalar, in [0, 1]."""
    t = jnp.asarray(t, jnp.float32)
    t = t.reshape(t.shape + (1,) * (data.ndim - t.ndim))
    return (1 - t) * noise + t * data


def target(noise: Array, data: Array) -> Array:
    """The path's velocity, the same at all times: what the network should put out."""
    return data - noise


def pair_optimally(noise: Array, data: Array) -> Array:
    """The rows of `noise` in the order in which, one to each row of `data`, the sum of squared distances is smallest.

    Optimal transport within a mini-batch (Tong et al. 2024; AMPLIFY's paper): straight paths then cross less. Both
    [b, ...]; compiled, of cubic cost in b."""
    of_data, of_noise = (x.reshape(len(x), -1).astype(jnp.float32) for x in (data, noise))
    # |d - n|^2 less what is the same for every pairing.
    cost = -2 * jnp.matmul(of_data, of_noise.T, precision="highest")
    row, partner = optax.assignment.hungarian_algorithm(cost)
    return noise[jnp.zeros_like(partner).at[row].set(partner)]


def sample(velocity: Velocity, noise: Array, steps: int, solver: str = "midpoint") -> Array:
    """Follows the velocity from noise [b, ...] at t = 0 to a sample at t = 1, float32, in `steps` equal steps."""
    if solver not in SOLVERS:
        raise UserError(f"the solver is {solver!r}; expected one of {', '.join(SOLVERS)}")
    if steps < 1:
        raise UserError(f"sampling needs at least one step; got {steps}")
    h = np.float32(1 / steps)

    def step(x: Array, t: Array) -> tuple[Array, None]:
        slope = velocity(x, t)
        if solver == "midpoint":
            slope = velocity(x + h / 2 * slope, t + h / 2)
        return x + h * slope, None

    times = (np.arange(steps) / steps).astype(np.float32)
    return jax.lax.scan(step, jnp.asarray(noise, jnp.float32), times)[0]
