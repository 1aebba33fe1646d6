"""Shards: ArrayRecord files with a sidecar that says what they hold.

A shard NAME is `NAME.array_record` and `NAME.json`. The sidecar is written last, as a whole, and is the sign
that the shard is done; it holds the file's length, the number of records, a digest of all records and an index. Each
record begins with a CRC-32 of its content and its number, so that a damaged or misplaced one is noticed.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import threading
import uuid
import zlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from etils import epath

from t2p.io import PathLike, UserError, is_remote, local_copy, publish, read_json, write_json

SCHEMA = "t2p-episodes-v1"

# One record per compressed group: random access reads the record alone.
_WRITE = "group_size:1,snappy"
_READ = "readahead_buffer_size:0,max_parallelism:0"
_CRC_BYTES = 4
_OPEN_FILES = 128  # per reading process; a dataset may have more shards than a process may hold open files

_Value = TypeVar("_Value")


class DamagedRecord(UserError):
    """A record that does not hold what was written. record is None where the whole file is at fault."""

    def __init__(self, shard: str, record: int | None, field: str, reason: str):
        super().__init__(shard, record, field, reason)
        self.shard, self.record, self.field, self.reason = shard, record, field, reason

    def __str__(self) -> str:
        where = "the file" if self.record is None else f"record {self.record}"
        return (
            f"shard {self.shard}, {where}, field {self.field}: {self.reason}. "
            "Run `t2p data check DIR` for a list of all faults of this dataset"
        )


def episodes_name(split: str, shard: int) -> str:
    """The name of the shard that holds frames and numeric columns."""
    if not re.fullmatch(r"[A-Za-z0-9_]+", split):
        raise UserError(f"split {split!r}: expected letters, digits and _")
    return f"{split}-{shard:05d}.episodes"


def tracks_name(split: str, shard: int, track_set: str) -> str:
    """The name of the shard that holds one track set of the same episodes."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*", track_set):
        raise UserError(f"track set {track_set!r}: expected a name such as dis/grid (letters, digits, _ . - and /)")
    return f"{episodes_name(split, shard).removesuffix('episodes')}tracks.{track_set.replace('/', '+')}"


def shard_files(directory: PathLike) -> dict[str, dict[int, list[str | None]]]:
    """Finished shards found in a directory: {split: {shard: [None for the episodes, names of track sets]}}."""
    pattern = re.compile(r"([A-Za-z0-9_]+)-(\d{5,})\.(episodes|tracks\.(.+))\.json")
    found: dict[str, dict[int, list[str | None]]] = {}
    for path in sorted(epath.Path(directory).iterdir(), key=lambda p: p.name):
        if match := pattern.fullmatch(path.name):
            track_set = match[4].replace("+", "/") if match[4] else None
            found.setdefault(match[1], {}).setdefault(int(match[2]), []).append(track_set)
    return found


def done(directory: PathLike, name: str) -> bool:
    """True when the shard is finished."""
    return (epath.Path(directory) / f"{name}.json").exists()


def discard(directory: PathLike, name: str) -> None:
    """Removes a shard: first what makes it count as done."""
    for suffix in ("json", "array_record"):
        (epath.Path(directory) / f"{name}.{suffix}").unlink(missing_ok=True)


def read_sidecar(directory: PathLike, name: str) -> dict[str, Any]:
    """The sidecar of a finished shard; DamagedRecord when it is missing or not ours."""
    try:
        sidecar = read_json(epath.Path(directory) / f"{name}.json")
    except FileNotFoundError as e:
        raise DamagedRecord(name, None, "sidecar", f"{name}.json is missing") from e
    except ValueError as e:
        raise DamagedRecord(name, None, "sidecar", str(e)) from e
    if not isinstance(sidecar, dict) or sidecar.get("schema") != SCHEMA:
        raise DamagedRecord(name, None, "sidecar", f"{name}.json is not of schema {SCHEMA}")
    return sidecar


class ShardWriter:
    """Writes one shard, whole or not at all: used as a context, closed without `finish` it leaves nothing."""

    def __init__(self, directory: PathLike, name: str):
        self.directory, self.name, self.records = directory, name, 0
        self._digest = hashlib.sha256()
        folder = tempfile.gettempdir() if is_remote(directory) else os.fspath(directory)
        epath.Path(directory).mkdir(parents=True, exist_ok=True)
        self._remove_leftovers(folder)
        self._partial = Path(folder) / f".{name}.array_record.{uuid.uuid4().hex[:8]}.partial"
        self._writer = ArrayRecordWriter(os.fspath(self._partial), _WRITE)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._writer.is_open():
            self._writer.close()
        self._partial.unlink(missing_ok=True)

    def _remove_leftovers(self, folder: str) -> None:
        """Files that a killed writer of this shard has left; a temporary folder is shared with other datasets."""
        if not is_remote(self.directory):
            for path in Path(folder).glob(f".{self.name}.*.partial"):
                path.unlink(missing_ok=True)

    def add(self, content: bytes) -> None:
        """Appends a record."""
        crc = zlib.crc32(content, self.records).to_bytes(_CRC_BYTES, "little")
        self._writer.write(crc + content)
        self._digest.update(len(content).to_bytes(8, "little"))
        self._digest.update(content)
        self.records += 1

    @property
    def sha256(self) -> str:
        """Digest of the records added so far: equal contents, equal digest."""
        return self._digest.hexdigest()

    def finish(self, index: dict[str, Any]) -> dict[str, Any]:
        """Publishes the records, then the sidecar with `index`; returns the sidecar."""
        self._writer.close()
        sidecar = {
            "schema": SCHEMA,
            "records": self.records,
            "bytes": self._partial.stat().st_size,
            "sha256": self.sha256,
            **index,
        }
        target = epath.Path(self.directory) / f"{self.name}.json"
        target.unlink(missing_ok=True)  # never an old sidecar beside new records
        publish(self._partial, epath.Path(self.directory) / f"{self.name}.array_record")
        write_json(target, sidecar)
        return sidecar


class ShardReader:
    """Random access to the records of one shard; safe in threads, opened once."""

    def __init__(self, directory: PathLike, name: str, sidecar: Mapping[str, Any]):
        self.name = name
        path = epath.Path(directory) / f"{name}.array_record"
        if not path.exists():
            raise DamagedRecord(name, None, "file", f"{name}.array_record is missing")
        local = local_copy(path)
        size = local.stat().st_size
        if size != sidecar["bytes"]:
            raise DamagedRecord(name, None, "file", f"has {size} bytes, {sidecar['bytes']} were written")
        self._reader = ArrayRecordReader(os.fspath(local), _READ)
        if not self._reader.ok() or self._reader.num_records() != sidecar["records"]:
            found = self._reader.num_records()
            raise DamagedRecord(name, None, "file", f"{found} records can be read, {sidecar['records']} were written")

    def read(self, records: Sequence[int], fields: Sequence[str]) -> list[bytes]:
        """The contents of the records; `fields` say in an error what each of them holds."""
        try:
            found = self._reader.read([int(r) for r in records])
        except Exception:  # ArrayRecord does not say which record it was
            found = [self._read_one(r, field) for r, field in zip(records, fields)]
        return [self._content(data, int(r), field) for r, data, field in zip(records, found, fields)]

    def _read_one(self, record: int, field: str) -> bytes:
        try:
            return self._reader.read([int(record)])[0]
        except Exception as e:  # a RuntimeError today
            raise DamagedRecord(self.name, int(record), field, f"cannot be read ({e})") from e

    def _content(self, data: bytes, record: int, field: str) -> bytes:
        crc, content = data[:_CRC_BYTES], data[_CRC_BYTES:]
        if zlib.crc32(content, record).to_bytes(_CRC_BYTES, "little") != crc:
            raise DamagedRecord(self.name, record, field, "checksum differs from the one written")
        return content


class Recent(Generic[_Value]):
    """The values used last, made on demand; safe in threads. Nothing of it travels to another process."""

    def __init__(self, size: int):
        self._size = size
        self._values: OrderedDict[Hashable, _Value] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], _Value]) -> _Value:
        """The value of `key`, from `make()` where it is not among the recent ones."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = make()
        with self._lock:
            value = self._values.setdefault(key, value)
            while len(self._values) > self._size:
                self._values.popitem(last=False)  # closes itself when the last thread lets go of it
        return value


class Readers:
    """The shard readers of one directory, opened when needed, at most a fixed number of them at a time."""

    def __init__(self, directory: PathLike):
        self.directory = os.fspath(directory)
        self._open: Recent[ShardReader] = Recent(_OPEN_FILES)

    def __reduce__(self) -> tuple:
        return Readers, (self.directory,)

    def read(self, name: str, sidecar: Mapping[str, Any], records: Sequence[int], fields: Sequence[str]) -> list[bytes]:
        """The contents of records of shard `name`."""
        return self._open.get(name, lambda: ShardReader(self.directory, name, sidecar)).read(records, fields)
