"""Faults of one process: no room for checkpoints and logs, SIGTERM at awkward moments."""

from __future__ import annotations

import errno
import os
import signal
import struct
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from tensorboardX.proto import event_pb2
from train_fakes import FakeLoader, fake_config, numpy_variables

from launch.local import Fault, Group
from t2p import checkpoint
from t2p.checkpoint import Checkpoints, SaveFailed
from t2p.cli.main import main
from t2p.train import logging, preemption
from t2p.train.evals import Eval
from t2p.train.logging import Log, NonFinite
from t2p.train.loop import train
from t2p.train.preemption import Preempted, Preemption

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("fake_data")


def config(**changes):
    return fake_config(**{"log__every": 1, "eval__every": 100, **changes})


@pytest.fixture
def full_disk(monkeypatch):
    """A function: from then on the disk is full whenever the checkpoint of `step` is written."""
    kind = type(epath.Path("/"))
    write_text = kind.write_text

    def fill(step: int) -> None:
        def write(path, *arguments, **options):
            if f"/checkpoints/{step}." in str(path) and path.name == "metadata":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            return write_text(path, *arguments, **options)

        monkeypatch.setattr(kind, "write_text", write)

    yield fill
    monkeypatch.setattr(kind, "write_text", write_text)


def steps_in(workdir: Path) -> list[str]:
    return sorted(p.name for p in (workdir / "checkpoints").iterdir())


def test_no_room_for_a_checkpoint_names_the_last_good_one_and_the_run_goes_on_from_it(tmp_path, full_disk):
    """Checkpoint 4 is whole, and 6 is not."""
    c = config(checkpoint__every=2, checkpoint__keep=1, steps=12)
    full_disk(6)
    with pytest.raises(SaveFailed) as e:
        train(c, tmp_path / "w")
    assert str(e.value) == (
        f"{tmp_path}/w/checkpoints/6 could not be written (No space left on device; make room there); last good "
        f"checkpoint: {tmp_path}/w/checkpoints/4; the same command goes on from it"
    )
    assert checkpoint.load(tmp_path / "w", "latest")[1]["step"] == 4
    full_disk(-1)
    assert_same(train(c, tmp_path / "w"), train(c, tmp_path / "undisturbed"))
    assert steps_in(tmp_path / "w") == ["12"]


def assert_same(a, b):
    a, b = numpy_variables(a), numpy_variables(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_a_save_that_failed_is_noticed_without_waiting_for_the_next(tmp_path, full_disk, monkeypatch):
    def read(loader):
        seen.append(loader.position)
        time.sleep(0.0 if loader.position < 1000 else 0.02)
        return original(loader)

    seen, original = [], FakeLoader.__next__
    monkeypatch.setattr(FakeLoader, "__next__", read)
    full_disk(1000)
    with pytest.raises(SaveFailed, match="checkpoints/1000 could not be written"):
        train(config(steps=2000, checkpoint__every=1000, checkpoint__keep=1, log__every=100), tmp_path)
    assert max(seen) < 1900


def test_no_room_at_the_last_step_is_an_error(tmp_path, full_disk, capsys):
    full_disk(2)
    with pytest.raises(SaveFailed, match=r"checkpoints/2 could not be written .* last good checkpoint: none; the same"):
        train(config(steps=2), tmp_path)
    assert "done: step 2" not in capsys.readouterr().out


def test_no_room_for_the_log(tmp_path, monkeypatch, capsys):
    def full(path, text):
        if '"step": 6' in text:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        append(path, text)

    append = logging.append
    monkeypatch.setattr(logging, "append", full)
    file = tmp_path / "c.py"
    file.write_text("from train_fakes import fake_config\nget_config = lambda: fake_config(log__every=1)\n")
    assert main(["train", "--config", str(file), "--workdir", str(tmp_path / "w")]) == 2
    assert (
        capsys.readouterr()
        .err.strip()
        .endswith(
            f"t2p train: {tmp_path}/w could not be written (No space left on device; make room there); "
            f"last good checkpoint: {tmp_path}/w/checkpoints/4; the same command goes on from it"
        )
    )


def test_other_errors_of_the_file_system_are_not_called_a_full_disk(tmp_path, monkeypatch):
    def broken(path, text):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(logging, "append", broken)
    with pytest.raises(PermissionError):
        train(fake_config(log__every=1), tmp_path)


def test_the_last_good_checkpoint_is_one_that_is_whole(tmp_path, full_disk):
    """A metric is not finite while a checkpoint is being written, which is going to fail."""
    full_disk(6)
    c = config(checkpoint__every=2, checkpoint__keep=1, steps=9, log__every=50, model__explode_at=6)
    with pytest.raises((NonFinite, SaveFailed), match=f"last good checkpoint: {tmp_path}/checkpoints/4"):
        train(c, tmp_path, [Eval("look", 7, lambda variables, step, rng: {})])


def test_sigterm_during_a_save_lets_it_finish(tmp_path, monkeypatch):
    def save(checkpoints, step, *arguments):
        started.append(step)
        original(checkpoints, step, *arguments)
        if step == 4:
            signal.raise_signal(signal.SIGTERM)

    started, original = [], Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", save)
    with pytest.raises(Preempted, match="step 5"):
        train(config(), tmp_path)
    assert started == [4, 5] and steps_in(tmp_path)[-1] == "5"
    assert checkpoint.load(tmp_path, "latest")[1]["position"] == 5


def test_sigterm_after_the_last_step_does_not_cut_off_the_last_save(tmp_path, monkeypatch):
    def close(checkpoints):
        signal.raise_signal(signal.SIGTERM)
        original(checkpoints)

    original = Checkpoints.close
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "close", close)
        state = train(config(steps=2), tmp_path)
    found, _ = checkpoint.load(tmp_path, "latest")
    np.testing.assert_array_equal(found["params"]["head"]["kernel"], numpy_variables(state)["params/head/kernel"])


def test_sigterm_before_training_begins_exits_42(tmp_path):
    """While the config is read, before JAX is asked for anything."""
    marker = tmp_path / "read"
    file = tmp_path / "c.py"
    file.write_text(f"import pathlib, time\npathlib.Path({str(marker)!r}).touch()\ntime.sleep(60)\n")
    command = [sys.executable, "-m", "t2p.cli.main", "train", "--config", str(file), "--workdir", str(tmp_path / "w")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    faults = [Fault(0, signal.SIGTERM, marker.exists)]
    with Group(command, 1, tmp_path / "logs", environment=environment, faults=faults) as group:
        assert group.start().wait(timeout=60) == preemption.EXIT_CODE
    assert "stopped by SIGTERM outside of training" in group.logs[0].read_text()
    assert not (tmp_path / "w").exists()


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with preemption.leave_at_once():
        at_once = signal.getsignal(signal.SIGTERM)
        with Preemption() as p:
            assert not p.requested(1)
            signal.raise_signal(signal.SIGTERM)
            assert p.requested(1)
        assert signal.getsignal(signal.SIGTERM) is at_once is not before
    assert signal.getsignal(signal.SIGTERM) is before


def events(folder: Path) -> list:
    """TFRecords: length (8 bytes), its check (4), data, its check (4)."""
    (file,) = folder.iterdir()
    data, found = file.read_bytes(), []
    while data:
        (size,) = struct.unpack("<Q", data[:8])
        found.append(event_pb2.Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    return found


def test_tensorboard_has_what_was_logged_and_forgets_what_a_restart_repeats(tmp_path):
    with Log(tmp_path, fake_config(log__tensorboard=True), 3) as log:
        log.write(4, {"train/loss": 0.5, "val/loss": np.nan})
        log.write(5, {"train/loss": 0.25})
    first, again, *rest = events(tmp_path / "tensorboard")
    assert first.file_version == "brain.Event:2"
    assert again.step == 3 and again.session_log.status == event_pb2.SessionLog.START
    found = [(e.step, e.summary.value[0].tag, e.summary.value[0].simple_value) for e in rest]
    assert [f[:2] for f in found] == [(4, "train/loss"), (4, "val/loss"), (5, "train/loss")]
    np.testing.assert_array_equal([f[2] for f in found], [0.5, np.nan, 0.25])
