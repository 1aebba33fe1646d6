"""The sampler of all diffusion models here: DDPM (Ho et al. 2020) and DDIM (Song et al. 2021) as one scan.

Both methods make x_next = A x0 + B epsilon + C x + sigma z from the predicted sample x0, the predicted noise epsilon
and fresh noise z; they differ in the table of factors. Draws are arguments: the same noise, the same sample.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t2p.diffusion.schedules import Chain, Schedule, respace
from t2p.io import UserError
from t2p.types import Array

METHODS = ("ddpm", "ddim")
SMALLEST_VARIANCE = 1e-20

# (x, t) -> the network's output, of x's shape; with a learned variance -> (output, logits), both of x's shape.
# t: int32 scalar, an index of the trained chain.
Denoise = Callable[[Array, Array], Any]
# (x, t) -> x, where t is the timestep whose noise x has now, -1 for the finished sample.
Project = Callable[[Array, Array], Array]


def sample(
    schedule: Schedule,
    denoise: Denoise,
    x_T: Array,
    step_noise: Array | None,
    project: Project | None = None,
    *,
    timesteps: np.ndarray | None = None,
    method: str = "ddpm",
    eta: float = 0.0,
    final_alpha: float = 1.0,
) -> tuple[Array, dict[str, Array]]:
    """Takes noise to a sample.

    x_T: [b, ...] pure noise. step_noise: [n, b, ...], row k for step k; a DDPM run ignores the last row (its last
    step is the mean), DDIM without eta needs none (None). project: re-imposes what is known, on x_T and after each
    step. timesteps: [n] falling (`schedules.leading_timesteps`, `strided_timesteps`); None: all N. method: "ddpm",
    or "ddim" with eta from 0 (deterministic) to 1 (the posterior's variance). final_alpha: a after the last step.

    Returns the sample [b, ...], float32, and per step, [n, b, ...]: "output" of the network, the predicted sample
    "x0" (clipped where the schedule says so) and "x" after the step."""
    every = np.arange(schedule.steps)[::-1]
    chain = respace(schedule, every if timesteps is None else timesteps, final_alpha)
    _check(method, eta, chain, x_T, step_noise)
    keep = project or (lambda x, t: x)
    tables = jax.tree.map(jnp.asarray, _tables(schedule, chain, method, eta))

    def step(x: Array, row: tuple[dict[str, Array], Array | None]) -> tuple[Array, dict[str, Array]]:
        c, z = row
        output, logits = _split(schedule, denoise(x, c["t"]))
        x0, epsilon = sample_and_noise(schedule.prediction, output, x, c["signal"], c["spread"])
        x0 = jnp.clip(x0, -1.0, 1.0) if schedule.clip else x0  # epsilon stays that of the unclipped sample
        x = c["of_x0"] * x0 + c["of_epsilon"] * epsilon + c["of_x"] * x
        if z is not None:
            x = x + _sigma(c, logits if method == "ddpm" else None) * z
        x = keep(x, c["next_t"])
        return x, {"output": output, "x0": x0, "x": x}

    first = keep(jnp.asarray(x_T, jnp.float32), tables["t"][0])
    return jax.lax.scan(step, first, (tables, step_noise))


def sample_and_noise(prediction: str, output: Array, x: Array, signal: Array, spread: Array) -> tuple[Array, Array]:
    """The network's output as (x0, epsilon), where x = signal x0 + spread epsilon; signal = sqrt(a), spread =
    sqrt(1 - a)."""
    if prediction == "epsilon":
        return (x - spread * output) / signal, output
    if prediction == "sample":
        return output, (x - signal * output) / spread
    return signal * x - spread * output, signal * output + spread * x


def _tables(schedule: Schedule, chain: Chain, method: str, eta: float) -> dict[str, np.ndarray]:
    """The factors of each step, [n] float32, made in float64; t and next_t int32."""
    a, previous = chain.alphas, chain.previous
    c = {"signal": np.sqrt(a), "spread": np.sqrt(1 - a), "of_epsilon": np.zeros_like(a), "of_x": np.zeros_like(a)}
    if method == "ddim":  # Song et al., eq. 12
        c["sigma"] = eta * np.sqrt(chain.posterior_variance)
        c["of_x0"] = np.sqrt(previous)
        c["of_epsilon"] = np.sqrt(np.maximum(1 - previous - c["sigma"] ** 2, 0.0))
    else:  # Ho et al., eq. 7
        c["of_x0"], c["of_x"] = chain.posterior_mean
        c["noisy"] = np.append(np.ones(len(a) - 1), 0.0)
        c["sigma"] = c["noisy"] * np.sqrt(np.maximum(chain.posterior_variance, SMALLEST_VARIANCE))
        c["log_smallest"], c["log_largest"] = chain.log_variance_range
    order = {"t": chain.timesteps, "next_t": np.append(chain.timesteps[1:], -1).astype(np.int32)}
    return order | {name: value.astype(np.float32) for name, value in c.items()}


def _split(schedule: Schedule, output: Any) -> tuple[Array, Array | None]:
    return output if schedule.variance == "learned_range" else (output, None)


def _sigma(c: dict[str, Array], logits: Array | None) -> Array:
    """The step's standard deviation; logits: -1 asks for the smallest variance, 1 for the largest (Nichol &
    Dhariwal, eq. 15)."""
    if logits is None:
        return c["sigma"]
    share = (logits + 1) / 2
    return c["noisy"] * jnp.exp(0.5 * (share * c["log_largest"] + (1 - share) * c["log_smallest"]))


def _check(method: str, eta: float, chain: Chain, x_T: Array, step_noise: Array | None) -> None:
    if method not in METHODS:
        raise UserError(f"the sampling method is {method!r}; expected one of {', '.join(METHODS)}")
    if not 0 <= eta <= 1 or (eta and method == "ddpm"):
        raise UserError(f"eta is {eta} with method {method!r}; expected 0 .. 1 with 'ddim', 0 with 'ddpm'")
    if method == "ddpm" and chain.previous[-1] != 1:
        raise UserError(f"final_alpha is {chain.previous[-1]} with method 'ddpm', which ends at 1")
    wanted = (len(chain.timesteps), *x_T.shape)
    if step_noise is None and (method == "ddpm" or eta):
        raise UserError(f"this run adds noise in each step: give step_noise of shape {wanted}")
    if step_noise is not None and step_noise.shape != wanted:
        raise UserError(f"step_noise has shape {tuple(step_noise.shape)}; expected {wanted}, one row a step")
