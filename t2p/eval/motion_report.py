"""The page that `t2p eval` writes about a stage that tells the motion of all views as codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from t2p.eval import motion, report
from t2p.eval.track_report import LEGEND, sample_video
from t2p.eval.tracks import Clips

_PIXELS = ("mse (moving)", "ade (moving)", "delta (moving)", "ade (all)")
_CODES = (
    "accuracy: share of the true codes that are told, place by place. perplexity: 2 to the entropy, in bits, of how "
    "often each code is used over all rows; normalized: over the most that it can be, the size of the codebook or the "
    "number of codes. The true codes are the tokenizer's, of the motion itself."
)
_ROWS = {
    "model": "from the first picture and the sentence, each code after its own ones, as a policy uses it",
    "model, each code after the true ones": "what the released code's validation measures; it is told what came before",
    "true codes, decoded": "the motion itself through the tokenizer: what its codes hold of it",
    motion.OTHER_MOTION: "what codes of the same data tell that know nothing of this clip",
    motion.STILL: "every point stays where it is",
}


def motion_sections(
    views: Mapping[str, Clips],
    predicted: Mapping[str, np.ndarray],
    measures: Mapping[str, Any],
    curves: str,
    note: str,
) -> list[str]:
    """The report's sections. measures: {"table 2", "codes", "pixels", "ratios"} of t2p.eval.motion."""
    parts = [report.section("Measures", *_measures(views, measures, note))]
    parts.append(report.section("Codes", report.paragraph(_CODES), _codes(measures["codes"])))
    parts.append(report.section("Points that move", *_pixels(views, measures["pixels"])))
    if curves:
        parts.append(report.section("Training", curves))
    return [*parts, report.section("Samples", *_samples(views, predicted))]


def _measures(views: Mapping[str, Clips], measures: Mapping[str, Any], note: str) -> list[str]:
    clips = next(iter(views.values()))
    h, w = clips.size
    points = clips.truth.points.shape
    what = f"{clips.rows} examples of {points[1]} steps and {points[2]} points a view ({', '.join(views)})"
    tables = [report.paragraph(f"{note} {what}, pictures {w}x{h}."), report.paragraph(motion.DEFINITIONS)]
    for view in (motion.ALL, *views) if len(views) > 1 else (next(iter(views)),):
        rows = [[who, *(values[view][c] for c in motion.TABLE2)] for who, values in measures["table 2"].items()]
        tables.append(report.table([view, *motion.TABLE2], rows))
    told = [f"{who}: {_ROWS[who]}" for who in measures["table 2"] if who in _ROWS]
    ratios = report.table(["ratio of squared errors", "value"], list(measures["ratios"].items()))
    return [*tables, report.bullets(told), ratios]


def _codes(codes: Mapping[str, Mapping[str, float]]) -> str:
    columns = list(next(iter(codes.values())))
    return report.table(["codes", *columns], [[who, *(v.get(c, "") for c in columns)] for who, v in codes.items()])


def _pixels(views: Mapping[str, Clips], pixels: Mapping[str, Any]) -> list[str]:
    parts = [report.paragraph(LEGEND)]
    for view in views:
        if view not in pixels:
            parts.append(report.paragraph(f"{view}: no point moves more than 2 px."))
            continue
        rows = [[who, *(values[c] for c in _PIXELS)] for who, values in pixels[view].items()]
        parts.append(report.table([view, *_PIXELS], rows))
        steps = {who: (range(len(v["by step"])), v["by step"]) for who, v in pixels[view].items()}
        parts.append(report.curves(steps, "step after t", f"{view}: mean distance, px"))
    return parts


def _samples(views: Mapping[str, Clips], predicted: Mapping[str, np.ndarray]) -> list[str]:
    own = next(iter(predicted))
    caption = (
        f'Rows evenly spread over the data, not chosen; the film is the real one on both sides. Prediction: "{own}".'
    )
    parts = [report.paragraph(caption)]
    for row in next(iter(views.values())).frames:
        for k, (view, clips) in enumerate(views.items()):
            parts.append(sample_video(clips, predicted[own][:, k], row, f"row {row}, {view}"))
    return parts
