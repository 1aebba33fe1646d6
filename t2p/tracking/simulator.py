"""The simulator as a tracker: points on a recorded episode's bodies, followed without error.

It needs what `t2p collect` writes, the physical state of every frame ("sim/qpos"), or what LIBERO's demonstrations hold
("states"; their scene is built from LIBERO's own assets), and no pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import mujoco
import numpy as np

from t2p.data.store import Dataset, read_manifest
from t2p.geometry.cameras import unproject
from t2p.geometry.conventions import to_raster
from t2p.io import UserError
from t2p.sim.libero.demonstrations import demonstration
from t2p.sim.points import attach, from_camera, to_camera, to_image, visible
from t2p.sim.record import Replay, replay
from t2p.sim.render import Surfaces, camera_of
from t2p.tracking.base import Span, Tracker, TrackingError, check_queries, check_video, frame_indices, inside
from t2p.types import Camera, Tracks

FAR = 1000.0  # metres: where nothing is seen, a point stands for what is behind the world


class Poses(NamedTuple):
    """Of all bodies in one frame, as MuJoCo's data has them."""

    xpos: np.ndarray
    xmat: np.ndarray


@dataclass(frozen=True)
class Looks:
    """A recording seen from one camera: what it sees, where it is and where the bodies are, frame by frame."""

    model: mujoco.MjModel
    frames: Sequence[Surfaces]
    cameras: Sequence[Camera]
    poses: Sequence[Poses]


class Simulator(Tracker):
    """Episodes of the dataset `folder`, which `t2p collect` made or `t2p data import` shortened, or imported from
    LIBERO's demonstrations. Call `clip` to get the tracker of one video."""

    name = "simulator"
    version = f"1 (MuJoCo {mujoco.__version__})"

    def __init__(self, folder: str, renderer: str = "auto"):
        splits = read_manifest(folder)["splits"]
        self.folder, self.renderer = folder, renderer
        self._places = {info.id: (s, n) for s in splits for n, info in enumerate(Dataset(folder, s).infos)}
        self._latest: tuple[str, Replay] | None = None

    def clip(self, episode_id: str, view: str) -> SimulatorClip:
        if episode_id not in self._places:
            raise TrackingError(f"{self.folder} has no episode {episode_id!r}")
        if self._latest is None or self._latest[0] != episode_id:
            self.close()
            self._latest = episode_id, self._replay(episode_id)
        recording = self._latest[1]
        if view not in recording.task.views:
            raise TrackingError(f"{recording.task.name} has the views {', '.join(recording.task.views)}, not {view!r}")
        return SimulatorClip(recording, view)

    def close(self) -> None:
        """Lets go of what draws the latest episode."""
        if self._latest is not None:
            self._latest[1].renderer.close()
            self._latest = None

    def _replay(self, episode_id: str) -> Replay:
        split, number = self._places[episode_id]
        data = Dataset(self.folder, split)
        make = demonstration if "libero" in data.info(number) else replay
        try:
            return make(data, number, self.renderer)
        except UserError as e:
            raise TrackingError(str(e)) from e

    def prepare(self, video: np.ndarray) -> Looks:
        raise TypeError("recorded states belong to one video: call clip(episode_id, view) first")

    def track(self, features: Looks, queries: np.ndarray, span: Span | None = None) -> Tracks:
        raise TypeError("recorded states belong to one video: call clip(episode_id, view) first")


@dataclass(frozen=True)
class SimulatorClip(Tracker):
    """One view of one recording. A query is the point that the camera sees there; it stays on its body."""

    recording: Replay
    view: str
    name: str = Simulator.name
    version: str = Simulator.version

    def prepare(self, video: np.ndarray) -> Looks:
        check_video(video)
        shown, size = self.recording, (video.shape[1], video.shape[2])
        if len(video) != len(shown):
            raise TrackingError(f"the recording has {len(shown)} frames, the video {len(video)}")
        frames, cameras, poses = [], [], []
        for t in range(len(shown)):
            frames.append(shown.surfaces(t, self.view, size))
            cameras.append(camera_of(shown.model, shown.data, shown.task.views[self.view], size))
            poses.append(Poses(shown.data.xpos.copy(), shown.data.xmat.copy()))
        return Looks(shown.model, frames, cameras, poses)

    def track(self, features: Looks, queries: np.ndarray, span: Span | None = None) -> Tracks:
        queries, span = check_queries(queries, len(features.frames), span)
        indices = frame_indices(len(features.frames), span)
        points = np.empty((len(indices), len(queries), 2), np.float32)
        seen = np.empty(points.shape[:-1], bool)
        for t in np.unique(queries[:, 0]).astype(int):
            chosen = queries[:, 0] == t
            points[:, chosen], seen[:, chosen] = _follow(features, t, queries[chosen, 1:], indices)
        return Tracks(points=points, visible=seen & inside(points), queries=queries)


def _follow(looks: Looks, t: int, places: np.ndarray, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is seen at places [N, 2] in frame t, in the frames `indices` [S]: points [S, N, 2], visible [S, N]."""
    frame, camera = looks.frames[t], looks.cameras[t]
    height, width = camera.size
    pixels = to_raster(places, camera.size)
    column, row = np.clip(pixels.astype(int), 0, (width - 1, height - 1)).T
    depth, own = frame.depth[row, column].astype(np.float64), frame.bodies[row, column]
    nothing = ~np.isfinite(depth) | (own < 0)
    depth, own = np.where(nothing, FAR, depth), np.where(nothing, 0, own)
    fixed = attach(looks.model, looks.poses[t], from_camera(unproject(pixels, depth, camera.K), camera), own)
    points, seen = [], []
    for i in indices:
        at = to_camera(fixed.positions(looks.poses[i]), looks.cameras[i])
        other = looks.frames[i]
        points.append(_in_front(at, looks.cameras[i]))
        own_seen = visible(at, own, other.depth, other.bodies, looks.cameras[i])
        seen.append(np.where(nothing, at[:, 2] > 0, own_seen))
    return np.stack(points), np.stack(seen)


def _in_front(at: np.ndarray, camera: Camera) -> np.ndarray:
    """Camera frame [N, 3] -> picture [N, 2]; points behind the camera go to where they left it, far outside."""
    return np.clip(
        np.nan_to_num(to_image(np.where(at[:, 2:] > 1e-6, at, at * (1, 1, 0) + (0, 0, 1e-6)), camera)), -10, 10
    )
