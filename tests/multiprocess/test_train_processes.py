"""Several processes train as one; SIGTERM, kill -9, another mesh and another number of processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from t2p import checkpoint
from t2p.train.loop import train

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "train"))
import train_fakes
from train_atm import write_clips

WORKER = Path(__file__).with_name("train_worker.py")
FAST = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"  # to compile
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


def launch(
    folder: Path, runs: list[dict], processes: int = 1, devices: int = 8, data: str | None = None, flags: str = FAST
) -> list[subprocess.Popen]:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    folder.mkdir(exist_ok=True)
    runs = [{"out": None, "sleep": 0.0, **r} for r in runs]
    job = {"port": port, "processes": processes, "devices": devices, "data": data, "runs": runs}
    (folder / "job.json").write_text(json.dumps(job))
    started = []
    for process in range(processes):
        out = open(folder / f"log-{process}.txt", "w")  # noqa: SIM115 (the process keeps it)
        command = [sys.executable, str(WORKER), str(folder / "job.json"), str(process)]
        env = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "T2P_", "XLA_"))}
        env["XLA_FLAGS"] = flags
        started.append(subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=env))
        out.close()
    return started


def finish(folder: Path, started: list[subprocess.Popen], expected: int = 0) -> None:
    try:
        codes = [p.wait(timeout=240) for p in started]
    finally:
        for p in started:
            p.kill()
    logs = "".join((folder / f"log-{i}.txt").read_text() for i in range(len(started)))
    assert codes == [expected] * len(started), logs


def wait_for(condition, started: list[subprocess.Popen], seconds: float = 240.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "too slow"
        assert all(p.poll() is None for p in started), "a process ended early"
        time.sleep(0.1)


def steps_of(workdir: Path) -> list[int]:
    folder = workdir / "checkpoints"
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []


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
    both = launch(tmp_path / "two", runs, processes=2, devices=4, data=data)
    try:
        wait_for(lambda: (endless / "metrics.jsonl").exists(), both)
        both[0].send_signal(signal.SIGTERM)
        finish(tmp_path / "two", both, expected=42)
    finally:
        for p in both:
            p.kill()
    (stopped_at,) = steps_of(endless)
    assert checkpoint.load(endless, "latest")[1]["position"] == stopped_at > 0

    shutil.copytree(pair, moved)
    shutil.rmtree(moved / "checkpoints/6")
    runs = [
        {"workdir": str(single), "config": common, "out": str(tmp_path / "single.npz")},
        {"workdir": str(moved), "config": {**common, "mesh__fsdp": 8}, "out": str(tmp_path / "moved.npz")},
    ]
    finish(tmp_path / "one", launch(tmp_path / "one", runs, data=data))
    assert f"resuming from {moved}/checkpoints/4" in (tmp_path / "one/log-0.txt").read_text()
    assert "None, fsdp" in (tmp_path / "two/log-0.txt").read_text()
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
    victims = launch(
        tmp_path / "victim", [{"workdir": str(killed), "config": config, "sleep": 0.1}], devices=1, flags=""
    )
    try:
        wait_for(lambda: any(s >= 6 for s in steps_of(killed)), victims)
        time.sleep(0.15)
    finally:
        victims[0].kill()
        victims[0].wait()
    assert max(steps_of(killed)) < 40
    for workdir in (killed, undisturbed):
        state = train(train_fakes.fake_config(**config), workdir)
        np.savez(tmp_path / f"{workdir.name}.npz", **train_fakes.numpy_variables(state))
    assert "resuming from" in capsys.readouterr().out
    assert_close(tmp_path / "killed.npz", tmp_path / "undisturbed.npz", 0.0)
    assert losses(killed) == losses(undisturbed)
