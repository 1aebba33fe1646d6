"""How well a stage predicts tracks: against the truth, against simple rules, and with its cues taken away.

The measures are over future steps (1 .. T - 1 of the window; step 0 is given), over points that are visible and
steps that are real (not padding), and, where they say "moving", over points that travel more than two pixels from
their place at step 0 within the window. Pixels are those of the image that the stage sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from t2p import pytrees  # noqa: F401
from t2p.io import UserError
from t2p.methods.base import Stage, Variables
from t2p.metrics.tracks import track2act_delta
from t2p.types import Array, Batch, FieldWindow, Tracks, WindowSpec

OTHERS = ("image and sentence", "image", "sentence")  # what is taken from another clip
HISTORY = (-2, -1)  # the two frames before t, for the constant-velocity rule
MOVING_PIXELS = 2.0


@dataclass(frozen=True)
class Clips:
    """Held-out examples of one view. batch: what the stage sees (rows of all clips in order; of all views); truth:
    Tracks [R, T, N, 2] of the stage's window; history: Tracks [R, 2, N, 2] of the two frames before, or None; frames:
    {row: [T, H, W, 3]} real frames of the window for the rows kept as samples; size: (H, W) of the pictures."""

    batch: Batch
    truth: Tracks
    history: Tracks | None
    frames: Mapping[int, np.ndarray]
    size: tuple[int, int]

    @property
    def rows(self) -> int:
        return len(self.truth.points)


def evaluation_window(window: WindowSpec, history: bool = True) -> WindowSpec:
    """A stage's window with the two frames before t in front of its tracks, and the pictures of all its steps.

    history: False for track sets of layout "window", whose points start at t; tracks resampled in time have none."""
    assert window.tracks is not None
    steps, seen = window.tracks.offsets, window.images or FieldWindow(())
    images = FieldWindow((*seen.offsets, *steps), seen.pad)
    if not _has_history(window, history):
        return replace(window, images=images)
    return replace(window, images=images, tracks=replace(window.tracks, offsets=(*HISTORY, *steps)))


def _has_history(window: WindowSpec, history: bool) -> bool:
    return history and window.track_steps is None  # resampled in time, the frames before t have no place


def gather(window: WindowSpec, batches: Iterable[Batch], samples: int = 8, history: bool = True) -> Clips:
    """Collects the rows of evaluation batches of one view; see `gather_views`."""
    (clips,) = gather_views(window, batches, samples, history).values()
    return clips


def gather_views(
    window: WindowSpec, batches: Iterable[Batch], samples: int = 8, history: bool = True
) -> dict[str, Clips]:
    """{view: clips} of evaluation batches that were cut with `evaluation_window(window, history)`; rows, batch and the
    rows kept as samples are the same for all views. Rows without tracks are left out.

    samples: how many rows, evenly spread, keep the frames of all their steps."""
    assert window.track_set is not None
    seen = len(window.images.offsets) if window.images else 0
    before = len(HISTORY) if _has_history(window, history) else 0
    parts: list[Batch] = []
    films: dict[str, Films] = {}
    for batch in batches:
        batch = _real_rows(batch)
        for view, tracks in batch.tracks[window.track_set].items():
            valid = None if tracks.valid is None else tracks.valid[:, before:]
            films.setdefault(view, Films(2 * samples)).add(_hold_last(batch.images[view][:, seen:], valid))
        parts.append(batch.replace(images={v: x[:, :seen].copy() for v, x in batch.images.items() if seen}))
    if not sum(len(_first_tracks(part).points) for part in parts):
        raise UserError("the evaluation data has no examples with tracks; expected at least one clip in the split")
    whole = jax.tree.map(lambda *xs: np.concatenate(xs), *parts)
    found = whole.tracks[window.track_set]
    truth = {view: _cut(tracks, slice(before, None)) for view, tracks in found.items()}
    batch = whole.replace(tracks={window.track_set: truth})
    earlier = {view: _cut(tracks, slice(0, before)) if before else None for view, tracks in found.items()}
    return {v: Clips(batch, truth[v], earlier[v], film.chosen(samples), film.size) for v, film in films.items()}


def _real_rows(batch: Batch) -> Batch:
    """The rows that do not only fill up the batch and that have tracks, as NumPy arrays."""
    keep = np.ones(len(_first_tracks(batch).points), bool) if batch.mask is None else np.asarray(batch.mask)
    keep = keep & np.asarray(batch.has["tracks"]) if "tracks" in batch.has else keep
    return jax.tree.map(lambda x: np.asarray(x)[keep], batch.replace(mask=None))


def _first_tracks(batch: Batch) -> Tracks:
    (views,) = batch.tracks.values()
    return next(iter(views.values()))


def _hold_last(films: np.ndarray, valid: Array | None) -> np.ndarray:
    """films [R, T, H, W, 3] with the last real frame in place of those after it, which a window may fill with zeros.

    valid: [R, S], of the tracks from t on; tracks resampled in time have fewer or more steps than the film."""
    if valid is None:
        return films
    steps = films.shape[1]
    real = valid[:, np.linspace(0, valid.shape[1] - 1, steps).round().astype(int)]
    last = np.maximum.accumulate(np.where(real, np.arange(steps), 0), axis=1)
    return films[np.arange(len(films))[:, None], last]


class Films:
    """Keeps the films of at most `most` evenly spread rows, however many rows there will be."""

    def __init__(self, most: int):
        self.most, self._rows, self._stride = most, 0, 1
        self._kept: dict[int, np.ndarray] = {}
        self.size = (0, 0)  # (H, W)

    def add(self, films: np.ndarray) -> None:
        """films: those of the next rows [R, T, H, W, 3]; what is kept is copied."""
        self.size = films.shape[2:4]
        for film in films:
            if self._rows % self._stride == 0:
                self._kept[self._rows] = film.copy()
            self._rows += 1
            while len(self._kept) > self.most:
                self._stride *= 2
                self._kept = {row: kept for row, kept in self._kept.items() if row % self._stride == 0}

    def chosen(self, count: int) -> dict[int, np.ndarray]:
        """{row: film} of `count` rows (or all, if there are fewer), evenly spread."""
        rows = list(self._kept)
        places = np.unique(np.linspace(0, len(rows) - 1, count).astype(int))
        return {rows[k]: self._kept[rows[k]] for k in places}


def _cut(tracks: Tracks, steps: slice) -> Tracks:
    valid = None if tracks.valid is None else tracks.valid[:, steps]
    return tracks.replace(points=tracks.points[:, steps], visible=tracks.visible[:, steps], valid=valid)


def no_motion(clips: Clips) -> np.ndarray:
    """Every point stays where it is at t: [R, T, N, 2]."""
    return np.broadcast_to(clips.truth.points[:, :1], clips.truth.points.shape)


def constant_velocity(clips: Clips) -> np.ndarray | None:
    """Every point goes on from t with its velocity between the two frames before t: [R, T, N, 2]."""
    if clips.history is None:
        return None
    velocity = clips.history.points[:, 1] - clips.history.points[:, 0]
    steps = np.arange(clips.truth.points.shape[1], dtype=np.float32)
    return clips.truth.points[:, :1] + steps[None, :, None, None] * velocity[:, None]


def other_clip(clips: Clips) -> np.ndarray:
    """A row of another clip for each row: half-way round, where the rows of one clip lie side by side."""
    return np.roll(np.arange(clips.rows), clips.rows // 2)


def predictions(
    stage: Stage, variables: Variables, clips: Clips, batch_size: int = 64, others: bool = True
) -> dict[str, np.ndarray]:
    """{who: [R, T, N, 2]}: the model, the same with image and sentence of another clip, and the two rules.

    others: False where all rows are of one clip, which has no other to take an image or a sentence from."""
    run = predicted_points(stage)
    seen = {"model": clips.batch}
    if others:
        seen |= {f"model, {what} of another clip": batch for what, batch in with_other_cues(clips).items()}
    result = {who: in_batches(run, variables, batch, batch_size) for who, batch in seen.items()}
    result["no motion"] = no_motion(clips)
    velocity = constant_velocity(clips)
    return result if velocity is None else {**result, "constant velocity": velocity}


def with_other_cues(clips: Clips) -> dict[str, Batch]:
    """The batch with the image, the sentence or both of another clip, by what is exchanged."""
    order = other_clip(clips)
    images = {v: x[order] for v, x in clips.batch.images.items()}
    text = None if clips.batch.text is None else clips.batch.text[order]
    own = clips.batch
    batches = own.replace(images=images, text=text), own.replace(images=images), own.replace(text=text)
    return dict(zip(OTHERS, batches, strict=True))


def predicted_points(stage: Stage) -> Callable[[Variables, Batch], jax.Array]:
    """(variables, batch) -> [B, T, N, 2], jitted. UserError for a stage that predicts no tracks."""

    def run(variables: Variables, batch: Batch) -> jax.Array:
        tracks = stage.predict(variables, batch, jax.random.key(0)).tracks
        if tracks is None:
            raise UserError("this checkpoint's stage predicts no tracks")
        return tracks.points

    return jax.jit(run)


def in_batches(run: Any, variables: Variables, batch: Batch, size: int) -> Any:
    """Runs a jitted prediction, of an array or several, over all rows with one shape; the last rows are filled up by
    repetition."""
    rows = len(jax.tree.leaves(batch)[0])
    parts = []
    for start in range(0, rows, size):
        index = np.minimum(np.arange(start, start + size), rows - 1)
        part = jax.tree.map(lambda x, index=index: x[index], batch)
        count = min(size, rows - start)
        parts.append(jax.tree.map(lambda x, count=count: np.asarray(x)[:count], run(variables, part)))
    return jax.tree.map(lambda *xs: np.concatenate(xs), *parts)


def counted(clips: Clips) -> np.ndarray:
    """[R, T, N] bool: the future, real, visible steps of rows whose two earlier frames exist."""
    weight = np.asarray(clips.truth.visible).astype(bool)  # a copy
    weight[:, 0] = False
    if clips.truth.valid is not None:
        weight &= np.asarray(clips.truth.valid)[:, :, None]
    if clips.history is not None and clips.history.valid is not None:
        weight &= np.min(clips.history.valid, axis=1)[:, None, None]
    return weight


def moving(clips: Clips, where: np.ndarray, pixels: float = MOVING_PIXELS) -> np.ndarray:
    """[R, 1, N] bool: points that get more than `pixels` away from their place at t within the counted steps."""
    away = np.linalg.norm(_to_pixels(clips.truth.points - clips.truth.points[:, :1], clips.size), axis=-1)
    return (np.where(where, away, 0.0).max(1, keepdims=True)) > pixels


def _to_pixels(points: Array, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(points, np.float64) * np.array([size[1], size[0]], np.float64)


def any_moving(clips: Clips) -> bool:
    """Whether there is a moving point to measure."""
    where = counted(clips)
    return bool((where & moving(clips, where)).any())


def measure(clips: Clips, predicted: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """{who: {measure: value}} on moving points and on all points; "by step" lists the mean distance per step.

    mse: mean squared error per coordinate, px^2. ade: mean distance, px. delta: mean over 1..10 px of the share of
    points within that distance (Track2Act)."""
    where = counted(clips)
    points = {"moving": where & moving(clips, where), "all": where}
    if not points["moving"].any():
        raise UserError(
            f"no point moves more than {MOVING_PIXELS} px in the evaluation data; expected clips with motion"
        )
    return {who: _measure(clips, value, points) for who, value in predicted.items()}


def _measure(clips: Clips, value: np.ndarray, points: Mapping[str, np.ndarray]) -> dict[str, Any]:
    error = _to_pixels(value - clips.truth.points, clips.size)
    distance = np.linalg.norm(error, axis=-1)
    result: dict[str, Any] = {}
    for name, where in points.items():
        result[f"mse ({name})"] = float((error**2).mean(-1)[where].mean())
        result[f"ade ({name})"] = float(distance[where].mean())
        result[f"delta ({name})"] = float(
            track2act_delta(_to_pixels(value, clips.size), _to_pixels(clips.truth.points, clips.size), where)
        )
    where = points["moving"]
    count = np.maximum(where.sum((0, 2)), 1)
    result["by step"] = (np.where(where, distance, 0.0).sum((0, 2)) / count).tolist()
    return result


def verdict(result: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The ratios that say whether a model learned to read its cues, from squared errors on moving points; those whose
    measures are there."""
    mse = {who: values["mse (moving)"] for who, values in result.items()}
    ratios = {"model / no motion": mse["model"] / mse["no motion"]}
    if (other := f"model, {OTHERS[0]} of another clip") in mse:
        ratios["another clip's cues / model"] = mse[other] / mse["model"]
    if "constant velocity" in mse:
        ratios["model / constant velocity"] = mse["model"] / mse["constant velocity"]
    return ratios
