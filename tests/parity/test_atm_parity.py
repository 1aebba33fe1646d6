"""ATM's recorded outputs, gradients included, and what the comparison notices."""

import json

import numpy as np
import pytest

from t2p.io import UserError
from t2p.parity import atm, harness


@pytest.fixture(scope="module")
def fixture(shared):
    folder = shared / "golden/atm/track_transformer"
    arrays = [dict(np.load(folder / f"{name}.npz")) for name in ("inputs", "checkpoint", "outputs")]
    return json.loads((folder / "meta.json").read_text()), *arrays


def test_every_recorded_array_is_reproduced(shared):
    report = harness.check(shared / "golden/atm/track_transformer")
    assert report.status == "ok" and len(report.lines) == 31
    assert max(line.error for line in report.lines) < 2e-5  # the fixture allows 1e-4


def test_the_mask_is_that_of_the_inputs(fixture):
    meta, inputs, checkpoint, outputs = fixture
    got = atm.track_transformer(meta, inputs | {"patch_mask": ~inputs["patch_mask"]}, checkpoint)
    np.testing.assert_allclose(got["rec_track"], outputs["rec_track"], atol=1e-5)
    assert np.abs(got["masked_rec_track"] - outputs["masked_rec_track"]).max() > 1e-3


def test_only_the_last_frames_are_used(fixture):
    meta, inputs, checkpoint, outputs = fixture
    longer = np.concatenate([255 - inputs["vid"], inputs["vid"]], axis=1)
    got = atm.track_transformer(meta, inputs | {"vid": longer}, checkpoint)
    np.testing.assert_allclose(got["rec_track"], outputs["rec_track"], atol=1e-5)


def test_settings_follow_the_constructor(fixture):
    meta = json.loads(json.dumps(fixture[0]))
    meta["constructor"]["transformer_cfg"]["dim_head"] = 20
    meta["constructor"]["vid_cfg"].update({"img_size": [24, 40], "frame_stack": 3})
    meta["constructor"]["language_encoder_cfg"]["num_layers"] = 2
    settings = atm.model_settings(meta["constructor"])
    assert settings["head_dim"] == 20 and settings["image_size"] == (24, 40) and settings["frames"] == 3
    assert settings["text_layers"] == 2 and settings["text_hidden"] == 128


def test_weights_that_do_not_fit_are_named(fixture):
    meta, inputs, checkpoint, _ = fixture
    weights = {k: v for k, v in checkpoint.items() if k != "mask_token"}
    with pytest.raises(UserError, match="mask_token"):
        atm.track_transformer(meta, inputs, weights)


@pytest.mark.long
def test_a_wrong_weight_in_any_tensor_is_noticed(shared):
    opened, adapter = harness.open_fixture(shared / "golden/atm/track_transformer")
    verdicts = dict(harness.self_test(opened, adapter))
    assert verdicts and "MISSED" not in verdicts.values()
