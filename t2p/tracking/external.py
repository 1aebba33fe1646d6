"""Tracks that another program made, in t2p's neutral .npz format (t2p.data.sources.npz), behind the protocol."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from t2p.data.sources import SourceError
from t2p.data.sources.npz import REQUIRED, track_set
from t2p.io import UserError, load_arrays
from t2p.tracking.base import Span, Tracker, TrackingError, check_queries, check_video, frame_indices
from t2p.types import Tracks, TrackSet


def read_tracks(file: Path) -> TrackSet:
    """The track set of a neutral .npz file. TrackingError if it does not hold one."""
    try:
        arrays = load_arrays(file)
        if missing := [name for name in REQUIRED if name not in arrays]:
            raise TrackingError(f"{file} lacks {', '.join(missing)}; it has {', '.join(arrays)}")
        return track_set(file.name, arrays, len(arrays["tracks"]))
    except (SourceError, UserError) as e:
        raise TrackingError(str(e)) from e


class External(Tracker):
    """Reads FOLDER/<episode id>/<view>.npz, or FOLDER/<episode id>.npz where an episode has one view.

    Call `clip` to get the tracker of one video.
    """

    name = "external"
    version = ""

    def __init__(self, folder: str):
        if not Path(folder).is_dir():
            raise UserError(f"{folder} is no folder; expected one with <episode>/<view>.npz or <episode>.npz")
        self.folder = Path(folder).resolve()

    def clip(self, episode_id: str, view: str) -> ExternalClip:
        candidates = (self.folder / episode_id / f"{view}.npz", self.folder / f"{episode_id}.npz")
        file = next((path for path in candidates if path.exists()), None)
        if file is None:
            raise TrackingError(f"no tracks: neither {candidates[0]} nor {candidates[1]} exists")
        stored = read_tracks(file)
        return ExternalClip(stored, f"{stored.tracker} {stored.version}".strip())

    def prepare(self, video: np.ndarray) -> tuple[int, int, int]:
        raise TypeError("tracks made elsewhere belong to one video: call clip(episode_id, view) first")

    def track(self, features: tuple[int, int, int], queries: np.ndarray, span: Span | None = None) -> Tracks:
        raise TypeError("tracks made elsewhere belong to one video: call clip(episode_id, view) first")


@dataclass(frozen=True)
class ExternalClip(Tracker):
    """The stored tracks of one video. A query is answered by the stored track that passes within half a pixel."""

    stored: TrackSet
    version: str  # the tracker that made them and its version
    name: str = "external"

    @property
    def queries(self) -> np.ndarray:
        """The queries that the stored tracks were started from."""
        return self.stored.queries

    def prepare(self, video: np.ndarray) -> tuple[int, int, int]:
        check_video(video)
        if len(video) != len(self.stored.points):
            raise TrackingError(f"the tracks have {len(self.stored.points)} frames, the video {len(video)}")
        return video.shape[:3]

    def track(self, features: tuple[int, int, int], queries: np.ndarray, span: Span | None = None) -> Tracks:
        length, height, width = features
        queries, span = check_queries(queries, length, span)
        chosen = self._nearest(queries, np.array([width, height]))
        rows = frame_indices(length, span)[:, None]
        return Tracks(
            points=self.stored.points[rows, chosen],
            visible=self.stored.visible[rows, chosen],
            queries=queries,
            space=self.stored.space,
        )

    def _nearest(self, queries: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Index of each query's stored track."""
        if np.array_equal(queries, self.stored.queries):
            return np.arange(len(queries))
        starts = self.stored.points[queries[:, 0].astype(int), :, :2]  # [N, M, 2]
        distance = np.linalg.norm((starts - queries[:, None, 1:]) * scale, axis=-1)
        nearest = distance.argmin(-1)
        far = int((distance[np.arange(len(queries)), nearest] > 0.5).sum())
        if far:
            raise TrackingError(
                f"no stored track passes within half a pixel of {far} of {len(queries)} queries; "
                "the layout 'stored' takes the tracks as they are"
            )
        return nearest
