"""One job at a time in a workdir: two would remove and overwrite each other's checkpoints.

DIR/owner.json names the job that trains there. On a local file system the operating system locks the file for as long
as its process lives, so that kill -9 frees it. Where there are no such locks (gs://) the owner writes its file again
every REFRESH seconds. A job that finds the file of another watches it: a file that changes has a living owner; one that
does not for STALE seconds has none, and is taken. Two jobs that start there within the same seconds can both begin;
the one whose file was overwritten stops at its next checkpoint.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from t2p.io import PathLike, UserError, is_remote
from t2p.train.logging import say

FILE = "owner.json"
REFRESH, STALE = 20.0, 60.0  # seconds
_TAKEN = (errno.EACCES, errno.EAGAIN)
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@contextmanager
def hold(workdir: PathLike) -> Iterator[Callable[[], None]]:
    """Holds the workdir for this job, on all its processes; the first one takes it for all.

    Gives a function to call before anything is overwritten: it raises UserError if the workdir was lost to another
    job. Raises UserError on all processes where the workdir is in use."""
    owner, refused = None, ""
    if jax.process_index() == 0:
        try:
            owner = _take(workdir)
        except (UserError, OSError) as e:  # the others must hear of it
            refused = str(e)
    free = not refused
    if jax.process_count() > 1:
        free = bool(multihost_utils.process_allgather(np.array(free)).all())
    if not free:
        raise UserError(refused or f"{workdir} cannot be used; the first process says why")
    try:
        yield owner.check if owner else lambda: None
    finally:
        if owner:
            owner.release()


def _take(workdir: PathLike) -> LockedFile | WatchedFile:
    epath.Path(workdir).mkdir(parents=True, exist_ok=True)
    path = epath.Path(workdir) / FILE
    if not is_remote(workdir):
        try:
            return LockedFile(path)
        except OSError as e:
            if e.errno not in _NO_LOCKS:
                raise
    return WatchedFile(path)


def _me() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S %Z")}


def _in_use(path: epath.Path, owner: dict[str, Any]) -> UserError:
    who = "process {pid} on {host} has trained there since {since}".format(**owner) if owner else "it is locked"
    return UserError(
        f"{path.parent} is in use: {who}. Two jobs would overwrite each other's checkpoints: wait for that one, stop "
        "it, or take another --workdir"
    )


class LockedFile:
    """A POSIX record lock: it belongs to the process alone, not to the children that it forks, and ends with it."""

    def __init__(self, path: epath.Path):
        self._file = open(path, "a+")  # noqa: SIM115 (held until release; never replaced, for the lock is on this file)
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            self._file.seek(0)
            owner = _parse(self._file.read())
            self._file.close()
            if e.errno not in _TAKEN:
                raise
            raise _in_use(path, owner) from e
        self._file.truncate(0)
        self._file.write(json.dumps(_me()) + "\n")
        self._file.flush()

    def check(self) -> None:
        """Nobody can take it away."""

    def release(self) -> None:
        """The file stays: removing it could take it from a job that has just opened it."""
        self._file.close()


class WatchedFile:
    """A file that its owner writes again and again."""

    def __init__(self, path: epath.Path, refresh: float = REFRESH, stale: float = STALE):
        self._path, self._refresh = path, refresh
        self._me = {**_me(), "id": uuid.uuid4().hex}
        self._taken_by: dict[str, Any] = {}
        self._wait_for_sign_of_life(stale)
        self._write()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="owner", daemon=True)
        self._thread.start()

    def _read(self) -> str:
        try:
            return self._path.read_text()
        except FileNotFoundError:
            return ""

    def _write(self) -> None:
        self._path.write_text(json.dumps({**self._me, "time": time.time()}) + "\n")

    def _wait_for_sign_of_life(self, stale: float) -> None:
        found = self._read()
        end = time.monotonic() + stale
        if found:
            say(f"{self._path} is of another job; looking for up to {stale:g} s whether it still runs")
        while found and time.monotonic() < end:
            time.sleep(min(self._refresh / 4, max(end - time.monotonic(), 0.0)))
            now = self._read()
            if now and now != found:
                raise _in_use(self._path, _parse(now))
            found = now  # empty: it has just ended

    def _keep(self) -> None:
        while not self._stop.wait(self._refresh):
            try:
                owner = _parse(self._read())
                if owner and owner.get("id") != self._me["id"]:
                    self._taken_by = owner
                    return
                self._write()
            except Exception as e:  # of whatever library reaches the storage; the next time may go well
                print(f"{self._path} could not be refreshed: {e}", flush=True)

    def check(self) -> None:
        """Raises UserError if another job has taken the workdir."""
        if self._taken_by:
            raise _in_use(self._path, self._taken_by)

    def release(self) -> None:
        self._stop.set()
        self._thread.join()
        if not self._taken_by:
            self._path.unlink(missing_ok=True)


def _parse(text: str) -> dict[str, Any]:
    """What a file of ours says; {} where it is empty or half-written."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) and {"host", "pid", "since"} <= found.keys() else {}
