"""What a task is to the simulator: the contracts that everything around it relies on.

A task is a frozen, picklable object (worker processes rebuild their models from it). It builds the world. A scripted
one also says where episodes start, how actions move the robot, what counts as success, and how an expert does it;
others bring an environment of their own that knows (t2p.sim.environment.environment_class). Poses and positions are in
the world frame, metres; rotations are matrices whose columns are the tool's axes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, Protocol

import mujoco
import numpy as np

from t2p.sim.control import Controller
from t2p.types import ActionSpec, InitialState


@dataclass(frozen=True)
class Waypoint:
    """Where a scripted expert wants the tool. position: [3]; rotation: [3, 3]; closed: the gripper's command once the
    tool is there."""

    position: np.ndarray
    rotation: np.ndarray
    closed: bool


class Judge(Protocol):
    """Decides on one episode. `substep` is called after every physics step, `success` after every policy step."""

    def substep(self, model: mujoco.MjModel, data: mujoco.MjData) -> None: ...

    def success(self, model: mujoco.MjModel, data: mujoco.MjData) -> bool: ...


class Task(Protocol):
    """name: as in the registry. variation: a number, 0 where there is only one. instruction: a sentence. action: what
    a policy's action means. base: T_world_base [4, 4], the robot's base. views: {view name: camera name in the model},
    the third-person view first. kept: names of the bodies whose points belong to the scene ("world" for the floor), the
    embodiment left out. limit: policy steps after which an episode is over; stop_at_success: whether its first success
    ends it too, or success is what holds at the end."""

    @property
    def name(self) -> str: ...
    @property
    def variation(self) -> int: ...
    @property
    def instruction(self) -> str: ...
    @property
    def action(self) -> ActionSpec: ...
    @property
    def base(self) -> np.ndarray: ...
    @property
    def views(self) -> Mapping[str, str]: ...
    @property
    def kept(self) -> tuple[str, ...]: ...
    @property
    def limit(self) -> int: ...
    @property
    def stop_at_success(self) -> bool: ...

    def build(self) -> mujoco.MjSpec:
        """The world with the embodiment and the cameras."""
        ...

    def stored(self, model: mujoco.MjModel, data: mujoco.MjData, index: int) -> InitialState:
        """The index-th of the task's published initial states; UserError where it has none."""
        ...


def task_options(task: Task) -> dict[str, Any]:
    """What its name does not say of a task: the fields that it was made with (how it is controlled, evaluated, drawn),
    but for where files are."""
    made: dict[str, Any] = asdict(task) if is_dataclass(task) and not isinstance(task, type) else {}
    return {name: value for name, value in made.items() if name not in ("name", "libero_root")}


class ScriptedTask(Task, Protocol):
    """A task for the default environment, that can be collected."""

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """[F] one initial configuration (the numbers that tell episodes apart, in a fixed order); no physics."""
        ...

    def place(self, model: mujoco.MjModel, data: mujoco.MjData, configuration: np.ndarray) -> InitialState:
        """The settled start of an episode from a configuration [F]; the same numbers give the same state. Changes
        `model` and `data`."""
        ...

    def controller(self, model: mujoco.MjModel, data: mujoco.MjData) -> Controller:
        """A fresh controller for an episode that starts at `data`; it takes actions in the world frame."""
        ...

    def judge(self, model: mujoco.MjModel) -> Judge:
        """A fresh judge of one episode."""
        ...

    def expert(self, model: mujoco.MjModel, data: mujoco.MjData) -> Iterator[Waypoint]:
        """The scripted demonstration, waypoint after waypoint; may read `data` whenever it is asked for the next."""
        ...


def sample(task: ScriptedTask, model: mujoco.MjModel, data: mujoco.MjData, seed: int) -> InitialState:
    """Where the episode of a seed starts; the same on every machine, worker and run."""
    rng = np.random.default_rng([seed, task.variation])
    return task.place(model, data, task.draw(rng))
