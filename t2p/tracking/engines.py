"""Who writes the shards: this process, worker processes on this machine, or Ray actors on many."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from t2p.data.processes import die_with_parent
from t2p.io import UserError
from t2p.tracking.annotate import Job, Outcome, Task, Worker
from t2p.tracking.base import CPU_TRACKERS
from t2p.tracking.ledger import write_outcome

Progress = Callable[[int, int], None]  # told how many more videos and frames are done
POLL_SECONDS = 0.5
_GO_ON = "Finished shards are kept: start again to go on, with fewer --workers or a smaller --size if memory was short"


def default_workers(tracker: str) -> int:
    """One per core for trackers that need no accelerator, else one."""
    return len(os.sched_getaffinity(0)) if tracker in CPU_TRACKERS else 1


def run_local(job: Job, tasks: Sequence[Task], workers: int, progress: Progress) -> Iterator[Outcome]:
    """Writes the shards in this process (workers <= 1) or in spawned ones, which share the cores among them."""
    workers = min(workers, len(tasks))
    threads = max(1, len(os.sched_getaffinity(0)) // max(1, workers))
    if workers > 1:
        yield from _run_processes(job, tasks, workers, threads, progress)
        return
    worker = Worker(job, progress)
    with opencv_threads(threads):
        for task in tasks:
            yield worker.run(task, lambda outcome: write_outcome(job, outcome))


@contextmanager
def opencv_threads(threads: int) -> Iterator[None]:
    """Limits OpenCV to so many threads for a while. What it computes does not depend on them."""
    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(threads)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _run_processes(
    job: Job, tasks: Sequence[Task], workers: int, threads: int, progress: Progress
) -> Iterator[Outcome]:
    context = multiprocessing.get_context("spawn")
    counts = context.Array("q", 2)
    with ProcessPoolExecutor(workers, context, _start, (job, counts, threads)) as pool:
        try:
            waiting = {pool.submit(_work, task) for task in tasks}
            while waiting:
                done, waiting = wait(waiting, POLL_SECONDS, FIRST_COMPLETED)
                progress(*_take(counts))
                yield from (future.result() for future in done)
        except BrokenProcessPool as e:
            raise UserError(f"a worker process died (killed, or out of memory). {_GO_ON}") from e
        finally:
            pool.shutdown(cancel_futures=True)


def _take(counts: Any) -> tuple[int, int]:
    """Reads the shared counters and sets them to zero."""
    with counts.get_lock():
        videos, frames = counts
        counts[0] = counts[1] = 0
    return videos, frames


_worker: Worker  # of a worker process, made by _start


def _start(job: Job, counts: Any, threads: int) -> None:
    """Prepares a worker process: its share of the cores, its counters, and an end when its parent ends."""
    import cv2

    global _worker
    die_with_parent()
    cv2.setNumThreads(threads)

    def count(videos: int, frames: int) -> None:
        with counts.get_lock():
            counts[0] += videos
            counts[1] += frames

    _worker = Worker(job, count)


def _work(task: Task) -> Outcome:
    return _worker.run(task, lambda outcome: write_outcome(_worker.job, outcome))


class _Actor:
    """One device's share of a Ray cluster."""

    def __init__(self, job: Job):
        self.worker = Worker(job)

    def run(self, task: Task) -> Outcome:
        return self.worker.run(task, lambda outcome: write_outcome(self.worker.job, outcome))


def run_ray(job: Job, tasks: Sequence[Task], workers: int, progress: Progress) -> Iterator[Outcome]:
    """Writes the shards on a Ray cluster (RAY_ADDRESS, or one on this machine): one actor per device.

    workers: how many actors; 0: one per GPU, or where there are none one per CPU but one. Input and output must
    be reachable from every machine.
    """
    try:
        import ray
    except ImportError as e:
        raise UserError("--engine ray needs Ray: pip install 't2p[ray]'") from e
    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False)
    try:
        yield from _share_out(ray, _actors(ray, job, len(tasks), workers), tasks, progress)
    except (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError) as e:
        raise UserError(f"a Ray actor died (killed, or out of memory): {e}. {_GO_ON}") from e
    finally:
        if started:
            ray.shutdown()


def _actors(ray: Any, job: Job, most: int, workers: int) -> list[Any]:
    """One actor per device; one CPU stays free, or Ray's own work would wait for them for ever."""
    found = ray.cluster_resources()
    gpus, cpus = int(found.get("GPU", 0)), int(found.get("CPU", 1))
    on_gpu = gpus > 0 and job.tracker not in CPU_TRACKERS
    count = min(workers or (gpus if on_gpu else max(1, cpus - 1)), most)
    actor = ray.remote(num_cpus=0 if on_gpu else 1, num_gpus=1 if on_gpu else 0)(_Actor)
    return [actor.remote(job) for _ in range(count)]


def _share_out(ray: Any, actors: list[Any], tasks: Sequence[Task], progress: Progress) -> Iterator[Outcome]:
    """Each actor gets its next shard when it has finished one."""
    todo = iter(tasks)
    running = {actor.run.remote(task): actor for actor, task in zip(actors, todo)}
    while running:
        (ready,), _ = ray.wait(list(running))
        actor = running.pop(ready)
        outcome = ray.get(ready)
        progress(outcome.episodes + len(outcome.skipped), outcome.frames)
        yield outcome
        if (task := next(todo, None)) is not None:
            running[actor.run.remote(task)] = actor
