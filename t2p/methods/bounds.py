"""Numbers of a config within their bounds, refused by name where they are not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from t2p.io import UserError


class Bound(NamedTuple):
    """Numbers from `low` on, or above it with `above`; below `below` and at most `most`, where given. zero: 0, too."""

    low: float
    above: bool = False
    below: float | None = None
    most: float | None = None
    zero: bool = False

    def holds(self, value: Any) -> bool:
        """False for what is no number, and for NaN and infinity."""
        if not isinstance(value, int | float) or not math.isfinite(value):
            return False
        if self.zero and value == 0:
            return True
        low = value > self.low if self.above else value >= self.low
        return low and (self.below is None or value < self.below) and (self.most is None or value <= self.most)

    def __str__(self) -> str:
        ends = [f"above {self.low:g}" if self.above else f"at least {self.low:g}"]
        ends += [] if self.below is None else [f"below {self.below:g}"]
        ends += [] if self.most is None else [f"at most {self.most:g}"]
        return (
            ("0, or " if self.zero else "") + ("" if self.low or not self.above else "a number ") + " and ".join(ends)
        )


COUNT = Bound(1)  # of something that there must be one of
NUMBER = Bound(0)  # of something that there may be none of
POSITIVE = Bound(0, above=True)
DECAY = Bound(0, below=1)
SHARE = Bound(0, most=1)
DROPOUT = Bound(1 / 256, most=255 / 256, zero=True)  # t2p.models.layers.dropout draws to one part in 256


def check_bounds(config: Mapping[str, Any], bounds: Mapping[str, Bound]) -> None:
    """bounds: {dotted key of config: its bound}. Raises UserError that names key, value and bound."""
    for key, bound in bounds.items():
        value: Any = config
        for part in key.split("."):
            value = value[part]
        if not bound.holds(value):
            raise UserError(f"{key} is {value}; expected {bound}")
