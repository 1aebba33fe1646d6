"""Where a job's wall time goes, over all its restarts: an event log that outlives kill -9."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from etils import epath

from t2p.io import PathLike, read_json_lines

SECTIONS = ("init", "compile", "data", "checkpoint", "eval")


class Goodput:
    """Seconds of this run by section; everything outside the sections is "step".

    events.jsonl gets {"event": "start", "step", "seconds"} and now and then {"event": "progress", "step",
    "seconds"}, each with the `time` of day; only the process that writes logs has `path`."""

    def __init__(self, path: PathLike | None):
        self._path = epath.Path(path) if path else None
        self._begin, self._wall = time.monotonic(), time.time()
        self._seconds = dict.fromkeys(SECTIONS, 0.0)
        self._runs = _runs(read_json_lines(self._path)) if self._path else []
        self._start = 0

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        begin = time.monotonic()
        try:
            yield
        finally:
            self.add(name, time.monotonic() - begin)

    def add(self, name: str, seconds: float) -> None:
        self._seconds[name] += seconds

    def seconds(self) -> dict[str, float]:
        """{section: seconds} of this run, with "step" and "total"."""
        total = time.monotonic() - self._begin
        return {**self._seconds, "step": max(total - sum(self._seconds.values()), 0.0), "total": total}

    def start(self, step: int) -> None:
        """Training goes on from `step`."""
        self._start = step
        self._write({"event": "start", "step": step, "seconds": self.seconds()})

    def progress(self, step: int) -> None:
        self._write({"event": "progress", "step": step, "seconds": self.seconds()})

    def summary(self, step: int) -> dict[str, float]:
        """{"goodput": share of the job's wall time spent on steps that count, "restarts", "lost_steps", one share per
        section}; steps that a restart repeats count as lost, and the time from a run's last event to the next run's
        beginning as "down"."""
        now = {"start": self._start, "step": step, "seconds": self.seconds(), "begin": self._wall, "end": time.time()}
        runs = [*self._runs, now]
        totals = {k: sum(r["seconds"].get(k, 0.0) for r in runs) for k in (*SECTIONS, "step", "total")}
        lost, wasted, totals["down"] = 0, 0.0, 0.0
        for run, following in pairwise(runs):
            steps = max(run["step"] - following["start"], 0)
            lost += steps
            totals["down"] += max(following["begin"] - run["end"], 0.0)
            wasted += run["seconds"].get("step", 0.0) * steps / max(run["step"] - run["start"], 1)
        total = max(totals["total"] + totals["down"], 1e-9)
        shares = {f"share_{k}": totals[k] / total for k in (*SECTIONS, "step", "down")}
        goodput = max(totals["step"] - wasted, 0.0) / total
        return {"goodput": goodput, "restarts": float(len(runs) - 1), "lost_steps": float(lost), **shares}

    def describe(self, step: int) -> str:
        """The summary in a line."""
        found = self.summary(step)
        shares = ", ".join(f"{k.removeprefix('share_')} {v:.0%}" for k, v in found.items() if k.startswith("share_"))
        return f"goodput {found['goodput']:.0%} ({shares}), {found['restarts']:.0f} restarts"

    def _write(self, event: dict[str, Any]) -> None:
        if self._path is None:
            return
        line = json.dumps({"time": time.time(), **event}) + "\n"
        append(self._path, line)


def append(path: epath.Path, text: str) -> None:
    """Appends to a local file, or rewrites a remote one, which cannot be appended to."""
    if "://" in str(path):
        path.write_text((path.read_text() if path.exists() else "") + text)
        return
    with open(path, "a") as f:
        f.write(text)


def _runs(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Earlier runs: where and when each started, how far it is known to have come, what its time went to."""
    runs: list[dict[str, Any]] = []
    for event in events:
        if event.get("event") == "start":
            begin = event["time"] - event["seconds"]["total"]
            runs.append({"start": event["step"], "begin": begin})
        if event.get("event") in ("start", "progress") and runs:
            runs[-1] |= {"step": event["step"], "seconds": event["seconds"], "end": event["time"]}
    return runs
