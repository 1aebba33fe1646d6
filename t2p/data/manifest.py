"""manifest.json: written when every shard of a dataset is whole, and only then is it a dataset."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from etils import epath

from t2p import __version__
from t2p.data import codec, records, statistics
from t2p.data.index import EpisodesIndex, TracksIndex
from t2p.data.shards import (
    SCHEMA,
    DamagedRecord,
    ShardReader,
    episodes_name,
    read_sidecar,
    shard_files,
    tracks_name,
)
from t2p.io import PathLike, UserError, read_json, write_json

FILE = "manifest.json"
_THREADS = 16  # sidecars on a remote file system are read side by side


def read_manifest(directory: PathLike) -> dict[str, Any]:
    """The manifest; a UserError says why a directory is no dataset."""
    path = epath.Path(directory) / FILE
    try:
        manifest = read_json(path)
    except FileNotFoundError as e:
        raise UserError(_not_a_dataset(directory)) from e
    except ValueError as e:
        raise UserError(f"{path} is not readable: {e}") from e
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        found = manifest.get("schema") if isinstance(manifest, dict) else None
        raise UserError(
            f"{path} has schema {found!r}; this is t2p {__version__}, which reads {SCHEMA!r}: {_advice(found)}"
        )
    return manifest


def _advice(schema: Any) -> str:
    family = SCHEMA.rstrip("0123456789")
    if isinstance(schema, str) and schema.startswith(family):
        return "use a newer t2p (pip install -U t2p), or import the data again with this one (t2p data import)"
    return "`t2p data import` writes one"


def _not_a_dataset(directory: PathLike) -> str:
    folder = epath.Path(directory)
    if not folder.is_dir():
        return f"{directory} does not exist; expected a folder with a t2p dataset ({FILE})"
    count = sum(len(shards) for shards in shard_files(folder).values())
    if not count:
        return f"{directory} holds no t2p dataset: it has no {FILE}. `t2p data import` makes one"
    return (
        f"{directory} holds a dataset whose writing was not finished: {count} shards are done and {FILE} is missing. "
        "Run the command that wrote it again; it goes on where it stopped"
    )


def refuse_if_finished(directory: PathLike, split: str, shard: int, track_set: str | None = None) -> None:
    """A shard that a manifest vouches for is not written again."""
    if not (epath.Path(directory) / FILE).exists():
        return
    entry = read_manifest(directory)["splits"].get(split)
    if entry is None or shard >= len(entry["shards"]):
        return
    if track_set is None:
        raise UserError(f"{directory} is finished and shard {shard} of split {split} is part of it; write elsewhere")
    if track_set in entry["track_sets"]:
        raise UserError(f"{directory} already has the track set {track_set}; give the new one another name")


def finish(directory: PathLike, *, shards: Mapping[str, int], licence: str = "", source: str = "") -> None:
    """Makes a dataset of finished shards: checks that all are there, computes statistics, writes the manifest.

    shards: how many each split has. A track set must be there for every shard, unless it came with the episodes of some
    shards and those of the others lack it. Called again after a track set was added, it makes the set known.
    Raises UserError with the names of what is missing.
    """
    found = shard_files(directory) if epath.Path(directory).is_dir() else {}
    if unknown := set(found) - set(shards):
        raise UserError(f"{directory} also has shards of the splits {sorted(unknown)}; name their counts too")
    splits = {split: _split(directory, split, count, found.get(split, {})) for split, count in shards.items()}
    manifest = {"schema": SCHEMA, "licence": licence, "source": source, "splits": splits}
    write_json(epath.Path(directory) / FILE, manifest)


def _split(directory: PathLike, split: str, count: int, found: dict[int, list[str | None]]) -> dict[str, Any]:
    _expect_shards(directory, split, count, found)
    names = [episodes_name(split, k) for k in range(count)]
    indices = [EpisodesIndex(name, sidecar) for name, sidecar in zip(names, read_sidecars(directory, names))]
    _expect_unique_ids(directory, split, indices)
    set_names = sorted({name for sets in found.values() for name in sets if name})
    return {
        "episodes": sum(len(index.ids) for index in indices),
        "frames": sum(sum(index.lengths) for index in indices),
        "shards": [_entry(directory, index.name, index.sidecar) for index in indices],
        "track_sets": {name: _track_set(directory, split, name, indices, found) for name in set_names},
        "statistics": {name: statistics.to_json(s) for name, s in _statistics(directory, indices).items()},
    }


def _expect_shards(directory: PathLike, split: str, count: int, found: dict[int, list[str | None]]) -> None:
    missing = [k for k in range(count) if None not in found.get(k, [])]
    if missing:
        raise UserError(f"{directory}: split {split} lacks the shards {missing} of {count}; write them first")
    if extra := sorted(k for k in found if k >= count):
        raise UserError(f"{directory}: split {split} was said to have {count} shards, but the shards {extra} are there")


def _expect_unique_ids(directory: PathLike, split: str, indices: list[EpisodesIndex]) -> None:
    seen: set[str] = set()
    for index in indices:
        for identifier in index.ids:
            if identifier in seen:
                raise UserError(f"{directory}: two episodes of split {split} have the id {identifier!r}")
            seen.add(identifier)


def _track_set(
    directory: PathLike, split: str, name: str, indices: list[EpisodesIndex], found: dict[int, list[str | None]]
) -> list[dict[str, Any] | None]:
    """One entry per shard; None where the shard's episodes came without a set that others brought along."""
    own = [name in index.sidecar["track_sets"] for index in indices]
    missing = [k for k in range(len(indices)) if name not in found[k] and (own[k] or not any(own))]
    if missing:
        raise UserError(f"{directory}: track set {name} of split {split} lacks the shards {missing}; finish it first")
    entries: list[dict[str, Any] | None] = []
    for k, index in enumerate(indices):
        if name not in found[k]:
            entries.append(None)
            continue
        shard = tracks_name(split, k, name)
        sidecar = read_sidecar(directory, shard)
        if sidecar["episodes_sha256"] != index.sidecar["sha256"]:
            raise UserError(f"{directory}: {shard} belongs to other episodes than those in {index.name}; remove it")
        entries.append(_entry(directory, shard, sidecar))
    return entries


def _entry(directory: PathLike, name: str, sidecar: Mapping[str, Any]) -> dict[str, Any]:
    data = (epath.Path(directory) / f"{name}.json").read_bytes()
    return {
        "episodes": len(sidecar["episodes"]),
        "records": sidecar["records"],
        "bytes": sidecar["bytes"],
        "sha256": sidecar["sha256"],
        "sidecar_sha256": hashlib.sha256(data).hexdigest(),
    }


def read_sidecars(directory: PathLike, names: list[str]) -> list[dict[str, Any]]:
    """The sidecars of several shards."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(lambda name: read_sidecar(directory, name), names))


def checked_sidecar(directory: PathLike, name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The sidecar that the manifest's `entry` vouches for, DamagedRecord if it is another one."""
    try:
        data = (epath.Path(directory) / f"{name}.json").read_bytes()
    except FileNotFoundError as e:
        raise DamagedRecord(name, None, "sidecar", f"{name}.json is missing") from e
    if hashlib.sha256(data).hexdigest() != entry["sidecar_sha256"]:
        raise DamagedRecord(name, None, "sidecar", f"{name}.json is not the one that manifest.json vouches for")
    return json.loads(data)


def load_split(
    directory: PathLike, split: str, entry: Mapping[str, Any]
) -> tuple[list[EpisodesIndex], list[dict[str, TracksIndex]]]:
    """The indices of a split's shards and, per shard, those of its track sets."""
    wanted = [(episodes_name(split, k), e) for k, e in enumerate(entry["shards"])]
    for name, entries in entry["track_sets"].items():
        wanted += [(tracks_name(split, k, name), e) for k, e in enumerate(entries) if e is not None]
    with ThreadPoolExecutor(_THREADS) as pool:
        loaded = list(pool.map(lambda item: checked_sidecar(directory, *item), wanted))
    sidecars = {name: sidecar for (name, _), sidecar in zip(wanted, loaded)}
    episodes, tracks = [], []
    for k in range(len(entry["shards"])):
        episodes.append(EpisodesIndex(episodes_name(split, k), sidecars[episodes_name(split, k)]))
        names = {s: tracks_name(split, k, s) for s, entries in entry["track_sets"].items() if entries[k] is not None}
        tracks.append({s: TracksIndex(name, sidecars[name]) for s, name in names.items()})
    return episodes, tracks


def _statistics(directory: PathLike, indices: list[EpisodesIndex]) -> dict[str, statistics.Statistics]:
    found: dict[str, statistics.Accumulator] = {}
    for index in indices:
        if not any(map(records.is_normalised, {c for e in range(len(index.ids)) for c in index.layout(e).columns})):
            continue
        reader = ShardReader(directory, index.name, index.sidecar)
        for e in range(len(index.ids)):
            _accumulate(found, reader, index, e)
    return {name: accumulator.result() for name, accumulator in sorted(found.items())}


def _accumulate(
    found: dict[str, statistics.Accumulator], reader: ShardReader, index: EpisodesIndex, episode: int
) -> None:
    number = int(index.first[episode])
    for name, column in _normalised_columns(reader, index, episode, number).items():
        width = column.shape[1]
        accumulator = found.setdefault(name, statistics.Accumulator(width))
        if accumulator.width != width:
            raise UserError(
                f"column {name!r} has {width} numbers a row in episode {index.ids[episode]!r} and "
                f"{accumulator.width} in others; give the two kinds different names or write two datasets"
            )
        accumulator.add(column)


def _normalised_columns(reader: ShardReader, index: EpisodesIndex, episode: int, number: int) -> dict[str, np.ndarray]:
    columns = index.layout(episode).columns
    length = index.lengths[episode]
    try:
        record = codec.unpack(reader.read([number], ["columns"])[0])
        return {
            name: records.parse_column(record, name, dtype, (length, *row))
            for name, (dtype, row) in columns.items()
            if records.is_normalised(name)
        }
    except (codec.CodecError, KeyError, TypeError) as e:
        raise DamagedRecord(index.name, number, "columns", str(e)) from e
