"""Worker processes that share a simulator's environments out (the engine `Pool`).

They are spawned, import no JAX, and write what is observed into shared memory. They end when they are told to, and when
their parent has gone: both close the pipe that they read.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import traceback
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np

from t2p.io import UserError
from t2p.sim.environment import Key, Observe
from t2p.sim.share import Command, Episode, Failures, Layout, Share, Work
from t2p.sim.task import Task

DEATHS = 3  # so often a worker may die over one episode, or before it has begun to work
PATIENCE = 5.0  # s that a worker may take to end when it is told to


class Died(Exception):
    """A worker process has ended without being told to."""


@dataclass(eq=False)
class Worker:
    """The parent's end of a worker process. waiting: a command was sent whose reply has not come."""

    arguments: tuple[Task, Observe, str, bool, tuple[int, ...]]
    process: Any = None
    connection: Connection | None = None
    waiting: bool = False

    @property
    def rows(self) -> tuple[int, ...]:
        return self.arguments[-1]

    @property
    def name(self) -> str:
        return f"the worker process of environments {self.rows[0]} to {self.rows[-1]}"

    @property
    def sources(self) -> list[Any]:
        """One of them is ready as soon as there is a reply, or will never be one."""
        return [self.connection, self.process.sentinel]

    def start(self) -> None:
        """A new process; its first reply is the arrays' shapes."""
        self.end()
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process, self.waiting = context.Process(target=_work, args=(theirs, *self.arguments), daemon=True), True
        with theirs, contextlib.suppress(BrokenPipeError):  # it may die while it is given its arguments
            self.process.start()

    def send(self, command: str, what: Any) -> None:
        """What cannot be sent is noticed when the reply is waited for."""
        assert self.connection is not None
        self.waiting = True
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send((command, what))

    def receive(self) -> Any:
        """Waits for the reply. Died if none will come; what the worker raised, told by it."""
        assert self.connection is not None
        wait(self.sources)
        try:
            if not self.connection.poll():
                raise EOFError
            kind, what = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join(PATIENCE)
            raise Died(f"exit code {self.process.exitcode}") from None
        self.waiting = False
        if kind == "user error":
            raise UserError(what)
        if kind == "error":
            raise RuntimeError(f"{self.name} raised:\n{what}")
        return what

    def call(self, command: str, what: Any) -> Any:
        self.send(command, what)
        return self.receive()

    def leave(self) -> None:
        """Tells the process to end: it reads the end of its pipe. At once if it is at work."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None
        if self.waiting and self.process is not None and self.process.pid is not None:
            self.process.terminate()

    def end(self) -> None:
        """Ends the process, and waits until it has ended."""
        self.leave()
        if self.process is not None and self.process.pid is not None:
            self.process.join(PATIENCE)
            if self.process.exitcode is None:
                self.process.kill()
                self.process.join()
        self.process, self.waiting = None, False


class Pool:
    """Worker processes with a contiguous share of the environments each.

    A worker that dies is replaced; the new one repeats its running episodes from their starts, which gives the same
    states again. An environment over which workers died DEATHS times is failed."""

    def __init__(self, task: Task, observe: Observe, renderer: str, glimpses: bool, num_envs: int, workers: int):
        shares = np.array_split(np.arange(num_envs), min(workers, num_envs))
        self._workers = [Worker((task, observe, renderer, glimpses, tuple(share.tolist()))) for share in shares]
        self._num_envs = num_envs
        self._episodes: dict[int, Episode] = {}
        self._deaths: Counter[int | Worker] = Counter()
        self._layout: Layout | None = None
        self._memory: list[SharedMemory] = []
        self.arrays: dict[Key, np.ndarray] = {}
        self._release = weakref.finalize(self, _release, self._workers, self.arrays, self._memory)
        with self._closing():
            for worker in self._workers:
                worker.start()
            for worker in self._workers:
                try:
                    self._welcome(worker)
                except Died as death:
                    raise RuntimeError(f"{worker.name} died at its start ({death})") from None

    @property
    def processes(self) -> list[int]:
        """The workers' process ids."""
        return [worker.process.pid for worker in self._workers]

    def run(self, command: Command, work: Work) -> Failures:
        """UserError, or RuntimeError with the traceback, for what workers raised; then the episodes of all environments
        that the command was for are over."""
        if not self._release.alive:
            raise UserError("this simulator is closed, or was interrupted; make a new one")
        if command == "reset":
            self._forget(work)
        try:
            failures = self._exchange(command, work)
        except BaseException:
            self._forget(work)
            raise
        self._forget(failures)
        for row in work.keys() - failures.keys():
            if command == "reset":
                self._episodes[row] = Episode(work[row])
            elif command == "step":
                self._episodes[row].actions.append(np.array(work[row]))
        return failures

    def close(self) -> None:
        """Ends the workers and gives the shared memory back; may be called again."""
        self._release()

    @contextlib.contextmanager
    def _closing(self) -> Iterator[None]:
        """Whatever interrupts an exchange leaves workers at work: nothing can go on."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _forget(self, rows: Iterable[int]) -> None:
        for row in rows:
            self._episodes.pop(row, None)
            self._deaths.pop(row, None)

    def _welcome(self, worker: Worker) -> None:
        """Waits until a new process has built its scene, and gives it the arrays."""
        shapes = worker.receive()
        if self._layout is None:
            self._layout, memory = Layout.create(shapes, self._num_envs)
            self._memory.append(memory)
            self.arrays.update(self._layout.arrays(memory))
        worker.call("attach", self._layout)

    def _exchange(self, command: Command, work: Work) -> Failures:
        parts = {w: {row: work[row] for row in w.rows if row in work} for w in self._workers}
        parts = {worker: part for worker, part in parts.items() if part}
        failures: Failures = {}
        errors: list[Exception] = []
        with self._closing():
            for worker, part in parts.items():
                worker.send(command, part)
            while parts:
                ready = set(wait([source for worker in parts for source in worker.sources]))
                for worker in [w for w in parts if ready.intersection(w.sources)]:
                    try:
                        failures |= self._finish(worker, command, parts.pop(worker))
                    except (UserError, RuntimeError) as error:
                        if worker.waiting:  # not an error that it told
                            raise
                        errors.append(error)
        if errors:
            raise errors[0]
        return failures

    def _finish(self, worker: Worker, command: Command, part: Work) -> Failures:
        """A worker's reply; where it died, that of a new process which first repeats the running episodes."""
        failures: Failures = {}
        try:
            return worker.receive()
        except Died as died:
            death = died
        while True:
            failures |= self._blame(worker, death)
            part = {row: what for row, what in part.items() if row not in failures}
            try:
                worker.start()
                self._welcome(worker)
                running = {row: self._episodes[row] for row in worker.rows if row in self._episodes}
                failures |= worker.call("replay", running)
                for row, what in part.items():  # one by one: should it die again, it is known over which
                    failures |= worker.call(command, {row: what})
            except Died as died:
                death = died
            else:
                self._deaths.pop(worker, None)
                return failures

    def _blame(self, worker: Worker, death: Died) -> Failures:
        """Counts a death for the environment that was being worked on, or for none if it was one of several. -> that
        one if it was its last."""
        busy = self.arrays[("busy",)]
        suspects = [row for row in worker.rows if busy[row]]
        busy[list(worker.rows)] = False
        if len(suspects) > 1:
            return {}
        guilty = suspects[0] if suspects else None
        self._deaths[worker if guilty is None else guilty] += 1
        if guilty is None and self._deaths[worker] >= DEATHS:
            raise RuntimeError(f"{worker.name} died {DEATHS} times before it had begun to work ({death})")
        if guilty is None or self._deaths[guilty] < DEATHS:
            return {}
        self._forget([guilty])
        return {guilty: f"its worker process died {DEATHS} times at work on it ({death})"}


def _release(workers: Sequence[Worker], arrays: dict[Key, np.ndarray], memory: Sequence[SharedMemory]) -> None:
    """Ends workers, then frees their memory: a worker that attached to it later would register it anew."""
    for worker in workers:
        worker.leave()
    for worker in workers:
        worker.end()
    arrays.clear()
    for block in memory:
        block.unlink()
        with contextlib.suppress(BufferError):  # someone still looks at it
            block.close()


def _work(connection: Connection, *arguments: Any) -> None:
    """A worker process: does commands until its parent closes the pipe or is gone. arguments: Share's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which closes
    server = _Server()
    command, what = "open", arguments
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            connection.send(server.answer(command, what))
            command, what = connection.recv()
    server.close()


class _Server:
    """The worker's side of the pipe. Commands besides those of `Engine.run`: "open" (Share's arguments) -> shapes;
    "attach" (Layout)."""

    share: Share
    memory: SharedMemory

    def answer(self, command: str, what: Any) -> tuple[str, Any]:
        """("done", reply), or what was raised: ("user error", message), ("error", traceback)."""
        try:
            return "done", self._do(command, what)
        except UserError as error:
            return "user error", str(error)
        except Exception:
            return "error", traceback.format_exc()

    def _do(self, command: Any, what: Any) -> Any:
        if command == "open":
            self.share = Share(*what)
            return self.share.shapes()
        if command == "attach":
            self.memory = SharedMemory(what.name)
            self.share.arrays = what.arrays(self.memory)
            return {}
        return self.share.run(command, what)

    def close(self) -> None:
        if hasattr(self, "share"):
            self.share.close()
        if hasattr(self, "memory"):
            self.memory.close()
