"""Arrays as CoTracker returns them, saved with np.savez or torch.save: one file per clip.

tracks (or pred_tracks): [T, N, 2] or [1, T, N, 2] pixels, (0, 0) the first pixel's CENTRE; visibility (or
pred_visibility): [T, N] or [1, T, N]. Optional: queries [N, 3] (t, x, y), size [2] (H, W) of the pictures that were
tracked (the video's own), fps, video [T, H, W, 3] uint8. Without `video` the clip's video lies beside the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from t2p.data.sources import SourceError
from t2p.data.sources.decode import Size
from t2p.data.sources.external import check_shapes, files_below, first_seen, to_tracks, tracked_video
from t2p.geometry.conventions import from_cotracker_queries, from_pixel_centers
from t2p.io import PathLike, UserError, load_arrays
from t2p.types import Episode, TrackSet

_VISIBLE = 0.9  # CoTracker's own threshold, for visibility saved before it was applied


class CoTrackerSource:
    """Keys: the files below `path` without suffix.

    videos: where the videos lie (beside the files). recorded_fps: for frames without a rate. tracker: which
    CoTracker it was. name: of the track set ("<tracker>/external").
    """

    def __init__(
        self,
        path: PathLike,
        *,
        videos: PathLike | None = None,
        size: Size | None = None,
        recorded_fps: float | None = None,
        view: str = "front",
        tracker: str = "cotracker",
        name: str = "",
    ):
        self._files = files_below(path, (".npz", ".pt", ".pth"), "CoTracker's arrays, one file per clip")
        self.videos = Path(videos) if videos else None
        self.size, self.recorded_fps, self.view = size, recorded_fps, view
        self.tracker, self.name = tracker, name or f"{tracker}/external"

    def keys(self) -> list[str]:
        return list(self._files)

    def read(self, key: str) -> Episode:
        """The clip's frames and one global track set. Raises SourceError."""
        file = self._files[key]
        try:
            arrays = load_arrays(file)
        except UserError as e:
            raise SourceError(key, str(e)) from e
        video = self.videos / key if self.videos else file.with_suffix("")
        frames, fps, native = tracked_video(key, arrays, video, self.size, self.recorded_fps)
        tracks = self._track_set(key, arrays, len(frames), native)
        return Episode(key, fps, {self.view: frames}, tracks={self.name: {self.view: tracks}}, source="cotracker")

    def _track_set(self, key: str, arrays: Mapping[str, np.ndarray], length: int, native: Size) -> TrackSet:
        raw = _unbatched(key, arrays, ("tracks", "pred_tracks"), 3)
        seen = _unbatched(key, arrays, ("visibility", "pred_visibility"), 2)
        check_shapes(key, raw, seen, length, (2,))
        size = (int(arrays["size"][0]), int(arrays["size"][1])) if "size" in arrays else native
        points, visible = to_tracks(raw, seen > _VISIBLE, partial(from_pixel_centers, size=size))
        queries = first_seen(points, visible)
        if "queries" in arrays:
            given = _unbatched(key, arrays, ("queries",), 2)
            if given.shape != queries.shape:
                raise SourceError(key, f"queries must be [N, 3] = {queries.shape}, got {given.shape}")
            queries = from_cotracker_queries(given.astype(np.float32), size)
        return TrackSet("global", points, visible, queries, self.tracker, "")


def _unbatched(key: str, arrays: Mapping[str, np.ndarray], names: tuple[str, ...], ndim: int) -> np.ndarray:
    found = next((arrays[name] for name in names if name in arrays), None)
    if found is None:
        raise SourceError(key, f"the file lacks {' or '.join(names)}; it has {', '.join(arrays)}")
    return found[0] if found.ndim == ndim + 1 and len(found) == 1 else found
