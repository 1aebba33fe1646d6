"""SIGTERM: save and leave, so that the scheduler's restart goes on from here.

Light to import: the command line takes hold of SIGTERM before it imports anything slow."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

EXIT_CODE = 42  # launchers start such a job again


class Preempted(Exception):
    """Training stopped after SIGTERM; its state at `step` is saved, or (step 0) there is nothing to save yet."""

    def __init__(self, step: int):
        super().__init__(f"stopped by SIGTERM at step {step}")
        self.step = step


@contextmanager
def leave_at_once() -> Iterator[None]:
    """Inside, SIGTERM ends the process with EXIT_CODE: for the time before and after training, when there is nothing
    to save. It leaves like kill -9, which no library can catch or hold up."""

    def leave(number: int, frame: Any) -> None:
        print("stopped by SIGTERM outside of training", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(EXIT_CODE)

    with _handler(leave):
        yield


@contextmanager
def _handler(handle: Callable[[int, Any], None]) -> Iterator[None]:
    """Handles SIGTERM inside; only in the main thread, where Python allows it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


class Preemption:
    """Whether to stop after this step: all processes answer alike.

    Entered before a run restores and compiles, which take long, and left when its last checkpoint is written, so that
    no signal between is lost or cuts a save short. With jax.distributed, which has its own handler, the processes
    agree on a step that is a few ahead; a single process stops at once."""

    def __init__(self) -> None:
        import jax

        self._seen = False
        self._first: int | None = None
        self._shared = jax.distributed.is_initialized()
        self._handler = _handler(self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        self._seen = True

    def requested(self, step: int) -> bool:
        """All processes ask before the first step and after every one."""
        if not self._shared:
            return self._seen
        from jax.experimental import multihost_utils

        # JAX counts from 0 until it is first asked. A signal during the restore would make it wait for step 1, which
        # a run that goes on from step 1000 never comes to; so steps are counted from where this run starts.
        self._first = step if self._first is None else self._first
        return multihost_utils.reached_preemption_sync_point(step - self._first)

    def __enter__(self) -> Preemption:
        if not self._shared:
            self._handler.__enter__()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._shared:
            self._handler.__exit__(kind, error, trace)
