"""What a dataset's folder remembers of the annotation jobs that write into it.

    DIR/annotation/<job>/job.json            settings and shards, written before the first shard
    DIR/annotation/<job>/train-00000.json    what came of a shard, written just before it counts as done
    DIR/annotation/<job>/report.json         all of them together, written at the end

Several processes may work on one job. All of them write the same, so it does not matter who does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from etils import epath

from t2p.data.shards import discard, episodes_name, shard_files, tracks_name
from t2p.data.store import finish, read_manifest
from t2p.io import PathLike, UserError, read_json, write_json
from t2p.tracking.annotate import Job, Outcome, Task, digest

FOLDER = "annotation"


def job_folder(job: Job) -> epath.Path:
    """Where a job keeps its record."""
    return epath.Path(job.out) / FOLDER / f"{job.split or 'all'}.{job.set_name.replace('/', '+')}"


def write_outcome(job: Job, outcome: Outcome) -> None:
    """Writes down what came of a shard."""
    write_json(job_folder(job) / f"{outcome.label}.json", asdict(outcome))


def _shard_files(directory: PathLike) -> dict[str, dict[int, list[str | None]]]:
    """Finished shards: {split: {shard: [None for the episodes, names of track sets]}}; {} without a folder."""
    return shard_files(directory) if epath.Path(directory).is_dir() else {}


class Ledger:
    """The record of one job. Opening it writes job.json, or checks that the job is the one recorded there; of a job
    of which no shard is done nothing binds, and the record is written anew."""

    def __init__(self, job: Job, tasks: Sequence[Task]):
        self.job, self.tasks = job, list(tasks)
        self.folder = job_folder(job)
        self.keep()

    def keep(self) -> None:
        """Writes the record, also again if another process of the job failed and took it away."""
        splits = sorted({task.split for task in self.tasks})
        shards = {split: sum(t.split == split for t in self.tasks) for split in splits}
        record = {
            "settings": self.job.settings(),
            "set": self.job.set_name,
            "adds": self.job.adds,
            "shards": shards,
            "episodes": digest(self.tasks),
        }
        path = self.folder / "job.json"
        if path.exists():
            changed = _changes(read_json(path), record)
            if not changed:
                return
            if len(self.pending()) < len(self.tasks):
                raise UserError(
                    f"{self.job.out} was begun with other settings ({'; '.join(changed)}); go on with those, or choose "
                    f"another --out"
                )
        self._refuse_foreign(shards)
        write_json(path, record)

    def _refuse_foreign(self, shards: Mapping[str, int]) -> None:
        """What lies there already and is not this job's must not be taken for it."""
        found = _shard_files(self.job.out)
        taken = sorted(s for s in shards if any(self._sign() in sets for sets in found.get(s, {}).values()))
        if taken and self.job.adds:
            raise UserError(f"{self.job.out} already has a track set {self.job.set_name}; choose another --name")
        if taken:
            raise UserError(
                f"{self.job.out} already holds episodes of split {taken[0]!r}. To give them another track set: "
                f"--input {self.job.out} --out {self.job.out}; for other episodes, another --out or --split"
            )

    def pending(self) -> list[Task]:
        """The shards that are not done, in order."""
        found = _shard_files(self.job.out)
        return [t for t in self.tasks if self._sign() not in found.get(t.split, {}).get(t.shard, [])]

    def _sign(self) -> str | None:
        return self.job.set_name if self.job.adds else None

    def abandon(self) -> None:
        """Takes the record away if no shard is done, so that nothing waits for a job that cannot begin."""
        if len(self.pending()) == len(self.tasks):
            (self.folder / "job.json").unlink(missing_ok=True)

    def discard(self) -> None:
        """Undoes a job that gave no tracks at all; report.json, with the reasons, stays."""
        for task in self.tasks:
            name = tracks_name(task.split, task.shard, self.job.set_name) if self.job.adds else None
            discard(self.job.out, name or episodes_name(task.split, task.shard))
            (self.folder / f"{task.label}.json").unlink(missing_ok=True)
        (self.folder / "job.json").unlink(missing_ok=True)

    def outcomes(self, tasks: Sequence[Task]) -> list[Outcome]:
        """What came of these shards, as far as they are done."""
        paths = [self.folder / f"{task.label}.json" for task in tasks]
        values = [read_json(path) for path in paths if path.exists()]
        return [Outcome(**{**v, "skipped": tuple((k, r) for k, r in v["skipped"])}) for v in values]

    def report(self) -> dict[str, Any]:
        """Writes report.json over all shards and returns it."""
        outcomes = self.outcomes(self.tasks)
        report = {
            "settings": self.job.settings(),
            "set": self.job.set_name,
            "episodes": sum(o.episodes for o in outcomes),
            "frames": sum(o.frames for o in outcomes),
            "skipped": [{"episode": key, "reason": reason} for o in outcomes for key, reason in o.skipped],
        }
        write_json(self.folder / "report.json", report)
        return report


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """In words, where a job differs from the recorded one."""
    was, now = old["settings"], new["settings"]
    changed = [f"{key}: {was.get(key)!r}, now {now[key]!r}" for key in now if was.get(key) != now[key]]
    if not changed and old["episodes"] != new["episodes"]:
        changed = ["the input holds other episodes than before"]
    return changed


def finish_if_complete(job: Job) -> list[str]:
    """Writes the manifest if every job recorded in `out` is done; otherwise returns the names of those that are not."""
    folder = epath.Path(job.out)
    records = {path.parent.name: read_json(path) for path in sorted((folder / FOLDER).glob("*/job.json"))}
    found = shard_files(folder)
    open_jobs = [name for name, record in records.items() if not _complete(record, found)]
    if open_jobs:
        return open_jobs
    own = read_manifest(folder) if (folder / "manifest.json").exists() else {"splits": {}}
    shards = {split: len(entry["shards"]) for split, entry in own["splits"].items()}
    for record in records.values():
        shards.update(record["shards"])
    about = read_manifest(job.input) if job.adds else {"source": epath.Path(job.input).name} | own
    finish(folder, shards=shards, licence=job.licence or about.get("licence", ""), source=about["source"])
    return []


def _complete(record: Mapping[str, Any], found: Mapping[str, Mapping[int, list[str | None]]]) -> bool:
    sign = record["set"] if record["adds"] else None
    return all(
        sign in found.get(split, {}).get(shard, [])
        for split, count in record["shards"].items()
        for shard in range(count)
    )
