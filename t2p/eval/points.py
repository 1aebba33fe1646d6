"""How well a stage predicts point tracks in space: against the truth and against points that stay where they are.

Tracks are [R, T + 1, N, 3] in metres in the camera's frame: R examples, step 0 given, steps 1 .. T predicted. Errors
are Euclidean, in millimetres, over steps that are real (not padding) and points that are visible by the rule named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import numpy as np

from t2p import pytrees  # noqa: F401
from t2p.eval.plots3d import LEVEL
from t2p.eval.tracks import in_batches, predicted_points
from t2p.io import UserError
from t2p.methods.base import Stage, Variables
from t2p.metrics.points3d import ade, ade_of_most_moving
from t2p.types import Batch, Tracks, WindowSpec

MILLIMETRES = 1000.0
MOVING_MM = 10.0  # so far from where it was at step 0 a point has to get for it to count as moving
SHARE = 0.05  # of all trajectories: those of the 5 % ADE
RULES = {
    True: "a step of a point counts if the point is visible at it and at the step before (seen_before, the released "
    "evaluation's rule)",
    False: "a step of a point counts if the point is visible at it (the paper's wording)",
}


@dataclass(frozen=True)
class Clouds:
    """Held-out examples. batch: what the stage sees, its tracks held still at their first points, so that nothing can
    be read off them; truth: Tracks [R, T + 1, N, 3]; poses: [R, 4, 4] of the camera in axes whose z is up."""

    batch: Batch
    truth: Tracks
    poses: np.ndarray

    @property
    def rows(self) -> int:
        return len(self.truth.points)


def prediction_kind(stage: Stage, variables: Variables, batch: Batch) -> Literal["picture", "space", "views"]:
    """What a stage predicts: tracks [B, T, N, 2] in the picture of one view, tracks in space, or tracks [B, V, T, N, 2]
    in the pictures of all its views (a MotionStage). Nothing is computed. UserError for a stage without tracks."""
    found = jax.eval_shape(stage.predict, variables, batch, jax.random.key(0)).tracks
    if found is None:
        raise UserError(
            "this checkpoint's stage predicts no tracks: give the checkpoint of the stage that does; a policy is "
            "measured by t2p rollout"
        )
    if found.space == "camera":
        return "space"
    return "views" if len(found.points.shape) == 5 else "picture"


def evaluation_window(window: WindowSpec) -> WindowSpec:
    """A stage's window with the cameras, whose poses say where up is. UserError for a window without future tracks."""
    if window.tracks is None or len(window.tracks.offsets) < 2:
        raise UserError(
            "this stage's examples hold no tracks to compare its predictions with: give the checkpoint of the stage "
            "that predicts tracks; a policy is measured by t2p rollout"
        )
    return replace(window, cameras=True)


def gather(window: WindowSpec, batches: Iterable[Batch]) -> Clouds:
    """Collects the rows of evaluation batches that were cut with `evaluation_window(window)`."""
    assert window.track_set is not None
    parts = []
    for batch in batches:
        size = len(next(iter(batch.tracks[window.track_set].values())).points)
        keep = np.ones(size, bool) if batch.mask is None else np.asarray(batch.mask)
        parts.append(jax.tree.map(lambda x, keep=keep: np.asarray(x)[keep], batch.replace(mask=None)))
    if not parts:
        raise UserError("the evaluation data has no examples; expected at least one episode in the split")
    whole = jax.tree.map(lambda *xs: np.concatenate(xs), *parts)
    ((view, truth),) = whole.tracks[window.track_set].items()
    if truth.points.shape[-1] != 3:
        raise UserError(
            f"the track set {window.track_set} holds image tracks, but this stage predicts tracks in space; name one "
            "in the camera's frame with --tracks"
        )
    still = truth.replace(points=np.broadcast_to(truth.points[:, :1], truth.points.shape))
    batch = whole.replace(tracks={window.track_set: {view: still}})
    return Clouds(batch, truth, _poses(whole, view))


def _poses(batch: Batch, view: str) -> np.ndarray:
    """[R, 4, 4] of the camera in the robot's base, whose z is up; as if the camera were level where that is unknown."""
    rows = len(jax.tree.leaves(batch)[0])
    level = np.broadcast_to(LEVEL, (rows, 4, 4))
    if view not in batch.cameras:
        return level
    known = np.asarray(batch.has.get("cameras", np.ones(rows, bool)))[:, None, None]
    return np.where(known, np.asarray(batch.cameras[view][1], np.float64), level)


def predictions(stage: Stage, variables: Variables, clouds: Clouds, batch_size: int = 64) -> dict[str, np.ndarray]:
    """{who: [R, T + 1, N, 3]}: the model, and every point staying where it is."""
    model = in_batches(predicted_points(stage), variables, clouds.batch, batch_size)
    if model.shape != clouds.truth.points.shape:
        raise UserError(
            f"the stage predicts tracks of shape {list(model.shape[1:])} where the data has "
            f"{list(clouds.truth.points.shape[1:])} (steps, points, coordinates)"
        )
    first = clouds.truth.points[:, :1]
    return {"model": model, "no motion": np.broadcast_to(first, clouds.truth.points.shape)}


def seen(clouds: Clouds) -> np.ndarray:
    """[R, T + 1, N] bool: visible, at a real step."""
    visible = np.asarray(clouds.truth.visible, bool)
    return visible if clouds.truth.valid is None else visible & np.asarray(clouds.truth.valid)[:, :, None]


def counted(visible: np.ndarray, seen_before: bool) -> np.ndarray:
    """[R, T, N] bool: the pairs of steps 1 .. T and points that count by a rule (see RULES)."""
    return visible[:, 1:] & visible[:, :-1] if seen_before else visible[:, 1:]


def moving(clouds: Clouds, seen_before: bool = True) -> np.ndarray:
    """[R, 1, N] bool: points that get more than MOVING_MM from where they were at step 0, within counted steps."""
    points = _millimetres(clouds.truth.points)
    away = np.linalg.norm(points[:, 1:] - points[:, :1], axis=-1)
    return np.where(counted(seen(clouds), seen_before), away, 0).max(1, keepdims=True) > MOVING_MM


def measure(clouds: Clouds, predicted: Mapping[str, np.ndarray], seen_before: bool = True) -> dict[str, dict[str, Any]]:
    """{who: {measure: value}}, all in mm; nan where no pair counts.

    "ade": each sample's mean, then over samples. "ade (moving)": the same over points that move. "5 % ade": over the
    SHARE of trajectories that move most of all samples together (the released evaluation); "5 % ade (per sample)": of
    each sample, then over samples; both by the rule seen_before. "by step": the mean over all pairs of each step."""
    visible, true = seen(clouds), _millimetres(clouds.truth.points)
    travels = visible & moving(clouds, seen_before)
    pairs = counted(visible, seen_before)
    result = {}
    for who, value in predicted.items():
        found = _millimetres(value)
        distance = np.linalg.norm(found[:, 1:] - true[:, 1:], axis=-1)
        sums, counts = np.where(pairs, distance, 0).sum((0, 2)), pairs.sum((0, 2))
        result[who] = {
            "ade": ade(found, true, visible, seen_before),
            "ade (moving)": ade(found, true, travels, seen_before),
            "5 % ade": ade_of_most_moving(found, true, visible, SHARE),
            "5 % ade (per sample)": ade_of_most_moving(found, true, visible, SHARE, pooled=False),
            "by step": np.where(counts > 0, sums / np.maximum(counts, 1), np.nan).tolist(),
        }
    return result


def _millimetres(points: Any) -> np.ndarray:
    return MILLIMETRES * np.asarray(points, np.float64)
