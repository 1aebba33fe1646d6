"""The original's oddities, each of them an option."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, get_args, get_origin, get_type_hints

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
    first_substep: in the first physics step after a reset the controller still sees the arm in its nominal pose
    ("nominal"; robosuite, controllers/base_controller: what it knows of the arm is kept until time has passed), or as
    it is ("live").
    goal_rotation: without a rotation in the action the goal of orientation stays where it was ("kept"; robosuite,
    controllers/osc), or becomes where the hand is ("measured").
    observation: pictures and state are those of shortly before a policy step's end ("stale"; robosuite,
    utils/observables: the time of sampling drifts by one physics step with each forced update), or of its end ("end").
    language: the sentence in the task's file name ("file"; LIBERO's benchmark), or in the file ("bddl"; its
    environments).
    """

    fixture_poses: Literal["sampled", "centre"] | tuple[tuple[str, Pose], ...] = "sampled"
    repeated_articulation: bool = True
    inverted_ranges: bool = True
    first_substep: Literal["nominal", "live"] = "nominal"
    goal_rotation: Literal["kept", "measured"] = "kept"
    observation: Literal["stale", "end"] = "stale"
    language: Literal["file", "bddl"] = "file"

    def __post_init__(self) -> None:
        hints = get_type_hints(Quirks)
        for field in fields(self):
            value, known = getattr(self, field.name), get_args(hints[field.name])
            if get_origin(hints[field.name]) is Literal and value not in known:
                raise UserError(f"{field.name} must be one of {', '.join(known)}; got {value!r}")
        _check_poses(self.fixture_poses)


def _check_poses(poses: str | tuple[tuple[str, Pose], ...]) -> None:
    if isinstance(poses, str):
        if poses not in ("sampled", "centre"):
            raise UserError(f"fixture_poses must be sampled, centre or poses; got {poses!r}")
        return
    for name, (position, quaternion) in poses:
        numbers = np.array([*position, *quaternion], float)
        if numbers.shape != (7,) or not np.isfinite(numbers).all() or abs(np.linalg.norm(quaternion) - 1) > 1e-6:
            raise UserError(f"the pose of {name} must be a position [3] and a unit quaternion [4]; got {numbers}")
