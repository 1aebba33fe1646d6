"""How well a stage tells the motion of all views as codes (AMPLIFY's motion tokenizer and forward dynamics).

Three kinds of measures: the paper's Table 2 as the released code computes it, over everything; codes; and those of
t2p.eval.tracks for each view, over points that move. Letters: R rows, V views, T steps, N points, L codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from t2p.eval.tracks import Clips, any_moving, in_batches, measure, no_motion, other_clip, with_other_cues
from t2p.geometry.conventions import to_amplify
from t2p.methods.base import MODEL, TRUE_CODES, MotionStage, Variables
from t2p.metrics.tracks import (
    amplify_delta_auc,
    amplify_pixel_accuracy,
    codebook_perplexity,
    mse,
    normalized_codebook_perplexity,
)
from t2p.types import Batch

TABLE2 = ("mse", "pixel accuracy", "delta_auc")
STILL, ALL = "no motion", "all views"
OTHER_MOTION = "true codes of another clip, decoded"
DEFINITIONS = (
    "The paper's Table 2 as the released code computes it, in its coordinates: (row, column) from -1 to 1, true tracks "
    "clamped to the picture. mse: mean squared error per coordinate. pixel accuracy: share of coordinates less than "
    "half a pixel off. delta_auc: mean over 1..10 px of the share of coordinates less than so far off. Rows and "
    "columns count apart. All points and all steps count: hidden ones, steps that repeat an episode's last frame, and "
    "the first step, which is given, so that it is always right."
)


def predictions(
    stage: MotionStage, variables: Variables, views: Mapping[str, Clips], batch_size: int = 64, others: bool = True
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """-> {who: tracks [R, V, T, N, 2]}, {who: codes [R, L]}, the stage's own reading first.

    others: False where all rows are of one clip, which has no other to take an image, a sentence or a motion from."""
    clips = next(iter(views.values()))
    runs = {who: (run, clips.batch) for who, run in stage.readings().items()}
    if others and MODEL in runs:  # what only decodes the given motion looks at no image and no sentence
        cues = with_other_cues(clips).items()
        runs |= {f"{MODEL}, {what} of another clip": (runs[MODEL][0], batch) for what, batch in cues}
    jitted = {run: _jitted(run) for run, _ in runs.values()}
    found = {who: in_batches(jitted[run], variables, batch, batch_size) for who, (run, batch) in runs.items()}
    tracks, codes = ({who: pair[k] for who, pair in found.items()} for k in (0, 1))
    start = np.stack([x.truth.points[:, :1] for x in views.values()], axis=1)
    if others:
        moved = tracks[TRUE_CODES][other_clip(clips)]
        tracks[OTHER_MOTION] = moved - moved[:, :, :1] + start
    tracks[STILL] = np.stack([no_motion(x) for x in views.values()], axis=1)
    return tracks, codes


def _jitted(run: Any) -> Any:
    """(variables, batch) -> (tracks [B, V, T, N, 2], codes [B, L])."""

    def points_and_codes(variables: Variables, batch: Batch) -> tuple[jax.Array, jax.Array]:
        found = run(variables, batch, jax.random.key(0))
        return found.tracks.points, found.aux["codes"]

    return jax.jit(points_and_codes)


def measures(
    stage: MotionStage,
    views: Mapping[str, Clips],
    predicted: Mapping[str, np.ndarray],
    codes: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """{"table 2": see table2, "codes": code_measures, "pixels": pixels, "ratios": ratios} of what was predicted."""
    size = stage.window.image_size
    assert size is not None, "a window of motion says in which pixels it is counted"
    table, moving = table2(views, predicted, size), pixels(views, predicted)
    told = code_measures(codes, stage.codebook)
    return {"table 2": table, "codes": told, "pixels": moving, "ratios": ratios(table, moving)}


def table2(
    views: Mapping[str, Clips], predicted: Mapping[str, np.ndarray], size: tuple[int, int]
) -> dict[str, dict[str, dict[str, float]]]:
    """{who: {view: {measure: value}}}, and of ALL views (see DEFINITIONS). size: (H, W) of the window."""
    truth = to_amplify(np.stack([x.truth.points for x in views.values()], axis=1), size)
    result = {}
    for who, tracks in predicted.items():
        given = to_amplify(tracks, size, clamp=False)
        of_views = {view: _table2(given[:, k], truth[:, k], size[0]) for k, view in enumerate(views)}
        result[who] = {ALL: {name: float(np.mean([v[name] for v in of_views.values()])) for name in TABLE2}, **of_views}
    return result


def _table2(predicted: np.ndarray, true: np.ndarray, height: int) -> dict[str, float]:
    values = (
        mse(predicted, true),
        amplify_pixel_accuracy(predicted, true, height),
        amplify_delta_auc(predicted, true, height),
    )
    return dict(zip(TABLE2, map(float, values), strict=True))


def pixels(views: Mapping[str, Clips], predicted: Mapping[str, np.ndarray]) -> dict[str, dict[str, dict[str, Any]]]:
    """{view: {who: measures of t2p.eval.tracks}}, without the views in which no point moves."""
    return {
        view: measure(clips, {who: tracks[:, k] for who, tracks in predicted.items()})
        for k, (view, clips) in enumerate(views.items())
        if any_moving(clips)
    }


def code_measures(codes: Mapping[str, np.ndarray], size: int) -> dict[str, dict[str, float]]:
    """{who: accuracy, perplexity, share of the most that it can be}; the commonest true code has an accuracy only.

    accuracy: share of the true codes that are told, place by place. size: of the codebook."""
    true = codes[TRUE_CODES]
    result = {
        who: {
            "accuracy": float((found == true).mean()),
            "perplexity": float(codebook_perplexity(found, size)),
            "normalized perplexity": float(normalized_codebook_perplexity(found, size)),
        }
        for who, found in codes.items()
    }
    commonest = np.bincount(true.ravel()).max() / true.size
    return {**result, "always the commonest true code": {"accuracy": float(commonest)}}


def ratios(
    table: Mapping[str, Mapping[str, Mapping[str, float]]], in_pixels: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> dict[str, float]:
    """Squared errors of the stage's own reading (the first) over those of no motion: Table 2's, and each view's on
    moving points."""
    own = next(iter(table))
    found = {"mse of Table 2": table[own][ALL]["mse"] / table[STILL][ALL]["mse"]} if table[STILL][ALL]["mse"] else {}
    for view, values in in_pixels.items():
        found[f"mse of moving points, {view}"] = values[own]["mse (moving)"] / values[STILL]["mse (moving)"]
    return {f"{own} / {STILL}: {name}": value for name, value in found.items()}


def lines(measures: Mapping[str, Any]) -> list[str]:
    """What `t2p eval` prints: Table 2 over all views, codes, ratios."""
    told = [
        f"{who:44s} mse {v[ALL]['mse']:<9.3g}  pixel accuracy {v[ALL]['pixel accuracy']:.3f}  "
        f"delta_auc {v[ALL]['delta_auc']:.3f}"
        for who, v in measures["table 2"].items()
    ]
    told += [
        f"{who:44s} accuracy of codes {v['accuracy']:.3f}"
        + (f"  perplexity {v['perplexity']:.1f}" if "perplexity" in v else "")
        for who, v in measures["codes"].items()
    ]
    return [*told, *(f"{name:60s} {value:.3f}" for name, value in measures["ratios"].items())]
