"""Episodes on disk, format "t2p-episodes-v1": random access to frames, columns and track sets.

    DIR/manifest.json                                     written last: counts, checksums, statistics
    DIR/train-00000.episodes.array_record  and .json      facts, numeric columns, frames of some episodes
    DIR/train-00000.tracks.dis+atm.array_record and .json a track set of the same episodes

To write: `write_shard` for each shard (any order, any process), `finish` once; `write_track_shard` and `finish` to add
a track set. Everything here is safe in threads and picklable, and imports no JAX.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from t2p.data import codec, records, statistics
from t2p.data.index import EpisodeInfo, EpisodesIndex, TracksIndex, episode_infos
from t2p.data.manifest import finish, load_split, read_manifest
from t2p.data.shards import DamagedRecord, Readers, Recent
from t2p.data.writing import shard_done, write_shard, write_track_shard
from t2p.io import PathLike, UserError
from t2p.types import Camera, Episode, Statistics, TrackSet

__all__ = [
    "DamagedRecord",
    "Dataset",
    "EpisodeInfo",
    "finish",
    "read_manifest",
    "shard_done",
    "write_shard",
    "write_track_shard",
]

_RECENT_EPISODES = 64  # decoded episode records: an example often asks one for several columns


@dataclass(frozen=True)
class _Place:
    """Where an episode lies."""

    index: EpisodesIndex
    tracks: Mapping[str, TracksIndex]
    row: int  # in its shard


class Dataset:
    """One split of a dataset, read-only. Opening reads the index alone; files are opened per process when needed.

    infos: list[EpisodeInfo]; statistics: {column: Statistics}; manifest: the whole manifest. Reads raise DamagedRecord
    when a record is not what was written, KeyError for a view, column or set that an episode lacks, and IndexError for
    times outside of the episode.
    """

    def __init__(self, directory: PathLike, split: str):
        self.directory, self.split = os.fspath(directory), split
        self.manifest = read_manifest(directory)
        if split not in self.manifest["splits"]:
            names = ", ".join(sorted(self.manifest["splits"])) or "none"
            raise UserError(f"{directory} has no split {split!r}; it has {names}")
        entry = self.manifest["splits"][split]
        self.statistics: dict[str, Statistics] = {
            name: statistics.from_json(value) for name, value in entry["statistics"].items()
        }
        self._episodes, self._tracks = load_split(directory, split, entry)
        self.infos: list[EpisodeInfo] = []
        for k, (episodes, tracks) in enumerate(zip(self._episodes, self._tracks)):
            self.infos += episode_infos(episodes, tracks, split, k)
        self._starts = np.cumsum([0] + [len(x.ids) for x in self._episodes])
        self._readers = Readers(directory)
        self._recent: Recent[dict[str, Any]] = Recent(_RECENT_EPISODES)

    def __reduce__(self) -> tuple:
        return Dataset, (self.directory, self.split)

    def __len__(self) -> int:
        return len(self.infos)

    def frames(self, episode: int, view: str, times: Sequence[int]) -> np.ndarray:
        """-> uint8 [len(times), H, W, 3], row 0 on top; only the frames asked for are read and decoded."""
        place = self._place(episode)
        size = self._view(episode, view)
        unique, inverse = np.unique(self._times(episode, times), return_inverse=True)
        numbers = [place.index.frame_record(place.row, view, int(t)) for t in unique]
        fields = [f"frames/{view}/{t}" for t in unique]
        images = [
            self._decode(place.index.name, n, field, codec.decode_image, content, size)
            for n, field, content in zip(numbers, fields, self._read(place.index, numbers, fields))
        ]
        return np.stack([images[i] for i in inverse]) if images else np.zeros((0, *size, 3), np.uint8)

    def column(self, episode: int, name: str, times: Sequence[int] | None = None) -> np.ndarray:
        """-> [len(times), ...] of a numeric column, in the dtype in which it was given; all rows without times."""
        columns = self.infos[episode].columns
        if name not in columns:
            raise KeyError(f"episode {self.infos[episode].id!r} has no column {name!r}; it has {sorted(columns)}")
        dtype, row = columns[name]
        record = self._record(episode)
        shape = (self.infos[episode].length, *row)
        place = self._place(episode)
        number = int(place.index.first[place.row])
        values = self._decode(
            place.index.name, number, f"columns/{name}", records.parse_column, record, name, dtype, shape
        )
        return values.copy() if times is None else values[self._times(episode, times)]

    def tracks(self, episode: int, set_name: str, view: str, start: int, stop: int) -> TrackSet:
        """Time steps start .. stop - 1 of a global set: points [stop - start, N, D]; the windows that begin there of a
        window set: points [stop - start, h, N, D]."""
        points, visible = self.points(episode, set_name, view, start, stop)
        place = self._place(episode)
        index = place.tracks[set_name]
        layout, header = index.views(place.row)[view], index.header_record(place.row, view)
        field = f"tracks/{set_name}/{view}/queries"
        (content,) = self._read(index, [header], [field])
        queries = self._decode(index.name, header, field, records.parse_queries, content, layout)
        return TrackSet(layout.layout, points, visible, queries, layout.tracker, layout.version, layout.space)

    def points(self, episode: int, set_name: str, view: str, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """-> (points, visible) of `tracks`, without the queries: two thirds of the reading."""
        place = self._place(episode)
        info = self.infos[episode]
        if set_name not in info.track_sets or view not in info.track_sets[set_name]:
            has = {name: sorted(views) for name, views in info.track_sets.items()}
            raise KeyError(f"episode {info.id!r} has no tracks {set_name!r} of view {view!r}; it has {has}")
        if not 0 <= start < stop <= info.length:
            raise IndexError(f"episode {info.id!r} has {info.length} frames; {start}..{stop} was asked for")
        return self._points_between(place.tracks[set_name], place.row, set_name, view, start, stop)

    def cameras(self, episode: int) -> dict[str, Camera]:
        """{view: Camera} of the views whose camera is known."""
        place = self._place(episode)
        number = int(place.index.first[place.row])
        return self._decode(place.index.name, number, "cameras", records.parse_cameras, self._record(episode))

    def info(self, episode: int) -> dict[str, Any]:
        """The episode's free facts (Episode.info)."""
        place = self._place(episode)
        number = int(place.index.first[place.row])
        return self._decode(place.index.name, number, "info", records.parse_info, self._record(episode))

    def read(self, episode: int) -> Episode:
        """The whole episode with all its track sets, in memory."""
        x = self.infos[episode]
        return Episode(
            id=x.id,
            fps=x.fps,
            frames={view: self.frames(episode, view, range(x.length)) for view in x.views},
            columns={name: self.column(episode, name) for name in x.columns},
            language=x.language,
            cameras=self.cameras(episode),
            tracks={
                name: {view: self.tracks(episode, name, view, 0, x.length) for view in views}
                for name, views in x.track_sets.items()
            },
            source=x.source,
            task=x.task,
            info=self.info(episode),
        )

    def _place(self, episode: int) -> _Place:
        if not 0 <= episode < len(self.infos):
            raise IndexError(f"episode {episode} of {len(self.infos)} in split {self.split} of {self.directory}")
        shard = int(np.searchsorted(self._starts, episode, side="right")) - 1
        return _Place(self._episodes[shard], self._tracks[shard], episode - int(self._starts[shard]))

    def _view(self, episode: int, view: str) -> tuple[int, int]:
        views = self.infos[episode].views
        if view not in views:
            raise KeyError(f"episode {self.infos[episode].id!r} has no view {view!r}; it has {sorted(views)}")
        return views[view]

    def _times(self, episode: int, times: Sequence[int]) -> np.ndarray:
        wanted = np.asarray(times, np.int64).reshape(-1)
        length = self.infos[episode].length
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= length):
            raise IndexError(f"episode {self.infos[episode].id!r} has {length} frames; {wanted.tolist()} was asked for")
        return wanted

    def _read(self, index: EpisodesIndex | TracksIndex, numbers: list[int], fields: list[str]) -> list[bytes]:
        return self._readers.read(index.name, index.sidecar, numbers, fields)

    def _record(self, episode: int) -> dict[str, Any]:
        """The decoded record of facts and columns."""
        place = self._place(episode)
        number = int(place.index.first[place.row])

        def make() -> dict[str, Any]:
            (content,) = self._read(place.index, [number], ["episode"])
            return self._decode(place.index.name, number, "episode", codec.unpack, content)

        return self._recent.get(episode, make)

    def _points_between(
        self, index: TracksIndex, row: int, set_name: str, view: str, start: int, stop: int
    ) -> tuple[np.ndarray, np.ndarray]:
        layout, length = index.views(row)[view], index.lengths[row]
        step = 1 if layout.layout == "window" else records.CHUNK
        chunks = range(start // step, -(-stop // step))
        header = index.header_record(row, view)
        numbers, fields = [header + 1 + c for c in chunks], [f"tracks/{set_name}/{view}/{c * step}" for c in chunks]
        parts = [
            self._decode(index.name, n, field, records.parse_tracks, content, layout, min(step, length - c * step))
            for n, field, content, c in zip(numbers, fields, self._read(index, numbers, fields), chunks)
        ]
        rows = slice(start - chunks[0] * step, stop - chunks[0] * step)
        points, visible = (np.concatenate(part)[rows] for part in zip(*parts))
        return points, visible

    def _decode(self, shard: str, record: int, field: str, decode: Any, *args: Any) -> Any:
        """decode(*args), with what is wrong in the record told as damage."""
        try:
            return decode(*args)
        except (codec.CodecError, KeyError, TypeError, IndexError, ValueError) as e:
            raise DamagedRecord(shard, record, field, str(e)) from e
