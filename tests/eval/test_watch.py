"""Watching a rollout: the pictures are of its environments, drawn only for somebody, and change nothing."""

from __future__ import annotations

import http.client
import io
import json
import threading
import time
from urllib.parse import urlsplit

import numpy as np
import pytest
from nudge import Nudge, Push, variables
from PIL import Image

from t2p.eval import watch as watching
from t2p.eval.rollout import Record, rollout
from t2p.eval.watch import Watch
from t2p.sim.batch import BatchedSim

SEEDS = range(4)


@pytest.fixture
def watch():
    with Watch(0, "rays") as made:
        yield made


def facts(watch: Watch) -> dict:
    connection = http.client.HTTPConnection(urlsplit(watch.url).netloc, timeout=10)
    connection.request("GET", "/facts")
    return json.loads(connection.getresponse().read())


class Viewer:
    """Reads one picture after the other."""

    def __init__(self, watch: Watch, name: str = "0"):
        connection = http.client.HTTPConnection(urlsplit(watch.url).netloc, timeout=20)
        connection.request("GET", f"/{name}.mjpeg")
        self.response = connection.getresponse()
        self.response.readline()

    def next(self) -> np.ndarray:
        length = 0
        while line := self.response.readline().strip():
            if line.lower().startswith(b"content-length"):
                length = int(line.split(b":")[1])
        jpeg = self.response.read(length)
        self.response.readline(), self.response.readline()
        return np.asarray(Image.open(io.BytesIO(jpeg))).astype(int)


def place(picture: np.ndarray) -> np.ndarray:
    """Where the green box is, (row, column)."""
    green = (picture[..., 1] > 120) & (picture[..., 0] < 90) & (picture[..., 2] < 90)
    assert green.sum() > 20
    return np.argwhere(green).mean(0)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_policy_without_pictures_is_seen_as_it_moves(watch: Watch, workers: int) -> None:
    """The policy looks at nothing; the box goes to the right in the view from above as it is pushed along x."""
    task = Push()
    watch.begin("mine", task, 2)
    with BatchedSim(task, 2, workers, Nudge().observe, "rays", glimpses=True) as sim, watch.attached(sim):
        sim.reset([3, 4])
        viewer = Viewer(watch)
        before = place(viewer.next())
        assert facts(watch)["captions"]["0"].startswith("environment 0: seed 3, step 0")
        push = np.zeros((2, 7))
        push[:, 1] = -1
        for _ in range(15):
            sim.step(push)
        while "step 15" not in facts(watch)["captions"]["0"]:
            viewer.next()
        assert place(viewer.next())[1] > before[1] + 20
        told = facts(watch)
    assert told["shown"] == ["0", "1"] and ["policy", "mine"] in told["rows"]
    assert ["task", "push: push the box"] in told["rows"] and ["episodes", "0 of 2 have ended"] in told["rows"]


def test_nothing_is_drawn_while_nobody_watches(watch: Watch, monkeypatch) -> None:
    drawn = []
    draw = watching._Drawer.draw
    monkeypatch.setattr(watching._Drawer, "draw", lambda self, glimpse: drawn.append(glimpse) or draw(self, glimpse))
    with BatchedSim(Push(), 1, 0, glimpses=True) as sim, watch.attached(sim):
        sim.reset([3])
        sim.step(np.zeros((1, 7)))
        time.sleep(1.2)
        assert not drawn
        Viewer(watch).next()
        assert drawn


def test_records_are_the_same_with_a_viewer_and_are_counted(watch: Watch) -> None:
    plain = rollout(Nudge(), variables(), Push(), SEEDS, num_envs=2, renderer="rays").records
    watch.begin("mine", Push(), len(SEEDS))
    seen: list[np.ndarray] = []

    def look() -> None:
        viewer = Viewer(watch, "1")
        while len(seen) < 3:
            seen.append(viewer.next())

    thread = threading.Thread(target=look)
    thread.start()
    found = rollout(
        Nudge(), variables(), Push(), SEEDS, num_envs=2, renderer="rays", progress=watch.note, watch=watch.attached
    ).records
    thread.join(30)
    assert found == plain and len(seen) == 3
    won = sum(r.success for r in plain)
    assert ["successes", f"{won} ({won / 4:.1%})"] in facts(watch)["rows"]
    watch.begin("other", Push(), 9)
    assert ["successes", "0"] in facts(watch)["rows"]


def test_pictures_follow_from_one_task_to_the_next(watch: Watch) -> None:
    """A second simulator is drawn with its own model: here with a yellow box."""

    class Yellow(Push):
        def build(self):
            spec = super().build()
            next(g for g in spec.body("box").geoms).rgba = [0.9, 0.9, 0, 1]
            return spec

    viewer = Viewer(watch)
    for task, yellow in ((Push(), False), (Yellow(), True)):
        with BatchedSim(task, 1, 0, glimpses=True) as sim, watch.attached(sim):
            sim.reset([3])
            for _ in range(20):
                picture = viewer.next()
                if ((picture[..., :2] > 150).all(-1) & (picture[..., 2] < 60)).any() == yellow:
                    break
            else:
                pytest.fail("the old picture stays")


def test_what_cannot_be_drawn_is_told_and_harms_nobody(monkeypatch) -> None:
    def broken(self, glimpse):
        raise RuntimeError("the card is gone")

    monkeypatch.setattr(watching._Drawer, "draw", broken)
    with Watch(0, "rays") as watch, BatchedSim(Push(), 1, 0, glimpses=True) as sim, watch.attached(sim):
        sim.reset([3])
        end = time.monotonic() + 10
        viewer = threading.Thread(target=lambda: Viewer(watch).response.read(), daemon=True)
        viewer.start()
        while ["no pictures", "the card is gone"] not in facts(watch)["rows"]:
            assert time.monotonic() < end
            time.sleep(0.02)
        assert sim.step(np.zeros((1, 7))).failed.tolist() == [False]
    viewer.join(10)


def test_ended_episodes_of_an_earlier_run_count(watch: Watch) -> None:
    watch.begin("mine", Push(), 2)
    watch.note(Record(0, True, "", 3, 0.1))
    told = facts(watch)
    assert ["episodes", "1 of 2 have ended"] in told["rows"] and told["shown"] == []
