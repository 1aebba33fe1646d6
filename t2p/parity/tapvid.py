"""TAP-Vid's measures on recorded tracks: pixels at 256 x 256, point-major, (t, y, x) queries."""

from __future__ import annotations

from typing import Any

import numpy as np

from t2p.geometry.conventions import from_raster, swap_time_and_points
from t2p.metrics.tapvid import SIDE, tapvid


def _points(tracks: np.ndarray) -> np.ndarray:
    return from_raster(swap_time_and_points(tracks), (SIDE, SIDE))


def _visible(occluded: np.ndarray) -> np.ndarray:
    return ~swap_time_and_points(occluded[..., None])[..., 0]


def run(meta: dict[str, Any], inputs: dict[str, np.ndarray], checkpoint: None = None) -> dict[str, np.ndarray]:
    """inputs: {gt, pred}_tracks_xy [B, N, T, 2], {gt, pred}_occluded [B, N, T], query_points_tyx [B, N, 3]."""
    return tapvid(
        _points(inputs["pred_tracks_xy"]),
        _visible(inputs["pred_occluded"]),
        _points(inputs["gt_tracks_xy"]),
        _visible(inputs["gt_occluded"]),
        inputs["query_points_tyx"][..., 0],
        meta["config"]["query_mode"],
    )
