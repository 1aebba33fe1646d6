"""Mixtures: the datasets behind `data.sources`, opened, filtered and made to give examples of one structure."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from t2p.data.features import FeatureSet
from t2p.data.store import DamagedRecord, Dataset
from t2p.data.windows import FIELDS, Cutter, Rows, check_window, extent, wanted
from t2p.io import UserError
from t2p.types import ANY_VIEW, Space, TrackSet, WindowSpec

Path = tuple[str, ...]  # where an array stands in an example, e.g. ("images", "front")
Shape = tuple[tuple[int, ...], type]  # its shape and dtype
Shapes = dict[Path, Shape]


@dataclass
class Component:
    """One dataset of a mixture. seed: a number that belongs to the name, so that another component beside it
    changes nothing of this one's order. space: of its tracks, None without."""

    name: str
    weight: float
    dataset: Any
    rows: Rows
    cutter: Cutter
    shapes: Shapes
    space: Space | None
    seed: int

    def sentences(self, row: int) -> tuple[str, ...]:
        """The instruction sentences of the episode in which a row starts."""
        episode = self.rows[row].segments[0].episode
        return self.dataset.infos[episode].language if "text" in self.cutter.fields else ()


@dataclass
class Mixture:
    """Components with examples of one structure. template: {path: zeros} of a whole example; sentences: the
    distinct instruction sentences, by whose number examples carry their text."""

    components: list[Component]
    window: WindowSpec
    template: dict[Path, np.ndarray]
    space: Space
    sentences: dict[str, int] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        return sum(len(c.rows) for c in self.components)


def open_mixture(sources: Mapping[str, Any], window: WindowSpec, sentences: Iterable[str] = ()) -> Mixture:
    """Opens every source of a config ({name: t2p.train.defaults.source_config()}) for one window.

    Raises UserError for a source that cannot be read as asked, naming what there is: no such dataset, split,
    task, view, track set or field; or pictures and columns whose shapes differ within the mixture.
    """
    check_window(window)
    if not sources:
        raise UserError("no data source is configured; add one, e.g. data.sources.main = source_config(path=...)")
    components = [_open(name, config, window) for name, config in sources.items()]
    shapes = _merge_shapes(components)
    _check_fields(components, shapes, window)
    spaces = {c.space: c.name for c in components if c.space is not None}
    if len(spaces) > 1:
        raise UserError(f"the sources' tracks are in different spaces: {spaces}")
    space: Space = next(iter(spaces), "image")
    template: dict[Path, np.ndarray] = {path: np.zeros(shape, dtype) for path, (shape, dtype) in shapes.items()}
    numbers = {s: i for i, s in enumerate(sentences)}
    return Mixture(components, window, template, space, numbers)


def open_dataset(name: str, config: Mapping[str, Any]) -> Any:
    """The dataset of one source; UserError names the source where there is none."""
    if not config["path"]:
        raise UserError(f"source {name!r} has no path; give the folder of a t2p dataset (data.sources.{name}.path=DIR)")
    try:
        return Dataset(config["path"], config["split"])
    except (UserError, FileNotFoundError) as e:
        raise UserError(f"source {name!r}: {e}") from e


def select_episodes(name: str, infos: Sequence[Any], tasks: Sequence[str], fraction: float) -> list[int]:
    """The numbers of the episodes that a source keeps: those of the named tasks (all without names), and of each
    task the first `fraction` (at least one episode) in natural order of their ids (demo_2 before demo_10)."""
    if not 0 < fraction <= 1:
        raise UserError(f"source {name!r}: fraction is {fraction}; expected a number in (0, 1]")
    by_task: dict[str, list[int]] = {}
    for number, info in enumerate(infos):
        by_task.setdefault(info.task, []).append(number)
    if unknown := sorted(set(tasks) - set(by_task)):
        raise UserError(f"source {name!r} has no task {unknown}; it has {sorted(by_task)[:50]}")
    kept = []
    for task in tasks or by_task:
        ordered = sorted(by_task[task], key=lambda n: _natural(infos[n].id))
        kept += ordered[: max(1, int(len(ordered) * fraction + 1e-9))]
    return sorted(kept)


def _natural(text: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", text)]


def _open(name: str, config: Mapping[str, Any], window: WindowSpec) -> Component:
    dataset = open_dataset(name, config)
    episodes = select_episodes(name, dataset.infos, tuple(config["tasks"]), config["fraction"])
    infos = [dataset.infos[n] for n in episodes]
    window = _with_horizon(name, config.get("horizon", 0), window)
    track_set = config["tracks"] or window.track_set or ""
    fields = _fields(name, config["fields"], window)
    if not config["weight"] > 0:
        raise UserError(f"source {name!r}: weight is {config['weight']}; expected a positive number")
    views = [_views(name, info, window) for info in infos]
    if "tracks" in fields:
        _check_tracks(name, infos, views, track_set)
    examples = views if window.one_view else [None] * len(infos)
    rows = Rows(episodes, [i.length for i in infos], examples, extent(window), window.whole)
    if not len(rows):
        raise UserError(f"source {name!r} ({config['path']}, split {config['split']!r}) has no frames")
    features = _features(name, dataset, window, views) if "features" in fields else None
    cutter = Cutter(dataset, window, track_set, fields, features)
    shapes, space = _shapes(name, cutter, episodes, views)
    return Component(name, float(config["weight"]), dataset, rows, cutter, shapes, space, zlib.crc32(name.encode()))


def _with_horizon(name: str, frames: int, window: WindowSpec) -> WindowSpec:
    """The window with `frames` frames of tracks, resampled to the steps that it had: what moves faster or slower than
    the other sources. 0: as it is."""
    if not frames or window.tracks is None:
        return window
    steps = window.track_steps or len(window.tracks.offsets)
    if frames < 2:
        raise UserError(f"source {name!r}: horizon is {frames}; expected at least 2 frames, or 0 for the stage's own")
    resampled = None if frames == steps else steps
    return replace(window, tracks=replace(window.tracks, offsets=tuple(range(frames))), track_steps=resampled)


def _fields(name: str, only: Sequence[str], window: WindowSpec) -> tuple[str, ...]:
    if unknown := sorted(set(only) - set(FIELDS)):
        raise UserError(f"source {name!r}: unknown fields {unknown}; expected some of {FIELDS}")
    kept = {*only, "features"} if "images" in only else {*only}  # they stand for the pictures
    return tuple(f for f in wanted(window) if not only or f in kept)


def _features(name: str, dataset: Any, window: WindowSpec, views: Sequence[tuple[str, ...]]) -> FeatureSet:
    """The dataset's features that the window asks for; UserError where they are not there as it needs them."""
    assert window.feature_set is not None
    try:
        found = FeatureSet(dataset, window.feature_set)
    except UserError as e:
        raise UserError(f"source {name!r}: {e}") from e
    if missing := sorted({view for shown in views for view in shown} - set(found.made.views)):
        raise UserError(
            f"source {name!r}: the features {found.name!r} are of the views {list(found.made.views)}, without {missing}"
        )
    if window.feature_shape not in (None, found.made.shape):
        raise UserError(
            f"source {name!r}: the features {found.name!r} are {found.made.shape} (tokens, numbers) a picture, and the "
            f"stage's encoder gives {window.feature_shape}: they are of another encoder or another size of pictures"
        )
    return found


def _views(name: str, info: Any, window: WindowSpec) -> tuple[str, ...]:
    """The window's views in an episode, in the window's order."""
    found = tuple(v for v in window.views if v in info.views)
    if not found or (len(found) < len(window.views) and not window.one_view):
        raise UserError(
            f"source {name!r}: episode {info.id!r} has the views {sorted(info.views)}; the window needs "
            f"{'one' if window.one_view else 'all'} of {list(window.views)}"
        )
    return found


def _check_tracks(name: str, infos: Sequence[Any], views: Sequence[tuple[str, ...]], track_set: str) -> None:
    for info, needed in zip(infos, views, strict=True):
        if track_set not in info.track_sets:
            raise UserError(
                f"source {name!r}: episode {info.id!r} has no track set {track_set!r}; it has "
                f"{sorted(info.track_sets)} (choose one with data.sources.{name}.tracks, or run t2p annotate)"
            )
        if missing := set(needed) - set(info.track_sets[track_set]):
            raise UserError(f"source {name!r}: track set {track_set!r} of episode {info.id!r} lacks {sorted(missing)}")


def _shapes(
    name: str, cutter: Cutter, episodes: Sequence[int], views: Sequence[tuple[str, ...]]
) -> tuple[Shapes, Space | None]:
    """The shapes of this source's fields and the space of its tracks, from the index and one look at the tracks."""
    shapes: Shapes = {}
    for number, shown in zip(episodes, views, strict=True):
        info = cutter.dataset.infos[number]
        for path, found in (*_picture_shapes(cutter, info, shown), *_column_shapes(cutter, info)):
            _add(shapes, name, path, found)
    shapes |= _camera_shapes(cutter, episodes[0], views[0])
    if "tracks" not in cutter.fields:
        return shapes, None
    tracks = _readable_tracks(cutter, episodes, views)
    for path, found in _track_shapes(cutter.window, tracks):
        _add(shapes, name, path, found)
    return shapes, next(iter(tracks.values())).space


def _picture_shapes(cutter: Cutter, info: Any, views: Sequence[str]) -> Iterator[tuple[Path, Shape]]:
    w = cutter.window
    for view in views:
        shown, size = ANY_VIEW if w.one_view else view, tuple(info.views[view])
        if w.images and "images" in cutter.fields:
            for name in ("images", "clean") if w.clean else ("images",):
                yield (name, shown), ((len(w.images.offsets), *size, 3), np.uint8)
        if w.features and cutter.features is not None:
            found = cutter.features
            yield ("features", shown), ((len(w.features.offsets), *found.made.shape), found.dtype.type)
        if w.goal and "goal" in cutter.fields:
            yield ("goal", shown), ((*size, 3), np.uint8)


def _column_shapes(cutter: Cutter, info: Any) -> Iterator[tuple[Path, Shape]]:
    w = cutter.window
    if w.actions and "actions" in cutter.fields and "actions" in info.columns:
        steps = len(w.actions.offsets)
        yield ("actions",), ((steps, *info.columns["actions"][1]), np.float32)
        yield ("action_valid",), ((steps,), np.bool_)
    if w.proprio and "proprio" in cutter.fields and all(f"proprio/{key}" in info.columns for key in w.proprio_keys):
        for key in w.proprio_keys:
            yield ("proprio", key), ((len(w.proprio.offsets), *info.columns[f"proprio/{key}"][1]), np.float32)


def _camera_shapes(cutter: Cutter, episode: int, views: Sequence[str]) -> Shapes:
    """Whether a source has cameras is judged by its first episode: the index does not say."""
    if "cameras" not in cutter.fields or not set(views) <= set(cutter.dataset.cameras(episode)):
        return {}
    paths = [("cameras", ANY_VIEW if cutter.window.one_view else view) for view in views]
    sizes = {"K": (3, 3), "T_base_cam": (4, 4)}
    return {(*path, key): (size, np.float32) for path in paths for key, size in sizes.items()}


def _track_shapes(window: WindowSpec, tracks: Mapping[str, TrackSet]) -> Iterator[tuple[Path, Shape]]:
    assert window.tracks is not None
    steps = window.track_steps or len(window.tracks.offsets)
    for view, found in tracks.items():
        path = ("tracks", ANY_VIEW if window.one_view else view)
        points, size = window.num_points or found.points.shape[-2], found.points.shape[-1]
        if window.points not in (None, points):
            raise UserError(
                f"the track set has {points} points in the view {view!r}, and the stage was made for {window.points}"
            )
        yield (*path, "points"), ((steps, points, size), np.float32)
        yield (*path, "visible"), ((steps, points), np.bool_)
        yield (*path, "valid"), ((steps,), np.bool_)


def _readable_tracks(cutter: Cutter, episodes: Sequence[int], views: Sequence[tuple[str, ...]]) -> dict[str, TrackSet]:
    """{view: the first step's tracks} of the first episode that can be read (whether a damaged one may be passed
    over is decided when training reads it)."""
    for episode, shown in zip(episodes, views, strict=True):
        try:
            return {view: cutter.dataset.tracks(episode, cutter.track_set, view, 0, 1) for view in shown}
        except DamagedRecord as e:
            damaged = e
    raise damaged


def _add(shapes: Shapes, name: str, path: Path, found: Shape) -> None:
    known = shapes.setdefault(path, found)
    if known[0] != found[0]:
        raise UserError(
            f"source {name!r}: {'/'.join(path)} of shape {found[0]} beside {known[0]}; one batch needs one shape "
            "(pictures: write the dataset with one size; tracks: set num_points)"
        )
    if known[1] is not found[1]:
        raise UserError(
            f"source {name!r}: {'/'.join(path)} in {np.dtype(found[1])} beside {np.dtype(known[1])}; one batch needs "
            "one dtype (t2p cache-features --dtype)"
        )


def _merge_shapes(components: Sequence[Component]) -> Shapes:
    merged: Shapes = {}
    for component in components:
        for path, found in component.shapes.items():
            _add(merged, component.name, path, found)
    return merged


def _check_fields(components: Sequence[Component], shapes: Shapes, window: WindowSpec) -> None:
    """A field that no source has would train on zeros alone."""
    for name in wanted(window):
        if name != "text" and not any(path[0] == name for path in shapes):
            there = {c.name: sorted({k for i in c.dataset.infos for k in i.columns}) for c in components}
            raise UserError(f"no source has {name} as the window asks for them; columns that there are: {there}")
