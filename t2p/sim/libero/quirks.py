"""The original's oddities, each of them an option."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from t2p.io import UserError

Pose = tuple[tuple[float, float, float], tuple[float, float, float, float]]


@dataclass(frozen=True)
class Quirks:
    """What LIBERO 8f1084e with robosuite 1.4.1 does and another simulator would not; by default as they do it.

    fixture_poses: a fixture's pose is no part of a stored state; it stays where the last reset drew it (openvla issue
    342). "sampled": so; "centre": in the middle of the range it is drawn from; else (name, (position, quaternion))
    pairs, m and (w, x, y, z), for all fixtures. In all three cases the same random numbers are drawn.
    repeated_articulation: each reset of one environment draws the fixtures' joints once more than the reset before and
    keeps the last (envs/bddl_base_domain: the list of samplers is only ever appended to); else once each.
    inverted_ranges: a range that is narrower than an object is wide turns inside out when the object's radius is taken
    off both its ends, so that the object may lie outside (envs/regions); else the object lies in its middle.
    """

    fixture_poses: Literal["sampled", "centre"] | tuple[tuple[str, Pose], ...] = "sampled"
    repeated_articulation: bool = True
    inverted_ranges: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.fixture_poses, str):
            if self.fixture_poses not in ("sampled", "centre"):
                raise UserError(f"fixture_poses must be sampled, centre or poses; got {self.fixture_poses!r}")
            return
        for name, (position, quaternion) in self.fixture_poses:
            numbers = np.array([*position, *quaternion], float)
            if numbers.shape != (7,) or not np.isfinite(numbers).all() or abs(np.linalg.norm(quaternion) - 1) > 1e-6:
                raise UserError(f"the pose of {name} must be a position [3] and a unit quaternion [4]; got {numbers}")
