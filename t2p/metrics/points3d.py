"""3PoinTr's track errors (paper, section IV; definitions as in its released evaluation)."""

from __future__ import annotations

import numpy as np

from t2p.types import Array


def _errors(pred: Array, true: Array, visible: Array, seen_before: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """-> error, true step length, counted: each [S, T, N] over steps 1 .. T."""
    pred, true, visible = np.asarray(pred), np.asarray(true), np.asarray(visible, bool)
    if pred.ndim != 4 or pred.shape != true.shape or visible.shape != pred.shape[:-1]:
        raise ValueError(
            f"expected pred and true [S, T + 1, N, D] and visible [S, T + 1, N]; got {pred.shape}, {true.shape}, "
            f"{visible.shape}"
        )
    error = np.linalg.norm(pred[:, 1:] - true[:, 1:], axis=-1)
    step = np.linalg.norm(true[:, 1:] - true[:, :-1], axis=-1)
    return error, step, visible[:, 1:] & visible[:, :-1] if seen_before else visible[:, 1:]


def sample_ade(pred: Array, true: Array, visible: Array, seen_before: bool = True) -> np.ndarray:
    """Average displacement error of each sample, [S]: the Euclidean error, mean over the counted (point, step)
    pairs; nan for a sample without any.

    pred, true: [S, T + 1, N, D] for steps 0 .. T of S samples, step 0 the given points (never counted); the
    result has their unit. visible: [S, T + 1, N]; a pair counts if the point is visible at the step and, with
    seen_before, at the one before (the released evaluation; the paper names the step alone)."""
    error, _, counted = _errors(pred, true, visible, seen_before)
    pairs = counted.sum((1, 2))
    sums = np.where(counted, error, 0).sum((1, 2))
    return np.where(pairs > 0, sums / np.maximum(pairs, 1), np.nan)


def ade(pred: Array, true: Array, visible: Array, seen_before: bool = True) -> float:
    """Mean of `sample_ade` (whose arguments it has) over the samples that have a counted pair."""
    each = sample_ade(pred, true, visible, seen_before)
    return float(np.nanmean(each)) if np.isfinite(each).any() else float("nan")


def ade_of_most_moving(pred: Array, true: Array, visible: Array, share: float = 0.05, pooled: bool = True) -> float:
    """5 % ADE: the mean error of those trajectories that truly move most.

    A trajectory is one point of one sample: its error is the mean over its counted steps, its motion the length
    of its true path over them (arguments as in `ade`; a step counts if the one before is visible too). pooled: the
    `share` with the longest paths over all samples together (the released evaluation); otherwise of each sample,
    averaged over samples. The number of trajectories is rounded, at least one."""
    error, step, counted = _errors(pred, true, visible, seen_before=True)
    steps = counted.sum(1)
    mean_error = np.where(counted, error, 0).sum(1) / np.maximum(steps, 1)
    path = np.where(counted, step, 0).sum(1)
    if pooled:
        return _longest(mean_error[steps > 0], path[steps > 0], share)
    each = [_longest(e[n > 0], p[n > 0], share) for e, p, n in zip(mean_error, path, steps, strict=True) if n.any()]
    return float(np.mean(each)) if each else float("nan")


def _longest(error: np.ndarray, path: np.ndarray, share: float) -> float:
    if not len(error):
        return float("nan")
    count = max(1, round(share * len(error)))
    return float(error[np.argsort(-path, kind="stable")[:count]].mean())
