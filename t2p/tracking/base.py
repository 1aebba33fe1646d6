"""Point trackers: what they promise, and the one table of their names.

A tracker sees a video once (`prepare`) and then answers any number of query sets from what it kept
(`track`). Coordinates are (x, y) in units of the image's width and height, raster convention (t2p.types).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from etils import epath

from t2p.io import UserError
from t2p.types import Tracks

Features = Any  # whatever a tracker keeps of a video; only it looks inside
Span = tuple[int, int]  # (first frame, frame after the last)


class TrackingError(ValueError):
    """One video cannot be tracked (too short, too large, no stored tracks ...); others may go on."""


class Tracker(Protocol):
    """Follows points through a video. `name` and `version` are stored with every track set it makes."""

    name: str
    version: str

    def clip(self, episode_id: str, view: str) -> Tracker:
        """The tracker to use for this video: itself, unless it must know which video it is given."""
        return self

    def prepare(self, video: np.ndarray) -> Features:
        """video [T, H, W, 3] uint8 -> features for `track`. TrackingError if this video cannot be tracked."""
        ...

    def track(self, features: Features, queries: np.ndarray, span: Span | None = None) -> Tracks:
        """Follows each query forward and backward in time from its own frame.

        queries: [N, 3] float (t in frames of the video, whole numbers; x, y). span = (start, stop): only
        these frames are looked at and returned; all queries' t lie in it; frames past the video's end
        repeat its last frame (default: the whole video).
        -> Tracks in space "image": points [stop - start, N, 2] float32, visible [stop - start, N] bool
        (False outside the frame), queries as given.
        """
        ...


def check_video(video: np.ndarray) -> None:
    """TrackingError unless `video` is [T >= 1, H >= 16, W >= 16, 3] uint8."""
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3:
        raise TrackingError(f"a video must be uint8 [T, H, W, 3], got {video.dtype} {list(video.shape)}")
    if len(video) < 1 or min(video.shape[1:3]) < 16:
        raise TrackingError(f"a video needs at least one frame of 16 x 16 pixels, got {list(video.shape)}")


def check_queries(queries: np.ndarray, length: int, span: Span | None) -> tuple[np.ndarray, Span]:
    """-> (queries [N, 3] float32, span). ValueError if a query's frame is fractional or outside video or span."""
    queries = np.asarray(queries, np.float32).reshape(-1, 3)
    start, stop = span or (0, length)
    if not 0 <= start < min(stop, length):
        raise ValueError(f"span {(start, stop)} must start inside the video's {length} frames and not be empty")
    times = queries[:, 0]
    if not (np.isfinite(queries).all() and np.array_equal(times, np.round(times))):
        raise ValueError("queries must be finite and their frames whole numbers")
    if len(times) and not (times.min() >= start and times.max() < min(stop, length)):
        raise ValueError(
            f"query frames {times.min():.0f}..{times.max():.0f} must lie in the span {(start, stop)} "
            f"of a video of {length} frames"
        )
    return queries, (start, stop)


def frame_indices(length: int, span: Span) -> np.ndarray:
    """The video frames of a span: those past the end are the last one again."""
    return np.minimum(np.arange(*span), length - 1)


def inside(points: np.ndarray) -> np.ndarray:
    """True where a point [..., 2] (in [0, 1] units) lies in the frame."""
    return np.asarray(((points >= 0) & (points <= 1)).all(-1))


def _dis(options: dict[str, Any]) -> Tracker:
    from t2p.tracking.dis import Dis

    return Dis(**options)


def _lk(options: dict[str, Any]) -> Tracker:
    from t2p.tracking.lk import LucasKanade

    return LucasKanade(**options)


def _tapir(options: dict[str, Any]) -> Tracker:
    from t2p.tracking.tapir import load_tapir

    return load_tapir("tapir", **options)


def _bootstapir(options: dict[str, Any]) -> Tracker:
    from t2p.tracking.tapir import load_tapir

    return load_tapir("bootstapir", **options)


def _cotracker(options: dict[str, Any]) -> Tracker:
    from t2p.tracking.cotracker import load_cotracker

    return load_cotracker(**options)


def _external(options: dict[str, Any]) -> Tracker:
    from t2p.tracking.external import External

    return External(**options)


def _simulator(options: dict[str, Any]) -> Tracker:
    from t2p.tracking.simulator import Simulator

    return Simulator(**options)


# name -> (factory, the options it takes, those of them it needs)
TRACKERS: dict[str, tuple[Callable[[dict[str, Any]], Tracker], tuple[str, ...], tuple[str, ...]]] = {
    "dis": (_dis, ("gaps", "short_side", "threshold", "motion_boundaries"), ()),
    "lk": (_lk, (), ()),
    "tapir": (_tapir, ("weights", "online"), ("weights",)),
    "bootstapir": (_bootstapir, ("weights", "online"), ("weights",)),
    "cotracker": (_cotracker, ("weights", "checkout", "model"), ()),
    "external": (_external, ("folder",), ("folder",)),
    "simulator": (_simulator, ("folder", "renderer", "libero_root"), ("folder",)),
}
CPU_TRACKERS = ("dis", "lk", "external", "simulator")  # no accelerator: one worker per core


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """UserError for an unknown tracker, an option it does not take or one it lacks. Loads nothing."""
    if name not in TRACKERS:
        raise UserError(f"unknown tracker {name!r}; expected one of {', '.join(TRACKERS)}")
    _, takes, needs = TRACKERS[name]
    if unknown := sorted(set(options) - set(takes)):
        raise UserError(f"tracker {name!r} takes {', '.join(takes) or 'no options'}; not {', '.join(unknown)}")
    if missing := [option for option in needs if not options.get(option)]:
        raise UserError(f"tracker {name!r} needs {', '.join(missing)}")
    if (weights := options.get("weights")) and not epath.Path(weights).exists():
        raise UserError(f"weights file {weights} does not exist")
    if root := options.get("libero_root"):
        from t2p.sim.libero.assets import find_assets

        find_assets(root)


def make_tracker(name: str, **options: Any) -> Tracker:
    """The tracker of that name; see `check_options`.

    Options: gaps (dis), weights FILE and online (tapir, bootstapir), weights, checkout and model
    (cotracker), folder (external, simulator), renderer and libero_root (simulator).
    """
    check_options(name, options)
    return TRACKERS[name][0](options)
