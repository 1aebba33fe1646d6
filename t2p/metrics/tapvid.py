"""TAP-Vid's measures of a tracker (Doersch et al. 2022, section 4; tapnet's compute_tapvid_metrics)."""

from __future__ import annotations

from typing import Literal

import numpy as np

from t2p.types import Array

THRESHOLDS = (1, 2, 4, 8, 16)  # pixels of a 256 x 256 image
SIDE = 256

QueryMode = Literal["first", "strided"]


def evaluated(query_frames: Array, length: int, query_mode: QueryMode) -> np.ndarray:
    """Which steps of each point count: [..., T, N] bool.

    query_frames: [..., N], rounded to the nearest frame. "first": the frames after the query's; "strided": all
    but the query's."""
    frame = np.round(np.asarray(query_frames)).astype(np.int64)[..., None, :]
    steps = np.arange(length)[:, None]
    if query_mode == "first":
        return steps > frame
    if query_mode == "strided":
        return steps != frame
    raise ValueError(f'query_mode must be "first" or "strided"; got {query_mode!r}')


def tapvid(
    points: Array,
    visible: Array,
    true_points: Array,
    true_visible: Array,
    query_frames: Array,
    query_mode: QueryMode = "first",
    where: Array | None = None,
) -> dict[str, np.ndarray]:
    """TAP-Vid's numbers per video, in NumPy; every result has the leading axes' shape.

    points: [..., T, N, 2] in [0, 1], compared at 256 x 256 whatever the video's size; visible: [..., T, N];
    query_frames: [..., N]; where: [..., N] bool, only these points count (None: all).

    occlusion_accuracy: share of counted steps with the right visibility. pts_within_x: share of truly visible
    steps closer than x px (strict; predicted visibility is not used), and their mean over x = 1, 2, 4, 8, 16,
    average_pts_within_thresh. jaccard_x: true positives (truly and predicted visible, within x) over truly
    visible + false positives (predicted visible, but truly occluded or not within x); average_jaccard their mean.
    NaN for a video in which nothing counts."""
    points, true_points = np.asarray(points), np.asarray(true_points)
    if points.shape != true_points.shape or points.shape[:-1] != np.shape(visible):
        raise ValueError(f"points {points.shape} and true_points {true_points.shape} must be [..., T, N, 2] alike")
    visible, true_visible = np.asarray(visible, bool), np.asarray(true_visible, bool)
    counted = evaluated(query_frames, points.shape[-3], query_mode)
    if where is not None:
        counted = counted & np.asarray(where)[..., None, :]
    squared = (((points - true_points) * SIDE) ** 2).sum(-1)
    result = {"occlusion_accuracy": _share(visible == true_visible, counted)}
    for x in THRESHOLDS:
        within = squared < x**2
        result[f"pts_within_{x}"] = _share(within, counted & true_visible)
        result[f"jaccard_{x}"] = _jaccard(within, visible, true_visible, counted)
    result["average_jaccard"] = np.mean([result[f"jaccard_{x}"] for x in THRESHOLDS], axis=0)
    result["average_pts_within_thresh"] = np.mean([result[f"pts_within_{x}"] for x in THRESHOLDS], axis=0)
    return result


def _share(right: np.ndarray, counted: np.ndarray) -> np.ndarray:
    return _divide((right & counted).sum((-2, -1)), counted.sum((-2, -1)))


def _jaccard(within: np.ndarray, visible: np.ndarray, true_visible: np.ndarray, counted: np.ndarray) -> np.ndarray:
    positives = visible & counted
    true_positives = (positives & true_visible & within).sum((-2, -1))
    false_positives = (positives & ~(true_visible & within)).sum((-2, -1))
    return _divide(true_positives, (true_visible & counted).sum((-2, -1)) + false_positives)


def _divide(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)
