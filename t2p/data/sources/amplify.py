"""AMPLIFY's preprocessed tracks (preprocessing/preprocess_libero.py) beside LIBERO's own demonstrations.

Tracks: <path>/<task>_demo/demo_k.hdf5 with root/<view>/tracks [T, h, N, 2] and vis [T, h, N]: CoTracker's pixels, the
grid laid anew at each frame t and followed over h frames (or [1, T, N, 2] and [1, T, N]: one grid followed through).
Demonstrations: <demos>/<task>_demo.hdf5 (t2p.data.sources.libero); their pictures are stored upside down, the tracks
were made on upright ones.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from t2p.data.sources import SourceError
from t2p.data.sources.decode import Size, resize
from t2p.data.sources.external import files_below, first_seen, hdf5, to_tracks
from t2p.data.sources.libero import read_demo
from t2p.geometry.conventions import from_pixel_centers
from t2p.io import PathLike, UserError
from t2p.types import Episode, TrackSet

WINDOWS, WHOLE = "cotracker2/amplify", "cotracker3/amplify"  # which tracker the script uses for which layout
TRACK_LAYOUT = "root/<view>/{tracks [T,h,N,2], vis [T,h,N]}"


class AmplifySource:
    """Keys: <task>_demo/demo_k below `path`. demos: the folder with LIBERO's <task>_demo.hdf5."""

    def __init__(self, path: PathLike, *, demos: PathLike = "", size: Size | None = None):
        if not demos or not Path(demos).is_dir():
            raise UserError(f"AMPLIFY's files hold tracks alone: give demos=, LIBERO's demonstrations; got {demos!r}")
        self._files = files_below(path, (".hdf5",), "AMPLIFY's <task>_demo/demo_k.hdf5")
        self.demos, self.size = Path(demos), size

    def keys(self) -> list[str]:
        return list(self._files)

    def read(self, key: str) -> Episode:
        """Upright frames and one track set, the columns of the demonstration. Raises SourceError."""
        file = self._files[key]
        task = file.parent.name
        with hdf5(key, file, TRACK_LAYOUT) as f:
            raw = {view: (group["tracks"][()], group["vis"][()]) for view, group in f["root"].items()}
        demo = read_demo(key, self.demos / f"{task}.hdf5", file.stem, views=tuple(raw))
        tracks = {view: _track_set(key, *raw[view], demo.frames[view]) for view in raw}
        name = WINDOWS if next(iter(tracks.values())).layout == "window" else WHOLE
        frames = {view: resize(video, self.size) for view, video in demo.frames.items()}
        return replace(demo, frames=frames, tracks={name: tracks}, source="amplify", task=task)


def _track_set(key: str, raw: np.ndarray, seen: np.ndarray, video: np.ndarray) -> TrackSet:
    if raw.ndim != 4 or raw.shape[:3] != seen.shape or len(video) not in raw.shape[:2]:
        raise SourceError(key, f"tracks {raw.shape}, vis {seen.shape} and {len(video)} frames do not fit together")
    seen = np.nan_to_num(seen) > 0.5
    points, visible = to_tracks(raw, seen, partial(from_pixel_centers, size=video.shape[1:3]))
    if len(points) == len(video):
        grid = points[0, 0]  # the same at every frame
        queries = np.concatenate([np.zeros((len(grid), 1)), grid], -1).astype(np.float32)
        return TrackSet("window", points, visible, queries, "cotracker2", "amplify")
    points, visible = points[0], visible[0]
    return TrackSet("global", points, visible, first_seen(points, visible), "cotracker3_online", "amplify")
