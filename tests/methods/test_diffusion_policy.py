"""Diffusion Policy's pictures: crops, normalisation, one encoder per view."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2p.io import UserError
from t2p.methods.diffusion_policy import configure, crop_images, normalise_images
from t2p.methods.registry import make_stage
from t2p.models.resnet import ResNet
from t2p.train.defaults import base_config
from t2p.train.statistics import with_statistics
from t2p.types import Batch


def pictures(count: int = 3, size: int = 12) -> jnp.ndarray:
    """Each pixel's value says where it is."""
    grid = np.arange(size * size, dtype=np.uint8).reshape(size, size, 1)
    return jnp.asarray(np.broadcast_to(grid, (count, size, size, 3)))


def test_the_crop_is_central_without_a_key_and_inside_the_picture_with_one():
    images = pictures()
    np.testing.assert_array_equal(crop_images(images, (8, 6), None), images[:, 2:10, 3:9])
    rows = np.concatenate([crop_images(images, (8, 6), jax.random.key(k))[..., 0] for k in range(60)]).astype(int)
    top, left = rows[:, 0, 0] // 12, rows[:, 0, 0] % 12
    np.testing.assert_array_equal(rows[:, -1, -1], rows[:, 0, 0] + 7 * 12 + 5)  # one piece
    assert set(top) == set(range(5)) and set(left) == set(range(7))
    three = crop_images(pictures(16), (8, 6), jax.random.key(0))[:, 0, 0, 0]
    assert len(set(three.tolist())) > 4  # each row by itself
    np.testing.assert_array_equal(crop_images(images, (12, 12), jax.random.key(0)), images)


def test_pictures_are_normalised_as_published_or_as_intended():
    images = jnp.array([[[[0, 255, 51]]]], jnp.uint8)
    np.testing.assert_allclose(
        normalise_images(images, True)[0, 0, 0],
        [(-1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (-0.6 - 0.406) / 0.225],
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        normalise_images(images, False)[0, 0, 0],
        [-0.485 / 0.229, (1 - 0.456) / 0.224, (0.2 - 0.406) / 0.225],
        rtol=1e-5,
    )


def stage(**window):
    config = with_statistics(configure(base_config()), blank=True)
    config.model.unet.update({"step_dim": 16, "down_dims": (16, 32)})
    config.model.crop = (32, 32)
    config.window.update({"views": ("wrist", "front"), "image_size": (36, 40), **window})
    return make_stage(config)


def test_views_come_in_sorted_order_each_with_its_own_encoder():
    s = replace(stage(), net=ResNet((1, 1, 0, 0), norm="group"))  # 128 features
    assert s.views == s.window.views == s.observe.images == ("front", "wrist") and s.observe.size == (36, 40)
    rng = np.random.default_rng(0)
    images = {v: rng.integers(0, 256, (2, 1, 36, 40, 3), dtype=np.uint8) for v in ("wrist", "front")}
    proprio = {"tool": np.full((2, 1, 9), 0.5, np.float32), "gripper": np.zeros((2, 1, 1), np.float32)}
    batch = Batch(images=images, proprio=proprio)
    variables = jax.jit(s.init)(jax.random.key(0), batch)
    condition, _ = jax.jit(lambda v, b: s.encode(v, b, None))(variables, batch)
    assert condition.shape == (2, 2 * 128 + 10)
    np.testing.assert_allclose(condition[:, 256:], [[0.0] + [0.5] * 9] * 2, atol=1e-6)
    swapped = batch.replace(images={"front": images["wrist"], "wrist": images["front"]})
    other, _ = jax.jit(lambda v, b: s.encode(v, b, None))(variables, swapped)
    assert float(jnp.abs(other[:, :128] - condition[:, 128:256]).max()) > 1e-2  # not shared
    with pytest.raises(UserError, match=r"view 'front' has pictures of \(8, 8\)"):
        s.encode(variables, batch.replace(images={v: x[:, :, :8, :8] for v, x in images.items()}), None)


def test_bad_settings_are_named():
    with pytest.raises(UserError, match=r"model\.crop is \(32, 32\) of window\.image_size \(30, 40\)"):
        stage(image_size=(30, 40))
    with pytest.raises(UserError, match=r"window\.views"):
        stage(views=("front", "front"))
