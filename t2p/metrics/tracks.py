"""Measures of predicted point tracks, for NumPy and JAX arrays.

Two published families share names but not definitions, so each function says which it is:

- AMPLIFY's code (pairlab/AMPLIFY, utils/metrics.py) counts *coordinates*, in the [-1, 1] frame of a square image
  with pixel = 2 / height for both axes, strictly (<), over all steps with the given first one, visible or not.
- Track2Act's delta (paper, section 6.2) counts *points* by their Euclidean distance in pixels.

The image size belongs beside every number in pixels.
"""

from __future__ import annotations

from t2p.types import Array

PIXEL_TOLERANCES = tuple(range(1, 11))


def _check_same_shape(pred: Array, true: Array) -> None:
    if pred.shape != true.shape:
        raise ValueError(f"predicted {tuple(pred.shape)} and true {tuple(true.shape)} tracks must have one shape")


def mse(pred: Array, true: Array) -> Array:
    """Mean squared error per coordinate over all elements (AMPLIFY: [-1, 1], the given first step included).

    Any shape, any unit; visibility is not used."""
    _check_same_shape(pred, true)
    return ((pred - true) ** 2).mean()


def l1(pred: Array, true: Array) -> Array:
    """Mean absolute error per coordinate over all elements. Any shape, any unit; visibility is not used."""
    _check_same_shape(pred, true)
    return abs(pred - true).mean()


def amplify_within(pred: Array, true: Array, pixels: float, height: int) -> Array:
    """Share of coordinates with |error| < `pixels`, tracks in [-1, 1] (AMPLIFY's code).

    One pixel is 2 / height for x and y alike; all steps count, visible or not. Any shape [..., 2] -> scalar."""
    _check_same_shape(pred, true)
    xp = pred.__array_namespace__()
    pixel = xp.asarray(2 / height, dtype=pred.dtype)  # the tolerance is compared in the tracks' own precision
    return (abs(pred - true) < pixels * pixel).mean()


def amplify_pixel_accuracy(pred: Array, true: Array, height: int) -> Array:
    """AMPLIFY's pixel accuracy ("normalized_accuracy"): share of coordinates less than half a pixel off.

    Tracks in [-1, 1], a pixel is 2 / height for x and y alike; every step counts, visible or not (AMPLIFY's code,
    utils/metrics.py)."""
    return amplify_within(pred, true, 0.5, height)


def amplify_delta_auc(pred: Array, true: Array, height: int) -> Array:
    """AMPLIFY's Delta_AUC as its code has it: mean of amplify_within over 1..10 pixels.

    Coordinates, not points; strict; the given first step included (the paper's text says otherwise).
    Tracks in [-1, 1], a pixel is 2 / height for x and y alike; visibility is not used (utils/metrics.py)."""
    return sum(amplify_within(pred, true, k, height) for k in PIXEL_TOLERANCES) / len(PIXEL_TOLERANCES)


def cross_track_l2(pred: Array, true: Array, discount: float | None = None) -> Array:
    """Distance of each predicted position to the nearest true position of the same point at any time (AMPLIFY).

    pred, true: [..., T, N, 2]. Mean over predicted steps (weighted discount^t, not renormalised), points and
    leading axes; Euclidean, in the tracks' own unit; visibility is not used."""
    _check_same_shape(pred, true)
    xp = pred.__array_namespace__()
    gaps = pred[..., :, None, :, :] - true[..., None, :, :, :]  # [..., T pred, T true, N, 2]
    nearest = xp.sqrt((gaps**2).sum(-1)).min(-2)
    if discount is None:
        return nearest.mean()
    weight = discount ** xp.arange(pred.shape[-3], dtype=pred.dtype)
    return (nearest * weight[:, None]).mean()


def nonzero_velocity(pred: Array, true: Array) -> dict[str, Array]:
    """Whether velocities are exactly zero, coordinate by coordinate (AMPLIFY).

    pred, true: [..., T, N, 2]; a velocity is the difference of consecutive steps, compared with 0 as floats, in any
    unit, without a tolerance in pixels; visibility is not used (AMPLIFY's code, utils/metrics.py).
    -> nonzero_pred_percent, nonzero_gt_percent (shares, 0..1), nonzero_pred_accuracy, nonzero_pred_f1 (0 where
    there is no non-zero velocity in either)."""
    _check_same_shape(pred, true)
    xp = pred.__array_namespace__()
    ours, theirs = (x[..., 1:, :, :] != x[..., :-1, :, :] for x in (pred, true))
    hits, misses = (ours & theirs).sum(), (ours != theirs).sum()
    either = hits + 0.5 * misses
    return {
        "nonzero_pred_percent": ours.mean(),
        "nonzero_gt_percent": theirs.mean(),
        "nonzero_pred_accuracy": (ours == theirs).mean(),
        "nonzero_pred_f1": hits / xp.where(either == 0, xp.ones_like(either), either),
    }


def amplify_measures(pred: Array, true: Array, height: int) -> dict[str, Array]:
    """All of the above under AMPLIFY's names. pred, true: [..., T, N, 2] in [-1, 1] of a square image.

    height: of that image; a pixel is 2 / height. All points and steps count, visible or not (AMPLIFY's code,
    utils/metrics.py)."""
    return {
        "mse": mse(pred, true),
        "l1": l1(pred, true),
        "cross_track_l2": cross_track_l2(pred, true),
        "normalized_accuracy": amplify_pixel_accuracy(pred, true, height),
        "delta_auc": amplify_delta_auc(pred, true, height),
        **nonzero_velocity(pred, true),
    }


def codebook_perplexity(indices: Array, codebook_size: int) -> Array:
    """2^entropy (bits) of how often each code is used; indices: integers of any shape in [0, codebook_size)."""
    xp = indices.__array_namespace__()
    counts = (indices.reshape(-1, 1) == xp.arange(codebook_size)).sum(0)
    share = counts / counts.sum()
    return 2 ** -(share * xp.log2(share + 1e-10)).sum()  # 1e-10: an unused code adds nothing


def normalized_codebook_perplexity(indices: Array, codebook_size: int) -> Array:
    """codebook_perplexity over the most it can be: min(codebook_size, number of indices) (AMPLIFY)."""
    return codebook_perplexity(indices, codebook_size) / min(codebook_size, indices.size)


def track2act_delta(pred: Array, true: Array, where: Array | None = None) -> Array:
    """Track2Act's Delta: share of *points* within x pixels of the truth, averaged over x = 1..10 and over time.

    pred, true: [..., T, N, 2] in pixels (say of which image size), the predicted steps only; where: [..., T, N]
    bool, the points that count (visible ones; None: all). A point is within x if its Euclidean distance is < x.
    The share is taken per step, then averaged over the steps at which any point counts, then over the leading
    axes (clips) that have such a step; NaN where nothing counts. (The paper's formula lacks the factor 1/10 that
    its stated range 0..1 needs.)"""
    _check_same_shape(pred, true)
    xp = pred.__array_namespace__()
    distance = xp.sqrt(((pred - true) ** 2).sum(-1))
    within = sum((distance < x) for x in PIXEL_TOLERANCES) / len(PIXEL_TOLERANCES)
    where = xp.ones_like(distance, dtype=bool) if where is None else xp.broadcast_to(where, distance.shape)
    per_step, any_point = _mean_where(within, where)
    per_clip, any_step = _mean_where(per_step, any_point)
    counts = any_step.sum()
    total = xp.where(any_step, per_clip, xp.zeros_like(per_clip)).sum()
    return xp.where(counts > 0, total / xp.maximum(counts, xp.ones_like(counts)), xp.nan)


def _mean_where(values: Array, where: Array) -> tuple[Array, Array]:
    """Mean over the last axis of the values that count, and whether any does."""
    xp = values.__array_namespace__()
    count = where.sum(-1)
    total = xp.where(where, values, xp.zeros_like(values)).sum(-1)
    return total / xp.maximum(count, xp.ones_like(count)), count > 0
