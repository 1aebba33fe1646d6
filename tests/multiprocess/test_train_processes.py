"""Several processes train as one; SIGTERM, kill -9, another mesh and another number of processes."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from launch.local import Group
from t2p import checkpoint
from t2p.train.loop import train

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "train"))
import train_fakes
from train_atm import write_clips
from train_jobs import FAST, environment, said, steps_of, wait_for

WORKER = Path(__file__).with_name("train_worker.py")
COMMON = {
    "steps": 6,
    "batch_size": 16,
    "accumulation": 2,
    "optimizer__ema": 0.9,
    "checkpoint__every": 4,
    "log__every": 1,
}


@pytest.fixture
def fake_data():
    before = sys.modules.get("t2p.data.pipeline")
    train_fakes.install()
    yield
    train_fakes.uninstall(before)


def worker(
    folder: Path, runs: list[dict], processes: int = 1, devices: int = 8, data: str | None = None, flags: str = FAST
) -> Group:
    """The runs in turn, by one group of processes."""
    folder.mkdir(exist_ok=True)
    runs = [{"out": None, "sleep": 0.0, **r} for r in runs]
    (folder / "job.json").write_text(json.dumps({"data": data, "runs": runs}))
    command = [sys.executable, str(WORKER), str(folder / "job.json")]
    return Group(command, processes, folder, devices=devices, environment=environment(flags)).start()


def finish(group: Group, expected: int = 0) -> None:
    """Each process must end with `expected`."""
    with group:
        group.wait(timeout=240)
    assert group.codes == [expected] * group.count, said(group)


def assert_close(a: Path, b: Path, tolerance: float) -> None:
    with np.load(a) as x, np.load(b) as y:
        assert set(x.files) == set(y.files) and len(x.files) > 20
        for name in x.files:
            np.testing.assert_allclose(x[name], y[name], rtol=0, atol=tolerance, err_msg=name)


def losses(workdir: Path) -> dict[int, tuple[float, float]]:
    """{step: (loss, norm of the gradient)}."""
    records = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {r["step"]: (r["train/loss"], r["train/grad_norm"]) for r in records if "train/loss" in r}


@pytest.mark.parametrize("stage", ["fake", pytest.param("atm", marks=pytest.mark.long)])
def test_two_processes_train_as_one(stage, tmp_path):
    """2 x 4 devices against 1 x 8 with dropout and accumulation (ATM: patch masks and augmentation too; the fake stage:
    BatchNorm); SIGTERM to one stops both with 42; what two processes saved, one carries on with on another mesh."""
    pair, single, endless, moved = (tmp_path / name for name in ("pair", "single", "endless", "moved"))
    data = write_clips(tmp_path / "clips") if stage == "atm" else None
    common = {**COMMON, "optimizer__eps": 1e-4}  # else Adam turns rounding of tiny gradients into steps
    split = {**common, "mesh__data": 2, "mesh__fsdp": 4}
    forever = {**common, "steps": 10**6, "checkpoint__every": 10**5, "eval__every": 10**5}
    runs = [
        {"workdir": str(pair), "config": split, "out": str(tmp_path / "pair.npz")},
        {"workdir": str(endless), "config": forever, "sleep": 0.02},
    ]
    with worker(tmp_path / "two", runs, processes=2, devices=4, data=data) as both:
        wait_for((endless / "metrics.jsonl").exists, both)
        both.terminate(0)
        finish(both, expected=42)
    (stopped_at,) = steps_of(endless)
    assert checkpoint.load(endless, "latest")[1]["position"] == stopped_at > 0

    shutil.copytree(pair, moved)
    shutil.rmtree(moved / "checkpoints/6")
    runs = [
        {"workdir": str(single), "config": common, "out": str(tmp_path / "single.npz")},
        {"workdir": str(moved), "config": {**common, "mesh__fsdp": 8}, "out": str(tmp_path / "moved.npz")},
    ]
    finish(one := worker(tmp_path / "one", runs, data=data))
    assert f"resuming from {moved}/checkpoints/4" in said(one)
    assert "None, fsdp" in both.logs[0].read_text()
    assert_close(tmp_path / "pair.npz", tmp_path / "single.npz", 1e-5)
    assert_close(tmp_path / "moved.npz", tmp_path / "single.npz", 1e-5)
    a, b = losses(pair), losses(single)
    assert a.keys() == b.keys() == set(range(1, 7))
    for step in a:
        assert a[step] == pytest.approx(b[step], abs=1e-5)


def test_killed_training_goes_on_as_if_nothing_had_happened(tmp_path, capsys, fake_data):
    """kill -9 at some moment; what is trained after the restart equals an undisturbed run bit for bit."""
    config = {**COMMON, "steps": 40, "checkpoint__every": 3, "eval__every": 100}
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    run = {"workdir": str(killed), "config": config, "sleep": 0.1}
    with worker(tmp_path / "victim", [run], devices=1, flags=os.environ.get("XLA_FLAGS", "")) as victim:
        wait_for(lambda: any(s >= 6 for s in steps_of(killed)), victim)
        time.sleep(0.15)
        victim.kill(0)
        assert victim.wait(timeout=10) == 128 + 9
    assert max(steps_of(killed)) < 40
    for workdir in (killed, undisturbed):
        state = train(train_fakes.fake_config(**config), workdir)
        np.savez(tmp_path / f"{workdir.name}.npz", **train_fakes.numpy_variables(state))
    assert "resuming from" in capsys.readouterr().out
    assert_close(tmp_path / "killed.npz", tmp_path / "undisturbed.npz", 0.0)
    assert losses(killed) == losses(undisturbed)
