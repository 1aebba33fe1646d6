"""Batches on the devices ahead of time, and how long training waited for them."""

from __future__ import annotations

import queue
import threading
import time
from types import TracebackType
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from t2p import pytrees  # noqa: F401
from t2p.train.sharding import batch_spec
from t2p.types import Batch


class Batches(Protocol):
    """What the pipeline's Loader is to training."""

    position: int
    skipped: int

    def __next__(self) -> Batch: ...

    def close(self) -> None: ...


def group_of(count: int) -> tuple[int, ...]:
    """The axes that come before a batch's rows where `count` batches go to the devices together: none for one."""
    return () if count == 1 else (count,)


def to_device(batch: Batch, mesh: Mesh, batch_size: int, before: int = 0) -> Batch:
    """Global arrays [..., batch_size, ...] over the mesh from this process's rows, which `before` axes precede."""
    sharding = NamedSharding(mesh, batch_spec(before))

    def place(x: Any) -> jax.Array:
        x = np.asarray(x)
        x = x.astype(jax.dtypes.canonicalize_dtype(x.dtype), copy=False)
        shape = (*x.shape[:before], batch_size, *x.shape[before + 1 :])
        return jax.make_array_from_process_local_data(sharding, x, shape)

    return jax.tree.map(place, batch)


class Feed:
    """Reads a loader in a thread, `ahead` batches on the devices before they are asked for; each is `group` of the
    loader's, one after the other along a leading axis, where group is over 1.

    next(after) gives (batch, position, skipped), where position counts the batches consumed once this one is. Errors
    of the loader come out of next. waited: seconds for which the devices had nothing to do for want of data."""

    def __init__(self, loader: Batches, mesh: Mesh, batch_size: int, ahead: int = 2, group: int = 1):
        self.waited = 0.0
        self._group = group
        self._queue: queue.Queue = queue.Queue(ahead)
        self._stop = threading.Event()
        self._loader = loader
        self._thread = threading.Thread(target=self._fill, args=(mesh, batch_size), name="feed", daemon=True)
        self._thread.start()

    def _fill(self, mesh: Mesh, batch_size: int) -> None:
        try:
            while not self._stop.is_set():
                batch = to_device(self._read(), mesh, batch_size, len(group_of(self._group)))
                self._put((batch, self._loader.position, self._loader.skipped))
        except BaseException as e:
            self._put(e)

    def _read(self) -> Batch:
        if self._group == 1:
            return next(self._loader)
        return jax.tree.map(lambda *x: np.stack(x), *(next(self._loader) for _ in range(self._group)))

    def _put(self, item: Any) -> None:
        while not self._stop.is_set():
            try:
                return self._queue.put(item, timeout=0.2)
            except queue.Full:
                continue

    def next(self, after: Any = ()) -> tuple[Batch, int, int]:
        """after: results of the step that is running. While nothing is ready, the time until they are there is
        computing, and only the time from then on is waiting for data."""
        if self._queue.empty():
            jax.block_until_ready(after)
        start = time.monotonic()
        item = self._queue.get()
        self.waited += time.monotonic() - start
        if isinstance(item, BaseException):
            raise item
        return item

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(timeout=60)
        self._loader.close()
