"""The simulator as a tracker: points on a recorded episode's bodies, followed without error.

It needs what `t2p collect` writes, the physical state of every frame ("sim/qpos"), or what LIBERO's demonstrations hold
("states"; their scene is built from LIBERO's own assets), and no pictures.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import mujoco
import numpy as np

from t2p.data.store import Dataset, read_manifest
from t2p.geometry.cameras import unproject
from t2p.geometry.conventions import to_raster
from t2p.io import UserError
from t2p.sim.libero.assets import find_assets
from t2p.sim.libero.demonstrations import demonstration
from t2p.sim.points import attach, from_camera, to_camera, to_image, visible
from t2p.sim.record import Replay, replay
from t2p.sim.render import Surfaces, camera_of
from t2p.tracking.base import Span, Tracker, TrackingError, check_queries, check_video, frame_indices, inside
from t2p.types import Camera, Tracks

FAR = 1000.0  # metres: where nothing is seen, a point stands for what is behind the world


class Poses(NamedTuple):
    """Of all bodies, as MuJoCo's data has them, here of several frames: xpos [T, nbody, 3], xmat [T, nbody, 9]."""

    xpos: np.ndarray
    xmat: np.ndarray

    def at(self, t: int | np.ndarray) -> Poses:
        return Poses(self.xpos[t], self.xmat[t])


@dataclass(frozen=True)
class Looks:
    """A recording seen from one camera. frames: what it sees, [T, H, W] each; camera: with T_base_cam [T, 4, 4]."""

    model: mujoco.MjModel
    frames: Surfaces
    camera: Camera
    poses: Poses


class Simulator(Tracker):
    """Episodes of the dataset `folder`, which `t2p collect` made or `t2p data import` shortened, or imported from
    LIBERO's demonstrations; libero_root: where LIBERO's own files are (assets.find_assets). Call `clip` to get the
    tracker of one video."""

    name = "simulator"
    version = f"1 (MuJoCo {mujoco.__version__})"

    def __init__(self, folder: str, renderer: str = "auto", libero_root: str | None = None):
        splits = read_manifest(folder)["splits"]
        self.folder, self.renderer = folder, renderer
        self.assets = find_assets(libero_root) if libero_root else None
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
        try:
            if "libero" in data.info(number):
                return demonstration(data, number, self.renderer, self.assets)
            return replay(data, number, self.renderer)
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
            poses.append((shown.data.xpos.copy(), shown.data.xmat.copy()))
        camera = replace(cameras[0], T_base_cam=np.stack([camera.T_base_cam for camera in cameras]))
        seen, moved = (map(np.stack, zip(*each, strict=True)) for each in (frames, poses))
        return Looks(shown.model, Surfaces(*seen), camera, Poses(*moved))

    def track(self, features: Looks, queries: np.ndarray, span: Span | None = None) -> Tracks:
        queries, span = check_queries(queries, len(features.poses.xpos), span)
        indices = frame_indices(len(features.poses.xpos), span)
        points = np.empty((len(indices), len(queries), 2), np.float32)
        seen = np.empty(points.shape[:-1], bool)
        for t in np.unique(queries[:, 0]).astype(int):
            chosen = queries[:, 0] == t
            points[:, chosen], seen[:, chosen] = _follow(features, t, queries[chosen, 1:], indices)
        return Tracks(points=points, visible=seen & inside(points), queries=queries)


def _follow(looks: Looks, t: int, places: np.ndarray, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is seen at places [N, 2] in frame t, in the frames `indices` [S]: points [S, N, 2], visible [S, N]."""
    camera, depth, bodies = looks.camera, looks.frames.depth, looks.frames.bodies
    height, width = camera.size
    pixels = to_raster(places, camera.size)
    column, row = np.clip(pixels.astype(int), 0, (width - 1, height - 1)).T
    z, own = depth[t, row, column].astype(np.float64), bodies[t, row, column]
    nothing = ~np.isfinite(z) | (own < 0)
    z, own = np.where(nothing, FAR, z), np.where(nothing, 0, own)
    then = replace(camera, T_base_cam=camera.T_base_cam[t])
    fixed = attach(looks.model, looks.poses.at(t), from_camera(unproject(pixels, z, camera.K), then), own)
    moving = replace(camera, T_base_cam=camera.T_base_cam[indices, None])
    at = to_camera(fixed.positions(looks.poses.at(indices)), moving)
    seen = visible(at, own, depth[indices], bodies[indices], camera)
    return _in_front(at, camera), np.where(nothing, at[..., 2] > 0, seen)


def _in_front(at: np.ndarray, camera: Camera) -> np.ndarray:
    """Camera frame [..., 3] -> picture [..., 2]; points behind the camera go to where they left it, far outside."""
    ahead = np.where(at[..., 2:] > 1e-6, at, at * (1, 1, 0) + (0, 0, 1e-6))
    return np.clip(np.nan_to_num(to_image(ahead, camera)), -10, 10)
