"""Numbers brought to [-1, 1] by the limits of the training data, and back; for NumPy and JAX arrays alike.

Diffusion Policy's and DP3's normalisation of actions and proprioception (Chi et al. 2023, Ze et al. 2024; released
code). The limits lie in a stage's config under `statistics`, so that a checkpoint holds them; training fills them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_collections
import numpy as np

from t2p.io import UserError
from t2p.types import Array

SMALLEST_RANGE = 1e-4  # numbers that vary less are only shifted, to 0


@dataclass(frozen=True)
class Limits:
    """The smallest and the largest value of each of d numbers (or of all alike, with one)."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def of(cls, low: Sequence[float], high: Sequence[float]) -> Limits:
        """UserError unless there are equally many, and none above its partner."""
        if len(low) != len(high) or not low or any(a > b for a, b in zip(low, high)):
            raise UserError(f"limits {list(low)} and {list(high)}; expected a low and a high value of each number")
        return cls(tuple(map(float, low)), tuple(map(float, high)))

    @classmethod
    def from_config(cls, statistics: Mapping[str, Any], column: str) -> Limits:
        """Those of a column; statistics: {column: {"min", "max"}}, as `empty_statistics` has its keys."""
        found = statistics[column]
        if not len(found["min"]) or not len(found["max"]):
            raise UserError(
                f"statistics.{column} is empty: the smallest and largest values of this column in the training data "
                "are missing. `t2p train` fills them in from data.sources, and its checkpoints hold them"
            )
        return cls.of(found["min"], found["max"])

    def scale_and_offset(self) -> tuple[np.ndarray, np.ndarray]:
        """[d] float64 each: normalised = scale * x + offset."""
        low, high = np.asarray(self.low), np.asarray(self.high)
        still = high - low < SMALLEST_RANGE
        scale = np.where(still, 1.0, 2.0 / np.where(still, 1.0, high - low))
        return scale, np.where(still, -low, -1.0 - scale * low)

    def normalise(self, x: Array) -> Array:
        """[..., d] -> [..., d], in [-1, 1] for what lies within the limits."""
        scale, offset = self._like(x)
        return x * scale + offset

    def undo(self, x: Array) -> Array:
        """The inverse of `normalise`."""
        scale, offset = self._like(x)
        return (x - offset) / scale

    def _like(self, x: Array) -> tuple[Array, Array]:
        d = len(self.low)
        if d not in (1, x.shape[-1]):
            raise UserError(f"limits of {d} numbers were given for {x.shape[-1]}; was this trained on other data?")
        xp = x.__array_namespace__()
        scale, offset = self.scale_and_offset()
        return xp.asarray(scale, dtype=x.dtype), xp.asarray(offset, dtype=x.dtype)


def empty_statistics(*columns: str) -> ml_collections.ConfigDict:
    """The `statistics` of a config, to be filled by training."""
    return ml_collections.ConfigDict({column: {"min": (), "max": ()} for column in columns})
