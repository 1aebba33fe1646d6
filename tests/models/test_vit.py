"""Vision Transformers: sizes, timm's numbers at several resolutions, files of weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2p.cli.main import main
from t2p.convert.base import to_official
from t2p.convert.vit import vit_from_arrays, vit_rows
from t2p.io import UserError
from t2p.models.vit import VARIANTS, ViT, resized

# timm's counts with num_classes=0 (timm 1.0.31; vit_small_patch16_224, ..., vit_base_patch14_dinov2)
PARAMETERS = {"vit_s16": 21_665_664, "vit_b16": 85_798_656, "dinov2_s14": 22_056_192, "dinov2_b14": 86_579_712}
TINY = {"patch": 4, "dim": 8, "depth": 2, "heads": 2}


def official(net: ViT) -> dict[str, np.ndarray]:
    """Weights of a formula, under timm's names."""
    images = jnp.zeros((1, net.patch, net.patch, 3))
    ours = jax.tree.map(lambda x: np.zeros(x.shape), jax.eval_shape(net.init, jax.random.key(0), images)["params"])
    found = {}
    for name, x in to_official(vit_rows(net.depth, net.scaled), ours).items():
        wave = np.sin(0.37 * np.arange(x.size) + sum(map(ord, name)) % 97).reshape(x.shape)
        around_one = ("norm" in name and name.endswith("weight")) or name.endswith("gamma")
        size = 0.1 if x.ndim == 1 else 0.5 / np.sqrt(np.prod(x.shape[1:]))
        found[name] = (1 + 0.2 * wave if around_one else size * wave).astype(np.float32)
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_published_sizes(variant):
    net = ViT(**VARIANTS[variant])
    pictures = jnp.zeros((2, 224, 224, 3))
    shapes = jax.eval_shape(net.init, jax.random.key(0), pictures)
    assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == PARAMETERS[variant]
    token, patches = jax.eval_shape(net.apply, shapes, pictures)
    side = 224 // net.patch
    assert token.shape == (2, net.width) and patches.shape == (2, side * side, net.width)


# timm's forward_features on the same weights and pictures: the class token's first three numbers of the first picture,
# the last patch's last three of the second, and the mean of all absolute values.
RECORDED = {
    "the table's own grid": (
        ((2, 2), (8, 8), False),
        (0.2149173766, 1.6559818983, 0.7526993752),
        (1.4814091921, -0.9982023835, -0.9075971842),
        0.8625403643,
    ),
    "a larger grid": (
        ((2, 2), (12, 20), False),
        (0.1247119382, 1.6657079458, 0.6930349469),
        (1.2884682417, -0.6288769841, -1.0269000530),
        0.8513883948,
    ),
    "a smaller grid and LayerScale": (
        ((5, 5), (8, 12), True),
        (0.4279591143, 1.7626721859, 0.6272874475),
        (1.3615404367, -0.7212489843, -1.2726358175),
        0.8644573092,
    ),
}


@pytest.mark.parametrize("case", RECORDED)
def test_timms_numbers(case):
    (grid, (height, width), scaled), first, last, mean = RECORDED[case]
    net, variables = vit_from_arrays(official(ViT(**TINY, grid=grid, scaled=scaled)), heads=2)
    assert net == ViT(**TINY, grid=grid, scaled=scaled)
    images = np.sin(0.11 * np.arange(2 * height * width * 3)).reshape(2, height, width, 3).astype(np.float32)
    token, patches = jax.jit(net.apply)(variables, images)
    np.testing.assert_allclose(token[0, :3], first, atol=1e-5)
    np.testing.assert_allclose(patches[1, -1, -3:], last, atol=1e-5)
    np.testing.assert_allclose(jnp.abs(jnp.concatenate([token[:, None], patches], 1)).mean(), mean, atol=1e-5)


def test_a_gradient_of_positions_stays_one_when_resized():
    """Bicubic interpolation reproduces a plane; edges aside."""
    rows, columns = np.mgrid[:8, :8]
    table = np.concatenate([np.zeros((1, 1, 2)), np.stack([rows, columns], -1).reshape(1, 64, 2)], 1)
    larger = resized(jnp.asarray(table, jnp.float32), (8, 8), (16, 8))[0, 1:].reshape(16, 8, 2)
    np.testing.assert_allclose(larger[4:12, 3, 0], np.arange(4, 12) / 2 - 0.25, atol=1e-5)
    np.testing.assert_allclose(larger[5, :, 1], np.arange(8), atol=1e-5)


def test_pictures_of_broken_patches_are_refused():
    with pytest.raises(
        UserError, match=r"10 x 8 are not whole patches of 4 x 4: .* multiples of 4, such as \(64, 64\)"
    ):
        ViT(**TINY).init(jax.random.key(0), jnp.zeros((1, 10, 8, 3)))


def without(name):
    return lambda w: w.pop(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("patch_embed.proj.weight"), r"has no array called 'patch_embed\.proj\.weight'"),
        (without("cls_token"), "lacks cls_token and is no Vision Transformer with a class token"),
        (without("blocks.1.attn.proj.bias"), r"Missing \(1\): blocks\.1\.attn\.proj\.bias"),
        (lambda w: w.update({"reg_token": np.zeros((1, 4, 8))}), r"Unknown \(1\): reg_token"),
        (
            lambda w: w.update({"pos_embed": np.zeros((1, 8, 8))}),
            "7 places beside the class token's; expected a square",
        ),
        (
            lambda w: w.update({"blocks.0.mlp.fc1.weight": np.zeros((16, 8))}),
            r"block_0/mlp/fc1/kernel is \(8, 16\), not",
        ),
    ],
)
def test_files_that_do_not_fit(change, message):
    arrays = official(ViT(**TINY, grid=(2, 2)))
    change(arrays)
    with pytest.raises(UserError, match=message):
        vit_from_arrays(arrays, heads=2)


def test_the_command_converts_it_with_what_is_no_part_of_the_encoder(tmp_path, capsys):
    """A classifier (timm), the token of hidden patches (DINOv2); heads are of 64 channels."""
    net = ViT(patch=4, dim=64, depth=1, heads=1, grid=(2, 2), scaled=True)
    more = {"head.weight": np.zeros((5, 64), np.float32), "mask_token": np.zeros((1, 64), np.float32)}
    np.savez(tmp_path / "w.npz", **official(net), **more)
    assert main(["convert", "--from", "images.vit", str(tmp_path / "w.npz"), "--out", str(tmp_path / "out")]) == 0
    assert "heads = 1" in capsys.readouterr().out
    from t2p import checkpoint

    found = checkpoint.load(str(tmp_path / "out"))[0]["params"]
    np.testing.assert_array_equal(found["block_0"]["scale2"], official(net)["blocks.0.ls2.gamma"])
