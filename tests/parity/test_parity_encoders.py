"""AMPLIFY's frozen encoders against what the release's own computed."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2p.convert.resnet import resnet_from_arrays, resnet_rows
from t2p.models.resnet import ResNet, vision_tokens
from t2p.parity import encoders, harness

BIAS = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"


def read(folder):
    return json.loads((folder / "meta.json").read_text()), *(
        dict(np.load(folder / f"{name}.npz")) for name in ("inputs", "outputs")
    )


def test_the_language_encoder(shared):
    report = harness.check(shared / "golden/amplify/t5_encoder")
    assert report.status == "ok" and len(report.lines) == 2, report
    assert max(line.error for line in report.lines) < 1e-5


def test_the_image_encoder(shared):
    report = harness.check(shared / "golden/amplify/vision_resnet18_full")
    assert report.status == "ok" and len(report.lines) == 2, report


def test_image_tokens_of_the_narrow_encoder(shared):
    """The one inside a checkpoint of forward dynamics, with the images as that gets them."""
    folder = shared / "golden/amplify/forward_dynamics_resnet18"
    meta, inputs, outputs = read(folder)
    net, variables = resnet_from_arrays(dict(np.load(folder / "checkpoint.npz")))
    config = meta["config"]["vision_encoder"]
    assert net == ResNet(widths=tuple(config["stage_channels"]), stem=config["stem_channels"])
    images, size = jnp.asarray(inputs["images"], jnp.float32) / 255, (config["img_size"],) * 2
    tokens = jax.jit(lambda v, x: vision_tokens(net, v, x, size))(variables, images)
    np.testing.assert_allclose(tokens, outputs["img_tokens"], **meta["compare"])


def test_a_recorded_checkpoint_goes_before_the_recipe():
    """And sizes, pooling and corner come from meta.json."""
    net = ResNet(blocks=(1, 1), widths=(4, 6), stem=4)
    settings = {"blocks": (1, 1), "bottleneck": False, "widths": (4, 6), "stem": 4}
    names = encoders.Names("model.", sequential=True)
    shapes = encoders.official_shapes(net, resnet_rows(settings, names))
    weights = {name: encoders.recipe_weight(name, shape, 3) for name, shape in shapes.items()}
    meta = {
        "config": {"model_name": "resnet18", "get_patches": True, "img_size": 32},
        "seed": 0,
        "arrays": {"outputs": {"resized_patch": {"shape": [2, 3, 5, 7]}}},
    }
    images = np.random.default_rng(0).integers(0, 256, (1, 2, 20, 24, 3), dtype=np.uint8)
    got = encoders.vision_resnet(meta, {"images": images}, weights)
    assert got["img_tokens"].shape == (1, 2, 16, 6) and got["resized_patch"].shape == (2, 3, 5, 7)
    meta["config"]["get_patches"] = False
    pooled = encoders.vision_resnet(meta, {"images": images}, weights)["img_tokens"]
    np.testing.assert_allclose(pooled[:, :, 0], got["img_tokens"].mean(2), atol=1e-6)


@pytest.mark.long
def test_a_wrong_weight_in_any_tensor_is_noticed(shared):
    opened, adapter = harness.open_fixture(shared / "golden/amplify/t5_encoder")
    verdicts = dict(harness.self_test(opened, adapter))
    # Changed as a whole, the table of biases cancels in the softmax.
    verdicts.pop(BIAS)
    assert len(verdicts) == 18 and set(verdicts.values()) == {"noticed"}


def test_wrong_position_biases_are_noticed(shared):
    folder = shared / "golden/amplify/t5_encoder"
    meta, inputs, outputs = read(folder)
    weights = dict(np.load(folder / "checkpoint.npz"))
    weights[BIAS] = np.roll(weights[BIAS], 16, axis=0)  # ahead for behind
    got = encoders.t5_encoder(meta, inputs, weights)
    assert np.abs(got["text_emb"] - outputs["text_emb"]).max() > 1e-2
