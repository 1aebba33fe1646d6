"""One job at a time in a workdir: locks of the operating system, and files that are watched where there are none."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from etils import epath
from train_fakes import fake_config

from t2p.io import UserError
from t2p.train import lock
from t2p.train.lock import WatchedFile, hold
from t2p.train.loop import train

HOLDER = """
import fcntl, json, os, sys
f = open(sys.argv[1], "a+")
fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
f.write(json.dumps({"host": "other", "pid": os.getpid(), "since": "noon"})); f.flush()
if os.fork() == 0:  # a worker that outlives its parent for a while
    os.execvp("sleep", ["sleep", "5"])
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the workdir tmp_path."""
    command = [sys.executable, "-S", "-c", HOLDER, str(tmp_path / lock.FILE)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_a_workdir_in_use_is_refused_until_its_process_is_gone(holder, tmp_path, fake_data):
    with pytest.raises(UserError) as e:
        train(fake_config(), tmp_path)
    expected = f"{tmp_path} is in use: process {holder.pid} on other has trained there since noon. Two jobs would"
    assert str(e.value).startswith(expected)
    assert [p.name for p in tmp_path.iterdir()] == [lock.FILE]
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with hold(tmp_path):  # at once, whatever the dead one's children do
        owner = json.loads((tmp_path / lock.FILE).read_text())
        assert owner["pid"] == os.getpid()


def test_a_workdir_is_free_again_after_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), hold(tmp_path / "new/folder") as still_ours:
            still_ours()
            raise ZeroDivisionError


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"), hold(tmp_path / "file"):
        pass


def test_file_systems_without_locks_are_watched(tmp_path, monkeypatch):
    def no_locks(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    with hold(tmp_path):
        assert "id" in json.loads((tmp_path / lock.FILE).read_text())
    assert not (tmp_path / lock.FILE).exists()


def watched(folder, stale=0.5):
    return WatchedFile(epath.Path(folder) / lock.FILE, refresh=0.05, stale=stale)


def test_a_watched_workdir_with_a_living_owner_is_refused(tmp_path):
    owner = watched(tmp_path)
    before = (tmp_path / lock.FILE).read_text()
    with pytest.raises(UserError, match=f"in use: process {os.getpid()} on"):
        watched(tmp_path, stale=10.0)
    assert (tmp_path / lock.FILE).read_text() != before  # it gives signs of life
    owner.check()
    owner.release()
    begin = time.monotonic()
    watched(tmp_path, stale=10.0).release()
    assert time.monotonic() - begin < 5  # nobody to wait for


def test_a_watched_workdir_without_a_sign_of_life_is_taken(tmp_path, capsys):
    (tmp_path / lock.FILE).write_text('{"host": "gone", "pid": 1, "since": "noon", "id": "x", "time": 0}')
    begin = time.monotonic()
    owner = watched(tmp_path, stale=0.3)
    assert 0.3 <= time.monotonic() - begin < 5
    assert "looking for up to 0.3 s whether it still runs" in capsys.readouterr().out
    owner.release()
    (tmp_path / lock.FILE).write_text("")  # cut off while it was written
    watched(tmp_path).release()


def test_who_lost_a_watched_workdir_stops_and_leaves_it_to_the_other(tmp_path):
    owner = watched(tmp_path)
    end = time.monotonic() + 30
    with pytest.raises(UserError, match="process 9 on new has trained there since noon"):
        while time.monotonic() < end:  # it may overwrite us once more, if it has just looked
            (tmp_path / lock.FILE).write_text('{"host": "new", "pid": 9, "since": "noon", "id": "other", "time": 0}')
            time.sleep(0.1)
            owner.check()
    owner.release()
    assert json.loads((tmp_path / lock.FILE).read_text())["host"] == "new"
