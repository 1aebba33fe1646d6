"""The page that `t2p eval` writes about a stage that predicts tracks in space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from t2p.eval import plots3d, report
from t2p.eval.points import MOVING_MM, RULES, SHARE, Clouds

COLUMNS = ("ade", "ade (moving)", "5 % ade", "5 % ade (per sample)")
SAMPLES = 4
_LEGEND = (
    f"All in mm. ade: mean Euclidean error of each sample, then over samples; moving: of points that get more than "
    f"{MOVING_MM:g} mm from their place. 5 % ade: over the {SHARE:.0%} of trajectories with the longest true paths of "
    "all samples together; per sample: of each sample, then over samples. no motion: every point stays where it is."
)


def point_sections(
    clouds: Clouds,
    predicted: Mapping[str, np.ndarray],
    result: Mapping[str, Mapping[str, Any]],
    curves: str,
    note: str,
    seen_before: bool = True,
) -> list[str]:
    """The report's sections: measures, error by step, training curves (HTML, may be empty) and samples in space."""
    points = clouds.truth.points.shape[2]
    rows = [[who, *(values[c] for c in COLUMNS)] for who, values in result.items()]
    steps = {who: (range(1, 1 + len(v["by step"])), v["by step"]) for who, v in result.items()}
    measures = report.section(
        "Measures",
        report.paragraph(f"{note} {clouds.rows} samples of {points} points; {RULES[seen_before]}. {_LEGEND}"),
        report.table(["prediction", *COLUMNS], rows),
    )
    by_step = report.section("Error by step", report.curves(steps, "setpoint", "mean error, mm"))
    training = [report.section("Training", curves)] if curves else []
    return [measures, by_step, *training, report.section("Samples", *_samples(clouds, predicted["model"]))]


def _samples(clouds: Clouds, predicted: np.ndarray) -> list[str]:
    caption = "Evenly spread over the data, not chosen. Drag to turn a plot. Axes are those of the robot's base where "
    parts = [report.paragraph(f"{caption}the camera's pose is known, else z is up in the picture."), plots3d.library()]
    for row in np.unique(np.linspace(0, clouds.rows - 1, SAMPLES).astype(int)):
        true = np.asarray(clouds.truth.points[row])
        steps = slice(None) if clouds.truth.valid is None else np.asarray(clouds.truth.valid[row], bool)
        named = {"true": true[steps], "predicted": predicted[row][steps]}
        parts.append(plots3d.tracks(named, f"sample {row}", clouds.poses[row]))
    return parts
