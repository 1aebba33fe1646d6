"""Reads a whole dataset and names shard, record and field of every fault."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from t2p.data import codec, records
from t2p.data.index import EpisodesIndex, TracksIndex
from t2p.data.manifest import checked_sidecar, read_manifest
from t2p.data.shards import DamagedRecord, ShardReader, episodes_name, read_sidecar, shard_files, tracks_name
from t2p.io import PathLike, UserError


@dataclass(frozen=True)
class Fault:
    """Something that is not as it was written. record is None where no single record is at fault."""

    shard: str
    record: int | None
    field: str
    problem: str

    def __str__(self) -> str:
        record = "" if self.record is None else f", record {self.record}"
        return f"{self.shard}{record}, field {self.field}: {self.problem}"


def check(directory: PathLike, progress: Callable[[str], None] = lambda shard: None) -> Iterator[Fault]:
    """Yields the faults of a dataset: missing or cut files, checksums, undecodable frames, shapes that differ from the
    index, episodes that are not what the manifest counts. Everything is read and decoded.

    progress: called with the name of each shard before it is read. A directory without a manifest is one fault, and
    the shards that are done are checked all the same. Raises UserError where nothing of a dataset is there.
    """
    wanted, fault = _wanted(directory)
    if fault is not None:
        yield fault
    for name, entry in wanted:
        progress(name)
        try:
            sidecar = checked_sidecar(directory, name, entry) if entry else read_sidecar(directory, name)
            yield from _shard(directory, name, sidecar, entry)
        except DamagedRecord as e:
            yield Fault(e.shard, e.record, e.field, e.reason)
        except (KeyError, TypeError, IndexError) as e:  # a sidecar that no manifest vouches for may hold anything
            yield Fault(name, None, "sidecar", f"the index is not readable ({type(e).__name__}: {e})")


def _wanted(directory: PathLike) -> tuple[list[tuple[str, Mapping[str, Any] | None]], Fault | None]:
    """Names of the shards with the manifest's entries (None without a manifest)."""
    try:
        splits = read_manifest(directory)["splits"]
    except UserError as e:
        found = _finished_shards(directory)
        if not found:
            raise
        return [(name, None) for name in found], Fault("manifest.json", None, "manifest", str(e))
    wanted: list[tuple[str, Mapping[str, Any] | None]] = []
    for split, content in splits.items():
        wanted += [(episodes_name(split, k), entry) for k, entry in enumerate(content["shards"])]
        for track_set, entries in content["track_sets"].items():
            wanted += [(tracks_name(split, k, track_set), e) for k, e in enumerate(entries) if e is not None]
    return wanted, None


def _finished_shards(directory: PathLike) -> list[str]:
    try:
        found = shard_files(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [
        tracks_name(split, k, name) if name else episodes_name(split, k)
        for split, shards in found.items()
        for k, names in shards.items()
        for name in names
    ]


def _shard(directory: PathLike, name: str, sidecar: dict[str, Any], entry: Mapping[str, Any] | None) -> Iterator[Fault]:
    reader = _Reader(ShardReader(directory, name, sidecar))
    faults = (
        _tracks(reader, TracksIndex(name, sidecar))
        if "track_set" in sidecar
        else _episodes(reader, EpisodesIndex(name, sidecar))
    )
    found = False
    for fault in faults:
        found = True
        yield fault
    if found:
        return
    if reader.next != sidecar["records"]:
        yield Fault(name, None, "sidecar", f"the index describes {reader.next} records, {sidecar['records']} are there")
    elif reader.sha256 != (entry or sidecar)["sha256"]:
        yield Fault(name, None, "file", "the records are not those that were written (their common digest differs)")


class _Reader:
    """Reads the records of a shard in order, turning what is wrong into faults."""

    def __init__(self, shard: ShardReader):
        self._shard, self.next, self._digest = shard, 0, hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def read(self, field: str, parse: Callable[..., Any], *args: Any) -> tuple[Any, Fault | None]:
        """parse(content of the next record, *args), or None and the fault."""
        number = self.next
        self.next += 1
        try:
            (content,) = self._shard.read([number], [field])
        except DamagedRecord as e:
            return None, Fault(e.shard, e.record, e.field, e.reason)
        self._digest.update(len(content).to_bytes(8, "little"))
        self._digest.update(content)
        return self.parse(number, field, parse, content, *args)

    def parse(self, number: int, field: str, parse: Callable[..., Any], *args: Any) -> tuple[Any, Fault | None]:
        """parse(*args), or None and the fault."""
        try:
            return parse(*args), None
        except (ValueError, KeyError, TypeError, IndexError) as e:
            return None, Fault(self._shard.name, number, field, str(e))


def _episodes(reader: _Reader, index: EpisodesIndex) -> Iterator[Fault]:
    for episode in range(len(index.ids)):
        yield from _episode_record(reader, index, episode)
        for view, size in index.layout(episode).views.items():
            for t in range(index.lengths[episode]):
                _, fault = reader.read(f"frames/{view}/{t}", codec.decode_image, size)
                if fault:
                    yield fault


def _episode_record(reader: _Reader, index: EpisodesIndex, episode: int) -> Iterator[Fault]:
    number, length = reader.next, index.lengths[episode]
    record, fault = reader.read("episode", codec.unpack)
    if fault:
        yield fault
        return
    if record.get("id") != index.ids[episode]:
        yield Fault(index.name, number, "id", f"holds {record.get('id')!r}, the index says {index.ids[episode]!r}")
    parts: list[tuple] = [("cameras", records.parse_cameras, record), ("info", records.parse_info, record)]
    for name, (dtype, row) in index.layout(episode).columns.items():
        parts.append((f"columns/{name}", records.parse_column, record, name, dtype, (length, *row)))
    for part in parts:
        _, fault = reader.parse(number, *part)
        if fault:
            yield fault


def _tracks(reader: _Reader, index: TracksIndex) -> Iterator[Fault]:
    name = index.sidecar["track_set"]
    for episode, length in enumerate(index.lengths):
        for view, layout in index.views(episode).items():
            _, fault = reader.read(f"tracks/{name}/{view}/queries", records.parse_queries, layout)
            if fault:
                yield fault
            step = 1 if layout.layout == "window" else records.CHUNK
            for start in range(0, length, step):
                field = f"tracks/{name}/{view}/{start}"
                _, fault = reader.read(field, records.parse_tracks, layout, min(step, length - start))
                if fault:
                    yield fault
