"""AMPLIFY's inverse dynamics, temporal ensembling and preprocessing against the release's own numbers."""

import numpy as np
import pytest

from t2p.parity.amplify_inverse import head_from, model_settings
from t2p.parity.harness import check


@pytest.mark.parametrize(
    "fixture",
    [
        "inverse_dynamics_gaussian",
        "inverse_dynamics_diffusion",
        "inverse_dynamics_flow",
        pytest.param("diffusion_unet1d_reference", marks=pytest.mark.long),  # Diffusion Policy's adapter, tested there
        "preprocess",
        "temporal_ensemble",
    ],
)
def test_golden(shared, fixture):
    report = check(shared / "golden" / "amplify" / fixture)
    assert report.status == "ok", report


def config(**changes):
    return {
        "type": "gaussian",
        "num_heads": 2,
        "num_layers": 1,
        "attn_pdrop": 0.1,
        "action_dim": 7,
        "action_squash": True,
        "cond_on_img": True,
        "cond_on_text": False,
        "cond_on_proprio": True,
        "cond_on_tracks": True,
        "num_img_tokens": 9,
    } | changes


def tokenizer(**changes):
    views = ["agentview", "eye_in_hand"]
    sizes = {"track_pred_horizon": 8, "per_view": False, "cond_cameraviews": views, "true_horizon": 6, "hidden_dim": 16}
    return sizes | changes


def test_other_configurations():
    numbers = {"head.std": np.ones(()), "head.action_squash_scale": np.ones(())}
    learned = model_settings(config(std=0.1), tokenizer(), numbers)
    assert learned["spread"] == "scalar" and learned["learned_scale"] and "std" not in learned
    fixed = model_settings(config(std=0.3, action_squash_scale=2, action_squash=False), tokenizer(), {})
    assert (fixed["std"], fixed["scale"], fixed["squash"]) == (0.3, 2, False)
    assert model_settings(config(), tokenizer(), {})["std"] == 0.1  # the release's value where none is given
    assert head_from(config(), model_settings(config(), tokenizer(), {})).discount == 1.0


@pytest.mark.parametrize(
    ("changes", "per_view", "parts", "tokens"),
    [
        ({}, False, ("image", "proprio", "codes"), 9 + 1 + 7),
        ({"cond_on_text": True}, False, ("image", "text", "proprio", "codes"), 9 + 1 + 1 + 7),
        ({"cond_on_img": False, "cond_on_proprio": False}, True, ("codes",), 14),
        ({"cond_on_tracks": False}, True, ("image", "proprio"), 10),
    ],
)
def test_parts_of_the_condition(changes, per_view, parts, tokens):
    settings = model_settings(config(type="diffusion", **changes), tokenizer(per_view=per_view), {})
    assert settings["parts"] == parts and settings["condition"] == tokens


def test_steps_of_sampling():
    for kind, name, steps in (("diffusion", "diffusion_steps", 12), ("flow", "flow_matching_steps", 9)):
        chosen = config(type=kind, **{name: steps})
        head = head_from(chosen, model_settings(chosen, tokenizer(), {}))
        assert steps == (head.inference_steps if kind == "diffusion" else head.steps)
        if kind == "diffusion":
            assert len(np.asarray(head.schedule.betas)) == steps
