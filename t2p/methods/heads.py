"""Action heads: from a condition to a sequence of actions. Actions are normalised; the caller undoes that.

Letters: b rows, t actions of a chunk, a numbers of an action, c channels of the condition.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from flax.traverse_util import flatten_dict

from t2p.diffusion.sampling import METHODS, sample
from t2p.diffusion.schedules import Schedule, add_noise, leading_timesteps, target
from t2p.io import UserError
from t2p.methods.bounds import COUNT, Bound
from t2p.models.unet1d import VARIANTS, ConditionalUnet1D
from t2p.types import Array

REDUCTIONS = ("sum", "mean")
BOUNDS: dict[str, Bound] = {f"model.diffusion.{name}": COUNT for name in ("steps", "inference_steps", "draws", "pad")}


@dataclass(frozen=True)
class DiffusionHead:
    """Chunks of actions by diffusion with a conditional 1D U-Net (Chi et al. 2023).

    actions: (t, a). pad: a chunk is filled up with zeros at its end to a multiple of this many steps; they count in
    no loss and are cut off a sample (3PoinTr's code: 8; the network itself needs a multiple of its strides).
    method, inference_steps: of sampling. draws: noise draws per row in one training step. reduction: of the squared
    error over the numbers of an action ("sum": 3PoinTr's code, "mean": Diffusion Policy); over steps it is a mean."""

    net: ConditionalUnet1D
    schedule: Schedule
    actions: tuple[int, int]
    pad: int = 8
    method: str = "ddpm"
    inference_steps: int = 100
    draws: int = 1
    reduction: str = "sum"

    @classmethod
    def from_config(
        cls, model: ml_collections.ConfigDict, actions: tuple[int, int], condition: int, dtype: Any
    ) -> DiffusionHead:
        """model.unet, model.diffusion: as `configure` makes them. condition: c."""
        c = dict(model.diffusion)
        schedule = Schedule(steps=c.pop("steps"), prediction=c.pop("prediction"), clip=c.pop("clip"))
        unet: dict[str, Any] = {k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in model.unet.items()}
        unet |= {"input_dim": actions[1], "global_dim": condition}
        head = cls(ConditionalUnet1D(**unet, dtype=dtype), schedule, actions, **c)
        head._check()
        return head

    def init(self, rng: jax.Array, condition: Array) -> Any:
        """-> parameters."""
        b = condition.shape[0]
        chunk, step = jnp.zeros((b, self.length, self.actions[1])), jnp.zeros(b, jnp.int32)
        return self.net.init({"params": rng}, chunk, step, condition)["params"]

    @property
    def length(self) -> int:
        """Steps of a chunk as the network sees it."""
        return math.ceil(self.actions[0] / self.pad) * self.pad

    def loss(self, params: Any, condition: Array, actions: Array, valid: Array, rng: jax.Array) -> Array:
        """Squared error of what the schedule predicts, over the valid steps of all rows and draws together.

        condition: [b, c]; actions: [b, t, a] in about [-1, 1]; valid: [b, t] bool."""
        condition, actions, valid = (jnp.repeat(x, self.draws, axis=0) for x in (condition, actions, valid))
        time_rng, noise_rng = jax.random.split(rng)
        x0, counted = self._padded(actions), self._padded(valid)
        t = jax.random.randint(time_rng, x0.shape[:1], 0, self.schedule.steps)
        noise = jax.random.normal(noise_rng, x0.shape)
        output = self._denoise(params, add_noise(self.schedule, x0, noise, t), t, condition)
        error = jnp.square(output - target(self.schedule, x0, noise, t)) * counted[..., None]
        count = jnp.maximum(counted.sum(), 1)
        return error.sum() / (count * (self.actions[1] if self.reduction == "mean" else 1))

    def sample(self, params: Any, condition: Array, rngs: jax.Array) -> Array:
        """condition [b, c] and one key per row, [b] -> actions [b, t, a]; a row depends on its own key alone."""
        shape = (self.length, self.actions[1])
        keys = jax.vmap(jax.random.split)(rngs)
        first = jax.vmap(lambda key: jax.random.normal(key, shape))(keys[:, 0])
        noise = None
        if self.method == "ddpm":
            draw = lambda key: jax.random.normal(key, (self.inference_steps, *shape))  # noqa: E731
            noise = jax.vmap(draw, out_axes=1)(keys[:, 1])
        denoise = lambda x, t: self._denoise(params, x, jnp.full(x.shape[0], t), condition)  # noqa: E731
        timesteps = leading_timesteps(self.schedule.steps, self.inference_steps)
        chunk, _ = sample(self.schedule, denoise, first, noise, timesteps=timesteps, method=self.method)
        return chunk[:, : self.actions[0]]

    def train_flops(self, condition: int) -> float:
        """Multiply-adds, times two, of the network's products for one row, forward and backward, all draws."""
        shapes = jax.eval_shape(lambda: self.init(jax.random.key(0), jnp.zeros((1, condition))))
        levels = len(self.net.down_dims)
        total = sum(
            math.prod(x.shape) * (self.length / 2 ** level_of(path, levels) if x.ndim == 3 else 1)
            for path, x in flatten_dict(shapes, sep="/").items()
            if x.ndim > 1
        )
        return 3 * 2.0 * self.draws * total

    def _denoise(self, params: Any, x: Array, t: Array, condition: Array) -> Array:
        return self.net.apply({"params": params}, x, t, condition)[0]

    def _padded(self, x: Array) -> Array:
        return jnp.pad(x, ((0, 0), (0, self.length - x.shape[1]), *((0, 0),) * (x.ndim - 2)))

    def _check(self) -> None:
        if self.method not in METHODS:
            raise UserError(f"model.diffusion.method is {self.method!r}; expected one of {', '.join(METHODS)}")
        if self.reduction not in REDUCTIONS:
            raise UserError(f"model.diffusion.reduction is {self.reduction!r}; expected one of {', '.join(REDUCTIONS)}")
        if not 1 <= self.inference_steps <= self.schedule.steps:
            raise UserError(
                f"model.diffusion.inference_steps is {self.inference_steps}; expected 1 to {self.schedule.steps}, "
                "the trained steps"
            )


def level_of(path: str, levels: int) -> int:
    """How many times the sequence has been halved where a layer of the U-Net works (an upsampling layer counts by its
    input, a downsampling one by its output)."""
    kind, _, rest = path.partition("_")
    if kind not in ("down", "up", "mid"):
        return 0
    number = 0 if kind == "mid" else int(rest.split("_")[0])
    if kind == "down":
        return number + ("downsample" in rest)
    return levels - 1 - number


def configure(model: ml_collections.ConfigDict, unet: str = "low_dim") -> None:
    """Adds the keys of the diffusion head to a stage's `model`, at 3PoinTr's values (released code)."""
    model.unet = ml_collections.ConfigDict(VARIANTS[unet])
    model.diffusion = ml_collections.ConfigDict(
        {
            "steps": 100,
            "prediction": "epsilon",
            "clip": True,
            "method": "ddpm",
            "inference_steps": 100,
            "pad": 8,
            "draws": 1,
            "reduction": "sum",
        }
    )
