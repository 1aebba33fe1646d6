"""The track transformer: frozen numbers, size, and what its paper promises of it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from t2p.checkpoint import match_layers
from t2p.io import UserError
from t2p.models.atm import VARIANTS, TrackTransformer, patchify, unpatchify

SMALL = {
    "dim": 32,
    "depth": 2,
    "heads": 3,
    "head_dim": 8,
    "image_size": (16, 24),
    "patch": 8,
    "frames": 2,
    "track_steps": 8,
    "track_patch": 4,
    "text_hidden": 20,
    "text_layers": 2,
}


FROZEN = {
    "tracks": [0.98412, 2.13418, -1.096393],
    "last": [-2.109321, -2.085325],
    "patches": [-0.144348, 1.145156, 1.9102],
    "mean": 1.355807,
}
IMAGE_HEAD = ("image_head/kernel", "image_head/bias")  # a loss on tracks does not reach it


def inputs(seed=0, batch=2, points=5):
    rng = np.random.default_rng(seed)
    return {
        "images": rng.integers(0, 256, (batch, 2, 16, 24, 3), np.uint8),
        "points": rng.random((batch, points, 2), np.float32),
        "text": rng.standard_normal((batch, 12)).astype(np.float32),
        "patch_mask": rng.random((batch, 6)) < 0.5,
    }


def numpy_params(model, seed=1):
    """Weights that NumPy makes from a seed, the same on every machine and with every JAX."""
    shapes = flatten_dict(jax.eval_shape(lambda: model.init(jax.random.key(0), **inputs()))["params"])
    rng = np.random.default_rng(seed)
    return unflatten_dict({k: 0.2 * rng.standard_normal(shapes[k].shape, np.float32) for k in sorted(shapes)})


@partial(jax.jit, static_argnums=0)
def apply(model, params, x):
    return model.apply({"params": params}, **x)


@partial(jax.jit, static_argnums=0)
def track_gradient(model, params, x):
    return jax.grad(lambda p: jnp.square(model.apply({"params": p}, **x)[0]).sum())(params)


def run(model, params, **x):
    """Tracks and patches; compiled once per model and shapes."""
    return apply(model, params, x)[:2]


@pytest.fixture(scope="module")
def small():
    model = TrackTransformer(**SMALL)
    return model, numpy_params(model)


def test_frozen_numbers(small):
    """Recorded when the network agreed with the released implementation to 1e-5."""
    tracks, patches = run(*small, **inputs())
    assert tracks.shape == (2, 8, 5, 2) and patches.shape == (2, 6, 8 * 8 * 2 * 3)
    np.testing.assert_allclose(tracks[0, :3, 0, 0], FROZEN["tracks"], atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(tracks[1, -1, -1], FROZEN["last"], atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(patches[1, 2, 100:103], FROZEN["patches"], atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(np.abs(patches).mean(), FROZEN["mean"], atol=1e-4, rtol=1e-4)


def test_paper_size_has_the_papers_number_of_parameters():
    model = TrackTransformer(**VARIANTS["paper"])
    x = jnp.zeros((1, 1, 128, 128, 3)), jnp.zeros((1, 32, 2)), jnp.zeros((1, 768))
    params = jax.eval_shape(model.init, jax.random.key(0), *x)["params"]
    count = sum(p.size for p in jax.tree.leaves(params))
    assert (count, count - params["image_table"].size) == (13_032_200, 13_007_624)


def test_points_are_interchangeable_and_any_number_of_them_works(small):
    """Permutation equivariance over points (section 4.2: "permutation invariant to the input set of points")."""
    x = inputs()
    tracks, patches = run(*small, **x)
    order = np.array([3, 0, 4, 1, 2])
    permuted, same = run(*small, **{**x, "points": x["points"][:, order]})
    np.testing.assert_allclose(permuted, tracks[:, :, order], atol=1e-5)
    np.testing.assert_allclose(same, patches, atol=1e-5)
    assert run(*small, **inputs(points=1))[0].shape == (2, 8, 1, 2)


def test_a_masked_patch_is_not_seen(small):
    x = inputs()
    x["patch_mask"] = np.array([[True] + [False] * 5] * 2)
    changed = x["images"].copy()
    changed[:, :, :8, :8] = 255 - changed[:, :, :8, :8]
    for got, want in zip(run(*small, **{**x, "images": changed}), run(*small, **x), strict=True):
        np.testing.assert_array_equal(got, want)
    x["patch_mask"] = None
    assert np.abs(run(*small, **{**x, "images": changed})[0] - run(*small, **x)[0]).max() > 1e-3


def test_patches_are_row_column_frame_channel():
    images = np.arange(2 * 2 * 4 * 6 * 3).reshape(2, 2, 4, 6, 3)
    patches = patchify(jnp.asarray(images), 2)
    assert patches.shape == (2, 6, 24)
    assert patches[1, 3 + 2, ((1 * 2 + 0) * 2 + 1) * 3 + 2] == images[1, 1, 2 + 1, 4 + 0, 2]
    np.testing.assert_array_equal(unpatchify(patches, (4, 6), 2), images)


@pytest.mark.parametrize("remat", [False, True])
def test_scan_and_remat_compute_the_same(small, remat):
    model, params = small
    x = inputs()
    other = TrackTransformer(**SMALL, scan=True, remat=remat)
    shapes = jax.eval_shape(lambda: other.init(jax.random.key(0), **x))["params"]
    stacked = match_layers(params, shapes)
    assert jax.tree.map(np.shape, stacked) == jax.tree.map(np.shape, shapes)

    want = track_gradient(model, params, x)
    got = match_layers(track_gradient(other, stacked, x), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4), got, want)


def test_dropout_acts_in_training_only(small):
    model, params = small

    @jax.jit
    def train(key):
        return model.apply({"params": params}, **inputs(), train=True, rngs={"dropout": key})[0]

    assert np.abs(train(jax.random.key(0)) - train(jax.random.key(1))).max() > 1e-2
    mean = jax.lax.map(train, jax.random.split(jax.random.key(2), 200)).mean(0)
    want = run(model, params, **inputs())[0]  # needs no rng
    assert np.abs(mean - want).mean() < 0.5 * np.abs(train(jax.random.key(0)) - want).mean()


def test_bfloat16_keeps_coordinates_and_parameters_in_float32(small):
    model, params = TrackTransformer(**SMALL, dtype=jnp.bfloat16), small[1]
    x = inputs()
    tracks, patches, aux = apply(model, params, x)
    assert tracks.dtype == patches.dtype == aux["track_input"].dtype == jnp.float32
    assert aux["sequence_out"].dtype == jnp.bfloat16
    assert len(np.unique(np.asarray(tracks).astype(jnp.bfloat16))) < len(np.unique(tracks))
    want = run(*small, **x)[0]
    np.testing.assert_allclose(tracks, want, atol=0.05 * np.abs(want).max())
    made = jax.eval_shape(lambda: model.init(jax.random.key(0), **x))["params"]
    assert {p.dtype for p in jax.tree.leaves(made)} == {jnp.dtype("float32")}


def test_the_image_table_gets_no_gradient(small):
    model, params = small
    grads = track_gradient(model, params, inputs())
    assert not np.any(grads["image_table"])
    assert all(np.any(g) for k, g in flatten_dict(grads, sep="/").items() if k not in ("image_table", *IMAGE_HEAD))


def test_images_of_another_size_are_refused(small):
    with pytest.raises(UserError, match=r"16, 24"):
        small[0].apply({"params": small[1]}, **{**inputs(), "images": np.zeros((2, 2, 24, 16, 3), np.uint8)})
