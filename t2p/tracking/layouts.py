"""Where the papers put their query points, and what they keep of the tracks.

Every layout turns a prepared video into one TrackSet. Random draws depend on (episode id, view, seed) alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np

from t2p.geometry.conventions import from_amplify, from_atm, from_cotracker_queries
from t2p.io import UserError
from t2p.tracking.base import Features, Tracker
from t2p.types import Tracks, TrackSet


@dataclass(frozen=True)
class Clip:
    """A video that `tracker` has prepared: T = length frames of size (height, width) pixels."""

    tracker: Tracker
    features: Features
    length: int
    size: tuple[int, int]


class Layout(Protocol):
    """A query layout: `name` is the second half of the names of its track sets."""

    name: str

    def annotate(self, clip: Clip, rng: np.random.Generator) -> TrackSet:
        """Places the queries, tracks them and returns what is to be stored."""
        ...


def clip_rng(episode_id: str, view: str, seed: int) -> np.random.Generator:
    """The generator of one video's random queries: the same for the same arguments on every machine."""
    digest = hashlib.sha256(f"{episode_id}\0{view}\0{seed}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


@dataclass(frozen=True)
class Grid:
    """side x side points at the centres of equal cells on the first frame, row by row, followed to the end.

    Track2Act: 20 (400 points); ARM4R: 36 (1296); 3PoinTr lifts such tracks to the camera frame.
    """

    side: int = 20
    name: str = "grid"

    def annotate(self, clip: Clip, rng: np.random.Generator) -> TrackSet:
        centres = (np.arange(self.side) + 0.5) / self.side
        x, y = np.meshgrid(centres, centres)
        return _global_set(clip, clip.tracker.track(clip.features, _queries(0, x.ravel(), y.ravel())))


@dataclass(frozen=True)
class Amplify:
    """AMPLIFY's grid, restarted in every frame t and followed over t .. t + horizon - 1 (the last frame repeats).

    Pixel centres at side / 40 + k * side / 20 for a 20 x 20 grid; the row is the fast axis of the point index
    (specs of the release: n -> row n mod 20, column n div 20). In AMPLIFY's coordinates: -0.95 + 0.1 k.
    """

    side: int = 20
    horizon: int = 16
    name: str = "amplify"

    def queries(self, size: tuple[int, int]) -> np.ndarray:
        """[side^2, 3] (t = 0 from the window's start, x, y)."""
        steps = (2 * np.arange(self.side) + 1) / self.side - 1
        column, row = np.meshgrid(steps, steps, indexing="ij")
        points = from_amplify(np.stack([row.ravel(), column.ravel()], -1), size)
        return _queries(0, points[:, 0], points[:, 1])

    def annotate(self, clip: Clip, rng: np.random.Generator) -> TrackSet:
        grid = self.queries(clip.size)
        windows = [self._window(clip, grid, t) for t in range(clip.length)]
        return TrackSet(
            layout="window",
            points=np.stack([w.points for w in windows]),
            visible=np.stack([w.visible for w in windows]),
            queries=grid,
            tracker=clip.tracker.name,
            version=clip.tracker.version,
        )

    def _window(self, clip: Clip, grid: np.ndarray, start: int) -> Tracks:
        queries = grid + np.array([start, 0, 0], np.float32)
        return clip.tracker.track(clip.features, queries, (start, start + self.horizon))


ATM_SIDE = 128  # pixels of the videos that ATM tracks: its threshold is in these


@dataclass(frozen=True)
class Atm:
    """ATM's two passes: 98 grid points and `random` random ones, of which those that move are tracked again.

    Each query has its own uniformly random frame. First pass: a point is kept if the variance of its position
    over the whole clip, var_t(x) + var_t(y) (unbiased), exceeds the set's threshold (grid 0, random 10), in
    square pixels of a video whose short side is 128, as ATM's is. Second pass: the kept queries, repeated in
    order to the set's size, with Gaussian noise of 0.05 image heights on x and y, are tracked again; that is the
    result, grid points first, not clipped. Where no point of a set is kept (a still clip; the release stops
    there), all of its queries are.
    """

    random: int = 1000
    random_threshold: float = 10.0
    grid_threshold: float = 0.0
    noise: float = 0.05
    name: str = "atm"

    def annotate(self, clip: Clip, rng: np.random.Generator) -> TrackSet:
        grid = self._with_times(_atm_grid(clip.size), clip.length, rng)
        random = self._with_times(_random_pixels(self.random, clip.size, rng), clip.length, rng)
        first = clip.tracker.track(clip.features, np.concatenate([grid, random]))
        moved = position_variance(first.points, clip.size) * (ATM_SIDE / min(clip.size)) ** 2
        second = [
            self._again(grid, moved[: len(grid)] > self.grid_threshold, clip.size, rng),
            self._again(random, moved[len(grid) :] > self.random_threshold, clip.size, rng),
        ]
        return _global_set(clip, clip.tracker.track(clip.features, np.concatenate(second)))

    @staticmethod
    def _with_times(points: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
        return _queries(rng.integers(length, size=len(points)), points[:, 0], points[:, 1])

    def _again(
        self, queries: np.ndarray, keep: np.ndarray, size: tuple[int, int], rng: np.random.Generator
    ) -> np.ndarray:
        kept = queries[keep] if keep.any() else queries
        tiled = np.resize(kept, queries.shape)  # repeats in order and cuts off
        height, width = size
        noise = rng.normal(scale=self.noise * height, size=(len(tiled), 2)) / [width, height]
        return _queries(tiled[:, 0], tiled[:, 1] + noise[:, 0], tiled[:, 2] + noise[:, 1])


@dataclass(frozen=True)
class Stored:
    """The queries that came with tracks made elsewhere (tracker `external`)."""

    name: str = "stored"

    def annotate(self, clip: Clip, rng: np.random.Generator) -> TrackSet:
        queries = getattr(clip.tracker, "queries", None)
        if queries is None:
            raise UserError(f"layout 'stored' is for tracker 'external', not {clip.tracker.name!r}")
        return _global_set(clip, clip.tracker.track(clip.features, queries))


LAYOUTS: dict[str, type] = {"atm": Atm, "amplify": Amplify, "grid": Grid, "stored": Stored}


def make_layout(name: str, **options: Any) -> Layout:
    """The layout of that name; options: side (grid, amplify), horizon (amplify), random (atm)."""
    if name not in LAYOUTS:
        raise UserError(f"unknown layout {name!r}; expected one of {', '.join(LAYOUTS)}")
    cls = LAYOUTS[name]
    if unknown := sorted(set(options) - {field.name for field in fields(cls)}):
        raise UserError(f"layout {name!r} does not take {', '.join(unknown)}")
    if bad := {key: value for key, value in options.items() if value < 1}:
        raise UserError(f"layout {name!r}: {bad} must be at least 1")
    return cls(**options)


def position_variance(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """points [T, N, 2] in [0, 1] -> [N]: var_t(x) + var_t(y) in square pixels, unbiased; 0 for a single frame."""
    if len(points) < 2:
        return np.zeros(points.shape[1])
    height, width = size
    return (points * np.array([width, height])).var(axis=0, ddof=1).sum(-1)


def _atm_grid(size: tuple[int, int]) -> np.ndarray:
    """[98, 2]: two 7 x 7 grids, 0.05 .. 0.85 and 0.15 .. 0.95 of the image, in ATM's coordinates, row by row."""
    grids = []
    for low, high in ((0.05, 0.85), (0.15, 0.95)):
        x, y = np.meshgrid(np.linspace(low, high, 7), np.linspace(low, high, 7))
        grids.append(np.stack([x.ravel(), y.ravel()], -1))
    return from_atm(np.concatenate(grids), size)


def _random_pixels(count: int, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """[count, 2] centres of distinct random pixels."""
    height, width = size
    if count > height * width:
        raise UserError(f"an image of {height} x {width} has fewer than {count} pixels to draw")
    row, column = np.divmod(rng.choice(height * width, count, replace=False), width)
    pixels = np.stack([np.zeros(count), column, row], -1)
    return from_cotracker_queries(pixels, size)[:, 1:]


def _queries(times: np.ndarray | int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.stack([np.broadcast_to(times, x.shape), x, y], -1).astype(np.float32)


def _global_set(clip: Clip, tracks: Tracks) -> TrackSet:
    return TrackSet(
        layout="global",
        points=tracks.points,
        visible=tracks.visible,
        queries=np.asarray(tracks.queries),
        tracker=clip.tracker.name,
        version=clip.tracker.version,
        space=tracks.space,
    )
