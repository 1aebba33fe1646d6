"""What the original LIBERO does that one would not expect, each as an option. The defaults do as it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Quirks:
    """first_substep: in the first physics step after a reset the controller still sees the arm in its nominal pose
    ("nominal"; robosuite, base_controller: it is updated only when new), or as it is ("live").

    goal_rotation: without a rotation in the action the goal of orientation stays where it was ("kept"; robosuite, osc),
    or is where the hand is ("measured").

    observation: pictures and state are those of shortly before a policy step's end ("stale"; robosuite, observables:
    the sampling time drifts by one physics step with each forced update), or of its end ("end").

    fixtures: where furniture stands after a start from a published state: as a reset with the episode's seed drew it
    ("sampled"; LIBERO: set_init_state leaves it there), or in the middle of its region ("centre").

    language: the sentence in the task's file name ("file"; LIBERO's benchmark), or in the file ("bddl"; its
    environments)."""

    first_substep: Literal["nominal", "live"] = "nominal"
    goal_rotation: Literal["kept", "measured"] = "kept"
    observation: Literal["stale", "end"] = "stale"
    fixtures: Literal["sampled", "centre"] = "sampled"
    language: Literal["file", "bddl"] = "file"
