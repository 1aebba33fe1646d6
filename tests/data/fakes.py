"""Episodes whose every value says where it comes from, and a dataset of them in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from t2p.types import Episode, TrackSet

VIEWS = ("front", "wrist")
HORIZON = 4  # steps of the window track set


def frame_value(episode: int, view: str, t: int) -> int:
    """The grey value of a whole frame."""
    return 10 * episode + t + (100 if view == "wrist" else 0)


def make_episode(number: int, length: int = 6, **changes: Any) -> Episode:
    """actions[t] = [number, t]; proprio/joint[t] = [10 * number + t]; track point n at t is at
    (t / 100, n / 10) and odd points are never visible; the window set follows t, t + 1, ..."""
    size, points = changes.pop("size", (16, 16)), changes.pop("points", 6)
    steps = np.arange(length)
    frames = {v: np.stack([np.full((*size, 3), frame_value(number, v, t), np.uint8) for t in steps]) for v in VIEWS}
    fields: dict[str, Any] = {
        "id": f"demo_{number}",
        "fps": 10.0,
        "frames": frames,
        "columns": {
            "actions": np.stack([np.full(length, number), steps], -1).astype(np.float64),
            "proprio/joint": (10.0 * number + steps)[:, None].astype(np.float32),
        },
        "language": (f"sentence {number}",),
        "tracks": {"dis/grid": track_sets(length, points), "dis/window": window_sets(length, points)},
        "task": "even" if number % 2 == 0 else "odd",
    }
    return Episode(**{**fields, **changes})


def track_sets(length: int, points: int) -> dict[str, TrackSet]:
    values = np.zeros((length, points, 2), np.float32)
    values[..., 0] = np.arange(length)[:, None] / 100
    values[..., 1] = np.arange(points) / 10
    return {v: _set("global", values, np.broadcast_to(np.arange(points) % 2 == 0, values.shape[:-1])) for v in VIEWS}


def window_sets(length: int, points: int) -> dict[str, TrackSet]:
    times = np.minimum(np.arange(length)[:, None] + np.arange(HORIZON), length - 1)
    values = np.zeros((length, HORIZON, points, 2), np.float32)
    values[..., 0] = times[..., None] / 100
    values[..., 1] = np.arange(points) / 10
    return {v: _set("window", values, np.ones(values.shape[:-1], bool)) for v in VIEWS}


def _set(layout: str, points: np.ndarray, visible: np.ndarray) -> TrackSet:
    queries = np.zeros((points.shape[-2], 3), np.float32)
    return TrackSet(layout, points, np.ascontiguousarray(visible), queries, "fake", "1")


@dataclass(frozen=True)
class Info:
    """The parts of t2p.data.store.EpisodeInfo that windows are cut by."""

    id: str
    length: int
    language: tuple[str, ...]
    task: str
    views: dict
    columns: dict
    track_sets: dict


@dataclass
class MemoryDataset:
    """Reads episodes in memory as t2p.data.store.Dataset reads them from files; counts the frames it gives."""

    episodes: list[Episode]
    frames_read: int = 0
    infos: list[Info] = field(init=False)

    def __post_init__(self) -> None:
        self.infos = [
            Info(
                e.id,
                e.length,
                e.language,
                e.task,
                {v: f.shape[1:3] for v, f in e.frames.items()},
                {k: (str(c.dtype), c.shape[1:]) for k, c in e.columns.items()},
                {k: {v: s.layout for v, s in sets.items()} for k, sets in e.tracks.items()},
            )
            for e in self.episodes
        ]

    def frames(self, episode: int, view: str, times: np.ndarray) -> np.ndarray:
        self.frames_read += len(times)
        return self.episodes[episode].frames[view][times]

    def column(self, episode: int, name: str, times: np.ndarray | None = None) -> np.ndarray:
        column = self.episodes[episode].columns[name]
        return column if times is None else column[times]

    def cameras(self, episode: int) -> dict:
        return dict(self.episodes[episode].cameras)

    def points(self, episode: int, set_name: str, view: str, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        found = self.episodes[episode].tracks[set_name][view]
        return found.points[start:stop], found.visible[start:stop]
