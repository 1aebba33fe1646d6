"""ResNet files of torchvision, timm and AMPLIFY: names, sizes from shapes, and the way back."""

import json

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from t2p.convert.base import to_official, to_variables
from t2p.convert.resnet import (
    Names,
    is_extra,
    load_resnet,
    official_shapes,
    resnet_from_arrays,
    resnet_rows,
    resnet_settings,
)
from t2p.io import UserError
from t2p.models.resnet import ResNet, make_resnet

TINY = {"blocks": (2, 1), "bottleneck": False, "widths": (4, 6), "stem": 3}
CASES = {
    "two convolutions": TINY,
    "a stem as wide as the first stage": {**TINY, "stem": 4},
    "bottleneck": {**TINY, "bottleneck": True},
}
NAMES = {"named": Names(), "numbered": Names("model.", sequential=True)}


def official(settings, names=NAMES["named"], seed=0):
    rng = np.random.default_rng(seed)
    shapes = official_shapes(ResNet(**settings), resnet_rows(settings, names))
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("case", CASES)
def test_there_and_back(case, names):
    settings, names = CASES[case], NAMES[names]
    arrays, rows = official(settings, names), resnet_rows(settings, names)
    assert resnet_settings(arrays, names) == settings
    variables = to_variables(rows, arrays)
    assert set(variables) == {"params", "batch_stats"}
    back = to_official(rows, variables)
    assert back.keys() == arrays.keys()
    for name, value in back.items():
        np.testing.assert_array_equal(value, arrays[name])
    wanted = jax.eval_shape(ResNet(**settings).init, jax.random.key(0), np.zeros((1, 32, 32, 3)))
    assert flatten_dict(variables).keys() == flatten_dict(wanted).keys()


def test_official_names_and_layouts():
    arrays = official_shapes(make_resnet("resnet50", "batch"), resnet_rows(vars_of("resnet50")))
    assert arrays["conv1.weight"] == (64, 3, 7, 7) and arrays["bn1.running_var"] == (64,)
    assert arrays["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert arrays["layer4.2.conv2.weight"] == (512, 512, 3, 3) and arrays["layer4.2.bn3.bias"] == (2048,)
    assert "layer2.1.downsample.0.weight" not in arrays
    assert len(arrays) == 53 * 5  # convolutions, each with a norm of four arrays


def test_names_and_sizes_of_the_release(shared):
    """Its own list of tensors, at full size."""
    listed = json.loads((shared / "golden/amplify/param_shapes_full.json").read_text())
    listed = listed["vision_encoder_resnet18_patches"]
    listed = {k: tuple(v) for part in ("params", "buffers") for k, v in listed[part].items() if not is_extra(k)}
    rows = resnet_rows(vars_of("resnet18"), NAMES["numbered"])
    assert official_shapes(make_resnet("resnet18", "batch"), rows) == listed


def vars_of(variant):
    net = make_resnet(variant, "batch")
    return {key: getattr(net, key) for key in ("blocks", "bottleneck", "widths", "stem")}


def test_files_are_read_whole_numbered_or_inside_a_model(tmp_path):
    """With classifier and counters, as the release numbers the modules, and as its checkpoints wrap them."""
    arrays = official(TINY)
    whole = arrays | {"fc.weight": np.zeros((5, 6), np.float32), "bn1.num_batches_tracked": np.zeros((), np.int64)}
    numbered = {
        n: x for n, x in zip(official_shapes(ResNet(**TINY), resnet_rows(TINY, Names("", True))), arrays.values())
    }
    save_file(whole, tmp_path / "whole.safetensors")
    np.savez(tmp_path / "numbered.npz", **numbered)
    wrapped = {f"img_encoder.model.{n}": x for n, x in numbered.items()} | {"sos_token": np.zeros(3)}
    np.savez(tmp_path / "wrapped.npz", **wrapped)
    read = [load_resnet(tmp_path / n) for n in ("whole.safetensors", "numbered.npz", "wrapped.npz")]
    assert all(net == ResNet(**TINY) for net, _ in read)
    for _, variables in read[1:]:
        jax.tree.map(np.testing.assert_array_equal, variables, read[0][1])
    stem = read[0][1]["params"]["stem"]["kernel"]
    np.testing.assert_array_equal(stem[2, 5, 1], arrays["conv1.weight"][:, 1, 2, 5])


def without(name):
    return lambda w: w.pop(name)


def changed(name, shape):
    return lambda w: w.update({name: np.zeros(shape, np.float32)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("layer1.0.conv1.weight"), "holds no ResNet of torchvision, timm or AMPLIFY"),
        (without("conv1.weight"), r"lacks conv1\.weight.*7x7"),
        (without("layer2.0.bn2.running_var"), r"Missing \(1\): layer2\.0\.bn2\.running_var"),
        (changed("layer1.0.se.weight", (4,)), r"Unknown \(1\): layer1\.0\.se\.weight"),
        (
            changed("layer1.1.conv2.weight", (4, 2, 3, 3)),
            r"layer1\.1\.conv2\.weight is \(4, 2, 3, 3\), not \(4, 4, 3, 3\)",
        ),
        (changed("conv1.weight", (3, 3, 3, 3)), r"conv1\.weight is \(3, 3, 3, 3\), not \(3, 3, 7, 7\)"),
    ],
)
def test_files_that_do_not_fit(tmp_path, change, message):
    arrays = official(TINY)
    change(arrays)
    np.savez(tmp_path / "w.npz", **arrays)
    with pytest.raises(UserError, match=message) as e:
        load_resnet(tmp_path / "w.npz")
    assert "w.npz" in str(e.value)


def test_several_encoders_in_a_file():
    arrays = official(TINY)
    both = {f"{side}.{name}": x for side in ("left", "right") for name, x in arrays.items()}
    with pytest.raises(UserError, match=r"2 arrays called 'layer1\.0\.conv1\.weight'"):
        resnet_from_arrays(both)
