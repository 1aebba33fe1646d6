"""What AMPLIFY's inverse dynamics learns from and how it acts: one class for each kind of head, with the same methods.

  init(rng, inputs) -> parameters
  loss(params, inputs, actions, valid, rng, train) -> scalar
  sample(params, inputs, rngs) -> actions [b, t, a]; rngs: one key a row, so that a row depends on its own key alone

inputs: see t2p.models.inverse_dynamics. actions: [b, t, a], as the head makes them; valid: [b, t] bool. The released
code counts the zeros past an episode's end like actions: give True for them. Collins et al. 2025, section 2.3 and
appendix E. Letters: b batch, t actions of a chunk, a numbers of an action.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from t2p.diffusion import flow_matching
from t2p.diffusion.sampling import METHODS, sample
from t2p.diffusion.schedules import Schedule, add_noise, leading_timesteps, target
from t2p.io import UserError
from t2p.models.inverse_dynamics import Inputs, InverseDynamics
from t2p.types import Array

REDUCTIONS = ("mean", "sum")
PAIRINGS = ("independent", "optimal")
SMALLEST_MASS = 1e-6  # added to the probability inside the bounds (released code)


class Head:
    """What the three have in common."""

    net: InverseDynamics

    def init(self, rng: jax.Array, inputs: Inputs) -> Any:
        return self.net.init({"params": rng}, inputs, *self.example(inputs))["params"]

    def example(self, inputs: Inputs) -> tuple[Array, ...]:
        """Noisy actions and a step, of which only shapes matter."""
        rows = len(next(iter(inputs.values())))
        return jnp.zeros((rows, *self.net.head.actions)), jnp.zeros(rows)

    def loss(self, params: Any, inputs: Inputs, actions: Array, valid: Array, rng: jax.Array, train: bool) -> Array:
        raise NotImplementedError

    def sample(self, params: Any, inputs: Inputs, rngs: jax.Array) -> Array:
        raise NotImplementedError

    def apply(self, params: Any, *arguments: Any, rng: jax.Array | None = None, **options: Any) -> Any:
        """rng: of dropout, given in training."""
        rngs = {} if rng is None else {"dropout": rng}
        return self.net.apply({"params": params}, *arguments, train=rng is not None, rngs=rngs, **options)

    def noise(self, rngs: jax.Array, *leading: int) -> Array:
        """Normal draws for each row of `rngs` [b] from its own key: [*leading, b, t, a]."""
        shape = (*leading, *self.net.head.actions)
        return jax.vmap(lambda key: jax.random.normal(key, shape), out_axes=len(leading))(rngs)


@dataclass(frozen=True)
class GaussianActions(Head):
    """The negative log-likelihood of the demonstrated actions; acting takes the mean. Readings: `GAUSSIAN`.

    discount: a step k of the chunk counts discount^k. truncated: the distribution lies within the head's bounds.
    reduction: over the chunk, "mean" over steps and numbers, or "sum"; over rows it is a mean."""

    net: InverseDynamics
    discount: float = 0.99
    truncated: bool = True
    reduction: str = "mean"

    def __post_init__(self) -> None:
        if self.reduction not in REDUCTIONS:
            raise UserError(f"the reduction is {self.reduction!r}; expected one of {', '.join(REDUCTIONS)}")

    def example(self, inputs: Inputs) -> tuple[Array, ...]:
        return ()

    def loss(self, params: Any, inputs: Inputs, actions: Array, valid: Array, rng: jax.Array, train: bool) -> Array:
        mean, aux = self.apply(params, inputs, rng=rng if train else None)
        nll = gaussian_nll(actions, mean, aux["std"], aux["bound"] if self.truncated else None)
        nll = nll * self.discount ** jnp.arange(nll.shape[1])[:, None]
        if self.reduction == "mean":
            return valid_mean(nll, valid)
        return jnp.sum(nll * valid[..., None]) / jnp.maximum(valid.any(-1).sum(), 1)

    def sample(self, params: Any, inputs: Inputs, rngs: jax.Array) -> Array:
        return self.apply(params, inputs)[0]


@dataclass(frozen=True)
class DiffusionActions(Head):
    """The squared error of what the schedule predicts; acting runs the chain backwards (Chi et al. 2023). For the
    transformer (released) and the U-Net (paper); neither source discounts steps."""

    net: InverseDynamics
    schedule: Schedule
    inference_steps: int = 100
    method: str = "ddpm"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(f"the sampling method is {self.method!r}; expected one of {', '.join(METHODS)}")
        leading_timesteps(self.schedule.steps, self.inference_steps)  # refuses counts that do not fit

    def loss(self, params: Any, inputs: Inputs, actions: Array, valid: Array, rng: jax.Array, train: bool) -> Array:
        time_rng, noise_rng, dropout_rng = jax.random.split(rng, 3)
        step = jax.random.randint(time_rng, actions.shape[:1], 0, self.schedule.steps)
        noise = jax.random.normal(noise_rng, actions.shape)
        output = self.predict(params, inputs, actions, noise, step, dropout_rng if train else None)
        return valid_mean(self.error(output, actions, noise, step), valid)

    def error(self, output: Array, actions: Array, noise: Array, step: Array) -> Array:
        """Squared, [b, t, a]."""
        return jnp.square(output - target(self.schedule, actions, noise, step))

    def predict(
        self, params: Any, inputs: Inputs, actions: Array, noise: Array, step: Array, rng: jax.Array | None = None
    ) -> Array:
        """The network's output for actions that `noise` has been added to, at `step` [b]."""
        return self.apply(params, inputs, add_noise(self.schedule, actions, noise, step), step, rng=rng)

    def sample(self, params: Any, inputs: Inputs, rngs: jax.Array) -> Array:
        first, later = jnp.moveaxis(jax.vmap(jax.random.split)(rngs), 1, 0)
        noise = self.noise(later, self.inference_steps) if self.method == "ddpm" else None
        return self.sample_from(params, inputs, self.noise(first), noise)[0]

    def sample_from(
        self, params: Any, inputs: Inputs, first: Array, noise: Array | None
    ) -> tuple[Array, dict[str, Array]]:
        """first: [b, t, a]; noise: [n, b, t, a] for the n steps -> actions, and what each step gave."""
        memory = self.apply(params, inputs, method="read")

        def denoise(x: Array, step: Array) -> Array:
            return self.apply(params, x, step, memory, method="denoise")

        timesteps = leading_timesteps(self.schedule.steps, self.inference_steps)
        return sample(self.schedule, denoise, first, noise, timesteps=timesteps, method=self.method)


@dataclass(frozen=True)
class FlowActions(Head):
    """The squared error of the flow's velocity; acting follows it from noise. Readings: `FLOW`.

    pairing: noise and actions of a batch meet as drawn ("independent"), or so that their distances are least in sum
    ("optimal": the pairs of a mini-batch's optimal transport)."""

    net: InverseDynamics
    steps: int = 100
    solver: str = "midpoint"
    pairing: str = "independent"

    def __post_init__(self) -> None:
        if self.pairing not in PAIRINGS:
            raise UserError(f"the pairing is {self.pairing!r}; expected one of {', '.join(PAIRINGS)}")
        if self.solver not in flow_matching.SOLVERS:
            raise UserError(f"the solver is {self.solver!r}; expected one of {', '.join(flow_matching.SOLVERS)}")
        if self.steps < 1:
            raise UserError(f"sampling needs at least one step; got {self.steps}")

    def loss(self, params: Any, inputs: Inputs, actions: Array, valid: Array, rng: jax.Array, train: bool) -> Array:
        time_rng, noise_rng, dropout_rng = jax.random.split(rng, 3)
        time = jax.random.uniform(time_rng, actions.shape[:1])
        noise = jax.random.normal(noise_rng, actions.shape)
        noise = flow_matching.pair_optimally(noise, actions) if self.pairing == "optimal" else noise
        output = self.predict(params, inputs, actions, noise, time, dropout_rng if train else None)
        return valid_mean(self.error(output, actions, noise), valid)

    def error(self, output: Array, actions: Array, noise: Array) -> Array:
        """Squared, [b, t, a]."""
        return jnp.square(output - flow_matching.target(noise, actions))

    def predict(
        self, params: Any, inputs: Inputs, actions: Array, noise: Array, time: Array, rng: jax.Array | None = None
    ) -> Array:
        """The network's velocity on the way from noise to actions, at `time` [b]."""
        return self.apply(params, inputs, flow_matching.interpolate(noise, actions, time), time, rng=rng)

    def sample(self, params: Any, inputs: Inputs, rngs: jax.Array) -> Array:
        return self.sample_from(params, inputs, self.noise(rngs))

    def sample_from(self, params: Any, inputs: Inputs, noise: Array) -> Array:
        """noise: [b, t, a] -> actions."""
        memory = self.apply(params, inputs, method="read")

        def velocity(x: Array, time: Array) -> Array:
            return self.apply(params, x, time, memory, method="denoise")

        return flow_matching.sample(velocity, noise, self.steps, self.solver)


def gaussian_nll(actions: Array, mean: Array, std: Array, bound: Array | None = None) -> Array:
    """Negative log-likelihood of each number of each action, [b, t, a], of a normal distribution; with `bound`, of one
    that is cut off at -bound and bound (AMPLIFY's released code, which adds 1e-6 to the mass that is left)."""
    nll = 0.5 * jnp.square((actions - mean) / std) + jnp.log(std) + 0.5 * math.log(2 * math.pi)
    if bound is None:
        return nll
    high, low = (jax.lax.erf((edge - mean) / (std * math.sqrt(2))) for edge in (bound, -bound))
    return nll + jnp.log(0.5 * (high - low) + SMALLEST_MASS)


def valid_mean(x: Array, valid: Array) -> Array:
    """The mean of x [b, t, a] over the steps that count, [b, t]."""
    return jnp.sum(x * valid[..., None]) / (jnp.maximum(valid.sum(), 1) * x.shape[-1])


# Readings by name, beside those of the networks. Gaussian, "released": InverseDynamics.loss_fn and TruncatedNormal;
# "paper": section 2.3 and its loss, a sum over the chunk of an isotropic Gaussian's log-likelihood. Flow, "released":
# cfg/train_inverse_dynamics.yaml; "paper": appendix E, optimal transport coupling and 10 midpoint steps. Diffusion is
# the same in both but for the network: a transformer in the code, a U-Net in the paper (appendix E).
GAUSSIAN: dict[str, dict[str, Any]] = {
    "released": {"discount": 0.99, "truncated": True, "reduction": "mean"},
    "paper": {"discount": 0.99, "truncated": False, "reduction": "sum"},
}
FLOW: dict[str, dict[str, Any]] = {
    "released": {"steps": 100, "solver": "midpoint", "pairing": "independent"},
    "paper": {"steps": 10, "solver": "midpoint", "pairing": "optimal"},
}
