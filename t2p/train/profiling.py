"""A trace of some steps on request, for XProf."""

from __future__ import annotations

import tempfile
from types import TracebackType
from typing import Any

import jax
from etils import epath

from t2p.io import PathLike, is_remote
from t2p.train.logging import say


class Trace:
    """Records what the first process and its devices do in the steps `first` to `last` (0: never), into
    workdir/profile. With several steps per dispatch, whole dispatches."""

    def __init__(self, workdir: PathLike, first: int, last: int):
        self._first, self._last = first, last if jax.process_index() == 0 else 0
        self._target = epath.Path(workdir) / "profile"
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._running = False

    def before(self, step: int) -> None:
        """step: the last one of the dispatch to come."""
        if not self._running and self._first <= step <= self._last:
            if is_remote(self._target):
                self._folder = tempfile.TemporaryDirectory()
            jax.profiler.start_trace(self._folder.name if self._folder else str(self._target))
            self._running = True

    def after(self, step: int, results: Any) -> None:
        """results: of the dispatch that `step` ends; what they still wait for belongs to the trace."""
        if self._running and step >= self._last:
            jax.block_until_ready(results)
            self._stop()

    def _stop(self) -> None:
        self._running = False
        jax.profiler.stop_trace()
        if self._folder is not None:
            for path in epath.Path(self._folder.name).glob("**/*"):
                if path.is_file():
                    copy = self._target / path.relative_to(self._folder.name)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    path.copy(copy, overwrite=True)
            self._folder.cleanup()
        say(f"profile of the steps up to {self._last}: {self._target} (docs/training.md says how to open it)")

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._running:
            self._stop()
