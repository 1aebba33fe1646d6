"""TAPIR against the recorded outputs of google-deepmind/tapnet."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from t2p.parity import harness
from t2p.parity.tapir import overrides


@pytest.mark.parametrize("name", ["tapir_small", "bootstapir_small"])
def test_every_recorded_array_is_reproduced(shared, name):
    report = harness.check(shared / "golden/tapir" / name)
    assert report.status == "ok", report
    assert len(report.lines) == 53
    assert max(line.error for line in report.lines) < 1e-4  # ten times closer than asked for


def test_weights_of_another_model_fail(shared, tmp_path):
    folder = shutil.copytree(shared / "golden/tapir/tapir_small", tmp_path / "a", copy_function=shutil.copyfile)
    shutil.copyfile(shared / "golden/atm/track_transformer/checkpoint.npz", folder / "checkpoint.npz")
    (folder / "checkpoint.npy").unlink()
    report = harness.check(folder)
    assert report.status == "FAIL" and "no TAPIR weights" in report.reason
    assert all(line.note == "not produced" for line in report.lines)


def test_constructor_arguments():
    arguments = {"softmax_temperature": 5.0, "initial_resolution": [64, 32], "num_pips_iter": 2, "pyramid_level": 1}
    assert overrides(arguments) == {"temperature": 5.0, "train_size": (64, 32), "iterations": 2}
    assert overrides({}) == {}


@pytest.mark.long
def test_a_wrong_weight_in_any_tensor_is_noticed(shared):
    fixture, adapter = harness.open_fixture(shared / "golden/tapir/tapir_small")
    verdicts = dict(harness.self_test(fixture, adapter))
    assert len(verdicts) > 60 and "MISSED" not in verdicts.values()
    # a bias before a softmax
    assert [name for name, v in verdicts.items() if v == "no effect"] == ["tapir/~/cost_volume_regression_2/b"]
    assert np.all([v in ("noticed", "no effect") for v in verdicts.values()])
