"""The page that `t2p eval` writes about a stage that predicts tracks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from t2p.eval import report
from t2p.eval.overlay import draw_tracks, encode_video
from t2p.eval.tracks import Clips, verdict
from t2p.io import PathLike, read_json_lines

COLUMNS = ("mse (moving)", "ade (moving)", "delta (moving)", "mse (all)", "ade (all)", "delta (all)")
LEGEND = (
    "mse: squared error per coordinate in px², ade: mean distance in px, delta: mean over thresholds 1..10 px of the "
    "share of points within it. moving: points that travel more than 2 px. Visible, future, real steps only."
)


def track_sections(
    clips: Clips, predicted: Mapping[str, np.ndarray], result: Mapping[str, Mapping[str, Any]], curves: str, note: str
) -> list[str]:
    """The report's sections: measures, error by step, training curves (HTML, may be empty) and sample clips."""
    h, w = clips.size
    rows = [[who, *(values[c] for c in COLUMNS)] for who, values in result.items()]
    steps = {who: (range(len(v["by step"])), v["by step"]) for who, v in result.items()}
    measures = report.section(
        "Measures",
        report.paragraph(f"{note} {clips.rows} examples, image {w}x{h}. {LEGEND}"),
        report.table(["prediction", *COLUMNS], rows),
        report.table(["ratio of squared errors, moving points", "value"], list(verdict(result).items())),
    )
    by_step = report.section(
        "Distance by step", report.curves(steps, "step after t", "mean distance on moving points, px")
    )
    parts = [measures, by_step]
    if curves:
        parts.append(report.section("Training", curves))
    return [*parts, report.section("Samples", *_samples(clips, predicted["model"]))]


def _samples(clips: Clips, predicted: np.ndarray) -> list[str]:
    caption = "Rows evenly spread over the held-out data, not chosen; the film is the real one on both sides."
    return [report.paragraph(caption), *(sample_video(clips, predicted, row) for row in clips.frames)]


def sample_video(clips: Clips, predicted: np.ndarray, row: int, caption: str = "") -> str:
    """Truth beside prediction for one row, as an embedded clip."""
    visible = np.asarray(clips.truth.visible[row])
    truth = (np.asarray(clips.truth.points[row]), visible)
    film = clips.frames[row]
    if len(film) != len(visible):  # tracks resampled in time: the nearest real frame for each step
        film = film[np.linspace(0, len(film) - 1, len(visible)).round().astype(int)]
    drawn = draw_tracks(film, predicted[row], np.ones_like(visible), trail=len(visible), truth=truth)
    return report.video(encode_video(drawn, fps=6), caption or f"row {row}")


def training_curves(workdir: PathLike, names: Sequence[str] = ("train/loss", "val/loss")) -> str:
    """Curves from a workdir's metrics.jsonl, or "" where there is none (a converted checkpoint, say)."""
    path = epath.Path(workdir) / "metrics.jsonl"
    if not path.exists():
        return ""
    records = read_json_lines(path)
    series = {}
    for name in names:
        pairs = sorted({r["step"]: r[name] for r in records if r.get(name) is not None}.items())
        if pairs:
            series[name] = ([step for step, _ in pairs], [value for _, value in pairs])
    return report.curves(series, "step", "loss", log=True) if series else ""
