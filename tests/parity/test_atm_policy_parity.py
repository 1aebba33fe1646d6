"""The recorded outputs of ATM's policy, gradients and closed loop included, and what other configurations change."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2p.convert.atm_policy import all_rows, policy_arrays, policy_variables
from t2p.io import UserError
from t2p.models.atm import TrackTransformer
from t2p.models.atm_policy import Depth, TrackPolicy
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
    rows = all_rows(atm_policy.policy_settings(meta["constructor"], checkpoint), tracker)
    again = policy_arrays(rows, policy_variables(rows, checkpoint))
    assert set(again) == set(checkpoint)
    for name, value in checkpoint.items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_allclose(again[name], value, rtol=1e-6, err_msg=name)


def test_settings_follow_the_constructor_and_the_weights(fixture):
    meta, _, checkpoint, _ = fixture
    constructor = json.loads(json.dumps(meta["constructor"]))
    constructor["spatial_transformer_cfg"].update({"use_language_token": True, "num_heads": 2})
    constructor["obs_cfg"]["extra_states"] = ["gripper_states", "joint_states"]
    constructor["obs_cfg"]["obs_shapes"].update({"rgb": [3, 24, 40]})
    constructor["policy_head_cfg"]["action_squash"] = True
    settings = atm_policy.policy_settings(constructor, checkpoint)
    assert settings["states"] == (7, 2)  # always joints first
    assert (settings["image_size"], settings["track_steps"], settings["temporal_dim"]) == ((24, 40), 16, 32)
    assert settings["spatial_text"] and not settings["temporal_text"] and settings["squash"]
    assert settings["spatial"] == Depth(2, 2, 24, 96)


def test_arguments_left_to_their_defaults_are_those_of_the_weights(fixture):
    meta, _, checkpoint, _ = fixture
    want = atm_policy.policy_settings(meta["constructor"], checkpoint)
    constructor = json.loads(json.dumps(meta["constructor"]))
    constructor["track_cfg"] = {"policy_track_patch_size": None}
    constructor["img_encoder_cfg"] = constructor["language_encoder_cfg"] = constructor["extra_state_encoder_cfg"] = {}
    constructor["policy_head_cfg"] = {"output_size": [7]}
    assert atm_policy.policy_settings(constructor, checkpoint) == want
    del constructor["track_cfg"]["policy_track_patch_size"]
    assert atm_policy.policy_settings(constructor, checkpoint) == want


def test_the_weights_tell_how_far_tracks_are_cut(fixture):
    """Two patches of four steps in each of two views, whatever the constructor's shape of tracks says."""
    meta, _, checkpoint, _ = fixture
    cut = {"track_patch_pos_embed": np.zeros((1, 4, 48)), "track_proj_encoder.conv.weight": np.zeros((64, 4, 4))}
    settings = atm_policy.policy_settings(meta["constructor"], checkpoint | cut)
    assert (settings["track_patch"], settings["track_steps"]) == (4, 8)


OTHER = {"patch": 4, "patch_width": 8, "image_size": (40, 40), "track_patch": 4, "state_layers": 2, "state_hidden": 10}


def test_other_constructors_run(fixture):
    """Track patches left to the track transformer's, a picture with a rest beside its oblong patches, hidden layers
    for the state: forward, gradients and closed loop, on weights of the official names."""
    meta, inputs, checkpoint, _ = fixture
    meta, tracker = json.loads(json.dumps(meta)), model_settings(meta["track_transformer_constructor"])
    tracker |= {"image_size": (40, 40)}
    settings = atm_policy.policy_settings(meta["constructor"], checkpoint) | OTHER
    c = meta["constructor"]
    c["obs_cfg"]["obs_shapes"]["rgb"] = [3, 40, 40]
    c["img_encoder_cfg"]["patch_size"], c["extra_state_encoder_cfg"]["extra_num_layers"] = [4, 8], 2
    del c["track_cfg"]["policy_track_patch_size"]
    meta["track_transformer_constructor"]["vid_cfg"]["img_size"] = 40
    arrays = _random_weights(settings, tracker)
    meta["grad_param_names"] = [f"extra_encoder.encoders.{i}.{j}.weight" for i in range(2) for j in (0, 1, 3)]
    rng = np.random.default_rng(3)
    large = dict(inputs)
    for name in ("obs", "track_obs"):
        large[name] = rng.integers(0, 256, (*inputs[name].shape[:-2], 40, 40)).astype(np.float32)
    large["act_obs"] = rng.integers(0, 256, (6, 2, 2, 40, 40, 3), np.uint8)
    found = atm_policy.policy(meta, large, arrays)
    assert found["image_tokens"].shape == (2, 4, 2 * 5 * 2, 64)
    assert found["track_patch_embed"].shape == (2 * 4 * 32, 2 * 4, 64)
    assert (found["grad_norms"] > 0).all() and found["act_action"].shape == (6, 2, 7)
    np.testing.assert_allclose(found["temporal_in"][0, 0, 2], _state_token(arrays, inputs), atol=1e-4)


def _random_weights(settings, tracker):
    """All numbers are above 0."""
    net, rng = TrackPolicy(**settings), np.random.default_rng(2)
    images, tracks, text = jnp.zeros((1, 2, 1, 40, 40, 3)), jnp.zeros((1, 2, 1, 16, 32, 2)), jnp.zeros((1, 24))
    states = tuple(jnp.zeros((1, 1, width)) for width in settings["states"])
    own = jax.eval_shape(lambda: net.init(jax.random.key(0), images, tracks, text, states))
    frames, points = jnp.zeros((1, tracker["frames"], 40, 40, 3)), jnp.zeros((1, 32, 2))
    theirs = jax.eval_shape(lambda: TrackTransformer(**tracker).init(jax.random.key(0), frames, points, text))
    shapes = {**own, "frozen": {"track_transformer": theirs}}
    found = jax.tree.map(lambda s: 0.1 * np.abs(rng.standard_normal(s.shape, np.float32)), shapes)
    return policy_arrays(all_rows(settings, tracker), found)


def _state_token(arrays, inputs):
    """The joints' token of the first step, as the released code makes it of hidden layers."""
    x = inputs["joint_states"][0, 0]
    for i in (0, 1, 3):
        weight, bias = (arrays[f"extra_encoder.encoders.0.{i}.{part}"] for part in ("weight", "bias"))
        x = weight @ x + bias
        x = np.maximum(x, 0) if i == 1 else x
    return x


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
