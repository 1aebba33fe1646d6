"""Recording a scripted demonstration, and drawing a recording afterwards.

What is recorded is the physical state at a fixed rate; pictures, depth and exact tracks follow from it at any time
(`Replay`), so that recording costs no rendering and the same episode can be looked at with another camera size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import mujoco
import numpy as np

from t2p.geometry.cameras import invert_transform
from t2p.io import UserError
from t2p.sim.control import drive
from t2p.sim.environment import proprioception, refresh, to_world
from t2p.sim.experts import scripted_expert
from t2p.sim.points import attach, body_ids, cloud, from_camera, to_camera, to_image, visible
from t2p.sim.registry import make_task
from t2p.sim.render import Frame, Renderer, Size, Surfaces, camera_of, make_renderer
from t2p.sim.task import ScriptedTask
from t2p.sim.world import diverged, quiet_warnings, write_state
from t2p.types import Camera, InitialState, Space, TrackSet


@dataclass(frozen=True)
class Recording:
    """One episode of T frames. start: its initial state. qpos: [T, nq]; columns: {"proprio/tool" [T, 9] (position, 6D
    rotation, base frame), "proprio/gripper" [T, 1] (commanded: 0 open, 1 closed), "proprio/joints" [T, j], "actions"
    [T, A] (the action in force, base frame)}; waypoint_times: [W] seconds at which each waypoint was settled; success:
    the judge's word at the end; failure: why the physics came apart, or ""."""

    fps: float
    start: InitialState
    qpos: np.ndarray
    columns: dict[str, np.ndarray]
    waypoint_times: np.ndarray
    success: bool
    failure: str


def record(
    task: ScriptedTask, model: mujoco.MjModel, data: mujoco.MjData, configuration: np.ndarray, fps: float = 20.0
) -> Recording:
    """Has the scripted expert do the task from a configuration. The first frame is the start, the last one the end."""
    every = 1 / (fps * model.opt.timestep)
    if fps <= 0 or abs(every - round(every)) > 1e-6:
        raise UserError(
            f"fps is {fps}: frames must be whole numbers of physics steps of {model.opt.timestep} s apart: 50, 25,"
            " 20, 10, 5, 4 or 2"
        )
    quiet_warnings()
    start = task.place(model, data, configuration)
    session = _Session(task, model, data, round(every))
    times = [time for time in session.run() if time is not None]
    failure = diverged(data) or ""
    success = not failure and session.judge.success(model, data)
    return Recording(fps, start, *session.arrays(), np.array(times), success, failure)


class _Session:
    """A demonstration under way."""

    def __init__(self, task: ScriptedTask, model: mujoco.MjModel, data: mujoco.MjData, every: int):
        self.task, self.model, self.data, self.every = task, model, data, every
        self.controller, self.judge = task.controller(model, data), task.judge(model)
        self.expert = scripted_expert(task, model, data)
        self.to_base = invert_transform(np.asarray(task.base, float))
        self.steps = 0
        self.rows: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []
        arm = self.controller.arm
        data.ctrl[arm.controls[-1]] = arm.robot.gripper_open

    def run(self) -> Iterator[float | None]:
        """Acts until the script or the task's limit is over, then keeps the last command until the next frame is due.
        Gives after each action the time if a waypoint was settled with it, else None."""
        for number in range(self.task.limit):
            action = self.expert.action(self.model, self.data)
            if action is None or diverged(self.data) is not None:
                break
            self.action = action
            if number == 0:
                self._note()
            self.controller.start(self.model, self.data, action)
            for _ in drive(self.controller, self.model, self.data):
                self._stepped()
            settled = self.task.action.kind == "setpoint_pose" or self.expert.phase == "next"
            yield self.steps * self.model.opt.timestep if settled else None
        for _ in range(-self.steps % self.every):
            mujoco.mj_step(self.model, self.data)
            self._stepped()

    def _stepped(self) -> None:
        self.judge.substep(self.model, self.data)
        self.steps += 1
        if self.steps % self.every == 0:
            self._note()

    def _note(self) -> None:
        """One frame. mj_step leaves poses as they were at its beginning: they are brought up to date first."""
        refresh(self.model, self.data)
        columns = proprioception(self.to_base, self.controller, self.data)
        action = to_world(self.task.action, self.to_base, self.action)  # of the world seen from the base, so to it
        self.rows.append((self.data.qpos.copy(), {**columns, "actions": action}))

    def arrays(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        qpos, columns = zip(*self.rows, strict=True)
        return np.stack(qpos), {k: np.stack([c[k] for c in columns]).astype(np.float32) for k in columns[0]}


class Scene(Protocol):
    """What of a task is asked for to draw its recordings; see Task."""

    @property
    def name(self) -> str: ...
    @property
    def views(self) -> Mapping[str, str]: ...
    @property
    def kept(self) -> tuple[str, ...]: ...


class Replay:
    """Draws a recording: the pictures, depth and exact tracks of its frames. Needs the task that was recorded."""

    def __init__(self, task: Scene, start: InitialState, qpos: np.ndarray, renderer: Renderer, model: mujoco.MjModel):
        """renderer: of `model`, which is the task's compiled world and is given the recording's frames of bodies."""
        self.task, self.start, self.qpos, self.renderer, self.model = task, start, qpos, renderer, model
        self.data = mujoco.MjData(model)
        write_state(model, self.data, start)

    def __len__(self) -> int:
        return len(self.qpos)

    def show(self, t: int) -> mujoco.MjData:
        """The world as it was in frame t."""
        self.data.qpos[:] = self.qpos[t]
        refresh(self.model, self.data)
        return self.data

    def frame(self, t: int, view: str, size: Size) -> Frame:
        return self.renderer.render(self.show(t), self.task.views[view], size)

    def surfaces(self, t: int, view: str, size: Size) -> Surfaces:
        return self.renderer.surfaces(self.show(t), self.task.views[view], size)

    def video(self, view: str, size: Size) -> np.ndarray:
        """[T, H, W, 3] uint8."""
        name = self.task.views[view]
        return np.stack([self.renderer.rgb(self.show(t), name, size) for t in range(len(self))])

    def camera(self, view: str, size: Size, base: np.ndarray | None = None) -> Camera:
        """As in the first frame; base None: in the world."""
        base = np.eye(4) if base is None else base
        return camera_of(self.model, self.show(0), self.task.views[view], size, base)


def replay(dataset: Any, number: int, renderer: str = "auto") -> Replay:
    """The recording of a collected episode (a number in a t2p.data.store.Dataset): the simulator draws it at any size,
    with depth and masks (`ReplaySource`). UserError for an episode that no simulator made."""
    info, facts = dataset.infos[number], dataset.info(number)
    if "sim/qpos" not in info.columns or "start" not in facts:
        raise UserError(f"episode {info.id!r} was not collected from the simulator: it has no physical states")
    task = make_task(info.task, **facts["simulator"]["options"])
    model = task.build().compile()
    arrays = {k: np.asarray(v, float) for k, v in facts["start"].items() if k != "time"}
    start = InitialState(time=float(facts["start"]["time"]), **arrays)
    return Replay(task, start, dataset.column(number, "sim/qpos"), make_renderer(model, renderer), model)


def exact_tracks(
    replay: Replay, view: str, size: Size, frames: Sequence[Frame], kept: Sequence[str], count: int, seed: int
) -> dict[Space, TrackSet]:
    """The points seen in the first frame of a fixed camera on the bodies `kept`, followed exactly.

    frames: what the camera sees, all T of them. count: so many points at most, drawn by the seed. -> {"camera": points
    in the camera's frame, "image": their projections}, visible where rendered depth shows them."""
    camera = replay.camera(view, size)
    seen = cloud(frames[0], camera.K, body_ids(replay.model, kept))
    chosen = np.sort(np.random.default_rng([seed, 2]).permutation(len(seen.points))[:count])
    points, bodies = seen.points[chosen], seen.bodies[chosen]
    attached = attach(replay.model, replay.show(0), from_camera(points, camera), bodies)
    at = [to_camera(attached.positions(replay.show(t)), camera) for t in range(len(replay))]
    shown = np.stack([visible(p, bodies, f.depth, f.bodies, camera) for p, f in zip(at, frames, strict=True)])
    queries = np.concatenate([np.zeros((len(points), 1)), to_image(points, camera)], axis=1).astype(np.float32)
    spaces: dict[Space, np.ndarray] = {"camera": np.stack(at), "image": np.stack([to_image(p, camera) for p in at])}
    return {
        space: TrackSet("global", np.nan_to_num(p).astype(np.float32), shown, queries, "exact", "1", space)
        for space, p in spaces.items()
    }


@dataclass(frozen=True)
class ReplaySource:
    """The simulator as a DepthSource and a MaskSource: renders what the recorded state of an episode shows.

    replays: {episode id: Replay}, made by whoever knows where the states are."""

    replays: Mapping[str, Replay]

    def depth(self, episode_id: str, view: str, size: Size) -> np.ndarray:
        """[T, H, W] metres, NaN where nothing is."""
        replay = self._replay(episode_id)
        depth = np.stack([replay.surfaces(t, view, size).depth for t in range(len(replay))])
        return np.where(np.isfinite(depth), depth, np.nan)

    def mask(self, episode_id: str, view: str, size: Size) -> np.ndarray:
        """[T, H, W] True on the embodiment: on every body that does not belong to the scene."""
        replay = self._replay(episode_id)
        scene = body_ids(replay.model, replay.task.kept)
        bodies = np.stack([replay.surfaces(t, view, size).bodies for t in range(len(replay))])
        return (bodies >= 0) & ~np.isin(bodies, [0, *scene])

    def _replay(self, episode_id: str) -> Replay:
        if episode_id not in self.replays:
            raise UserError(
                f"no recorded states of episode {episode_id!r}; there are {len(self.replays)} other episodes"
            )
        return self.replays[episode_id]
