"""SIGTERM: save and leave, so that the scheduler's restart goes on from here."""

from __future__ import annotations

import signal
import threading
from types import TracebackType
from typing import Any

import jax

from t2p.checkpoint import Checkpoints

EXIT_CODE = 42  # launchers start such a job again


class Preempted(Exception):
    """Training stopped after SIGTERM; its state at `step` is saved, or (step 0) there is nothing to save yet."""

    def __init__(self, step: int):
        super().__init__(f"stopped by SIGTERM at step {step}")
        self.step = step


class Preemption:
    """Whether to stop after this step: all processes answer alike.

    Entered before a run restores and compiles, which take long, so that a signal then is not lost. With
    jax.distributed the processes agree on a step that is a few ahead; a single process stops at once. (Its handler is
    installed only in the main thread, where Python allows it.)"""

    def __init__(self, checkpoints: Checkpoints):
        self._checkpoints = checkpoints
        self._seen = False
        self._shared = jax.distributed.is_initialized()
        self._previous: Any = None

    def _handle(self, number: int, frame: Any) -> None:
        self._seen = True

    def requested(self, step: int) -> bool:
        return self._checkpoints.reached_preemption(step) if self._shared else self._seen

    def __enter__(self) -> Preemption:
        if not self._shared and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._handle)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
