"""Samples of a dataset to look at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from t2p.data.store import Dataset
from t2p.io import UserError

_TIMES = 5  # looks at each episode
_STEPS = 9  # of the tracks shown at each


@dataclass(frozen=True)
class Look:
    """One frame uint8 [H, W, 3] and the tracks shown on it: points [S, N, 2], visible [S, N], or None without tracks.

    The tracks of a global set lead up to the frame, those of a window set start there. start: [N, 2], where the
    points were when they were first seen (in the episode, or in the window).
    """

    frame: np.ndarray
    points: np.ndarray | None = None
    visible: np.ndarray | None = None
    start: np.ndarray | None = None


def samples(
    dataset: Dataset, count: int, seed: int = 0, track_set: str | None = None
) -> Iterator[tuple[str, list[Look]]]:
    """Yields (label, looks from the first to the last frame) of `count` episodes drawn at random.

    track_set: None takes each episode's first set in image coordinates. UserError when no episode has the set asked
    for, or when it is in camera coordinates, which cannot be drawn.
    """
    for e in chosen(dataset, count, seed, track_set):
        info = dataset.infos[e]
        name = track_set or next((s for s in info.track_sets if _drawable(dataset, e, s)), None)
        if name and not _drawable(dataset, e, name):
            raise UserError(f"tracks {name!r} are in camera coordinates (metres) and are not drawn")
        view = next(iter(info.track_sets[name] if name else info.views))
        times = sorted({round(t) for t in np.linspace(0, info.length - 1, _TIMES)})
        about = [info.id, view, name or "no tracks", f"frames {', '.join(map(str, times))}", "; ".join(info.language)]
        yield "    ".join(about), [_look(dataset, e, view, name, t) for t in times]


def chosen(dataset: Dataset, count: int, seed: int = 0, track_set: str | None = None) -> list[int]:
    """Numbers of `count` episodes drawn at random among those with the track set (None: among all). UserError when
    there is none."""
    able = [e for e, info in enumerate(dataset.infos) if track_set is None or track_set in info.track_sets]
    if not able:
        known = sorted({name for info in dataset.infos for name in info.track_sets})
        raise UserError(f"split {dataset.split} has no episode with tracks {track_set!r}; it has {known or 'none'}")
    return sorted(np.random.default_rng(seed).permutation(able)[:count].tolist())


def _drawable(dataset: Dataset, episode: int, name: str) -> bool:
    view = next(iter(dataset.infos[episode].track_sets[name]))
    return dataset.tracks(episode, name, view, 0, 1).space != "camera"


def _look(dataset: Dataset, episode: int, view: str, name: str | None, t: int) -> Look:
    frame = dataset.frames(episode, view, [t])[0]
    if name is None:
        return Look(frame)
    if dataset.infos[episode].track_sets[name][view] == "window":
        window = dataset.tracks(episode, name, view, t, t + 1)
        points = window.points[0, :, :, :2]
        return Look(frame, points, window.visible[0], points[0])
    past = dataset.tracks(episode, name, view, max(0, t + 1 - _STEPS), t + 1)
    start = dataset.tracks(episode, name, view, 0, 1).points[0, :, :2]
    return Look(frame, past.points[..., :2], past.visible, start)
