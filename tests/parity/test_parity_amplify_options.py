"""AMPLIFY's parity adapters in configurations that no recorded set has: what they read from the checkpoint, from names
of inputs and from configurations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from t2p.convert.amplify import motion_tokenizer_rows, split_bundle
from t2p.convert.amplify_inverse import inverse_dynamics_rows
from t2p.convert.base import Arrays, to_official
from t2p.models.amplify import attention_mask
from t2p.models.inverse_dynamics import make_inverse_dynamics
from t2p.models.resnet import IMAGENET
from t2p.parity import amplify, amplify_inverse, amplify_models, encoders
from t2p.parity.amplify_policy import policy_end_to_end

VIEWS = ["agentview", "eye_in_hand"]
CONFIG = {"num_tracks": 4, "track_pred_horizon": 6, "hidden_dim": 8, "num_layers": 2, "num_heads": 2, "per_view": False}
CONFIG |= {"decoder_mlp_hidden_dim": 6, "causal_encoder": True, "cond_on_img": False, "cond_cameraviews": VIEWS}
LOSS = {"cls_img_size": [64, 64], "rel_cls_img_size": [3, 3], "loss_weights": dict.fromkeys(VIEWS, 1.0)}
CHANNELS = 5  # of an image token


def draw(shapes: Any) -> Any:
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), shapes)


def tokenizer(**changes: Any) -> tuple[dict[str, Any], Arrays, Arrays]:
    """A made-up fixture of the tokenizer: meta.json, inputs and a checkpoint without masks."""
    config = {**CONFIG, "loss": LOSS, **changes}
    rng = np.random.default_rng(1)
    inputs = {"traj": rng.uniform(-1, 1, (3, 2, 6, 4, 2)).astype(np.float32)}
    if config["cond_on_img"]:
        inputs["img_tokens"] = rng.standard_normal((3, 2, 9, CHANNELS)).astype(np.float32)
    net = amplify_models.tokenizer_from(config, (8, 8, 8), {})
    seen = np.zeros((1, 18, CHANNELS) if net.per_view else (1, 9, 2 * CHANNELS), np.float32)
    shapes = jax.eval_shape(
        net.init, jax.random.key(0), np.zeros((1, 2, 5, 4, 2), np.float32), seen if net.images else None
    )
    weights = to_official(motion_tokenizer_rows(net.depth, net.images), draw(shapes["params"]))
    return {"config": config, "fsq_levels": [8, 8, 8]}, inputs, weights


def encoded(*fixture: Any) -> np.ndarray:
    return amplify_models.motion_tokenizer(*fixture)["z_encoder"]


def test_the_mask_is_the_checkpoints_before_the_configurations() -> None:
    meta, inputs, weights = tokenizer(causal_encoder="diag")
    diagonal = encoded(meta, inputs, weights)
    moved = {"traj": inputs["traj"].copy()}
    moved["traj"][:, :, :2] *= 0.5  # the first two velocities
    np.testing.assert_allclose(encoded(meta, moved, weights)[:, 2:], diagonal[:, 2:], atol=1e-5)
    masks = {f"encoder.encoder.transformer.h.{i}.attn.attn_mask": attention_mask("diagonal", 5) for i in range(2)}
    causal = tokenizer(causal_encoder=True)[0]
    np.testing.assert_array_equal(encoded(causal, inputs, weights | masks), diagonal)
    assert np.abs(encoded(causal, inputs, weights) - diagonal).max() > 1e-2


def test_a_decoder_without_layers() -> None:
    """int(1 / 2) of one: positions and the final norm alone, so that all rows have one output."""
    meta, inputs, weights = tokenizer(num_layers=1)
    found = amplify_models.motion_tokenizer(meta, inputs, weights)
    np.testing.assert_allclose(found["logits"][1], found["logits"][0], atol=1e-6)
    assert np.abs(found["grad__decoder.decoder.transformer.pos_emb.weight"]).max() > 0
    assert not np.any(found["grad__encoder.encoder_proj.weight"])


@pytest.mark.parametrize("per_view", [False, True])
def test_the_tokenizer_looks_at_pictures(per_view: bool) -> None:
    """Views side by side, or one after the other, where there are codes of each."""
    meta, inputs, weights = tokenizer(cond_on_img=True, per_view=per_view)
    found = encoded(meta, inputs, weights)
    tokens = inputs["img_tokens"]
    given = tokens.reshape(3, 18, -1) if per_view else np.concatenate([tokens[:, 0], tokens[:, 1]], axis=-1)
    np.testing.assert_array_equal(encoded(meta, inputs | {"img_tokens": given}, weights), found)
    assert np.abs(encoded(meta, inputs | {"img_tokens": given[:, ::-1] * 2}, weights) - found).max() > 1e-2
    grads = amplify_models.motion_tokenizer(meta, inputs, weights)
    assert np.abs(grads["grad__encoder.cond_proj.weight"]).max() > 0


def inverse(kind: str, parts: tuple[str, ...], sizes: dict[str, tuple[int, int]], **settings: Any) -> Arrays:
    """A made-up inverse dynamics' file."""
    settings = {"kind": kind, "parts": parts, **settings}
    x = {part: np.zeros((1, *sizes[part]), np.float32) for part in parts}
    noisy = () if kind == "gaussian" else (np.zeros((1, *settings["actions"]), np.float32), np.zeros(1))
    shapes = jax.eval_shape(make_inverse_dynamics(**settings).init, jax.random.key(0), x, *noisy)
    return to_official(inverse_dynamics_rows(settings), draw(shapes["params"]))


def test_words_and_learned_numbers_of_inverse_dynamics() -> None:
    """The sentence goes by either of its names; a learned number by its array, whatever the configuration says."""
    sizes = {"text": (1, 12), "codes": (7, 8)}
    made: dict[str, Any] = {"width": 8, "depth": 1, "heads": 2, "actions": (6, 7)}
    weights = inverse("gaussian", ("text", "codes"), sizes, **made, spread="scalar", learned_scale=True)
    choices = {"cond_on_img": False, "cond_on_text": True, "cond_on_proprio": False, "cond_on_tracks": True}
    config = {"type": "gaussian", "num_heads": 2, "num_layers": 1, "attn_pdrop": 0.1, "action_dim": 7, **choices}
    config |= {"action_squash": True, "std": 0.1, "action_squash_scale": 1.0}
    meta = {"config": config, "motion_tokenizer_cfg": {"hidden_dim": 8, "true_horizon": 6}, "arrays": {"outputs": {}}}
    rng = np.random.default_rng(0)
    text, codes, actions = (rng.standard_normal(s).astype(np.float32) for s in ((2, 12), (2, 7, 8), (2, 6, 7)))
    inputs = {"codes": codes, "actions": actions}
    found = amplify_inverse.inverse_dynamics(meta, inputs | {"text_emb": text}, weights)
    other = amplify_inverse.inverse_dynamics(meta, inputs | {"text_tokens": text[:, None]}, weights)
    np.testing.assert_array_equal(found["act"], other["act"])
    assert np.abs(found["grad__head.std"]) > 0 and np.abs(found["grad__head.action_squash_scale"]) > 0
    with pytest.raises(ValueError, match="the inputs have no text_tokens or text_emb"):
        amplify_inverse.inverse_dynamics(meta, inputs, weights)


@pytest.fixture(scope="module")
def policy(shared: Path) -> tuple[dict[str, Any], Arrays, Arrays]:
    folder = shared / "golden/amplify/policy_end_to_end"
    meta = json.loads((folder / "meta.json").read_text())
    return meta, dict(np.load(folder / "inputs.npz")), dict(np.load(folder / "checkpoint.npz"))


@pytest.mark.parametrize(("kind", "parts"), [("diffusion", ("image", "proprio")), ("flow", ("text", "codes"))])
def test_policies_with_other_heads(kind: str, parts: tuple[str, ...], policy: Any) -> None:
    """Actions are those of the head's own adapter on the policy's condition; codes and tracks are always there."""
    meta, inputs, arrays = policy
    sizes = {"image": (9, 48), "text": (1, 512), "proprio": (1, 9), "codes": (7, 32)}
    made: dict[str, Any] = {"width": 32, "depth": 2, "heads": 4, "actions": (8, 7)}
    condition = {"condition": sum(sizes[part][0] for part in parts)} if kind == "diffusion" else {}
    head = inverse(kind, parts, sizes, **made, **condition)
    config = {**meta["config"]["inverse_dynamics"], "type": kind, "diffusion_steps": 3, "flow_matching_steps": 2}
    config |= {choice: part in parts for part, choice in amplify_inverse.CHOICES.items()}
    meta = {**meta, "config": {**meta["config"], "inverse_dynamics": config}}
    rng = np.random.default_rng(0)
    draws = {"init_noise": rng.standard_normal((2, 8, 7)).astype(np.float32)}
    draws |= {"step_noise": rng.standard_normal((2, 2, 8, 7)).astype(np.float32)} if kind == "diffusion" else {}
    others = {name: x for name, x in arrays.items() if not name.startswith("inverse_dynamics.")}
    whole = others | {f"inverse_dynamics.{name}": x for name, x in head.items()}
    given = {name: x for name, x in inputs.items() if name != "proprio" or "proprio" in parts}
    found = policy_end_to_end(meta, given | draws, whole)

    shown = {"img_tokens": found["img_tokens_id"], "codes": found["codes"], "text_emb": inputs["text_emb"]}
    shown |= {"proprio": inputs["proprio"], "actions": np.zeros((2, 8, 7), np.float32)}
    shown |= {"noise": draws["init_noise"], "timesteps": np.zeros(2, np.int32)}
    shown |= {"x0": draws["init_noise"], "t": np.zeros(2, np.float32)}
    own = {"config": config, "motion_tokenizer_cfg": meta["config"]["motion_tokenizer"], "arrays": {"outputs": {}}}
    want = amplify_inverse.inverse_dynamics(own, shown | draws, head)["act"]
    np.testing.assert_allclose(found["actions"], want, atol=1e-4)
    assert found["pred_traj"].shape == (2, 2, 8, 16, 2) and set(split_bundle(whole)["inverse_dynamics"]) == set(head)


def test_normalised_pictures_and_corners_of_all_rows() -> None:
    meta: dict[str, Any] = {"config": {"model_name": "resnet18", "get_patches": True, "img_size": 32}, "seed": 0}
    images = np.random.default_rng(0).integers(0, 256, (2, 2, 20, 24, 3), dtype=np.uint8)

    def run(shape: list[int], pictures: np.ndarray = images, **config: Any) -> dict[str, np.ndarray]:
        arrays = {"outputs": {"resized_patch": {"shape": shape}}}
        return encoders.vision_resnet(
            {**meta, "config": {**meta["config"], **config}, "arrays": arrays}, {"images": pictures}, None
        )

    corners = run([2, 2, 3, 5, 7])
    np.testing.assert_array_equal(run([4, 3, 5, 7])["resized_patch"], corners["resized_patch"].reshape(4, 3, 5, 7))
    np.testing.assert_array_equal(run([2, 3, 5, 7])["resized_patch"], corners["resized_patch"][0])
    mean, std = (np.asarray(numbers, np.float32) for numbers in IMAGENET)
    by_hand = run([2, 3, 5, 7], (images.astype(np.float32) / 255 - mean) / std)["img_tokens"]
    for value in (True, "imagenet", {"mean": list(IMAGENET[0]), "std": list(IMAGENET[1])}):
        found = run([2, 3, 5, 7], mean_std_normalisation=value)["img_tokens"]
        np.testing.assert_allclose(found, by_hand, atol=1e-3, rtol=1e-3)
    assert np.abs(by_hand - corners["img_tokens"]).max() > 0.1
    with pytest.raises(ValueError, match="expected null, or ImageNet's"):
        run([2, 3, 5, 7], mean_std_normalisation=[[0.5] * 3, [0.5] * 3])


def test_the_discount_is_that_of_the_arrays_name() -> None:
    rng = np.random.default_rng(0)
    pred, true = rng.standard_normal((2, 1, 2, 3, 4, 2)).astype(np.float32)
    inputs = {"pred_traj": pred, "gt_traj": true, "edge_pred": pred, "edge_gt": true, "indices": np.arange(4)}

    def run(config: dict[str, Any], *names: str) -> dict[str, np.ndarray]:
        meta = {"config": {"img_size": [64, 64], "codebook_size": 64, **config}}
        return amplify.metrics(meta | {"arrays": {"outputs": dict.fromkeys(names)}}, inputs)

    found = run({}, "rand__cross_track_l2_discount0.5", "edge__cross_track_l2_discount1.0")
    assert found["edge__cross_track_l2_discount1.0"] == found["rand__cross_track_l2"]
    assert found["rand__cross_track_l2_discount0.5"] < found["rand__cross_track_l2"]
    named = run({"discount": 0.5}, "rand__cross_track_l2_discounted")
    assert named["rand__cross_track_l2_discounted"] == found["rand__cross_track_l2_discount0.5"]


def test_names_of_interpolation() -> None:
    assert {amplify._method(name) for name in ("spline", "cubic", "cubic spline")} == {"spline"}
    assert amplify._method("linear") == "linear"
    with pytest.raises(ValueError, match="interp_method is 'nearest'"):
        amplify._method("nearest")
