"""Cached features: what a frozen image encoder gives for every frame of a dataset, to be read instead of the pictures.

    DIR/features/NAME/encoder.json                            what made them; written before the first shard
    DIR/features/NAME/train-00000.features.array_record .json tokens of all frames of the shard's episodes

A record holds the tokens [P, C] of one frame, little-endian, frame after frame within view after view within episode
after episode. A shard's sidecar is the sign that it is done, and names the digests of the episodes and of the encoder
that it belongs to: features of other episodes or of another encoder are never taken for these. A split's features are
whole when every shard of its episodes has one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from etils import epath

from t2p.data.manifest import read_sidecars
from t2p.data.shards import DamagedRecord, Readers, ShardWriter
from t2p.data.store import Dataset
from t2p.io import PathLike, UserError, read_json, write_json

FOLDER = "features"
SCHEMA = "t2p-features-v1"
DTYPES = ("float16", "float32")


@dataclass(frozen=True)
class Made:
    """What made a set of features. encoder: all that its output depends on, JSON-able, weights as a digest; views in
    the records' order; shape: (P, C) of one frame."""

    encoder: Mapping[str, Any]
    views: tuple[str, ...]
    shape: tuple[int, int]
    dtype: Literal["float16", "float32"]

    def json(self) -> dict[str, Any]:
        """As encoder.json holds it."""
        return json.loads(json.dumps({"schema": SCHEMA, **asdict(self)}))

    def digest(self) -> str:
        """By which a shard names it."""
        return hashlib.sha256(json.dumps(self.json(), sort_keys=True).encode()).hexdigest()


def folder(directory: PathLike, name: str) -> epath.Path:
    """Where the features `name` of a dataset lie."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise UserError(f"features {name!r}: expected a name such as resnet18 (letters, digits, _ . and -)")
    return epath.Path(directory) / FOLDER / name


def read_made(directory: PathLike, name: str) -> Made:
    """What made the features of a dataset; UserError where there are none of that name."""
    path = folder(directory, name) / "encoder.json"
    if not path.exists():
        parent = epath.Path(directory) / FOLDER
        there = sorted(p.name for p in parent.iterdir() if p.is_dir()) if parent.is_dir() else []
        raise UserError(
            f"{directory} has no features {name!r}; it has {', '.join(there) or 'none'} "
            f"(t2p cache-features --config FILE.py:variant --data {directory} --name {name} makes them)"
        )
    found = read_json(path)
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise UserError(f"{path} is not of schema {SCHEMA}; remove the folder and make the features anew")
    height, width = found["shape"]
    return Made(found["encoder"], tuple(found["views"]), (height, width), found["dtype"])


def begin(directory: PathLike, name: str, made: Made) -> None:
    """Notes what makes the features, or checks that it is what made those that are there."""
    path = folder(directory, name) / "encoder.json"
    if not path.exists():
        write_json(path, made.json())
        return
    there = read_made(directory, name)
    if changed := differences(there.json(), made.json()):
        raise UserError(
            f"{path.parent} holds features of another encoder ({'; '.join(changed)}); choose another --name, or "
            "remove that folder"
        )


def differences(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> list[str]:
    """In words, where two JSON-able descriptions differ."""
    found = []
    for key in sorted({*there, *here}):
        old, new = there.get(key), here.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key}: {_short(old)} there, {_short(new)} here")
    return found


def _short(value: Any) -> str:
    return f"{value[:12]}..." if isinstance(value, str) and len(value) == 64 else repr(value)


def pending(dataset: Dataset, name: str, made: Made) -> list[int]:
    """The shards of a split whose features are not there, or are of other episodes or another encoder."""
    states = _states(dataset, name, made)
    return [k for k, state in enumerate(states) if state != "done"]


def write_features(dataset: Dataset, name: str, shard: int, made: Made, tokens: Iterable[np.ndarray]) -> None:
    """Writes one shard, whole or not at all. tokens: for each of its episodes and each view [T, P, C], any float.

    UserError where a number does not fit the dtype."""
    dtype = np.dtype(made.dtype).newbyteorder("<")
    with ShardWriter(folder(dataset.directory, name), _shard_name(dataset.split, shard)) as writer:
        for frames in tokens:
            with np.errstate(over="ignore"):
                stored = np.ascontiguousarray(frames, dtype)
            if not np.isfinite(stored).all():
                raise UserError(f"features of {dataset.directory} do not fit {made.dtype}; take --dtype float32")
            for frame in stored:
                writer.add(frame.tobytes())
        writer.finish({"episodes_sha256": _episodes(dataset, shard), "encoder_sha256": made.digest()})


class FeatureSet:
    """The features `name` of one split, read-only; safe in threads, picklable.

    Opening raises UserError where they are missing, half-written, or made for other episodes. Reads raise DamagedRecord
    for a record that is not what was written."""

    def __init__(self, dataset: Dataset, name: str):
        self.dataset, self.name = dataset, name
        self.made = read_made(dataset.directory, name)
        self._check()
        names = [_shard_name(dataset.split, k) for k in range(_shards(dataset))]
        where = folder(dataset.directory, name)
        self._sidecars = dict(zip(names, read_sidecars(where, names), strict=True))
        self._first = _first_records(dataset, len(self.made.views))
        self._readers = Readers(where)

    def __reduce__(self) -> tuple:
        return FeatureSet, (self.dataset, self.name)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.made.dtype)

    def read(self, episode: int, view: str, times: Sequence[int] | np.ndarray) -> np.ndarray:
        """-> [len(times), P, C] of frames within the episode."""
        info = self.dataset.infos[episode]
        unique, inverse = np.unique(np.asarray(times, np.int64), return_inverse=True)
        first = int(self._first[episode]) + self.made.views.index(view) * info.length
        shard = _shard_name(self.dataset.split, info.shard)
        fields = [f"features/{view}/{t}" for t in unique]
        contents = self._readers.read(shard, self._sidecars[shard], [first + int(t) for t in unique], fields)
        size = self.dtype.itemsize * int(np.prod(self.made.shape))
        for t, field, content in zip(unique, fields, contents, strict=True):
            if len(content) != size:
                raise DamagedRecord(shard, first + int(t), field, f"holds {len(content)} bytes; expected {size}")
        frames = [np.frombuffer(c, self.dtype.newbyteorder("<")).reshape(self.made.shape) for c in contents]
        return np.stack([frames[i] for i in inverse])

    def _check(self) -> None:
        states = _states(self.dataset, self.name, self.made)
        about = f"the features {self.name!r} of {self.dataset.directory} (split {self.dataset.split})"
        again = "run the t2p cache-features command that made them again"
        if "stale" in states:
            raise UserError(
                f"{about} are stale: the dataset's pictures or encoder.json have changed since they were made; {again}"
            )
        if missing := states.count("missing"):
            raise UserError(f"{about} are not finished: {missing} of {len(states)} shards are missing; {again}")


def _states(dataset: Dataset, name: str, made: Made) -> list[Literal["done", "stale", "missing"]]:
    """Of the features of each shard."""
    where = folder(dataset.directory, name)
    files = {path.name for path in where.iterdir()} if where.is_dir() else set()
    names = [_shard_name(dataset.split, k) for k in range(_shards(dataset))]
    written = [f"{n}.json" in files and f"{n}.array_record" in files for n in names]
    sidecars = iter(read_sidecars(where, [n for n, there in zip(names, written, strict=True) if there]))
    states: list[Literal["done", "stale", "missing"]] = []
    for shard, there in enumerate(written):
        wanted = {"episodes_sha256": _episodes(dataset, shard), "encoder_sha256": made.digest()}
        sidecar = next(sidecars) if there else {}
        fits = all(sidecar.get(key) == value for key, value in wanted.items())
        states.append("missing" if not there else "done" if fits else "stale")
    return states


def _shard_name(split: str, shard: int) -> str:
    return f"{split}-{shard:05d}.features"


def _shards(dataset: Dataset) -> int:
    return len(dataset.manifest["splits"][dataset.split]["shards"])


def _episodes(dataset: Dataset, shard: int) -> str:
    """The digest of all records of a shard's episodes."""
    return dataset.manifest["splits"][dataset.split]["shards"][shard]["sha256"]


def _first_records(dataset: Dataset, views: int) -> np.ndarray:
    """[episodes] int64: the number of each episode's first record in its own shard."""
    counts = views * np.array([info.length for info in dataset.infos], np.int64)
    before = np.cumsum(counts) - counts
    shards = np.array([info.shard for info in dataset.infos], np.int64)
    starts = np.append(before, 0)[np.searchsorted(shards, np.arange(_shards(dataset)))]  # shards come in order
    return before - starts[shards]
