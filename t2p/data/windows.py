"""Windows: which rows a dataset has, and how a WindowSpec is cut from the episodes of one row.

A row is a list of segments (episode, start, length) read as one timeline, so that a window may span episodes;
the index made here has one segment a row, one row for every real frame (and view, with `one_view`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from t2p.data.features import FeatureSet
from t2p.geometry.conventions import clamp_amplify
from t2p.geometry.resample import Method, resample_time, time_weights
from t2p.io import UserError
from t2p.types import ANY_VIEW, Camera, FieldWindow, Padding, WindowSpec

# Fields of an example that a WindowSpec may ask for, as they are named in Batch.has and in a source's `fields`.
FIELDS = ("images", "features", "goal", "tracks", "text", "actions", "proprio", "cameras")


class Segment(NamedTuple):
    """`length` frames of an episode from `start` on."""

    episode: int
    start: int
    length: int


class Row(NamedTuple):
    """One row of the index; view is set where each view is an example of its own."""

    segments: tuple[Segment, ...]
    view: str | None = None


class Place(NamedTuple):
    """Where the n offsets of a field lie: episode [n] int, frame [n] int (clipped into its episode), and
    valid [n] bool, False where the offset leaves the episode."""

    episode: np.ndarray
    frame: np.ndarray
    valid: np.ndarray


def wanted(window: WindowSpec) -> tuple[str, ...]:
    """The fields that a window asks for, a subset of FIELDS."""
    asked = {name: field is not None for name, field in _timed(window).items()}
    asked |= {"text": window.text, "cameras": window.cameras}
    return tuple(name for name in FIELDS if asked[name])


def _timed(window: WindowSpec) -> dict[str, FieldWindow | None]:
    return {name: getattr(window, name) for name in ("images", "features", "goal", "tracks", "actions", "proprio")}


def check_window(window: WindowSpec) -> None:
    """UserError for a specification that contradicts itself."""
    if not window.views:
        raise UserError("the window names no view")
    if (window.tracks is None) != (window.track_set is None):
        raise UserError("a window with tracks needs both `tracks` (offsets) and `track_set` (a name)")
    if (window.features is None) != (window.feature_set is None):
        raise UserError("a window with features needs both `features` (offsets) and `feature_set` (a name)")
    if window.goal is not None and len(window.goal.offsets) != 1:
        raise UserError(f"a goal is one image; got the offsets {window.goal.offsets}")
    if (window.proprio is None) != (not window.proprio_keys):
        raise UserError("a window with proprioception needs both `proprio` (offsets) and `proprio_keys`")


def extent(window: WindowSpec) -> int:
    """Frames from a window's start to the last one that any field takes, at least 1."""
    fields = _timed(window).values()
    offsets = [o for f in fields if f is not None for o in f.offsets if not isinstance(o, str)]
    return 1 + max([0, *offsets])


class Rows:
    """The index of single-segment rows: every start of every episode (or its first, with `whole`), and every view of
    it with `one_view`.

    It keeps a few numbers per episode, not per row. episodes: their numbers in the dataset; lengths: their
    frames; views: for each, the views that are examples of their own (None: all views in one example); span:
    the length of a row's segment, cut at the episode's end.
    """

    def __init__(
        self,
        episodes: Sequence[int],
        lengths: Sequence[int],
        views: Sequence[tuple[str, ...] | None],
        span: int,
        whole: bool = False,
    ):
        self.episodes = np.asarray(episodes, np.int64)
        self.lengths = np.asarray(lengths, np.int64)
        self.views = list(views)
        self.span = span
        starts = np.minimum(self.lengths, 1) if whole else self.lengths
        counts = starts * np.array([1 if v is None else len(v) for v in self.views], np.int64)
        self.ends = np.cumsum(counts)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        k = int(np.searchsorted(self.ends, index, side="right"))
        index -= int(self.ends[k - 1]) if k else 0
        views = self.views[k]
        start, view = (index, None) if views is None else (index // len(views), views[index % len(views)])
        length = min(self.span, int(self.lengths[k]) - start)
        return Row((Segment(int(self.episodes[k]), start, length),), view)


def place(row: Row, offsets: Sequence[int | str], lengths: Callable[[int], int]) -> Place:
    """Finds each offset of a field on a row's timeline.

    Offset 0 is the first segment's start. Numbers before it reach back into the first episode, numbers past
    the last segment run on in the last episode. lengths(episode) is an episode's number of frames.
    """
    found = [_locate(row.segments, offset, lengths) for offset in offsets]
    known = {e: lengths(e) - 1 for e in {e for e, _ in found}}
    episode, frame, last = np.array([(e, t, known[e]) for e, t in found], np.int64).T
    return Place(episode, np.minimum(np.maximum(frame, 0), last), (frame >= 0) & (frame <= last))


def _locate(segments: Sequence[Segment], offset: int | str, lengths: Callable[[int], int]) -> tuple[int, int]:
    if offset == "last":
        return segments[-1].episode, lengths(segments[-1].episode) - 1
    if offset == "goal":
        return segments[-1].episode, segments[-1].start + segments[-1].length - 1
    assert not isinstance(offset, str)
    for segment in segments[:-1]:
        if offset < segment.length:
            return segment.episode, segment.start + offset
        offset -= segment.length
    return segments[-1].episode, segments[-1].start + offset


def runs(where: Place, pad: Padding) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """What has to be read, episode by episode: (episode, steps of the field [k], their frames [k]).

    With "zero", invalid steps are left out (unless all are invalid: the shape has to come from somewhere).
    """
    needed = where.valid if pad == "zero" and where.valid.any() else np.ones(len(where.valid), bool)
    for episode in sorted(set(where.episode[needed].tolist())):
        steps = np.flatnonzero(needed & (where.episode == episode))
        yield episode, steps, where.frame[steps]


def gather(where: Place, pad: Padding, read: Callable[[int, np.ndarray], np.ndarray]) -> np.ndarray:
    """Reads what stands at `where`: read(episode, frames [k]) -> [k, ...].

    "repeat" leaves what the clipped frames hold; "zero" puts zeros on invalid steps."""
    out = None
    for episode, steps, frames in runs(where, pad):
        values = read(episode, frames)
        if len(steps) == len(where.valid):
            return values
        if out is None:
            out = np.zeros((len(where.valid), *values.shape[1:]), values.dtype)
        out[steps] = values
    assert out is not None
    if pad == "zero":
        out[~where.valid] = 0
    return out


def draw_points(visible: np.ndarray, count: int, rng: np.random.Generator, replacement: bool = True) -> np.ndarray:
    """`count` indices drawn uniformly among the points visible at one step (visible [N] bool).

    Without replacement no point comes twice; where there are too few, each comes equally often, give or take one.
    With no visible point they are drawn among all N (the caller marks the example as having no tracks)."""
    candidates = np.flatnonzero(visible)
    if len(candidates) == 0:
        candidates = np.arange(len(visible))
    if replacement:
        return candidates[rng.integers(len(candidates), size=count)]
    turns = [rng.permutation(candidates) for _ in range(-(-count // len(candidates)))]
    return np.concatenate(turns)[:count]


def resample(tracks: dict[str, np.ndarray], steps: int, method: Method = "linear") -> dict[str, np.ndarray]:
    """Stretches tracks to `steps` time steps by interpolation, first and last step kept (AMPLIFY resamples a true
    horizon of 4 to 16 so). A new step is visible, or valid, where the old steps between which it lies both are.

    tracks: points [T, N, D], visible [T, N], valid [T].
    """
    mixed = time_weights(len(tracks["valid"]), steps) > 1e-6  # [new, old]; rounding leaves weights of 1e-16
    return {
        "points": resample_time(tracks["points"], steps, method),
        "visible": ~(mixed @ ~tracks["visible"]),
        "valid": ~(mixed @ ~tracks["valid"]),
    }


class Cutter:
    """Cuts the fields of a window from the episodes of one dataset.

    dataset: as t2p.data.store.Dataset; track_set: the set's name in this dataset; fields: those to read, a
    subset of FIELDS (text is not cut here); features: the dataset's, where they are among the fields.
    """

    def __init__(
        self,
        dataset: Any,
        window: WindowSpec,
        track_set: str | None,
        fields: Sequence[str],
        features: FeatureSet | None = None,
    ):
        self.dataset = dataset
        self.features = features
        self.window = window
        self.track_set = track_set
        self.fields = frozenset(fields)

    def cut(self, row: Row, rng: np.random.Generator) -> dict[str, Any]:
        """-> {"images": {view: [To, H, W, 3]}, "clean": the same, "features": {view: [To, P, C]}, "goal": {view:
        [H, W, 3]}, "tracks": {view: {points, visible, valid}}, "proprio": {key: [To, d]}, "actions": [Ha, A],
        "action_valid": [Ha]}, those that there are.

        A view's name is ANY_VIEW where the row shows one view. Points are drawn among those visible at the window's
        start (offset 0; without it, the first step inside the episode). Where no view has such a point there is
        nothing to query: the example's tracks are left out.
        """
        names = {v: v for v in self.window.views} if row.view is None else {row.view: ANY_VIEW}
        w = self.window
        out: dict[str, Any] = {}
        if w.images and "images" in self.fields:
            out["images"] = {new: self._frames(row, view, w.images) for view, new in names.items()}
            out |= {"clean": out["images"]} if w.clean else {}
        if w.features and self.features is not None:
            out["features"] = {new: self._features(row, view, w.features) for view, new in names.items()}
        if w.goal and "goal" in self.fields:
            out["goal"] = {new: self._frames(row, view, w.goal)[0] for view, new in names.items()}
        if w.tracks and "tracks" in self.fields:
            tracks, seen = zip(*(self._tracks(row, view, w.tracks, rng) for view in names), strict=True)
            if any(seen):
                out["tracks"] = dict(zip(names.values(), tracks, strict=True))
        if w.actions and self._has_columns(row, ("actions",)):
            out["actions"] = self._column(row, "actions", w.actions)
            out["action_valid"] = place(row, w.actions.offsets, self.length).valid
        if w.proprio and self._has_columns(row, [f"proprio/{k}" for k in w.proprio_keys]):
            out["proprio"] = {k: self._column(row, f"proprio/{k}", w.proprio) for k in w.proprio_keys}
        if w.cameras and "cameras" in self.fields:
            known = self.dataset.cameras(row.segments[0].episode)
            if all(view in known for view in names):
                out["cameras"] = {new: _camera(known[view]) for view, new in names.items()}
        return out

    def length(self, episode: int) -> int:
        """Frames of an episode."""
        return self.dataset.infos[episode].length

    def _has_columns(self, row: Row, names: Sequence[str]) -> bool:
        field = names[0].split("/")[0]
        return field in self.fields and all(
            name in self.dataset.infos[s.episode].columns for s in row.segments for name in names
        )

    def _frames(self, row: Row, view: str, field: FieldWindow) -> np.ndarray:
        where = place(row, field.offsets, self.length)
        return gather(where, field.pad, lambda episode, times: self.dataset.frames(episode, view, times))

    def _features(self, row: Row, view: str, field: FieldWindow) -> np.ndarray:
        assert self.features is not None
        found = self.features
        where = place(row, field.offsets, self.length)
        return gather(where, field.pad, lambda episode, times: found.read(episode, view, times))

    def _column(self, row: Row, name: str, field: FieldWindow) -> np.ndarray:
        where = place(row, field.offsets, self.length)
        read = lambda episode, times: self.dataset.column(episode, name, times)  # noqa: E731
        return gather(where, field.pad, read).astype(np.float32)

    def _tracks(
        self, row: Row, view: str, field: FieldWindow, rng: np.random.Generator
    ) -> tuple[dict[str, np.ndarray], bool]:
        """-> (points, visible, valid; whether any point is visible at the window's start)."""
        where = place(row, field.offsets, self.length)
        layout = self.dataset.infos[row.segments[0].episode].track_sets[self.track_set][view]
        cut = self._window_tracks if layout == "window" else self._global_tracks
        points, visible = cut(row, view, field, where)
        if field.pad == "zero":
            points[~where.valid], visible[~where.valid] = 0, False
        start = field.offsets.index(0) if 0 in field.offsets else int(np.argmax(where.valid))
        at_start = visible[start]
        if self.window.num_points is not None and points.shape[1]:
            chosen = draw_points(at_start, self.window.num_points, rng, self.window.replacement)
            points, visible = points[:, chosen], visible[:, chosen]
        elif self.window.num_points is not None:  # the tracker kept no point of this view
            points = np.zeros((len(points), self.window.num_points, points.shape[2]), np.float32)
            visible = np.zeros(points.shape[:2], bool)
        if self.window.track_clamp:
            points = clamp_amplify(points, self.window.track_clamp)
        tracks = {"points": points, "visible": visible, "valid": where.valid}
        if self.window.track_steps:
            tracks = resample(tracks, self.window.track_steps, self.window.track_method)
        return tracks, bool(at_start.any())

    def _global_tracks(self, row: Row, view: str, field: FieldWindow, where: Place) -> tuple[np.ndarray, np.ndarray]:
        points, visible = np.zeros(0), np.zeros(0)
        for episode, steps, frames in runs(where, field.pad):
            first = int(frames.min())
            found, seen = self.dataset.points(episode, self.track_set, view, first, int(frames.max()) + 1)
            if len(steps) == len(where.valid):
                return found[frames - first], seen[frames - first]
            if not points.size:
                points = np.zeros((len(where.valid), *found.shape[1:]), np.float32)
                visible = np.zeros(points.shape[:-1], bool)
            points[steps], visible[steps] = found[frames - first], seen[frames - first]
        return points, visible

    def _window_tracks(self, row: Row, view: str, field: FieldWindow, where: Place) -> tuple[np.ndarray, np.ndarray]:
        """Tracks whose queries restart at each frame: the record at the row's start holds all its steps."""
        episode, start, _ = row.segments[0]
        points, visible = self.dataset.points(episode, self.track_set, view, start, start + 1)
        steps = points.shape[1]
        offsets = [o for o in field.offsets if not isinstance(o, str) and 0 <= o < steps]
        if len(offsets) < len(field.offsets):
            raise UserError(
                f"track set {self.track_set!r} follows its points for {steps} steps from each frame; "
                f"the window asks for the offsets {field.offsets}"
            )
        return points[0, offsets].astype(np.float32), visible[0, offsets]


def _camera(camera: Camera) -> dict[str, np.ndarray]:
    return {"K": np.asarray(camera.K, np.float32), "T_base_cam": np.asarray(camera.T_base_cam, np.float32)}
