"""The default tracker: dense inverse search optical flow (Kroeger et al., 2016), chained from frame to frame.

It needs no weights. One pair of flow fields per frame (forward and backward) serves any number of queries,
also those of windows that restart at every frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from t2p.io import UserError
from t2p.tracking.base import Span, Tracker, TrackingError, check_video
from t2p.tracking.chain import follow, gray_frames
from t2p.types import Tracks

MAX_FLOW_BYTES = 4 << 30  # of one video; more is refused with advice instead of exhausting the machine


@dataclass(frozen=True)
class FlowFields:
    """flow[s, t] [h, w, 2] float32: where each pixel of frame s went in frame t, in pixels; edges[s, t] [h, w] bool:
    its motion boundaries (empty where they are not asked for)."""

    flow: dict[tuple[int, int], np.ndarray]
    edges: dict[tuple[int, int], np.ndarray]
    length: int
    size: tuple[int, int]


class Dis(Tracker):
    """Chained DIS flow with a forward-backward check.

    gaps: (1,) chains neighbouring frames with the medium preset at full resolution; more gaps, such as (1, 4),
    add flow over longer steps, which drifts less and passes short occlusions, at cheaper settings.
    short_side: smaller videos are enlarged to it. threshold: forward-backward error in (enlarged) pixels.
    motion_boundaries: lose points on them too (see `motion_boundary`): fewer tracks, and hardly any of a background
    that a shape drags along; what a model learns from.
    """

    name = "dis"

    def __init__(
        self,
        gaps: Sequence[int] = (1,),
        threshold: float = 1.0,
        short_side: int = 256,
        motion_boundaries: bool = False,
    ):
        import cv2

        gaps = tuple(sorted(set(int(gap) for gap in gaps)))
        if not gaps or gaps[0] != 1:
            raise UserError(f"gaps must be whole numbers that include 1, got {list(gaps)}")
        if not threshold > 0 or short_side < 1:
            raise UserError(f"threshold ({threshold:g}) and short_side ({short_side}) must be above 0, in pixels")
        self.gaps, self.threshold, self.short_side = gaps, threshold, short_side
        self.motion_boundaries = motion_boundaries
        settings = f"threshold {threshold:g}; short side {short_side}" + "; motion boundaries" * motion_boundaries
        self.version = f"2 (OpenCV {cv2.__version__}; gaps {','.join(map(str, gaps))}; {settings})"

    def _flow(self) -> Any:
        import cv2

        flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        flow.setFinestScale(0)
        if len(self.gaps) > 1:
            flow.setPatchStride(4)
            flow.setVariationalRefinementIterations(0)
        return flow

    def prepare(self, video: np.ndarray) -> FlowFields:
        check_video(video)
        gray = gray_frames(video, self.short_side)
        pairs = [(t, t + gap) for gap in self.gaps for t in range(len(gray) - gap)]
        needed = len(pairs) * 2 * gray[0].size * 8
        if needed > MAX_FLOW_BYTES:
            raise TrackingError(
                f"the flow fields of {len(gray)} frames of {gray.shape[2]} x {gray.shape[1]} take "
                f"{needed / 2**30:.1f} GiB; at most {MAX_FLOW_BYTES / 2**30:.0f}: "
                "shrink the frames (--size) or cut the video"
            )
        dis = self._flow()
        flow = {}
        for s, t in pairs:
            flow[s, t] = dis.calc(gray[s], gray[t], None)
            flow[t, s] = dis.calc(gray[t], gray[s], None)
        edges = {pair: motion_boundary(field) for pair, field in flow.items()} if self.motion_boundaries else {}
        return FlowFields(flow, edges, len(gray), gray.shape[1:])

    def track(self, features: FlowFields, queries: np.ndarray, span: Span | None = None) -> Tracks:
        def step(s: int, t: int, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            moved = points + bilinear(features.flow[s, t], points)
            back = moved + bilinear(features.flow[t, s], moved)
            error = np.linalg.norm(back - points, axis=-1)
            return moved, np.where(at(features.edges[s, t], points), np.inf, error) if features.edges else error

        return follow(
            step,
            queries,
            length=features.length,
            size=features.size,
            span=span,
            gaps=self.gaps,
            threshold=self.threshold,
        )


def motion_boundary(flow: np.ndarray) -> np.ndarray:
    """Where a flow field [h, w, 2] changes abruptly: |grad u|^2 + |grad v|^2 > 0.01 |w|^2 + 0.002 (Sundaram, Brox and
    Keutzer 2010, section 3). Smoothed flow is wrong on both sides of such an edge. [h, w] bool."""
    down, across = np.gradient(flow, axis=(0, 1))
    return (down**2 + across**2).sum(-1) > 0.01 * (flow**2).sum(-1) + 0.002


def at(mask: np.ndarray, points: np.ndarray) -> np.ndarray:
    """mask [H, W] at the pixels that hold points [n, 2] (x, y in pixels; the nearest ones outside): [n]."""
    column, row = np.floor(points).astype(int).T
    return mask[np.clip(row, 0, mask.shape[0] - 1), np.clip(column, 0, mask.shape[1] - 1)]


def bilinear(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """image [H, W, C] at points [n, 2] (x, y in pixels, first pixel's centre at 0.5) -> [n, C]; edges repeat."""
    height, width = image.shape[:2]
    x = np.clip(points[:, 0] - 0.5, 0, width - 1)
    y = np.clip(points[:, 1] - 0.5, 0, height - 1)
    x0, y0 = np.minimum(x.astype(int), width - 2), np.minimum(y.astype(int), height - 2)
    u, v = (x - x0)[:, None], (y - y0)[:, None]
    top = image[y0, x0] * (1 - u) + image[y0, x0 + 1] * u
    bottom = image[y0 + 1, x0] * (1 - u) + image[y0 + 1, x0 + 1] * u
    return top * (1 - v) + bottom * v
