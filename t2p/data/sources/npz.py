"""Tracks made elsewhere, in t2p's neutral exchange format: one .npz per clip.

tracks: [T, N, 2] (x, y) or [T, N, 3] (x, y, depth in metres); visible: [T, N] bool; size: [2] (H, W) of the
pictures that were tracked; convention: "raster", "pixel_center", "normalized_01" or "normalized_pm1". Optional:
query [N, 3] (t, x, y) in the same convention, fps, text, tracker, tracker_version, intrinsics [3, 3], extrinsics
[4, 4] (camera to robot base), video [T, H, W, 3] uint8. Without `video` the clip's video lies beside the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from t2p.data.sources import SourceError
from t2p.data.sources.decode import Size
from t2p.data.sources.external import check_shapes, files_below, first_seen, to_tracks, tracked_video
from t2p.geometry.conventions import from_normalized_pm1, from_pixel_centers, from_raster
from t2p.io import PathLike, UserError, load_arrays
from t2p.types import Camera, Episode, TrackSet

CONVENTIONS = ("raster", "pixel_center", "normalized_01", "normalized_pm1")
REQUIRED = ("tracks", "visible", "size", "convention")


class NpzSource:
    """Keys: the files below `path` without .npz.

    videos: where the videos lie (beside the .npz files). recorded_fps: for files without fps. name: of the track
    set ("<tracker>/external").
    """

    def __init__(
        self,
        path: PathLike,
        *,
        videos: PathLike | None = None,
        size: Size | None = None,
        recorded_fps: float | None = None,
        view: str = "front",
        name: str = "",
    ):
        self._files = files_below(path, (".npz",), "one .npz of tracks per clip")
        self.videos = Path(videos) if videos else None
        self.size, self.recorded_fps, self.view, self.name = size, recorded_fps, view, name

    def keys(self) -> list[str]:
        return list(self._files)

    def read(self, key: str) -> Episode:
        """The clip's frames and one global track set. Raises SourceError."""
        file = self._files[key]
        try:
            arrays = load_arrays(file)
        except UserError as e:
            raise SourceError(key, str(e)) from e
        if missing := [name for name in REQUIRED if name not in arrays]:
            raise SourceError(key, f"{file.name} lacks {', '.join(missing)}; it has {', '.join(arrays)}")
        video = self.videos / key if self.videos else file.with_suffix("")
        frames, fps, _ = tracked_video(key, arrays, video, self.size, self.recorded_fps)
        tracks = track_set(key, arrays, len(frames))
        return Episode(
            id=key,
            fps=fps,
            frames={self.view: frames},
            language=(str(arrays["text"]),) if "text" in arrays else (),
            cameras=_cameras(arrays, self.view),
            tracks={self.name or f"{tracks.tracker}/external": {self.view: tracks}},
            source="npz",
        )


def _converter(key: str, convention: str, size: Size) -> Callable[[np.ndarray], np.ndarray]:
    table: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "raster": partial(from_raster, size=size),
        "pixel_center": partial(from_pixel_centers, size=size),
        "normalized_01": lambda points: points,
        "normalized_pm1": from_normalized_pm1,
    }
    if convention not in table:
        raise SourceError(key, f"unknown convention {convention!r}; expected one of {', '.join(CONVENTIONS)}")
    return table[convention]


def track_set(key: str, arrays: Mapping[str, np.ndarray], length: int) -> TrackSet:
    check_shapes(key, arrays["tracks"], arrays["visible"], length, (2, 3))
    height, width = (int(v) for v in arrays["size"])
    convert = _converter(key, str(arrays["convention"]), (height, width))
    points, visible = to_tracks(arrays["tracks"], arrays["visible"], convert)
    queries = first_seen(points, visible)
    if "query" in arrays:
        if arrays["query"].shape != queries.shape:
            raise SourceError(key, f"query must be [N, 3] = {queries.shape}, got {arrays['query'].shape}")
        given = arrays["query"].astype(np.float64)
        queries = np.concatenate([given[:, :1], convert(given[:, 1:])], -1).astype(np.float32)
    return TrackSet(
        layout="global",
        points=points,
        visible=visible,
        queries=queries,
        tracker=str(arrays.get("tracker", "unknown")),
        version=str(arrays.get("tracker_version", "")),
        space="image" if points.shape[-1] == 2 else "image_depth",
    )


def _cameras(arrays: Mapping[str, np.ndarray], view: str) -> dict[str, Camera]:
    if "intrinsics" not in arrays:
        return {}
    height, width = (int(v) for v in arrays["size"])
    pose = arrays.get("extrinsics", np.eye(4))
    if pose.shape != (4, 4):
        return {}  # a camera that moves has no single pose; image_depth tracks do not need one
    return {view: Camera(arrays["intrinsics"].astype(np.float64), pose.astype(np.float64), (height, width))}
