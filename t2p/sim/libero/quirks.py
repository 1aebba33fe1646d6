"""The original's oddities as options."""

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
    random_stream: a reset draws from NumPy's legacy stream, seeded by the episode's seed ("legacy": RandomState; the
    original seeds NumPy's global one, openvla issue 342); or from a Generator ("generator": numpy.random.default_rng).
    repeated_articulation: each reset of one environment draws the fixtures' joints once more than the reset before and
    keeps the last (envs/bddl_base_domain: the list of samplers is only ever appended to); else once each.
    inverted_ranges: a range that is narrower than an object is wide turns inside out when the object's radius is taken
    off both its ends, so that the object may lie outside (envs/regions); else the object lies in its middle.
    first_substep: in the first physics step after a reset the controller sees the arm as it was when the controller was
    made, in its nominal pose (robosuite, base_controller); else as it is.
    repeated_solves: before each physics step the original solves for contacts' forces twice more, with the command of
    the step before (robosuite: MujocoEnv.step and base_controller call forward), so that the step's own solver begins
    nearer to the solution: an impact shows it by some 1e-5 m. "needed": so while contacts come and go or the solver has
    work, elsewhere it has converged and repeats nothing (states agree with "always" to rounding); "always"; "never".
    kept_orientation: where an action does not turn the hand the goal of orientation stays what it was (robosuite, osc);
    else it is the hand's present one.
    settle: the steps of no motion that an evaluation takes before its policy acts (LIBERO, lifelong/evaluate; how many
    and of which action, the protocol says: protocols.py) are part of a reset; else an episode starts without them.
    turned_regions: a thing is on a turned region by its offset turned once more by the region's rotation, and in one
    within the box that one turned corner spans (envs/objects, released code); else by its offset in the region's frame.
    stale_observations: a policy step's state is that of a physics step before its end, its poses and pictures are of
    one before that (robosuite, observables and MujocoEnv.step); else both are those of the end.
    flipped_images: row 0 of a picture is at its bottom (robosuite, macros: IMAGE_CONVENTION "opengl") in the original's
    interface (vector.py); else on top, as everywhere else in t2p.
    language: policies are given the sentence in the task's file name ("file"; LIBERO's benchmark) or the one in the
    file ("bddl"; LIBERO's environments): 29 of 130 differ.
    """

    fixture_poses: Literal["sampled", "centre"] | tuple[tuple[str, Pose], ...] = "sampled"
    random_stream: Literal["legacy", "generator"] = "legacy"
    repeated_articulation: bool = True
    inverted_ranges: bool = True
    first_substep: bool = True
    repeated_solves: Literal["needed", "always", "never"] = "needed"
    kept_orientation: bool = True
    settle: bool = True
    turned_regions: bool = True
    stale_observations: bool = True
    flipped_images: bool = True
    language: Literal["file", "bddl"] = "file"

    def __post_init__(self) -> None:
        if self.language not in ("file", "bddl"):
            raise UserError(f"language must be file or bddl; got {self.language!r}")
        if self.random_stream not in ("legacy", "generator"):
            raise UserError(f"random_stream must be legacy or generator; got {self.random_stream!r}")
        if self.repeated_solves not in ("needed", "always", "never"):
            raise UserError(f"repeated_solves must be needed, always or never; got {self.repeated_solves!r}")
        if isinstance(self.fixture_poses, str):
            if self.fixture_poses not in ("sampled", "centre"):
                raise UserError(f"fixture_poses must be sampled, centre or poses; got {self.fixture_poses!r}")
            return
        for name, (position, quaternion) in self.fixture_poses:
            numbers = np.array([*position, *quaternion], float)
            if numbers.shape != (7,) or not np.isfinite(numbers).all() or abs(np.linalg.norm(quaternion) - 1) > 1e-6:
                raise UserError(f"the pose of {name} must be a position [3] and a unit quaternion [4]; got {numbers}")
