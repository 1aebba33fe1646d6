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
from t2p.train.sharding import BATCH
from t2p.types import Batch


class Batches(Protocol):
    """What the pipeline's Loader is to training."""

    position: int
    skipped: int

    def __next__(self) -> Batch: ...

    def close(self) -> None: ...


def to_device(batch: Batch, mesh: Mesh, batch_size: int) -> Batch:
    """Global arrays [batch_size, ...] over the mesh from this process's rows."""
    sharding = NamedSharding(mesh, BATCH)

    def place(x: Any) -> jax.Array:
        x = np.asarray(x)
        x = x.astype(jax.dtypes.canonicalize_dtype(x.dtype), copy=False)
        return jax.make_array_from_process_local_data(sharding, x, (batch_size, *x.shape[1:]))

    return jax.tree.map(place, batch)


class Feed:
    """Reads a loader in a thread, `ahead` batches on the devices before they are asked for.

    next(after) gives (batch, position, skipped), where position counts the batches consumed once this one is. Errors
    of the loader come out of next. waited: seconds for which the devices had nothing to do for want of data."""

    def __init__(self, loader: Batches, mesh: Mesh, batch_size: int, ahead: int = 2):
        self.waited = 0.0
        self._queue: queue.Queue = queue.Queue(ahead)
        self._stop = threading.Event()
        self._loader = loader
        self._thread = threading.Thread(target=self._fill, args=(mesh, batch_size), name="feed", daemon=True)
        self._thread.start()

    def _fill(self, mesh: Mesh, batch_size: int) -> None:
        try:
            while not self._stop.is_set():
                batch = to_device(next(self._loader), mesh, batch_size)
                self._put((batch, self._loader.position, self._loader.skipped))
        except BaseException as e:
            self._put(e)

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
