"""Pyramidal Lucas-Kanade (Bouguet, 2001) with a forward-backward check: the fast tracker without weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from t2p.tracking.base import Span, Tracker, check_video
from t2p.tracking.chain import follow, gray_frames
from t2p.types import Tracks


@dataclass(frozen=True)
class GrayVideo:
    frames: np.ndarray  # [T, h, w] uint8

    @property
    def size(self) -> tuple[int, int]:
        return self.frames.shape[1:]


class LucasKanade(Tracker):
    """Windows of `window` x `window` pixels on `levels` pyramid levels above the first; lost points stay lost.

    About ten times as fast as `dis` for a few hundred points and less accurate: see docs/tracking.md.
    """

    name = "lk"

    def __init__(self, window: int = 11, levels: int = 3, threshold: float = 1.0, short_side: int = 256):
        import cv2

        self.window, self.levels, self.threshold, self.short_side = window, levels, threshold, short_side
        settings = f"window {window}; levels {levels}; threshold {threshold:g}; short side {short_side}"
        self.version = f"1 (OpenCV {cv2.__version__}; {settings})"

    def prepare(self, video: np.ndarray) -> GrayVideo:
        check_video(video)
        return GrayVideo(gray_frames(video, self.short_side))

    def track(self, features: GrayVideo, queries: np.ndarray, span: Span | None = None) -> Tracks:
        def step(s: int, t: int, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            moved, found = self._carry(features.frames[s], features.frames[t], points)
            back, returned = self._carry(features.frames[t], features.frames[s], moved)
            error = np.linalg.norm(back - points, axis=-1)
            ok = found & returned & (error < self.threshold)
            return moved, np.where(ok, error, np.inf)

        return follow(
            step,
            queries,
            length=len(features.frames),
            size=features.size,
            span=span,
            threshold=self.threshold,
        )

    def _carry(self, source: np.ndarray, target: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import cv2

        centred = (points - 0.5).astype(np.float32)[:, None]  # OpenCV's pixel centres are whole numbers
        carry: Any = cv2.calcOpticalFlowPyrLK  # its annotation lacks that the guess may be None
        moved, found, _ = carry(source, target, centred, None, winSize=(self.window, self.window), maxLevel=self.levels)
        return moved[:, 0].astype(np.float64) + 0.5, found[:, 0] != 0
