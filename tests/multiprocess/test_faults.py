"""What clusters do to a training run: kill -9 and SIGTERM at random moments, full disks, a second job, other hosts."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from train_jobs import (
    HERE,
    assert_same,
    environment,
    final,
    records,
    said,
    steps_of,
    training,
    wait_for,
)

from launch.local import Fault, Group
from t2p import checkpoint

KILLS, TERMINATIONS = 20, 6


def progress(workdir: Path, group: Group) -> int:
    """Newest step that this start of the group has logged; -1 before it trains."""
    path = workdir / "metrics.jsonl"
    if not path.exists() or path.stat().st_mtime < time.time() - (time.monotonic() - group.started):
        return -1
    steps = [json.loads(line)["step"] for line in path.read_text().splitlines() if line.endswith("}")]
    return max(steps, default=-1)


def run(group: Group, seconds: float = 600.0) -> int:
    with group:
        return group.start().wait(timeout=seconds)


class Moments:
    """Conditions for the faults of a job, one fault in each start: some after a number of steps, some after a time."""

    def __init__(self, workdir: Path, seed: int):
        self.workdir, self.random, self.group = workdir, random.Random(seed), None
        self.base: dict[int, int] = {}

    def after_steps(self, start: int):
        """Some steps on, and up to a step's time later: in the next step or while a checkpoint is written."""
        count, late, reached = self.random.randint(1, 4), self.random.uniform(0, 0.1), []

        def due() -> bool:
            base = self.base.setdefault(start, max(steps_of(self.workdir), default=0))
            if not reached and progress(self.workdir, self.group) >= base + count:
                reached.append(time.monotonic() + late)
            return bool(reached) and time.monotonic() >= reached[0]

        return lambda: self.group.starts == start and due()

    def after_seconds(self, start: int, longest: float):
        seconds = self.random.uniform(0.0, longest)
        return lambda: self.group.starts == start and time.monotonic() - self.group.started > seconds

    def after_command_began(self, start: int, longest: float):
        """From when the process has taken hold of SIGTERM: it has read its config."""
        seconds, began = self.random.uniform(0.0, longest), []

        def due() -> bool:
            if not began and all(log.read_text().count("the config is read") >= start for log in self.group.logs):
                began.append(time.monotonic())
            return bool(began) and time.monotonic() - began[0] > seconds

        return lambda: self.group.starts == start and due()

    def while_restoring(self, start: int):
        """Once a run that goes on from a checkpoint has said so; its first step is not compiled yet."""
        return lambda: self.group.starts == start and "resuming from" in self.last_log()

    def last_log(self) -> str:
        return self.group.logs[0].read_text().split("--- start ")[-1]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """(folder, workdir) of two processes that train 100 steps in peace."""
    folder = tmp_path_factory.mktemp("faults")
    group = training(folder / "undisturbed-logs", folder / "undisturbed", 2, "steps=100")
    assert run(group) == 0, said(group)
    return folder, folder / "undisturbed"


@pytest.mark.long
def test_twenty_kills_in_one_run_change_no_bit(undisturbed):
    """One of two processes, at random: mostly in the midst of training and saving, sometimes while they start."""
    folder, expected = undisturbed
    workdir = folder / "killed"
    moments = Moments(workdir, seed=1)
    faults = []
    for start in range(1, KILLS + 1):
        when = moments.after_seconds(start, 4.0) if start % 5 == 0 else moments.after_steps(start)
        faults.append(Fault(moments.random.randrange(2), signal.SIGKILL, when))
    group = training(
        folder / "logs-killed", workdir, 2, "steps=100", sleep=0.05, retries=KILLS, grace=0.2, faults=faults
    )
    moments.group = group
    assert run(group) == 0, said(group)
    assert group.starts == KILLS + 1 and all(-signal.SIGKILL in codes for codes in group.history[:-1])
    assert not (workdir / "damaged").exists()
    assert_same(final(workdir), final(expected))
    assert records(workdir) == records(expected)


@pytest.mark.long
@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_at_random_moments(processes, undisturbed):
    """While processes start, meet, compile, restore, step or save: exit code 42, whole checkpoints, the same bits."""
    folder, expected = undisturbed
    workdir = folder / f"terminated-{processes}"
    moments = Moments(workdir, seed=processes)
    faults = []
    for start in range(1, TERMINATIONS + 1):
        restores = start == TERMINATIONS  # by then there is a checkpoint, however slow the machine is
        early = moments.after_steps(start) if start % 2 == 0 else moments.after_command_began(start, 4.0)
        when = moments.while_restoring(start) if restores else early
        faults += [Fault(k, signal.SIGTERM, when) for k in range(processes)]
    # All starts together cannot reach the last step: 4 s are 10 steps of 0.4 s at the most.
    options = {"sleep": 0.4, "retries": TERMINATIONS, "grace": 20.0, "faults": faults}
    group = training(folder / f"logs-terminated-{processes}", workdir, processes, "steps=100", **options)
    moments.group = group
    assert run(group) == 0, said(group)
    assert group.history == [[42] * processes] * TERMINATIONS + [[0] * processes], said(group)
    if processes == 2:
        assert_same(final(workdir), final(expected))
    else:  # another mesh
        assert_same(final(workdir), final(expected), 1e-5)
    assert not (workdir / "damaged").exists()


FULL = """
mount -t tmpfs -o size={size} tmpfs {disk}
{python} {launcher} &
job=$!
until [ -d {disk}/w/checkpoints/4 ] || ! kill -0 $job; do sleep 0.02; done
head -c {size} /dev/zero > {disk}/filler
truncate -s -32K {disk}/filler
wait $job
code=$?
rm {disk}/filler
cp -r {disk}/w {out}
exit $code
"""


@pytest.mark.long
@pytest.mark.parametrize("processes", [1, 2])
def test_a_full_disk_keeps_the_last_checkpoint_and_says_so(processes, tmp_path):
    """A small file system of its own, filled up after step 4."""
    own_mounts = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*own_mounts, "mount", "-t", "tmpfs", "x", tmp_path]).returncode:
        pytest.skip("needs a mount namespace (unshare --user --mount)")
    disk, out = tmp_path / "disk", tmp_path / "out"
    disk.mkdir()
    changes = ("steps=1000", "model.width=20000", "checkpoint.keep=1")
    group = training(tmp_path / "logs", disk / "w", processes, *changes, sleep=0.1)
    launcher = ["-m", "launch.local", "--processes", str(processes), "--logs", str(tmp_path / "logs"), "--devices", "1"]
    command = " ".join([*launcher, "--", *group.command])
    script = FULL.format(size="24M", disk=disk, out=out, python=sys.executable, launcher=command)
    done = subprocess.run([*own_mounts, "sh", "-c", script], env=group.environment, cwd=HERE.parents[1], timeout=300)
    text = said(group)
    assert done.returncode == 2, text
    step = max(steps_of(out))
    assert step >= 4 and final(out)["position"] == step  # all that look whole are whole
    expected = f"could not be written (No space left on device; make room there); last good checkpoint: {disk}/w"
    assert f"t2p train: {disk}/w" in text and f"{expected}/checkpoints/{step}; the same command goes on" in text


@pytest.mark.long
def test_a_save_that_fails_in_one_process_ends_both_soon(tmp_path):
    """Process 1 may write no large files; process 0 waits for it in the midst of the save."""
    env = {"FAULT_LIMIT": "1:100000"}
    group = training(tmp_path / "logs", tmp_path / "w", 2, "model.width=20000", sleep=0.1, env=env, grace=5.0)
    begin = time.monotonic()
    assert run(group, 240) == 2, said(group)
    assert time.monotonic() - begin < 200
    assert "checkpoints/2 could not be written (File too large; raise the limit" in group.logs[1].read_text()
    assert steps_of(tmp_path / "w") == []


@pytest.mark.long
def test_a_second_job_in_the_workdir_is_refused_and_a_relaunch_is_not(tmp_path):
    workdir = tmp_path / "w"
    with training(tmp_path / "first", workdir, 2, "steps=100000", sleep=0.05).start() as first:
        wait_for(lambda: progress(workdir, first) >= 3, first)
        second = training(tmp_path / "second", workdir, 2, "steps=10")
        assert run(second, 200) == 2, said(second)
        for log in second.logs:
            assert f"t2p train: {workdir}" in log.read_text()
        assert f"{workdir} is in use: process " in second.logs[0].read_text()
        before = progress(workdir, first)
        wait_for(lambda: progress(workdir, first) >= before + 3, first)  # was not disturbed
    position = max(steps_of(workdir)) + 2
    third = training(tmp_path / "third", workdir, 2, f"steps={position}")
    assert run(third, 200) == 0, said(third)
    assert final(workdir)["position"] == position


WORKER = HERE / "train_worker.py"


def worker(folder: Path, processes: int, *runs: dict) -> Group:
    folder.mkdir()
    (folder / "job.json").write_text(json.dumps({"data": None, "runs": [{"sleep": 0.0, **r} for r in runs]}))
    command = [sys.executable, str(WORKER), str(folder / "job.json")]
    return Group(command, processes, folder, devices=4 // processes, environment=environment())


@pytest.mark.long
@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_a_checkpoint_of_two_hosts_goes_on_with(hosts, two_hosts, tmp_path):
    """4 devices in all, so the mesh is the same: the variables of the checkpoint, its position, and then the batches
    that an undisturbed run has. Other hosts sum in another order."""
    whole, config = two_hosts
    stopped = tmp_path / "w"
    shutil.copytree(whole, stopped)
    shutil.rmtree(stopped / "checkpoints/8")
    runs = [
        {"workdir": str(stopped), "config": {**config, "steps": steps}, "out": str(tmp_path / f"{steps}.npz")}
        for steps in (4, 8)
    ]
    group = worker(tmp_path / "logs", hosts, *runs)
    assert run(group, 300) == 0, said(group)
    assert f"resuming from {stopped}/checkpoints/4" in said(group) and "nothing to do" in said(group)
    with np.load(tmp_path / "4.npz") as restored:
        variables, meta = checkpoint.load(whole, 4)
        assert meta["position"] == 4
        np.testing.assert_array_equal(restored["ema/head/kernel"], variables["params"]["head"]["kernel"])
        np.testing.assert_array_equal(restored["batch_stats/norm/mean"], variables["batch_stats"]["norm"]["mean"])
    tolerance = 0.0 if hosts == 2 else 1e-5
    assert_same(final(stopped), final(whole), tolerance)
    ours, theirs = records(stopped), records(whole)
    assert ours.keys() == theirs.keys() == set(range(1, 9))
    for step in ours:
        assert ours[step] == pytest.approx(theirs[step], abs=tolerance)


@pytest.fixture(scope="module")
def two_hosts(tmp_path_factory):
    """(workdir, config) of two processes with 2 devices each, with checkpoints of steps 4 and 8."""
    folder = tmp_path_factory.mktemp("hosts")
    config = {"steps": 8, "optimizer__ema": 0.9, "optimizer__eps": 1e-4, "checkpoint__keep": 2, "log__every": 1}
    config |= {"mesh__data": 2, "mesh__fsdp": 2}
    group = worker(folder / "logs", 2, {"workdir": str(folder / "w"), "config": config, "out": None})
    assert run(group, 300) == 0, said(group)
    return folder / "w", config
