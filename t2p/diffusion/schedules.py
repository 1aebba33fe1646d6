"""Noise schedules of diffusion models as float64 tables, and what training takes from them.

Ho et al. 2020 (DDPM), Song et al. 2021 (DDIM), Nichol & Dhariwal 2021 (cosine schedule, learned variance, respacing),
Salimans & Ho 2022 (v). Letters: N steps of the trained chain, n of a sampling run, a the cumulative product of
1 - beta ("alpha bar"): x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np

from t2p.io import UserError
from t2p.types import Array

RULES = ("squaredcos_cap_v2", "linear")
PREDICTIONS = ("epsilon", "sample", "v")
VARIANCES = ("fixed_small", "learned_range")
LARGEST_BETA = 0.999


@dataclass(frozen=True)
class Schedule:
    """A trained chain; hashable, so that a stage or a static argument of jit may hold it.

    steps: N. rule: "squaredcos_cap_v2", or "linear" from beta_start to beta_end (which the other rule ignores).
    prediction: what the network's output means: the noise "epsilon", the clean "sample", or
    "v" = sqrt(a) noise - sqrt(1 - a) sample. variance of a DDPM step: "fixed_small", the posterior's, or
    "learned_range": the network says where between the posterior's and beta, on a log scale.
    clip: the predicted sample is clipped to [-1, 1] while sampling."""

    steps: int = 100
    rule: str = "squaredcos_cap_v2"
    beta_start: float = 1e-4
    beta_end: float = 0.02
    prediction: str = "epsilon"
    variance: str = "fixed_small"
    clip: bool = True

    def __post_init__(self) -> None:
        for name, known in (("rule", RULES), ("prediction", PREDICTIONS), ("variance", VARIANCES)):
            if getattr(self, name) not in known:
                raise UserError(f"schedule {name} is {getattr(self, name)!r}; expected one of {', '.join(known)}")
        if self.steps < 1:
            raise UserError(f"a schedule needs at least one step; got steps = {self.steps}")
        if self.rule == "linear" and not 0 < self.beta_start <= self.beta_end < 1:
            raise UserError(f"expected 0 < beta_start <= beta_end < 1; got {self.beta_start} and {self.beta_end}")

    @cached_property
    def betas(self) -> np.ndarray:
        """[N] float64."""
        if self.rule == "linear":
            return np.linspace(self.beta_start, self.beta_end, self.steps)
        u = np.arange(self.steps + 1) / self.steps
        a = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2  # Nichol & Dhariwal, eq. 17
        return np.minimum(1 - a[1:] / a[:-1], LARGEST_BETA)

    @cached_property
    def alphas_cumprod(self) -> np.ndarray:
        """[N] float64: a_t."""
        return np.cumprod(1 - self.betas)


@dataclass(frozen=True)
class Chain:
    """The steps of a sampling run, [n] each, in the order in which they are taken: from noise to data."""

    timesteps: np.ndarray  # int32, indices of the trained chain, falling
    alphas: np.ndarray  # float64, a before the step
    previous: np.ndarray  # float64, a after it ("previous" as in t - 1)

    @property
    def betas(self) -> np.ndarray:
        """Noise that the step takes away; for all N steps, the trained betas."""
        return 1 - self.alphas / self.previous

    @property
    def posterior_variance(self) -> np.ndarray:
        """Of q(x_previous | x_t, x_0): Ho et al., eq. 7."""
        return (1 - self.previous) / (1 - self.alphas) * self.betas

    @property
    def posterior_mean(self) -> tuple[np.ndarray, np.ndarray]:
        """The factors of x_0 and of x_t in the same posterior's mean."""
        of_x0 = np.sqrt(self.previous) * self.betas / (1 - self.alphas)
        return of_x0, np.sqrt(1 - self.betas) * (1 - self.previous) / (1 - self.alphas)

    @property
    def log_variance_range(self) -> tuple[np.ndarray, np.ndarray]:
        """Logs of the smallest and largest variance of a "learned_range" step: the posterior's and beta.

        The last step's posterior has none (log 0): that of the step before it stands there (Nichol & Dhariwal)."""
        smallest = self.posterior_variance
        if len(smallest) > 1:
            smallest[-1] = smallest[-2]
        return np.log(np.maximum(smallest, 1e-20)), np.log(np.maximum(self.betas, 1e-20))


def respace(schedule: Schedule, timesteps: np.ndarray, final_alpha: float = 1.0) -> Chain:
    """The chain that visits only these timesteps (falling), each step leading to the next one's noise and the last
    to `final_alpha`. The network still sees the trained indices."""
    t = np.asarray(timesteps)
    whole = t.ndim == 1 and t.size > 0 and t.dtype.kind in "iu"
    if not whole or t[0] >= schedule.steps or t[-1] < 0 or np.any(np.diff(t) >= 0):
        raise UserError(f"timesteps must be integers falling within {schedule.steps - 1} .. 0; got {t.tolist()}")
    alphas = schedule.alphas_cumprod[t]
    if not alphas[-1] <= final_alpha <= 1:
        raise UserError(f"final_alpha is {final_alpha}; expected {alphas[-1]:g} (that of the last timestep) .. 1")
    return Chain(t.astype(np.int32), alphas, np.append(alphas[1:], final_alpha))


def leading_timesteps(steps: int, count: int, offset: int = 0) -> np.ndarray:
    """[count] int, falling: multiples of steps // count, plus an offset (diffusers' "leading" spacing)."""
    _check_count(steps, count)
    return (np.arange(count) * (steps // count) + offset)[::-1]


def strided_timesteps(steps: int, count: int) -> np.ndarray:
    """[count] int, falling: an even grid that holds both ends, rounded (Nichol & Dhariwal, section 4)."""
    _check_count(steps, count)
    return np.round(np.linspace(0, steps - 1, count)).astype(int)[::-1]


def _check_count(steps: int, count: int) -> None:
    if not 1 <= count <= steps:
        raise UserError(f"cannot sample with {count} steps of a chain of {steps}; expected 1 .. {steps}")


def add_noise(schedule: Schedule, x0: Array, noise: Array, t: Array) -> Array:
    """x_t, float32. x0, noise: [b, ...]; t: [b] or a scalar, whole numbers 0 .. N - 1."""
    signal, spread = _levels(schedule, t, x0)
    return signal * x0 + spread * noise


def target(schedule: Schedule, x0: Array, noise: Array, t: Array) -> Array:
    """What the network should put out for x_t; arguments as in `add_noise`."""
    if schedule.prediction == "epsilon":
        return noise
    if schedule.prediction == "sample":
        return x0
    signal, spread = _levels(schedule, t, x0)
    return signal * noise - spread * x0


def _levels(schedule: Schedule, t: Array, x: Array) -> tuple[Any, Any]:
    """sqrt(a_t) and sqrt(1 - a_t), float32, shaped to multiply x. Roots are taken in float64: 1 - a loses digits."""
    a = schedule.alphas_cumprod
    tables = (np.sqrt(a), np.sqrt(1 - a))
    t = jnp.asarray(t)
    index = t.reshape(t.shape + (1,) * (x.ndim - t.ndim))
    signal, spread = (jnp.asarray(table, jnp.float32)[index] for table in tables)
    return signal, spread
