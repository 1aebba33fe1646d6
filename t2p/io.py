"""Files: atomic writes, JSON, remote paths (local or any that etils.epath knows, such as gs://).

A file written here either holds everything or is not there: bytes go to a neighbour first and are renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any

from etils import epath

PathLike = str | os.PathLike


class UserError(ValueError):
    """Something that the user gave is wrong; the message says what was given, what was expected, what to do."""


def is_remote(path: PathLike) -> bool:
    """True for gs://, s3:// and the like."""
    return "://" in os.fspath(path)


def write_bytes(path: PathLike, data: bytes) -> None:
    """Writes a whole file or none: a neighbour is written, synced and renamed over `path`."""
    target = epath.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        if is_remote(path):
            partial.write_bytes(data)
        else:
            with open(partial, "wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: PathLike, value: Any) -> None:
    """Writes JSON with sorted keys, so that equal values give equal bytes."""
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def read_json(path: PathLike) -> Any:
    """Reads JSON; a file that is not JSON is a ValueError that names it."""
    text = epath.Path(path).read_text()
    try:
        return json.loads(text)
    except json.JSONDecodeError as e:
        raise ValueError(f"{path} is not valid JSON ({e}); was its writing cut off?") from e


def publish(local: PathLike, path: PathLike) -> None:
    """Moves a finished local file to `path` (local or remote) so that it appears there whole."""
    if is_remote(path):
        target = epath.Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.partial"
        epath.Path(local).copy(partial)
        partial.replace(target)
        os.unlink(local)
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(local, "rb") as f:
        os.fsync(f.fileno())
    shutil.move(local, path)  # one rename where both lie on one file system


def local_copy(path: PathLike, cache: PathLike | None = None) -> Path:
    """A local path with the content of `path`: itself, or a copy in `cache` named by path, size and time."""
    if not is_remote(path):
        return Path(path)
    source = epath.Path(path)
    stat = source.stat()
    key = hashlib.sha256(f"{path}|{stat.length}|{stat.mtime}".encode()).hexdigest()[:24]
    folder = Path(cache) if cache else Path(tempfile.gettempdir()) / f"t2p-cache-{os.getuid()}"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    target = folder / f"{key}-{source.name}"
    if not target.exists():
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
        source.copy(partial)
        os.replace(partial, target)
    return target
