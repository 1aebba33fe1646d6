"""LIBERO's 130 tasks for the simulator: `make_task("libero_object/pick_up_the_milk_and_place_it_in_the_basket")`.

An episode's seed is the number of a rollout: by the protocol it stands for one of the published initial states, and the
fixtures stand where a reset of the original with that random seed puts them. Without a protocol's states (protocol
"reset") the whole start is what that reset draws.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import mujoco
import numpy as np

from t2p.io import UserError
from t2p.sim.libero import placement
from t2p.sim.libero.assets import Assets, find_assets, initial_states, load_problem, split_state
from t2p.sim.libero.bddl import Problem
from t2p.sim.libero.catalog import ARENAS, CATEGORIES
from t2p.sim.libero.environment import LiberoEnvironment
from t2p.sim.libero.placement import Placement
from t2p.sim.libero.protocols import Protocol, find_protocol
from t2p.sim.libero.quirks import Quirks
from t2p.sim.libero.scene import DRAWINGS, VIEWS, Profile, build, things
from t2p.sim.libero.suites import find_task
from t2p.types import ActionSpec, InitialState

SEEDS = 2**32  # so many the legacy random stream has
SAME_PHYSICS = ("2.3.7", "3.3.2")  # versions of MuJoCo under which recorded states come out alike


@dataclass(frozen=True)
class LiberoTask:
    """name: suite/task, or suite/index. control: "osc_delta", LIBERO's only one. protocol: of evaluation (see
    protocols.py). libero_root: where LIBERO's files are, None: see assets.find_assets. profile: how it is drawn,
    "faithful" or "fast" (one sample a pixel and no reflections; see scene.py). proprio: what is observed beside
    pictures, "demonstrations" (joint_states [7], gripper_states [2] and ee_states [6], as LIBERO's demonstrations have
    them) or "observables" (all that the original observes, float64; observations.py). quirks: the original's."""

    name: str
    control: str = "osc_delta"
    protocol: str = "libero"
    libero_root: str | None = None
    profile: Profile = "faithful"
    proprio: Literal["demonstrations", "observables"] = "demonstrations"
    quirks: Quirks = field(default_factory=Quirks)

    environment: ClassVar[type[LiberoEnvironment]] = LiberoEnvironment
    variation: ClassVar[int] = 0
    stop_at_success: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", str(find_task(self.name)))
        if self.control != "osc_delta":
            raise UserError(f"{self.name}: LIBERO's tasks are controlled by 'osc_delta'; got {self.control!r}")
        find_protocol(self.protocol)
        if self.profile not in DRAWINGS:
            raise UserError(f"{self.name}: unknown profile {self.profile!r}; expected one of {', '.join(DRAWINGS)}")
        if self.proprio not in ("demonstrations", "observables"):
            raise UserError(f"{self.name}: proprio must be demonstrations or observables; got {self.proprio!r}")

    @property
    def suite(self) -> str:
        return self.name.partition("/")[0]

    @property
    def rules(self) -> Protocol:
        return find_protocol(self.protocol)

    @property
    def assets(self) -> Assets:
        return find_assets(self.libero_root)

    @property
    def problem(self) -> Problem:
        return _problem(self.name, self.libero_root)

    @property
    def instruction(self) -> str:
        return self.problem.language if self.quirks.language == "bddl" else find_task(self.name).language

    @property
    def action(self) -> ActionSpec:
        return ActionSpec("osc_delta", 7)

    @property
    def base(self) -> np.ndarray:
        """T_world_base [4, 4]."""
        pose = np.eye(4)
        pose[:3, 3] = ARENAS[self.problem.kind].base
        return pose

    @property
    def views(self) -> Mapping[str, str]:
        return VIEWS

    @property
    def kept(self) -> tuple[str, ...]:
        """All bodies of things."""
        return ("world", *(f"{name}_main" for name, _ in things(self.problem)))

    @property
    def note(self) -> str:
        """What stands beside every result; "" where nothing need."""
        if mujoco.__version__ in SAME_PHYSICS:
            return ""
        return (
            f"MuJoCo {mujoco.__version__} drifts from LIBERO's published physics, which {SAME_PHYSICS[-1]} reproduces."
        )

    @property
    def limit(self) -> int:
        return self.rules.steps(self.suite)

    @property
    def settle(self) -> int:
        return self.rules.settle if self.quirks.settle else 0

    @property
    def idle(self) -> np.ndarray:
        return np.array(self.rules.idle)

    @property
    def glows_from(self) -> float:
        """Position of a stove's knob from which its burner glows."""
        return CATEGORIES["flat_stove"].articulation["turnon"][0]

    def build(self, profile: Profile | None = None) -> mujoco.MjSpec:
        return build(self.problem, self.assets, profile or self.profile)

    def physics(self) -> mujoco.MjModel:
        """The compiled model for physics alone, the caller's own: environments write fixtures' poses into theirs. It is
        compiled once in a process for all tasks that differ in their options only."""
        return copy.copy(_physics(self.name, self.assets))

    def start(self, found: Placement, seed: int, state: int | np.ndarray | None = None) -> InitialState:
        """Where the episode of a seed starts. state: the number of a published initial state, or one [1 + nq + nv]
        (time, qpos, qvel); None: the protocol's."""
        if not 0 <= seed < SEEDS:
            raise UserError(f"{self.name}: a seed is a number from 0 to {SEEDS - 1}, got {seed}")
        drawn, _ = placement.reset(found, placement.random_stream(seed, self.quirks))
        if state is None and not self.rules.states:
            return drawn
        given = self.rules.state(seed) if state is None else state
        return self._with(found.model, drawn, np.asarray(given) if np.ndim(given) else self.published(int(given)))

    def stored(self, model: mujoco.MjModel, data: mujoco.MjData, index: int) -> InitialState:
        """The index-th published initial state, fixtures as the model has them."""
        here = InitialState(0.0, model.qpos0, np.zeros(model.nv), model.body_pos.copy(), model.body_quat.copy())
        return self._with(model, here, self.published(index))

    def published(self, index: int) -> np.ndarray:
        """[1 + nq + nv] the index-th published initial state: time, qpos, qvel."""
        states = _states(self.name, self.libero_root)
        if not 0 <= index < len(states):
            raise UserError(f"{self.name} has the initial states 0 to {len(states) - 1}; got {index}")
        return states[index]

    def _with(self, model: mujoco.MjModel, where: InitialState, state: np.ndarray) -> InitialState:
        time, qpos, qvel = split_state(state, model.nq, model.nv)
        return replace(where, time=float(time), qpos=qpos.copy(), qvel=qvel.copy())


@functools.lru_cache(maxsize=32)
def _problem(name: str, root: str | None) -> Problem:
    return load_problem(find_assets(root), *name.split("/", 1))


@functools.lru_cache(maxsize=16)  # 3 MB each
def _physics(name: str, assets: Assets) -> mujoco.MjModel:
    """Never changed. A drawn model is not kept: it takes 100 to 180 MB, MuJoCo itself keeps the files that it was made
    of, and a copy would cost half of what compiling it again does."""
    return build(load_problem(assets, *name.split("/", 1)), assets, "physics").compile()


@functools.lru_cache(maxsize=32)
def _states(name: str, root: str | None) -> np.ndarray:
    return initial_states(find_assets(root), *name.split("/", 1))
