"""Batches ahead of time: order, waiting, errors, closing."""

from __future__ import annotations

import json
import time

import jax
import numpy as np
import pytest
from train_fakes import FakeLoader

from t2p import accelerators
from t2p.io import read_json_lines
from t2p.train.defaults import base_config
from t2p.train.feed import Feed
from t2p.train.goodput import Goodput
from t2p.train.logging import Speed
from t2p.train.sharding import make_mesh


@pytest.fixture
def mesh():
    return make_mesh(base_config())


def test_batches_come_in_order_with_their_position(mesh):
    loader = FakeLoader(4, 0, 0, 1, start=3)
    with Feed(loader, mesh, 4) as feed:
        for position in (4, 5, 6):
            batch, found, _ = feed.next()
            assert found == position
            np.testing.assert_array_equal(batch.index, np.arange(4 * position - 4, 4 * position))
    assert loader.closed


def test_waiting_is_what_the_devices_wait(mesh):
    class Slow(FakeLoader):
        def __next__(self):
            time.sleep(0.2)
            return super().__next__()

    with Feed(Slow(4, 0, 0, 1, 0), mesh, 4) as feed:
        feed.next()
        assert feed.waited > 0.1
        time.sleep(0.9)  # meanwhile two batches are read
        before = feed.waited
        feed.next(), feed.next()
        assert feed.waited - before < 0.1


def test_errors_of_the_loader_reach_the_loop(mesh):
    class Broken(FakeLoader):
        def __next__(self):
            if self.position == 1:
                raise ValueError("record 7 is damaged")
            return super().__next__()

    with Feed(Broken(4, 0, 0, 1, 0), mesh, 4) as feed:
        feed.next()
        with pytest.raises(ValueError, match="record 7"):
            feed.next()


def test_goodput_counts_repeated_steps_and_the_time_between_runs_as_lost(tmp_path):
    path = tmp_path / "events.jsonl"
    begin = time.time() - 40.0
    first = {"event": "start", "time": begin + 5, "step": 0, "seconds": {"init": 5.0, "total": 5.0}}
    seconds = {"step": 20.0, "init": 5.0, "data": 5.0, "total": 30.0}
    last = {"event": "progress", "time": begin + 30, "step": 10, "seconds": seconds}
    path.write_text(f'{json.dumps(first)}\n{json.dumps(last)}\n{{"event": "start", "ste')
    assert len(read_json_lines(path)) == 2
    goodput = Goodput(path)
    goodput.start(6)
    found = goodput.summary(6)
    assert found["restarts"] == 1 and found["lost_steps"] == 4
    # 20 s of steps, of which 4 / 10 were for nothing, in 30 s and 10 s until this run, which has just begun
    assert found["goodput"] == pytest.approx(12 / 40, rel=1e-2)
    assert found["share_data"] == pytest.approx(5 / 40, rel=1e-2)
    assert found["share_down"] == pytest.approx(10 / 40, rel=1e-2)
    with goodput.section("eval"):
        time.sleep(0.05)
    seconds = goodput.seconds()
    assert seconds["eval"] >= 0.05 and seconds["total"] == pytest.approx(seconds["eval"] + seconds["step"], abs=1e-6)


def test_rates_and_utilisation(monkeypatch):
    now = iter([100.0, 110.0])
    monkeypatch.setattr("t2p.train.logging.time.monotonic", lambda: next(now))
    monkeypatch.setattr("t2p.accelerators.lookup", lambda kind: accelerators.ACCELERATORS["v5e"])
    speed = Speed(flops_per_step=197e12, batch_size=8)
    assert speed.rates(10, waited=1.0, elsewhere=0.0) == {}
    found = speed.rates(14, waited=2.0, elsewhere=2.0)  # 4 steps in 10 s, 2 of them in evaluation
    assert found["steps_per_second"] == pytest.approx(0.5) and found["examples_per_second"] == pytest.approx(4.0)
    assert found["data_wait"] == pytest.approx(1 / 8)
    assert found["mfu"] == pytest.approx(0.5 / jax.device_count())


def test_unknown_devices_have_rates_but_no_utilisation(monkeypatch):
    speed = Speed(1e9, 8)
    speed.rates(0, 0.0, 0.0)
    found = speed.rates(1, 0.0, 0.0)
    assert "flops_per_second" in found and "mfu" not in found
