"""From image tracks to points with depth, and points on the embodiment taken out.

Depth and masks come from a DepthSource and a MaskSource (t2p.types): here folders of arrays made elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from t2p.geometry.cameras import resize_intrinsics, unproject
from t2p.geometry.conventions import to_raster
from t2p.tracking.base import TrackingError, frame_indices, inside
from t2p.types import Camera, Space, TrackSet


@dataclass(frozen=True)
class DepthFolder:
    """DepthSource over FOLDER/<episode id>/<view>.npy (or .npz with the array `depth`): [T, h, w] metres, NaN or
    0 where unknown; integers are millimetres."""

    folder: str

    def depth(self, episode_id: str, view: str, size: tuple[int, int]) -> np.ndarray:
        array = _load(self.folder, episode_id, view, "depth")
        depth = array.astype(np.float32) / (1000 if array.dtype.kind in "iu" else 1)
        return _nearest(np.where(depth > 0, depth, np.nan), size)


@dataclass(frozen=True)
class MaskFolder:
    """MaskSource over FOLDER/<episode id>/<view>.npy (or .npz with the array `mask`): [T, h, w], not 0 on the
    embodiment; [1, h, w] stands for all frames."""

    folder: str

    def mask(self, episode_id: str, view: str, size: tuple[int, int]) -> np.ndarray:
        return _nearest(_load(self.folder, episode_id, view, "mask") != 0, size)


def hide_embodiment(tracks: TrackSet, mask: np.ndarray) -> TrackSet:
    """Marks points on the embodiment invisible: those that start on it at every step, others where they lie on it.

    tracks: space "image" or "image_depth"; mask: [T, H, W] bool, or [1, H, W] for all frames.
    """
    length = len(tracks.points)
    mask = np.broadcast_to(_of_length(mask, length, "mask"), (length, *mask.shape[1:]))
    covered = _sample(mask, tracks.points, _frames(tracks), fill=False)
    origin = tracks.queries[:, 0].astype(int)
    points = np.arange(len(origin))
    on_it = covered[origin, points] if tracks.layout == "global" else covered[:, origin, points][:, None]
    return replace(tracks, visible=tracks.visible & ~covered & ~on_it)


def lift(tracks: TrackSet, depth: np.ndarray, space: Space, camera: Camera | None = None) -> TrackSet:
    """Tracks of space "image" -> "image_depth" (x, y, depth in metres) or "camera" (metres, OpenCV frame).

    depth: [T, H, W] metres, NaN where unknown, read at the nearest pixel (no mixing across edges). camera: its
    intrinsics, needed for "camera". Depth is believed only where a point is visible; a visible point without
    depth becomes invisible. Elsewhere depth is interpolated in time along the point's own track (held at its
    ends; 0 for a point that never had one), so coordinates stay finite.
    """
    if tracks.space != "image":
        raise TrackingError(f"only tracks of space 'image' can be lifted, these are {tracks.space!r}")
    z = _sample(_of_length(depth, len(tracks.points), "depth"), tracks.points, _frames(tracks), fill=np.nan)
    known = tracks.visible & np.isfinite(z)
    z = fill_in_time(np.where(known, z, 0.0), known)
    if space == "image_depth":
        points = np.concatenate([tracks.points, z[..., None]], -1)
    elif space == "camera":
        points = _to_camera(tracks.points, z, camera, depth.shape[1:])
    else:
        raise ValueError(f"space must be 'image_depth' or 'camera', got {space!r}")
    return replace(tracks, points=points.astype(np.float32), visible=known, space=space)


def fill_in_time(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """values [..., T, N]: linear in time between known ones, held at the ends, 0 where none is known."""
    steps = np.arange(values.shape[-2])
    flat = values.reshape(-1, *values.shape[-2:])
    filled = np.zeros_like(flat)
    for w, (rows, mask) in enumerate(zip(flat, known.reshape(flat.shape), strict=True)):
        for n in np.flatnonzero(mask.any(0)):
            seen = mask[:, n]
            filled[w, :, n] = np.interp(steps, steps[seen], rows[seen, n])
    return filled.reshape(values.shape)


def _to_camera(xy: np.ndarray, z: np.ndarray, camera: Camera | None, size: tuple[int, int]) -> np.ndarray:
    if camera is None:
        raise TrackingError("space 'camera' needs the view's intrinsics, which this episode lacks; try 'image_depth'")
    K = resize_intrinsics(np.asarray(camera.K, np.float64), camera.size, size)
    return unproject(to_raster(xy.astype(np.float64), size), z.astype(np.float64), K)


def _frames(tracks: TrackSet) -> np.ndarray:
    """The video frame of each step: [T, 1] for a global set, [T, h, 1] for a window set."""
    length = len(tracks.points)
    if tracks.layout == "global":
        return np.arange(length)[:, None]
    horizon = tracks.points.shape[1]
    return np.stack([frame_indices(length, (t, t + horizon)) for t in range(length)])[..., None]


def _sample(maps: np.ndarray, points: np.ndarray, frames: np.ndarray, fill: float) -> np.ndarray:
    """maps [T, H, W] at the pixel that holds each point (its first two coordinates); `fill` outside the frame."""
    points = points[..., :2]
    height, width = maps.shape[1:]
    column = np.clip((points[..., 0] * width).astype(int), 0, width - 1)
    row = np.clip((points[..., 1] * height).astype(int), 0, height - 1)
    return np.where(inside(points), maps[frames, row, column], fill)


def _of_length(maps: np.ndarray, length: int, what: str) -> np.ndarray:
    if maps.ndim != 3 or len(maps) not in ({length, 1} if what == "mask" else {length}):
        raise TrackingError(f"{what} has shape {list(maps.shape)}, expected [{length}, height, width]")
    return maps


def _load(folder: str, episode_id: str, view: str, key: str) -> np.ndarray:
    root = Path(folder).resolve()
    base = (root / episode_id / view).resolve()
    if root not in base.parents:
        raise TrackingError(f"episode {episode_id!r}, view {view!r} leave the folder {folder}")
    for path in (base.with_name(base.name + ".npy"), base.with_name(base.name + ".npz")):
        if path.exists():
            return _read(path, key)
    raise TrackingError(f"no {key} for episode {episode_id!r}: neither {base}.npy nor {base}.npz exists")


def _read(path: Path, key: str) -> np.ndarray:
    try:
        loaded = np.load(path, allow_pickle=False)
        array = loaded if path.suffix == ".npy" else loaded[key]
    except (OSError, ValueError, KeyError, EOFError) as e:
        raise TrackingError(f"{path} does not hold the array {key!r}: {e}") from e
    if array.ndim != 3:
        raise TrackingError(f"{path}: {key} has shape {list(array.shape)}, expected [T, height, width]")
    return array


def _nearest(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[T, h, w] resized to `size` by taking, for each new pixel's centre, the old pixel that holds it."""
    rows, columns = (((np.arange(n) + 0.5) * old / n).astype(int) for n, old in zip(size, maps.shape[1:], strict=True))
    return maps[:, rows[:, None], columns]
