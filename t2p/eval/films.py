"""Films of rollouts: recorded episodes run again, seen by the third-person camera, beside what the policy foresaw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from t2p.eval.insights import Insight, insight, moments
from t2p.eval.overlay import write_video
from t2p.eval.rollout import Clock, Record, episodes
from t2p.methods.base import Policy, Variables
from t2p.sim.batch import BatchedSim
from t2p.sim.environment import Environment
from t2p.sim.points import Attached, attach, from_camera, to_camera, to_image
from t2p.sim.render import Renderer, camera_of, make_renderer
from t2p.sim.task import Task
from t2p.sim.world import diverged
from t2p.types import Camera, Observation, Observe

FPS = 10.0  # pictures per simulated second
SIZE = (192, 256)  # of a film, (height, width)
POINTS = 200  # tracks at most that are kept of a policy's


@dataclass(frozen=True)
class Foreseen:
    """Tracks that a policy predicted when the episode began, and the same points as they went: both [T', N, 3], metres
    in the third-person camera's frame, first as they were seen, then after each policy step that was taken."""

    predicted: np.ndarray
    true: np.ndarray


@dataclass(frozen=True)
class Film:
    """record: the episode as it was run again. frames: [F, H, W, 3] uint8, FPS a simulated second, the last one at its
    end. camera: the third-person view's of these frames, in the robot's base frame. insights: of decisions, at most FPS
    a simulated second, where the policy tells tracks in its pictures; of a few of them where it tells attention alone.
    """

    record: Record
    frames: np.ndarray
    camera: Camera
    foreseen: Foreseen | None
    insights: tuple[Insight, ...] = ()


def film(
    policy: Policy, variables: Variables, task: Task, seeds: Sequence[int], renderer: str = "auto"
) -> Iterator[Film]:
    """Runs the episodes of these seeds again, one after the other, and films them. Nothing for a task without views.

    An episode follows from its seed but for rounding: a network that decides for one environment may round differently
    than for many. So `record` may differ from what was recorded."""
    if not task.views:
        return
    with (
        _cinema(task, renderer, policy.observe) as cinema,
        BatchedSim(task, 1, 0, policy.observe, renderer, cinema) as sim,
    ):
        for record in episodes(policy, variables, sim, seeds, Clock(), cinema.told):
            yield cinema.developed(record)


@dataclass(frozen=True)
class Recorder:
    """Videos of episodes in a folder, <seed>_success.mp4 or <seed>_failure.mp4 by how the film ends. seeds: of the
    episodes that are wanted; those whose videos are there already are not filmed again."""

    folder: Path
    seeds: Sequence[int]

    def missing(self) -> list[int]:
        """The wanted seeds that have no video yet."""
        return [seed for seed in self.seeds if not any(self._path(seed, won).exists() for won in (True, False))]

    def write(self, one: Film) -> None:
        """Writes a film if its episode is wanted and has no video."""
        if one.record.seed in self.missing():
            write_video(self._path(one.record.seed, one.record.success), one.frames, FPS)

    def _path(self, seed: int, success: bool) -> Path:
        return self.folder / f"{seed}_{'success' if success else 'failure'}.mp4"


@contextmanager
def _cinema(task: Task, renderer: str, observe: Observe) -> Iterator[Cinema]:
    cinema = Cinema(task, renderer, observe)
    try:
        yield cinema
    finally:
        cinema.close()


class Cinema:
    """An onlooker (t2p.sim.environment) of one environment that takes a picture now and then, and follows the points
    whose tracks the policy predicts."""

    def __init__(self, task: Task, renderer: str, observe: Observe):
        """observe: what the policy sees."""
        self.view, self.base = next(iter(task.views.values())), np.asarray(task.base, float)
        self.seen, self.views = observe.size, observe.images
        self._name = renderer
        self._renderer: Renderer | None = None

    def begin(self, environment: Environment) -> None:
        if self._renderer is None:
            self._renderer = make_renderer(environment.shown()[0], self._name)
        self._every = max(1, round(1 / (FPS * environment.model.opt.timestep)))
        self._steps, self._frames = 0, [self._picture(environment)]
        self._camera = self._at(environment, SIZE, self.base)
        self._environment = environment
        self._tracks: np.ndarray | None = None
        self._points: Attached | None = None
        self._true: list[np.ndarray] = []
        self._insights: list[Insight] = []
        self._due = 0  # the physics step from which on the next insight is wanted

    def told(self, obs: Observation, aux: Mapping[str, Any]) -> None:
        """What the policy says beside an action. Tracks in space count if they are those of its first decision."""
        seconds = self._steps * self._environment.model.opt.timestep
        if self._steps >= self._due and (one := insight(seconds, obs, aux, self.views)):
            self._insights.append(one)
            self._due = self._steps + self._every
        tracks = aux.get("tracks")
        if self._steps or self._tracks is not None or tracks is None or np.ndim(tracks) != 4 or tracks.shape[-1] != 3:
            return
        self._follow(self._environment, np.asarray(tracks[0], np.float64))

    def substep(self, environment: Environment) -> None:
        self._steps += 1
        if self._steps % self._every == 0 and diverged(environment.data) is None:
            self._frames.append(self._picture(environment))

    def end(self, environment: Environment) -> None:
        if environment.failure is None and self._points is not None:
            self._true.append(to_camera(self._points.positions(environment.data), self._at(environment, self.seen)))

    def developed(self, record: Record) -> Film:
        """The film of the episode that has ended."""
        if not record.failed and self._steps % self._every:
            self._frames.append(self._picture(self._environment))
        foreseen = None
        if self._tracks is not None:
            steps = min(len(self._tracks), len(self._true))
            foreseen = Foreseen(self._tracks[:steps], np.stack(self._true[:steps]))
        told = self._insights
        insights = tuple(told) if any(one.tracks for one in told) else moments(told)
        return Film(record, np.stack(self._frames), self._camera, foreseen, insights)

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _follow(self, environment: Environment, tracks: np.ndarray) -> None:
        """Fixes the tracks' first points to the bodies on which they are seen. tracks: [T + 1, N, 3]."""
        assert self._renderer is not None, "begin comes first"
        camera, (height, width) = self._at(environment, self.seen), self.seen
        bodies = self._renderer.bodies(environment.shown()[1], self.view, self.seen)
        place = to_image(tracks[0], camera)
        inside = (tracks[0, :, 2] > 0) & (place >= 0).all(-1) & (place < 1).all(-1)  # not those that only fill up
        column, row = (np.where(inside[:, None], place, 0) * (width, height)).astype(int).T
        on = np.flatnonzero(inside & (bodies[row, column] >= 0))
        if not len(on):
            return
        kept = on[np.unique(np.linspace(0, len(on) - 1, POINTS).astype(int))]
        first, own = tracks[0, kept], bodies[row, column][kept]
        self._points = attach(environment.model, environment.data, from_camera(first, camera), own)
        self._tracks, self._true = tracks[:, kept], [first]

    def _picture(self, environment: Environment) -> np.ndarray:
        assert self._renderer is not None, "begin comes first"
        return self._renderer.rgb(environment.shown()[1], self.view, SIZE)

    def _at(self, environment: Environment, size: tuple[int, int], base: np.ndarray | None = None) -> Camera:
        return camera_of(*environment.shown(), self.view, size, base)
