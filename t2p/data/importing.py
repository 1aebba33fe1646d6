"""Turns a source of recordings into a dataset, shard by shard; cut off at any moment, it goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

from etils import epath

from t2p.data.codec import ImageCodec
from t2p.data.manifest import FILE as MANIFEST
from t2p.data.manifest import finish, read_manifest
from t2p.data.processes import die_with_parent
from t2p.data.records import check_episode
from t2p.data.sources import Source, SourceError
from t2p.data.store import shard_done, write_shard
from t2p.io import PathLike, UserError, read_json, write_json
from t2p.types import Episode

HELD_OUT = "val"


@dataclass(frozen=True)
class Skipped:
    """A recording that could not be read or stored, and why."""

    key: str
    reason: str


def import_source(
    source: Source,
    directory: PathLike,
    *,
    settings: Mapping[str, Any],
    split: str = "train",
    held_out: float = 0.0,
    episodes_per_shard: int = 64,
    codec: ImageCodec = "jpeg",
    name: str = "",
    licence: str = "",
    workers: int = 0,
    progress: Callable[[int], None] = lambda episodes: None,
) -> list[Skipped]:
    """Writes all recordings of `source` as episodes; returns those that were broken and are left out.

    settings: JSON-able, all that the source was opened with: a directory begun with other settings is refused.
    held_out: the share of recordings, chosen by a hash of their keys, that goes to the split "val". name, licence:
    for the manifest. workers: processes that write shards side by side (0: this one); what they write does not depend
    on how many they are. progress: called with the number of recordings that are done, as they get done.
    Raises UserError where nothing could be imported.
    """
    if workers < 0:
        raise UserError(f"workers is {workers}; expected a number of processes, 0 for this one alone")
    keys = source.keys()
    parts = _parts(keys, split, held_out)
    plan = {"settings": dict(settings), "episodes_per_shard": episodes_per_shard, "codec": codec}
    for part, chosen in parts.items():
        _begin(directory, part, chosen, episodes_per_shard, plan)
    shards = [
        _Shard(part, k, tuple(chosen[k * episodes_per_shard : (k + 1) * episodes_per_shard]))
        for part, chosen in parts.items()
        for k in range(_count(chosen, episodes_per_shard))
    ]
    job = _Job(source, directory, codec)
    done = _in_processes(job, shards, workers, progress) if workers else (job.write(s, progress) for s in shards)
    skipped = [recording for some in done for recording in some]
    if len(skipped) == len(keys):
        raise UserError(f"none of the {len(keys)} recordings could be read; the first: {skipped[0].reason}")
    finish(directory, shards=_all_shards(directory), source=name, licence=licence)
    return skipped


def _parts(keys: Sequence[str], split: str, held_out: float) -> dict[str, list[str]]:
    """{split: keys}; a key's split depends on the key alone."""
    if not keys:
        raise UserError("the source has no recordings")
    if not 0 <= held_out < 1:
        raise UserError(f"held_out is {held_out}; expected a share between 0 and 1")
    if not held_out:
        return {split: list(keys)}
    if split == HELD_OUT:
        raise UserError(f"held_out recordings go to the split {HELD_OUT!r}; give the others another split's name")
    parts: dict[str, list[str]] = {split: [], HELD_OUT: []}
    for key in keys:
        place = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 2**32
        parts[HELD_OUT if place < held_out else split].append(key)
    if empty := [part for part, chosen in parts.items() if not chosen]:
        raise UserError(f"held_out={held_out} of {len(keys)} recordings leaves the split {empty[0]!r} empty")
    return parts


def _count(keys: Sequence[str], episodes_per_shard: int) -> int:
    if episodes_per_shard < 1:
        raise UserError(f"episodes_per_shard is {episodes_per_shard}; expected at least 1")
    return -(-len(keys) // episodes_per_shard)


def _begin(
    directory: PathLike, split: str, keys: Sequence[str], episodes_per_shard: int, plan: Mapping[str, Any]
) -> None:
    """Notes what is being imported, or makes sure that it is the same as before, or nothing has come of that."""
    path = epath.Path(directory) / f"import-{split}.json"
    digest = hashlib.sha256("\n".join(keys).encode()).hexdigest()
    plan = json.loads(json.dumps({**plan, "keys": digest, "shards": _count(keys, episodes_per_shard)}))
    if not path.exists():
        write_json(path, plan)
    elif (before := read_json(path)) != plan:
        if not any(shard_done(directory, split, shard) for shard in range(before["shards"])):
            return write_json(path, plan)
        differing = sorted(k for k in plan if before.get(k) != plan[k])
        raise UserError(
            f"{directory} was begun as another import of split {split} ({', '.join(differing)} differ: {path}); "
            "use the same settings to go on, or another directory"
        )


@dataclass(frozen=True)
class _Shard:
    split: str
    number: int
    keys: tuple[str, ...]


@dataclass(frozen=True)
class _Job:
    """What all shards of an import share."""

    source: Source
    directory: PathLike
    codec: ImageCodec

    def write(self, shard: _Shard, progress: Callable[[int], None]) -> list[Skipped]:
        """Writes a shard if it is not there; returns what was left out of it."""
        note = epath.Path(self.directory) / f"{shard.split}-{shard.number:05d}.skipped.json"
        if shard_done(self.directory, shard.split, shard.number):
            progress(len(shard.keys))
            return [Skipped(**x) for x in read_json(note)] if note.exists() else []
        skipped: list[Skipped] = []

        def episodes() -> Iterator[Episode]:
            yield from _readable(self.source, shard.keys, skipped, progress)
            if skipped:  # before the shard counts as done
                write_json(note, [{"key": s.key, "reason": s.reason} for s in skipped])

        write_shard(self.directory, shard.split, shard.number, episodes(), codec=self.codec)
        return skipped


def _in_processes(
    job: _Job, shards: Sequence[_Shard], workers: int, progress: Callable[[int], None]
) -> Iterator[list[Skipped]]:
    """The shards in order; progress is told when one is done."""
    with ProcessPoolExecutor(min(workers, len(shards)), get_context("spawn"), _start, (job,)) as pool:
        try:
            for shard, skipped in zip(shards, pool.map(_work, shards), strict=True):
                progress(len(shard.keys))
                yield skipped
        except BrokenProcessPool as e:
            raise UserError("a worker process was killed, or out of memory; the same command goes on from here") from e
        finally:
            pool.shutdown(cancel_futures=True)


_job: _Job  # of a worker process: a source may list hundreds of thousands of recordings, so it is sent once


def _start(job: _Job) -> None:
    global _job
    die_with_parent()
    _job = job


def _work(shard: _Shard) -> list[Skipped]:
    return _job.write(shard, lambda recordings: None)


def _readable(
    source: Source, keys: Sequence[str], skipped: list[Skipped], progress: Callable[[int], None]
) -> Iterator[Episode]:
    for key in keys:
        try:
            episode = source.read(key)
        except SourceError as e:
            skipped.append(Skipped(key, e.reason))
        else:
            if problem := _problem(episode):
                skipped.append(Skipped(key, problem))
            else:
                yield episode
        progress(1)


def _problem(episode: Episode) -> str:
    """Why an episode cannot be stored, or ""."""
    try:
        check_episode(episode)
    except ValueError as e:
        return str(e)
    return ""


def _all_shards(directory: PathLike) -> dict[str, int]:
    """{split: shards} of a directory: those that its manifest has, and everything that is being imported."""
    folder = epath.Path(directory)
    whole = {}
    if (folder / MANIFEST).exists():
        whole = {split: len(facts["shards"]) for split, facts in read_manifest(directory)["splits"].items()}
    plans = (p for p in folder.iterdir() if p.name.startswith("import-") and p.name.endswith(".json"))
    imported = {p.name.removeprefix("import-").removesuffix(".json"): read_json(p)["shards"] for p in plans}
    return {**whole, **imported}
