"""The recorded outputs of ATM's policy, gradients and closed loop included, and what other configurations change."""

import json

import numpy as np
import pytest

from t2p.convert.atm_policy import all_rows, policy_arrays, policy_variables
from t2p.io import UserError
from t2p.models.atm_policy import Depth
from t2p.parity import atm_policy, harness
from t2p.parity.atm import model_settings


@pytest.fixture(scope="module")
def fixture(shared):
    folder = shared / "golden/atm/policy"
    arrays = [dict(np.load(folder / f"{name}.npz")) for name in ("inputs", "checkpoint", "outputs")]
    return json.loads((folder / "meta.json").read_text()), *arrays


def test_every_recorded_array_is_reproduced(shared):
    report = harness.check(shared / "golden/atm/policy")
    assert report.status == "ok" and len(report.lines) == 19
    assert max(line.error for line in report.lines) < 1e-5  # the fixture allows 1e-4


def test_the_official_file_is_written_as_it_was(fixture):
    """Back and forth: names, shapes and numbers of the official state dict; counters start again."""
    meta, _, checkpoint, _ = fixture
    tracker = model_settings(meta["track_transformer_constructor"])
    rows = all_rows(atm_policy.policy_settings(meta["constructor"]), tracker)
    again = policy_arrays(rows, policy_variables(rows, checkpoint))
    assert set(again) == set(checkpoint)
    for name, value in checkpoint.items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_allclose(again[name], value, rtol=1e-6, err_msg=name)


def test_settings_follow_the_constructor(fixture):
    constructor = json.loads(json.dumps(fixture[0]["constructor"]))
    constructor["spatial_transformer_cfg"].update({"use_language_token": True, "spatial_downsample": False})
    constructor["obs_cfg"]["extra_states"] = ["gripper_states", "joint_states"]
    constructor["obs_cfg"]["obs_shapes"].update({"rgb": [3, 24, 40], "tracks": [4, 32, 2]})
    constructor["policy_head_cfg"]["action_squash"] = True
    settings = atm_policy.policy_settings(constructor)
    assert settings["states"] == (7, 2)  # always joints first
    assert (settings["image_size"], settings["track_steps"], settings["temporal_dim"]) == ((24, 40), 4, 0)
    assert settings["spatial_text"] and not settings["temporal_text"] and settings["squash"]
    assert settings["spatial"] == Depth(2, 4, 12, 96)


def test_the_weights_tell_how_far_tracks_are_cut(fixture):
    settings = atm_policy.policy_settings(fixture[0]["constructor"]) | {"track_patch": 4}
    assert settings["track_steps"] == 16
    weights = {"track_patch_pos_embed": np.zeros((1, 4, 48))}  # two patches of four steps in each of two views
    assert atm_policy.track_steps(weights, settings) == 8
    assert atm_policy.track_steps({}, settings) == 16


def test_weights_that_do_not_fit_are_named(fixture):
    meta, inputs, checkpoint, _ = fixture
    with pytest.raises(UserError, match="modality_embed"):
        atm_policy.policy(meta, inputs, {k: v for k, v in checkpoint.items() if k != "modality_embed"})
    other = {**checkpoint, "extra_encoder.proprio_mlp.0.bias": np.ones(32, np.float32)}
    with pytest.raises(UserError, match=r"differ: extra_encoder.proprio_mlp.0.bias"):
        atm_policy.policy(meta, inputs, other)


@pytest.mark.long
def test_a_wrong_weight_in_any_tensor_is_noticed(shared):
    opened, adapter = harness.open_fixture(shared / "golden/atm/policy")
    verdicts = dict(harness.self_test(opened, adapter))
    assert verdicts and "MISSED" not in verdicts.values()
