"""`t2p rollout --view`: a running evaluation in a browser (t2p.eval.stream).

Environments leave their states (t2p.sim.glimpse), whatever the policy looks at and whichever process they run in. A
thread here draws them with a camera of its own, only while somebody watches, so the rollout waits for nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import mujoco
import numpy as np

from t2p.eval.films import SIZE
from t2p.eval.rollout import Record
from t2p.eval.stream import Stream
from t2p.sim.batch import BatchedSim
from t2p.sim.environment import refresh
from t2p.sim.glimpse import PER_SECOND, Glimpse
from t2p.sim.render import Renderer, make_renderer
from t2p.sim.task import Task

SHOWN = 4  # environments on the page, from the first
_IDLE = 0.5  # s after which the thread looks whether it is to end


@dataclass
class _Tally:
    """What one policy's rollouts have come to."""

    policy: str
    task: Task
    episodes: int
    ended: int = 0
    successes: int = 0


class _Drawer:
    """Draws states of one task; used by one thread."""

    def __init__(self, task: Task, model: mujoco.MjModel, renderer: str):
        self.model, self._data = model, mujoco.MjData(model)
        self._view = next(iter(task.views.values()))
        self._renderer: Renderer = make_renderer(model, renderer)

    def draw(self, glimpse: Glimpse) -> np.ndarray:
        """[H, W, 3] uint8."""
        self.model.body_pos[:], self.model.body_quat[:] = glimpse.frames
        self._data.qpos[:] = glimpse.qpos
        refresh(self.model, self._data)
        return self._renderer.rgb(self._data, self._view, SIZE)

    def close(self) -> None:
        self._renderer.close()


class Watch:
    """The page and the thread that draws for it. To be closed: use `with`."""

    def __init__(self, port: int = 0, renderer: str = "auto"):
        """port: 0 takes one that is free. renderer: as `make_renderer`."""
        self._renderer, self._lock = renderer, threading.Lock()
        self._tally: _Tally | None = None
        self._sim: BatchedSim | None = None
        self._model: mujoco.MjModel | None = None  # the watcher's own, of the simulator's task
        self._seen: dict[int, Glimpse] = {}
        self._problem, self._closed = "", False
        names = {str(row): f"environment {row}" for row in range(SHOWN)}
        self.stream = Stream(names, self.facts, port, "t2p rollout")
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        return self.stream.url

    def begin(self, policy: str, task: Task, episodes: int) -> None:
        """A policy's rollouts begin."""
        with self._lock:
            self._tally = _Tally(policy, task, episodes)

    def note(self, record: Record) -> None:
        """An episode has ended."""
        with self._lock:
            if self._tally is not None:
                self._tally.ended += 1
                self._tally.successes += record.success

    @contextmanager
    def attached(self, sim: BatchedSim) -> Iterator[None]:
        """While a simulator runs (made with `glimpses`)."""
        model = sim.task.build().compile() if sim.task.views else None
        with self._lock:
            self._sim, self._model, self._seen = sim, model, {}
        try:
            yield
        finally:
            with self._lock:
                self._sim = None

    def facts(self) -> dict[str, Any]:
        """What the page says; see `Stream`."""
        with self._lock:
            tally, seen = self._tally, dict(self._seen)
            shown = range(min(self._sim.num_envs, SHOWN)) if self._sim is not None else seen
            names = [str(row) for row in shown]
        rows: list[list[str]] = []
        if tally is not None:
            rows += [["policy", tally.policy], ["task", f"{tally.task.name}: {tally.task.instruction}"]]
            rate = f" ({tally.successes / tally.ended:.1%})" if tally.ended else ""
            rows.append(["episodes", f"{tally.ended} of {tally.episodes} have ended"])
            rows.append(["successes", f"{tally.successes}{rate}"])
        if self._problem:
            rows.append(["no pictures", self._problem])
        return {"rows": rows, "captions": {str(row): _caption(row, g) for row, g in seen.items()}, "shown": names}

    def close(self) -> None:
        """Ends page and thread; may be called again."""
        self._closed = True
        self.stream.close()
        self._thread.join()

    def _run(self) -> None:
        """Draws what is watched, until the end. What goes wrong is told on the page; the rollout does not notice."""
        drawer: _Drawer | None = None
        try:
            while not self._closed:
                self.stream.wait(_IDLE)
                began = time.monotonic()
                for name in sorted(self.stream.watched()):
                    drawer = self._show(int(name), drawer)
                took = time.monotonic() - began
                time.sleep(max(1 / PER_SECOND - took, took))  # never more than half a core
        except Exception as error:
            self._problem = str(error)
        finally:
            if drawer is not None:
                drawer.close()

    def _show(self, row: int, drawer: _Drawer | None) -> _Drawer | None:
        """Draws the state of an environment that is due. -> the drawer of the present simulator's task."""
        with self._lock:
            sim, model, last = self._sim, self._model, self._seen.get(row)
            if sim is None or model is None or row >= sim.num_envs:
                return drawer
            glimpse = sim.glimpse(row, last.number if last else 0, model.nq)
        if glimpse is None:
            return drawer
        if drawer is None or drawer.model is not model:
            if drawer is not None:
                drawer.close()
            drawer = _Drawer(sim.task, model, self._renderer)
        picture = drawer.draw(glimpse)
        with self._lock:
            if sim is self._sim:
                self._seen[row] = glimpse
        self.stream.show(str(row), picture)
        return drawer


def _caption(row: int, glimpse: Glimpse) -> str:
    won = ", success" if glimpse.success else ""
    return f"environment {row}: seed {glimpse.seed}, step {glimpse.steps}, {glimpse.seconds:.1f} s{won}"
