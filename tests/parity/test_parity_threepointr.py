"""3PoinTr's recorded outputs, and what the adapter reads of a configuration."""

import json

import numpy as np
import pytest

from t2p.parity import harness
from t2p.parity.threepointr import models, networks

FOLDER = "golden/threepointr/networks"


@pytest.fixture(scope="module")
def fixture(shared):
    arrays = [dict(np.load(shared / FOLDER / f"{name}.npz")) for name in ("inputs", "checkpoint", "outputs")]
    return json.loads((shared / FOLDER / "meta.json").read_text()), *arrays


def test_every_recorded_array_is_reproduced(shared):
    report = harness.check(shared / FOLDER)
    assert report.status == "ok", report
    errors = {line.name: line.error for line in report.lines}
    assert len(errors) == 58 and errors.pop("ade_mm_per_sample") < 1e-3  # of thousands of millimetres
    assert max(errors.values()) < 1e-5


def changed(meta, **config):
    return meta | {"config": meta["config"] | config}


def test_the_configuration_is_followed(fixture):
    meta, inputs, checkpoint, _ = fixture
    sphere = networks(changed(meta, radius_quantile=1.0), inputs, checkpoint)
    distance = np.linalg.norm(inputs["cloud"] - sphere["centre"], axis=-1).max(1)
    np.testing.assert_allclose(sphere["radius"], distance + 1e-6, rtol=1e-6)
    net, readout = models(changed(meta, norm_eps=1e-3, cross_attend_tokens=False)["config"])
    assert net.epsilon == readout.epsilon == 1e-3 and not net.cross_attend_tokens


def test_weights_of_a_branch_that_is_switched_off_get_no_gradient(fixture):
    meta, inputs, checkpoint, outputs = fixture
    off = ("norm2", "norm_memory", "cross")
    plain = networks(changed(meta, cross_attend_tokens=False), inputs, checkpoint)
    assert set(plain) == set(outputs)
    for name, value in plain.items():
        if name.startswith("grad_norm/"):
            assert (value == 0) == any(f".{part}." in name for part in off)
    assert np.abs(plain["tracks_normalised"] - outputs["tracks_normalised"]).max() > 1e-3
    fewer = {k: v for k, v in checkpoint.items() if k[:5] == "polic" or not any(f".{part}." in k for part in off)}
    same = networks(changed(meta, cross_attend_tokens=False), inputs, fewer)
    np.testing.assert_array_equal(same["tracks_normalised"], plain["tracks_normalised"])


@pytest.mark.long
def test_a_wrong_weight_in_any_tensor_is_noticed(shared):
    opened, adapter = harness.open_fixture(shared / FOLDER)
    verdicts = dict(harness.self_test(opened, adapter))
    assert verdicts and set(verdicts.values()) == {"noticed"}
