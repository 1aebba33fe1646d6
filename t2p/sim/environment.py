"""One environment: a task's physics under a policy's actions, and what the policy sees of it.

Physics never depends on what is observed, and an episode is a function of its start and its actions alone: nothing of
the episodes before it is left (t2p.sim.world.write_state), and the controller and the judge are new.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar, Protocol, cast

import mujoco
import numpy as np

from t2p.geometry.cameras import invert_transform, transform_points
from t2p.geometry.rotations import matrix_to_6d
from t2p.io import UserError
from t2p.sim.control import Controller, drive, orthonormal
from t2p.sim.points import SurfacePoints, body_ids, cloud
from t2p.sim.render import Renderer, camera_of, make_renderer
from t2p.sim.task import Judge, ScriptedTask, Task, sample
from t2p.sim.world import diverged, quiet_warnings, write_state
from t2p.types import ActionSpec, Cloud, InitialState, Observe

Key = tuple[str, ...]  # ("images", view), ("proprio", name) ...: one array of an observation
Shape = tuple[tuple[int, ...], str]  # of one environment's array, and its NumPy type
Start = int | InitialState  # a seed, or the state itself

CLOCKS = ("physics", "control", "render", "reset")  # where an environment's time goes, in this order


def observed_views(task: Task, observe: Observe) -> tuple[str, ...]:
    """The views that are rendered, in the task's order."""
    wanted = {*observe.images, *observe.depth}
    if observe.cloud:
        wanted.add(next(iter(task.views)))
    return tuple(view for view in task.views if view in wanted)


PLAIN = Observe()  # proprioception alone


def check_observe(task: Task, observe: Observe) -> None:
    """UserError where a task cannot be observed so."""
    unknown = sorted({*observe.images, *observe.depth} - set(task.views))
    if unknown:
        raise UserError(f"{task.name} has no view {', '.join(unknown)}; its views are {', '.join(task.views)}")
    if len(observe.size) != 2 or min(observe.size) < 1:
        raise UserError(f"the size of the pictures must be (height, width) in pixels; got {observe.size}")
    if observe.cloud < 0:
        raise UserError(f"cloud is a number of points from 0 (none) on; got {observe.cloud}")
    if observe.cloud and not task.views:
        raise UserError(f"{task.name} has no view to take a cloud from")
    if observe.goal and not observe.images:
        raise UserError("goal pictures are taken from the views in `images`, and there are none: name at least one")


def to_world(spec: ActionSpec, base: np.ndarray, action: np.ndarray) -> np.ndarray:
    """An action [A] in the base frame -> the same action in the world frame. base: T_world_base [4, 4]."""
    action, turn = np.asarray(action, float), base[:3, :3]
    if spec.kind == "setpoint_pose":
        rotation = matrix_to_6d(turn @ orthonormal(action[3:9]))
        return np.concatenate([transform_points(base, action[:3]), rotation, action[9:]])
    moved = np.minimum(np.maximum(action[:6], -1), 1)  # its limits hold along the base's axes
    return np.concatenate([turn @ moved[:3], turn @ moved[3:], action[6:]])


def proprioception(to_base: np.ndarray, controller: Controller, data: mujoco.MjData) -> dict[str, np.ndarray]:
    """{"proprio/tool": [9] position (m) and 6D rotation in the base frame; "proprio/gripper": [1] commanded, 0 open,
    1 closed; "proprio/joints": [j] rad}, by the poses that were computed last. to_base: T_base_world [4, 4]."""
    arm, turn = controller.arm, to_base[:3, :3]
    position = turn @ data.site_xpos[arm.tool] + to_base[:3, 3]
    rotation = turn @ data.site_xmat[arm.tool].reshape(3, 3)
    opened, closed = arm.robot.gripper_open, arm.robot.gripper_closed
    return {
        "proprio/tool": np.concatenate([position, matrix_to_6d(rotation)]),
        "proprio/gripper": (data.ctrl[arm.controls[-1:]] - opened) / (closed - opened),
        "proprio/joints": data.qpos[arm.joints].copy(),
    }


def check_actions(task: Task, actions: np.ndarray) -> None:
    """UserError where actions [n, A] are none: numbers that are not finite, a 6D rotation that is no rotation."""
    bad = ~np.isfinite(actions).all(axis=-1)
    if bad.any():
        raise UserError(f"an action for {task.name} holds numbers that are not finite: {actions[bad][0].tolist()}")
    if task.action.kind == "setpoint_pose":
        for action in actions:
            orthonormal(action[3:9])


class Scene:
    """A task's compiled model and its renderer: shared by all environments of a process, since of a model only the
    bodies' frames differ between episodes, and each environment puts its own there before it uses the model. drawn: the
    model that is drawn, the same one unless a subclass has another, made when something is drawn."""

    def __init__(self, task: Task, observe: Observe = PLAIN, renderer: str = "auto"):
        """Warnings of MuJoCo are no longer printed afterwards, in the whole process: `diverged` reads them."""
        check_observe(task, observe)
        quiet_warnings()
        self.task, self.observe = task, observe
        self.model = self.compile()
        self.frames = self.model.body_pos.copy(), self.model.body_quat.copy()
        self.renderer: Renderer | None = make_renderer(self.drawn, renderer) if observed_views(task, observe) else None
        kept = [name for name in task.kept if observe.floor or name != "world"]
        self.kept = body_ids(self.model, kept) if observe.cloud else None

    def compile(self) -> mujoco.MjModel:
        return self.task.build().compile()

    @cached_property
    def drawn(self) -> mujoco.MjModel:
        return self.model

    def put(self, frames: tuple[np.ndarray, np.ndarray]) -> None:
        """Writes the bodies' frames, positions [nbody, 3] and quaternions [nbody, 4], into the model."""
        self.model.body_pos[:], self.model.body_quat[:] = frames

    def close(self) -> None:
        if self.renderer is not None:
            self.renderer.close()
            self.renderer = None


class Onlooker(Protocol):
    """Watches the episodes of an environment: films them, say. It may read `model` and `data` of the environment that
    it is shown, and must leave them as they are."""

    def begin(self, environment: Environment) -> None:
        """After a reset."""
        ...

    def substep(self, environment: Environment) -> None:
        """After every physics step; poses are those at its beginning."""
        ...

    def end(self, environment: Environment) -> None:
        """After a policy step; environment.failure and success are its."""
        ...


class Environment:
    """reset, step, observe. failure: None, or why the physics came apart: then it rests until it is reset. success: the
    judge's word after the last step. time: seconds of physics since the reset. seed: of the episode (0: it started from
    a state); steps: policy steps that began since the reset. clocks: [4] seconds spent (CLOCKS).

    A policy step has three parts, begin, advance (of several environments together: advance_all), finish."""

    scene_class: ClassVar[type[Scene]] = Scene

    def __init__(
        self,
        task: Task,
        observe: Observe = PLAIN,
        renderer: str = "auto",
        scene: Scene | None = None,
        onlooker: Onlooker | None = None,
    ) -> None:
        """scene: that of another environment of this process with the same task and `observe`; None: its own."""
        self.task, self.watch, self.onlooker = task, observe, onlooker
        self._owns = scene is None
        self.scene = self.scene_class(task, observe, renderer) if scene is None else scene
        self.model = self.scene.model
        self.data = mujoco.MjData(self.model)
        self.clocks = np.zeros(len(CLOCKS))
        self.controller: Controller | None = None
        self.judge: Judge | None = None
        self.failure: str | None = None
        self.success, self.time = False, 0.0
        self._frames, self.seed, self.steps, self.substeps = self.scene.frames, 0, 0, 0
        self._base = np.asarray(task.base, float)
        self._to_base = invert_transform(self._base)

    @property
    def _scripted(self) -> ScriptedTask:
        """The task: one that has no environment of its own."""
        return cast(ScriptedTask, self.task)

    def reset(self, start: Start) -> None:
        """Starts an episode from a seed (drawn by the task) or from a state."""
        began = time.perf_counter()
        self.controller = self.judge = None
        self.scene.put(self.scene.frames)
        mujoco.mj_resetData(self.model, self.data)
        if isinstance(start, InitialState):
            state, self.seed = start, 0
        else:
            state, self.seed = sample(self._scripted, self.model, self.data, int(start)), int(start)
        write_state(self.model, self.data, state)
        self._frames = self.model.body_pos.copy(), self.model.body_quat.copy()
        self.steps, self.success, self.time, self.failure = 0, False, 0.0, diverged(self.data)
        self.controller = self._scripted.controller(self.model, self.data)
        self.judge = self._scripted.judge(self.model)
        self.data.ctrl[self.controller.arm.controls[-1]] = self.controller.arm.robot.gripper_open
        self.clocks[3] += time.perf_counter() - began
        if self.onlooker is not None:
            self.onlooker.begin(self)

    def step(self, action: np.ndarray) -> None:
        """One policy step: an action [A] in the base frame until the controller is done with it."""
        self.begin(action)
        self.advance()
        self.finish()

    def begin(self, action: np.ndarray) -> None:
        """The first part: what the action [A], in the base frame, asks for."""
        if self.controller is None or self.judge is None:
            raise UserError("the environment has to be reset before its first step")
        self.substeps = 0
        if self.failure is not None:
            return
        self.enter()
        self.steps += 1
        began = time.perf_counter()
        self.controller.start(self.model, self.data, to_world(self.task.action, self._base, action))
        self.clocks[1] += time.perf_counter() - began

    def advance(self) -> None:
        """The second part: physics until the action is over."""
        if self.failure is None:
            assert self.controller is not None and self.judge is not None  # begin looks
            self.enter()
            self.substeps = self._advance(self.controller, self.judge)

    @staticmethod
    def advance_all(environments: Sequence[Environment]) -> None:
        """`advance` of several environments of one scene."""
        for environment in environments:
            environment.advance()

    def finish(self) -> None:
        """The third part: how it went."""
        if self.failure is not None:
            return
        assert self.judge is not None  # begin looks
        self.enter()
        self.failure = diverged(self.data)
        if self.failure is None:
            self.time += self.substeps * self.model.opt.timestep
            self.success = bool(self.judge.success(self.model, self.data))
            self.refresh()
        else:
            self.success = False
        if self.onlooker is not None:
            self.onlooker.end(self)

    def refresh(self) -> None:
        """Brings poses up to the present."""
        refresh(self.model, self.data)

    def shown(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """What a picture of the present is drawn from."""
        self.enter()
        return self.model, self.data

    def _advance(self, controller: Controller, judge: Judge) -> int:
        """Physics until the controller is done. -> physics steps."""
        model, data, steps = self.model, self.data, 0
        for _ in drive(controller, model, data, self.clocks):
            steps += 1
            judge.substep(model, data)
            if self.onlooker is not None:
                self.onlooker.substep(self)
        return steps

    def enter(self) -> None:
        """Makes the shared model this environment's; wanted before `model` and `data` are used from outside."""
        self.scene.put(self._frames)

    def observe(self, pictures: bool = True) -> dict[Key, np.ndarray]:
        """What `shapes` lists, as it is now. pictures: False leaves out pictures, clouds and cameras."""
        seen = self._proprio()
        if pictures and self.scene.renderer is not None:
            began = time.perf_counter()
            model, data = self._seen()
            for view in observed_views(self.task, self.watch):
                seen |= self._look(self.scene.renderer, view, model, data)
            self.clocks[2] += time.perf_counter() - began
        return seen

    def shapes(self) -> dict[Key, Shape]:
        """Shape and type of every array of an observation."""
        mujoco.mj_forward(self.model, self.data)
        joints = len(self._scripted.controller(self.model, self.data).arm.joints)
        dims = {"tool": 9, "gripper": 1, "joints": joints}
        return self._picture_shapes() | {("proprio", name): ((dim,), "f4") for name, dim in dims.items()}

    def _picture_shapes(self) -> dict[Key, Shape]:
        h, w = self.watch.size
        shapes: dict[Key, Shape] = {("images", view): ((h, w, 3), "u1") for view in self.watch.images}
        shapes |= {("depth", view): ((h, w), "f4") for view in self.watch.depth}
        if self.watch.goal:
            shapes |= {("goal", view): ((h, w, 3), "u1") for view in self.watch.images}
        if count := self.watch.cloud:
            shapes |= {("cloud", "points"): ((count, 3), "f4"), ("cloud", "colors"): ((count, 3), "u1")}
            shapes[("cloud", "valid")] = ((count,), "?")
        for view in observed_views(self.task, self.watch):
            shapes |= {("K", view): ((3, 3), "f8"), ("T_base_cam", view): ((4, 4), "f8")}
        return shapes

    def goal_observation(self, state: InitialState) -> dict[Key, np.ndarray]:
        """{("goal", view): picture [H, W, 3] of `state`}; the running episode does not notice."""
        data = mujoco.MjData(self.model)
        try:
            write_state(self.model, data, state)
            return self._goal_pictures(data)
        finally:
            self.enter()

    def _goal_pictures(self, data: mujoco.MjData) -> dict[Key, np.ndarray]:
        if self.scene.renderer is None or not self.watch.images:
            raise UserError("there are no views to take a goal's picture from: name them in Observe.images")
        views, size = self.task.views, self.watch.size
        return {("goal", v): self.scene.renderer.rgb(data, views[v], size) for v in self.watch.images}

    def close(self) -> None:
        if self._owns:
            self.scene.close()

    def _proprio(self) -> dict[Key, np.ndarray]:
        if self.controller is None:
            raise UserError("the environment has to be reset before it is observed")
        values = proprioception(self._to_base, self.controller, self.data)
        return {("proprio", name.removeprefix("proprio/")): value.astype(np.float32) for name, value in values.items()}

    def _seen(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """What an observation's pictures are drawn from."""
        return self.shown()

    def _look(self, renderer: Renderer, view: str, model: mujoco.MjModel, data: mujoco.MjData) -> dict[Key, np.ndarray]:
        """What is seen in one view."""
        name, size = self.task.views[view], self.watch.size
        camera = camera_of(model, data, name, size, self._base)
        seen: dict[Key, np.ndarray] = {("K", view): camera.K, ("T_base_cam", view): camera.T_base_cam}
        picture, depth = view in self.watch.images, view in self.watch.depth
        if self.scene.kept is not None and view == next(iter(self.task.views)):
            frame = renderer.render(data, name, size)
            rng = np.random.default_rng([self.seed, self.task.variation, 1 + self.steps])
            points = subset(cloud(frame, camera.K, self.scene.kept), self.watch.cloud, rng)
            seen |= {("cloud", part): getattr(points, part) for part in ("points", "colors", "valid")}
            seen |= {("images", view): frame.rgb} if picture else {}
            return seen | ({("depth", view): frame.depth} if depth else {})
        if picture:
            seen[("images", view)] = renderer.rgb(data, name, size)
        if depth:
            seen[("depth", view)] = renderer.depth(data, name, size)
        return seen


def environment_class(task: Task) -> type[Environment]:
    """The task's own kind of environment, `task.environment`, where it has one."""
    return getattr(task, "environment", Environment)


def subset(points: SurfacePoints, count: int, rng: np.random.Generator) -> Cloud:
    """`count` of the points without replacement, in their order; all of them and zeros where there are fewer."""
    chosen = np.sort(rng.permutation(len(points.points))[:count])
    there = len(chosen)
    xyz, colors = np.zeros((count, 3), np.float32), np.zeros((count, 3), np.uint8)
    xyz[:there], colors[:there] = points.points[chosen], points.colors[chosen]
    return Cloud(xyz, colors, np.arange(count) < there)


def refresh(model: mujoco.MjModel, data: mujoco.MjData) -> None:
    """Brings poses, cameras and lights up to the present: mj_step leaves those of its beginning. Nothing that physics
    takes over into its next step changes."""
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_camlight(model, data)
