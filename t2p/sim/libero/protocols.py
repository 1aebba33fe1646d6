"""How LIBERO is evaluated by those who report numbers on it: how long, from which states, how often.

A rollout's number k (from 0 on) stands for an episode: its initial state is the published one `state(k)`, and fixtures
stand where a reset with the random seed k put them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from t2p.io import UserError

OPEN = (0.0,) * 6 + (-1.0,)  # no motion, and the gripper's command to open
STILL = (0.0,) * 7


@dataclass(frozen=True)
class Protocol:
    """limit: policy steps of an episode, those of `limits` for the suites there. states: numbers of the published
    initial states that are used, in turn; none: a reset draws the whole start. rollouts: of each task, those of `fewer`
    for the suites there. settle: so many steps of the action `idle` before the policy acts. source: where it stands."""

    limit: int
    states: tuple[int, ...]
    rollouts: int
    settle: int
    idle: tuple[float, ...]
    source: str
    limits: Mapping[str, int] = field(default_factory=dict)
    fewer: Mapping[str, int] = field(default_factory=dict)

    def steps(self, suite: str) -> int:
        """Policy steps of an episode."""
        return self.limits.get(suite, self.limit)

    def count(self, suite: str) -> int:
        """Rollouts of each task."""
        return self.fewer.get(suite, self.rollouts)

    def state(self, number: int) -> int:
        """The initial state of a rollout."""
        return self.states[number % len(self.states)]


_ALL = tuple(range(50))
_BLOCKS = tuple(start + k for start in range(0, 50, 5) for k in range(2))  # ten workers, each in its own five states
_HORIZONS = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}

PROTOCOLS: dict[str, Protocol] = {
    "atm": Protocol(600, _BLOCKS, 20, 5, OPEN, "ATM, released code: engine/eval_mv_bc"),
    "amplify": Protocol(500, tuple(range(10)), 10, 5, OPEN, "AMPLIFY, released code", fewer={"libero_90": 1}),
    "openpi": Protocol(520, _ALL, 50, 10, OPEN, "openpi: examples/libero; OpenVLA's horizons", _HORIZONS),
    "reset": Protocol(600, (), 20, 5, OPEN, "LIBERO's environments, without published states"),
    "libero": Protocol(600, _ALL, 20, 5, STILL, "LIBERO, released code: lifelong/evaluate"),
}


def find_protocol(name: str) -> Protocol:
    """The protocol of a name; UserError with those that there are."""
    if name not in PROTOCOLS:
        raise UserError(f"unknown protocol {name!r}; expected one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
