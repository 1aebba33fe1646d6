"""Long tracks from steps between frames: what the optical-flow trackers share.

A step carries points from one frame to another and tells how far each lands from its start when carried
back (forward-backward error). Chains start at each query's own frame and run forward and backward in time.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from t2p.tracking.base import Span, check_queries, frame_indices
from t2p.types import Tracks

# (from frame, to frame, points [n, 2] in pixels) -> (points there [n, 2], forward-backward error [n] in pixels)
Step = Callable[[int, int, np.ndarray], tuple[np.ndarray, np.ndarray]]


def gray_frames(video: np.ndarray, short_side: int) -> np.ndarray:
    """[T, H, W, 3] uint8 -> [T, h, w] uint8 luma, enlarged so that the short side is at least `short_side`."""
    import cv2

    height, width = video.shape[1:3]
    scale = max(1.0, short_side / min(height, width))
    size = (round(width * scale), round(height * scale))
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in video]
    return np.stack([cv2.resize(g, size, interpolation=cv2.INTER_LINEAR) if scale > 1 else g for g in gray])


def follow(
    step: Step,
    queries: np.ndarray,
    *,
    length: int,
    size: tuple[int, int],
    span: Span | None,
    gaps: tuple[int, ...] = (1,),
    threshold: float = 1.0,
) -> Tracks:
    """Chains `step` from each query forward and backward in time.

    queries [N, 3] (t, x, y in [0, 1]); length: the video's frames; size: (height, width) of the pixels that
    `step` and `threshold` speak of; gaps: how many frames a step may span. Among the consistent steps that
    lead to a frame the one whose chain has the smallest summed forward-backward error is taken; where there is
    none the point waits unseen where the shortest step left from: carried on it would join whatever passes over it,
    and layouts that keep what moves would keep it. A point is visible while it lies in the frame and its chain of
    steps is consistent (error below `threshold`).
    """
    queries, (start, stop) = check_queries(queries, length, span)
    scale = np.array([size[1], size[0]], np.float64)
    end = min(stop, length)
    origin = queries[:, 0].astype(int) - start
    state = _State.start(queries[:, 1:].astype(np.float64) * scale, origin, end - start, scale)
    frames = np.arange(start, end)
    for order in (frames, frames[::-1]):
        _sweep(state, step, order, start, origin, gaps, threshold)
    rows = frame_indices(length, (start, stop)) - start
    return Tracks(points=(state.points[rows] / scale).astype(np.float32), visible=state.visible[rows], queries=queries)


class _State:
    """points [T, N, 2] in pixels, visible [T, N], error [T, N]: the summed error of each point's chain."""

    def __init__(self, points: np.ndarray, visible: np.ndarray, error: np.ndarray, scale: np.ndarray):
        self.points, self.visible, self.error, self.scale = points, visible, error, scale

    @classmethod
    def start(cls, xy: np.ndarray, origin: np.ndarray, length: int, scale: np.ndarray) -> _State:
        points = np.repeat(xy[None], length, 0)
        visible = np.zeros(points.shape[:2], bool)
        visible[origin, np.arange(len(xy))] = ((xy >= 0) & (xy <= scale)).all(-1)
        return cls(points, visible, np.zeros(points.shape[:2]), scale)


def _sweep(
    state: _State, step: Step, order: np.ndarray, start: int, origin: np.ndarray, gaps: tuple[int, ...], limit: float
) -> None:
    """Fills `state` along `order` (frames, ascending or descending) for the points whose query lies behind."""
    begun = np.argmax((order - start)[:, None] == origin, 0)  # position of each point's query in `order`
    for i in range(1, len(order)):
        best = np.full(len(origin), np.inf)
        for gap in gaps:
            points = np.flatnonzero(begun <= i - gap)
            if len(points):
                _extend(state, step, order[i - gap], order[i], start, points, best, gap == gaps[0], limit)


def _extend(
    state: _State,
    step: Step,
    source: int,
    target: int,
    start: int,
    points: np.ndarray,
    best: np.ndarray,
    shortest: bool,
    limit: float,
) -> None:
    """One step source -> target for `points` (indices), kept where it is the best so far."""
    s, t = source - start, target - start
    moved, error = step(source, target, state.points[s, points])
    ok = state.visible[s, points] & (error < limit) & ((moved >= 0) & (moved <= state.scale)).all(-1)
    total = np.where(ok, state.error[s, points] + error, np.inf)
    moved = np.where(ok[:, None], moved, state.points[s, points])
    take = (total < best[points]) | (shortest & ~ok)
    chosen = points[take]
    state.points[t, chosen] = moved[take]
    state.visible[t, chosen] = ok[take]
    state.error[t, chosen] = np.where(ok, total, 0.0)[take]
    best[chosen] = total[take]
