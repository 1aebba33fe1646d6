"""The batch job as a whole: plan the shards, write those that are missing, finish the dataset when all are there."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from t2p.io import UserError
from t2p.tracking.annotate import Job, Outcome, Task, check_job, plan
from t2p.tracking.engines import Progress, default_workers, run_local, run_ray
from t2p.tracking.ledger import Ledger, finish_if_complete


@dataclass(frozen=True)
class Summary:
    """What a run did. own: outcomes of this run's part, also of shards done earlier; written: shards that this run
    wrote; waiting_for: jobs recorded in the folder that are not done (empty: the manifest is written); report: over
    all shards."""

    own: list[Outcome]
    written: int
    shards: int
    waiting_for: list[str]
    report: dict[str, Any]
    seconds: float

    @property
    def all_failed(self) -> bool:
        """True when this run's part holds videos and none of them could be annotated."""
        return bool(self.own) and not any(outcome.episodes for outcome in self.own)


def annotate(
    job: Job,
    *,
    workers: int = 0,
    part: tuple[int, int] = (0, 1),
    engine: str = "local",
    quiet: bool = False,
    say: Callable[[str], None] = print,
) -> Summary:
    """Annotates what is not yet annotated. UserError for wrong settings.

    workers: processes (engine "local"; 0: one per core for trackers without an accelerator, else one) or actors
    (engine "ray"; 0: one per device). part: (i, n): only every n-th shard from the i-th; the parts of an array job
    run at any time, in any order, on any machine, and the last of them finishes the dataset.
    """
    check_job(job)
    if workers < 0:
        raise UserError(f"--workers {workers}: expected a number of processes from 0 (chosen for the tracker) on")
    began = time.monotonic()
    tasks = plan(job)
    ledger = Ledger(job, tasks)
    own = tasks[part[0] :: part[1]]
    missing = set(ledger.pending())
    todo = [task for task in own if task in missing]
    say(_opening(job, own, todo, part))
    try:
        with _bar(todo, quiet) as progress:
            if todo:
                _write(job, todo, workers, engine, progress, say)
    except BaseException:
        ledger.abandon()
        raise
    outcomes = ledger.outcomes(own)
    report = ledger.report()
    if report["episodes"]:
        ledger.keep()
        waiting = finish_if_complete(job)
    else:
        waiting = [ledger.folder.name]
        if not ledger.pending():
            ledger.discard()
    return Summary(outcomes, len(todo), len(own), waiting, report, time.monotonic() - began)


def _write(
    job: Job, todo: Sequence[Task], workers: int, engine: str, progress: Progress, say: Callable[[str], None]
) -> None:
    if engine == "ray":
        outcomes = run_ray(job, todo, workers, progress)
    else:
        outcomes = run_local(job, todo, workers or default_workers(job.tracker), progress)
    for outcome in outcomes:
        for key, reason in outcome.skipped:
            say(f"skipped {key}: {reason}")


def _opening(job: Job, own: Sequence[Task], todo: Sequence[Task], part: tuple[int, int]) -> str:
    share = f" (part {part[0]} of {part[1]})" if part[1] > 1 else ""
    videos = sum(len(task.keys) for task in own)
    return f"{job.set_name}: {videos} videos in {len(own)} shards{share}, {len(own) - len(todo)} shards done already"


@contextmanager
def _bar(todo: Sequence[Task], quiet: bool) -> Iterator[Progress]:
    """A bar over videos with rate and time left, and frames per second behind it."""
    from tqdm import tqdm

    began, frames = time.monotonic(), 0
    slow = 0.5 if sys.stderr.isatty() else 10.0  # a log file wants fewer lines
    with tqdm(total=sum(len(t.keys) for t in todo), unit="video", disable=quiet or not todo, mininterval=slow) as bar:

        def progress(videos: int, more: int) -> None:
            nonlocal frames
            frames += more
            if videos:
                bar.set_postfix_str(f"{frames / (time.monotonic() - began):.1f} frames/s", refresh=False)
                bar.update(videos)

        yield progress
