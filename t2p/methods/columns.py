"""Actions and robot state of policies that are told both step by step, raw or scaled by the training data's limits."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import ml_collections

from t2p.io import UserError
from t2p.methods.normalise import Limits, empty_statistics
from t2p.types import Array, Batch

SCALES = ("none", "limits")


def scale_by_limits(config: ml_collections.ConfigDict) -> None:
    """Actions and state in [-1, 1] by the limits of the training data, which training fills in."""
    config.model.scale = "limits"
    config.statistics = empty_statistics("actions", *(f"proprio/{key}" for key in config.window.proprio))


@dataclass(frozen=True)
class Columns:
    """Actions and state as the network has them. widths: numbers of each part of the state; limits: of actions and of
    each part, or None: raw."""

    proprio: tuple[str, ...]
    widths: tuple[int, ...]
    limits: tuple[Limits, ...] | None

    @classmethod
    def from_config(cls, config: ml_collections.ConfigDict) -> Columns:
        """Reads window.proprio, window.proprio_widths, model.scale and statistics."""
        keys, widths, m = tuple(config.window.proprio), tuple(config.window.proprio_widths), config.model
        if len(keys) != len(widths):
            raise UserError(f"window.proprio is {keys} and window.proprio_widths {widths}; expected as many of both")
        if m.scale not in SCALES:
            raise UserError(f"model.scale is {m.scale!r}; expected one of {', '.join(SCALES)}")
        if m.scale == "none":
            return cls(keys, widths, None)
        names = ("actions", *(f"proprio/{key}" for key in keys))
        return cls(keys, widths, tuple(Limits.from_config(config.statistics, name) for name in names))

    @property
    def state_widths(self) -> dict[str, int]:
        """Of a WindowSpec."""
        return {f"proprio/{key}": width for key, width in zip(self.proprio, self.widths, strict=True)}

    def parts(self, batch: Batch) -> tuple[Array, ...]:
        """[B, To, d] of each part of the state."""
        parts = tuple(jnp.asarray(batch.proprio[key], jnp.float32) for key in self.proprio)
        if self.limits is None:
            return parts
        return tuple(limits.normalise(part) for limits, part in zip(self.limits[1:], parts, strict=True))

    def state(self, batch: Batch) -> Array:
        """[B, 1, d], the last step as one token."""
        return jnp.concatenate([part[:, -1:] for part in self.parts(batch)], axis=-1)

    def encode(self, actions: Array) -> Array:
        return actions if self.limits is None else self.limits[0].normalise(actions)

    def decode(self, actions: Array) -> Array:
        return actions if self.limits is None else self.limits[0].undo(actions)
