"""The index of a shard, kept in its sidecar: what each episode is and where its records lie, without reading records.

What many episodes share (views, columns, task, tracker ...) stands once in a table of layouts, so that a dataset of
hundreds of thousands of clips opens in seconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from t2p.data.records import TracksLayout, tracks_layout
from t2p.types import Episode, TrackSet


@dataclass(frozen=True, slots=True)
class EpisodeInfo:
    """What is known of an episode without reading it.

    views: {view: (H, W)}; columns: {name: (dtype, shape of a row)}; track_sets: {set name: {view: layout}}.
    """

    id: str
    length: int
    fps: float
    language: tuple[str, ...]
    task: str
    source: str
    views: Mapping[str, tuple[int, int]]
    columns: Mapping[str, tuple[str, tuple[int, ...]]]
    track_sets: Mapping[str, Mapping[str, str]]
    split: str
    shard: int


class IndexBuilder:
    """Collects rows while a shard is written."""

    def __init__(self) -> None:
        self._layouts: dict[str, int] = {}
        self.rows: list[list[Any]] = []

    def add(self, row: Sequence[Any], layout: Any) -> None:
        """Appends an episode; `layout` is what it is likely to share with others."""
        key = json.dumps(layout)
        self.rows.append([self._layouts.setdefault(key, len(self._layouts)), *row])

    def add_episode(self, episode: Episode) -> None:
        """Appends an episode of an episode shard."""
        columns = ((name, np.asarray(column)) for name, column in episode.columns.items())
        layout = {
            "fps": float(episode.fps),
            "source": episode.source,
            "task": episode.task,
            "views": [[view, *frames.shape[1:3]] for view, frames in episode.frames.items()],
            "columns": [[name, c.dtype.newbyteorder("<").str, list(c.shape[1:])] for name, c in columns],
        }
        self.add([episode.id, episode.length, list(episode.language)], layout)

    def add_tracks(self, length: int, tracks: Mapping[str, TrackSet]) -> None:
        """Appends an episode of a track shard; no views where it lacks the set."""
        self.add([length], [asdict(tracks_layout(view, t)) for view, t in tracks.items()])

    def index(self) -> dict[str, Any]:
        """The part of the sidecar."""
        return {"episodes": self.rows, "layouts": [json.loads(key) for key in self._layouts]}


@dataclass(frozen=True)
class _EpisodeLayout:
    fps: float
    source: str
    task: str
    views: Mapping[str, tuple[int, int]]
    columns: Mapping[str, tuple[str, tuple[int, ...]]]


class EpisodesIndex:
    """The index of an episode shard."""

    def __init__(self, name: str, sidecar: Mapping[str, Any]):
        self.name, self.sidecar = name, sidecar
        self.ids = [row[1] for row in sidecar["episodes"]]
        self.lengths = [row[2] for row in sidecar["episodes"]]
        self._layouts = [
            _EpisodeLayout(
                x["fps"],
                x["source"],
                x["task"],
                {view: (h, w) for view, h, w in x["views"]},
                {name: (dtype, tuple(shape)) for name, dtype, shape in x["columns"]},
            )
            for x in sidecar["layouts"]
        ]

    @cached_property
    def first(self) -> np.ndarray:
        """Number of the first record of each episode, and after the last the count of all: [episodes + 1] int64."""
        counts = [1 + n * len(self.layout(e).views) for e, n in enumerate(self.lengths)]
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def layout(self, episode: int) -> _EpisodeLayout:
        """What the episode shares with others: fps, source, task, views, columns."""
        return self._layouts[self.sidecar["episodes"][episode][0]]

    def language(self, episode: int) -> tuple[str, ...]:
        """Instruction sentences."""
        return tuple(self.sidecar["episodes"][episode][3])

    def frame_record(self, episode: int, view: str, t: int) -> int:
        """Number of the record of a frame."""
        position = list(self.layout(episode).views).index(view)
        return int(self.first[episode]) + 1 + position * self.lengths[episode] + t


class TracksIndex:
    """The index of a track shard."""

    def __init__(self, name: str, sidecar: Mapping[str, Any]):
        self.name, self.sidecar = name, sidecar
        self.lengths = [row[1] for row in sidecar["episodes"]]
        self._layouts = [{x["view"]: TracksLayout(**x) for x in views} for views in sidecar["layouts"]]
        self._layout_names = [{view: x.layout for view, x in views.items()} for views in self._layouts]

    @cached_property
    def first(self) -> np.ndarray:
        """As EpisodesIndex.first."""
        counts = [sum(1 + x.records(n) for x in self.views(e).values()) for e, n in enumerate(self.lengths)]
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def views(self, episode: int) -> dict[str, TracksLayout]:
        """{view: layout}; empty where the episode lacks the set."""
        return self._layouts[self.sidecar["episodes"][episode][0]]

    def layout_names(self, episode: int) -> dict[str, str]:
        """{view: "global" or "window"}."""
        return self._layout_names[self.sidecar["episodes"][episode][0]]

    def header_record(self, episode: int, view: str) -> int:
        """Number of the record with the view's queries; its tracks follow."""
        number = int(self.first[episode])
        for name, x in self.views(episode).items():
            if name == view:
                return number
            number += 1 + x.records(self.lengths[episode])
        raise KeyError(view)


def episode_infos(index: EpisodesIndex, tracks: Mapping[str, TracksIndex], split: str, shard: int) -> list[EpisodeInfo]:
    """The infos of a shard's episodes; `tracks` are its track sets. Equal maps are shared."""
    shared: dict[tuple, dict[str, Mapping[str, str]]] = {}
    infos = []
    for e, (identifier, length) in enumerate(zip(index.ids, index.lengths)):
        x = index.layout(e)
        key = tuple(t.sidecar["episodes"][e][0] for t in tracks.values())
        if key not in shared:
            shared[key] = {name: t.layout_names(e) for name, t in tracks.items() if t.views(e)}
        language = index.language(e)
        infos.append(
            EpisodeInfo(
                identifier, length, x.fps, language, x.task, x.source, x.views, x.columns, shared[key], split, shard
            )
        )
    return infos
