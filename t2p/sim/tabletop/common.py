"""What 3PoinTr's tabletop tasks share: the robot on its pedestal, floor, cameras, and how an episode is started.

Numbers are 3PoinTr's released code's, unless said otherwise. Metres, kilograms, radians; z is up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol

import mujoco
import numpy as np

from t2p.io import UserError
from t2p.sim import world
from t2p.sim.control import Controller, OscDelta, SetpointPose, find_arm, rotation_matrix
from t2p.sim.robots.base import Robot, attach
from t2p.sim.robots.hand import HAND
from t2p.sim.robots.panda import PANDA
from t2p.sim.robots.xarm7 import XARM7
from t2p.sim.task import Waypoint
from t2p.types import ActionSpec, InitialState

Control = Literal["setpoint_pose", "osc_delta"]
Embodiment = Literal["xarm7", "panda", "hand"]
CONTROLS: tuple[Control, ...] = ("setpoint_pose", "osc_delta")
ROBOTS: dict[str, Robot] = {"xarm7": XARM7, "panda": PANDA, "hand": HAND}

PREFIX = "robot/"
PEDESTAL = 0.12
SETTLE_STEPS = 200
OSC_LIMIT = 400  # relative actions, 20 s; the scripts need about half of it (chosen here)


@dataclass(frozen=True)
class View:
    """A camera in the world: position, and the directions to the right and up in its picture."""

    position: Sequence[float]
    x_axis: Sequence[float]
    y_axis: Sequence[float]


@dataclass(frozen=True)
class Tabletop:
    """One of the tasks; a subclass adds objects, placement, script and judge (`sim.task.Task` says what each must do).

    control: what an action means. embodiment: "xarm7" as in the paper; "panda" or "hand" (a floating gripper) do the
    task their own way, for videos without actions. objects: bodies whose points belong to the scene, besides the
    floor. waypoints: number of setpoints in the script."""

    control: Control = "setpoint_pose"
    embodiment: Embodiment = "xarm7"

    name: ClassVar[str]
    instruction: ClassVar[str]
    front: ClassVar[View]
    objects: ClassVar[tuple[str, ...]]
    waypoints: ClassVar[int]
    variation: ClassVar[int] = 0
    stop_at_success: ClassVar[bool] = False  # the released code looks once, at the end

    def __post_init__(self) -> None:
        for option, value, allowed in (
            ("control", self.control, CONTROLS),
            ("embodiment", self.embodiment, tuple(ROBOTS)),
        ):
            if value not in allowed:
                expected = ", ".join(repr(one) for one in allowed)
                raise UserError(f"{self.name}: {option} must be one of {expected}; got {value!r}")

    @property
    def robot(self) -> Robot:
        return ROBOTS[self.embodiment]

    @property
    def action(self) -> ActionSpec:
        return ActionSpec(self.control, 10 if self.control == "setpoint_pose" else 7)

    @property
    def base(self) -> np.ndarray:
        """T_world_base [4, 4]: the top of the pedestal (of the floating hand too, which has none)."""
        pose = np.eye(4)
        pose[2, 3] = PEDESTAL
        return pose

    @property
    def views(self) -> Mapping[str, str]:
        return {"front": "front", "wrist": "wrist"}

    @property
    def kept(self) -> tuple[str, ...]:
        return ("world", *self.objects)

    @property
    def limit(self) -> int:
        return self.waypoints if self.control == "setpoint_pose" else OSC_LIMIT

    def add_objects(self, spec: mujoco.MjSpec) -> None:
        """Puts the task's objects into the world."""
        raise NotImplementedError

    def arrange(self, model: mujoco.MjModel, data: mujoco.MjData, configuration: np.ndarray) -> None:
        """Puts the objects where the configuration says."""
        raise NotImplementedError

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        raise NotImplementedError

    def expert(self, model: mujoco.MjModel, data: mujoco.MjData) -> Iterator[Waypoint]:
        raise NotImplementedError

    def build(self) -> mujoco.MjSpec:
        spec = world.new_world(self.name)
        _add_surroundings(spec)
        _add_robot(spec, self.robot)
        view = self.front
        world.add_camera(spec.worldbody, "front", view.position, view.x_axis, view.y_axis)
        self.add_objects(spec)
        return spec

    def place(self, model: mujoco.MjModel, data: mujoco.MjData, configuration: np.ndarray) -> InitialState:
        """Arm at home, gripper open, objects as configured; settled for 200 steps, then brought to rest: the state has
        time 0 and no velocities. UserError where the physics comes apart."""
        numbers = len(self.draw(np.random.default_rng(0)))
        configuration = np.asarray(configuration, float)
        if configuration.shape != (numbers,) or not np.isfinite(configuration).all():
            raise UserError(f"{self.name}: a configuration is {numbers} finite numbers; got {configuration.tolist()}")
        mujoco.mj_resetData(model, data)
        take_home(model, data, self.robot)
        self.arrange(model, data, configuration)
        mujoco.mj_forward(model, data)
        problem = world.settle(model, data, SETTLE_STEPS)
        if problem:
            raise UserError(f"{self.name}: no episode can start from {configuration.tolist()}: {problem}")
        state = replace(world.read_state(model, data), time=0.0, qvel=np.zeros(model.nv))
        world.write_state(model, data, state)
        return state

    def stored(self, model: mujoco.MjModel, data: mujoco.MjData, index: int) -> InitialState:
        raise UserError(f"{self.name} has no published initial states; start its episodes from seeds")

    def controller(self, model: mujoco.MjModel, data: mujoco.MjData) -> Controller:
        arm = find_arm(model, self.robot, PREFIX)
        return SetpointPose.hold(arm, data) if self.control == "setpoint_pose" else OscDelta.hold(arm, model, data)


def _add_surroundings(spec: mujoco.MjSpec) -> None:
    """A floor of wooden tiles, a bright background, one lamp; looks are chosen here."""
    texture = mujoco.mjtTexture
    checker, gradient = mujoco.mjtBuiltin.mjBUILTIN_CHECKER, mujoco.mjtBuiltin.mjBUILTIN_GRADIENT
    spec.add_texture(
        name="tiles", type=texture.mjTEXTURE_2D, builtin=checker, rgb1=[0.70, 0.55, 0.40], rgb2=[0.62, 0.48, 0.34]
    )
    spec.add_texture(
        name="sky", type=texture.mjTEXTURE_SKYBOX, builtin=gradient, rgb1=[0.75, 0.78, 0.82], rgb2=[0.85, 0.86, 0.88]
    )
    for one in spec.textures:
        one.width, one.height = 64, 64 * (6 if one.type == texture.mjTEXTURE_SKYBOX else 1)
    tiles = spec.add_material(name="tiles", texrepeat=[5, 5], texuniform=True)
    tiles.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "tiles"
    world.add_floor(spec, (1, 1, 1, 1)).material = "tiles"
    world.add_light(spec, (0.4, 0.0, 2.0), (0.1, 0.25, -1.0))
    spec.visual.headlight.ambient = [0.3, 0.3, 0.3]
    spec.stat.extent, spec.visual.map.shadowclip = 1.0, 2.0  # m and its multiple: less, and specks of shadow appear


def _add_robot(spec: mujoco.MjSpec, robot: Robot) -> None:
    """The robot on its pedestal (the floating hand has none), with the wrist camera above its fingers."""
    if robot is not HAND:
        pedestal = spec.worldbody.add_body(name="pedestal", pos=[0, 0, PEDESTAL / 2])
        pedestal.add_geom(
            name="pedestal",
            type=mujoco.mjtGeom.mjGEOM_CYLINDER,
            size=[0.09, PEDESTAL / 2, 0],
            rgba=[0.35, 0.35, 0.38, 1],
        )
    attach(spec, robot, (0, 0, PEDESTAL), prefix=PREFIX)
    lean = np.deg2rad(20)  # towards the fingers; place and angle are chosen here
    up = (np.cos(lean), 0, np.sin(lean))
    world.add_camera(spec.body(PREFIX + "hand"), "wrist", (0.08, 0, 0.05), (0, 1, 0), up, fovy=70)
    for site in spec.sites:
        site.group = 3  # not drawn unless asked for


def take_home(model: mujoco.MjModel, data: mujoco.MjData, robot: Robot) -> None:
    """Arm at home, gripper open, and commands that keep them there."""
    for name, value in zip(robot.joints, robot.home, strict=True):
        data.joint(PREFIX + name).qpos = value
        data.actuator(PREFIX + name).ctrl = value
    data.actuator(PREFIX + robot.gripper).ctrl = robot.gripper_open
    if robot is PANDA:  # its fingers' zero is closed
        for finger in robot.fingers:
            data.joint(PREFIX + finger).qpos = robot.gripper_open / 2


def gripper_opened(data: mujoco.MjData, robot: Robot) -> bool:
    """Whether the gripper's command is nearer to open than to closed."""
    command = float(data.actuator(PREFIX + robot.gripper).ctrl[0])
    return abs(command - robot.gripper_open) < abs(command - robot.gripper_closed)


class Predicate(Protocol):
    def __call__(self, model: mujoco.MjModel, data: mujoco.MjData) -> bool: ...


@dataclass(frozen=True)
class Judge:
    """Success is a property of the moment: nothing needs to be watched in between."""

    predicate: Predicate

    def substep(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Nothing to note."""

    def success(self, model: mujoco.MjModel, data: mujoco.MjData) -> bool:
        return self.predicate(model, data)


def about_z(yaw: float) -> np.ndarray:
    """[3, 3] rotation by yaw (rad) about the world's z."""
    return rotation_matrix(np.array([0.0, 0.0, yaw]))


def pointing(yaw: float, pitch: float = 0.0) -> np.ndarray:
    """[3, 3] the tool at home (down, closing along y) raised by pitch (rad; pi / 2: forward), then turned by yaw about
    the world's z. It closes across the direction yaw."""
    return about_z(yaw) @ rotation_matrix(np.array([0.0, -pitch, 0.0])) @ np.diag([1.0, -1.0, -1.0])
