"""3PoinTr's networks: frozen numbers, size, and the symmetries that they promise."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from t2p.io import UserError
from t2p.models.threepointr import READOUT_VARIANTS, TRACK_VARIANTS, Readout, TrackNet

SMALL = {"width": 24, "depth": 2, "heads": 3, "steps": 4}
NET = TrackNet(**SMALL)
READOUT = Readout(width=16, condition=6)
FROZEN = {"tracks": [-1.692713, 4.420533, 3.157696], "mean": 3.598067, "condition": [0.699337, 1.060941, 0.057986]}


def cloud(seed=0, batch=2, points=7):
    return np.random.default_rng(seed).standard_normal((batch, points, 3)).astype(np.float32)


def tracks(seed=0, dims=3):
    return np.random.default_rng(seed).standard_normal((2, 4, 7, dims)).astype(np.float32)


def numpy_params(model, x, seed=1):
    """Weights that NumPy makes from a seed, the same on every machine and with every JAX."""
    shapes = flatten_dict(jax.eval_shape(lambda: model.init(jax.random.key(0), x))["params"])
    rng = np.random.default_rng(seed)
    return unflatten_dict({k: 0.3 * rng.standard_normal(shapes[k].shape, np.float32) for k in sorted(shapes)})


@partial(jax.jit, static_argnums=0)
def run(model, params, x):
    return model.apply({"params": params}, x)


@pytest.fixture(scope="module")
def params():
    return numpy_params(NET, cloud())


def test_frozen_numbers(params):
    """Recorded when both networks agreed with an independent implementation to 3e-6."""
    got, _ = run(NET, params, cloud())
    assert got.shape == (2, 4, 7, 3) and got.dtype == jnp.float32
    np.testing.assert_allclose(got[1, :3, 2, 1], FROZEN["tracks"], atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(np.abs(got).mean(), FROZEN["mean"], atol=1e-4, rtol=1e-4)
    condition, _ = run(READOUT, numpy_params(READOUT, tracks()), tracks())
    assert condition.shape == (2, 6)
    np.testing.assert_allclose(condition[1, :3], FROZEN["condition"], atol=1e-4, rtol=1e-4)


def test_paper_size():
    net = TrackNet(**TRACK_VARIANTS["paper"])
    made = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 2048, 3)))["params"]
    sizes = {name: sum(p.size for p in jax.tree.leaves(part)) for name, part in made.items()}
    assert sum(sizes.values()) == 2_244_379
    assert sizes["token_0"] + sizes["token_1"] + sizes["token_2"] == 4 * 256 + 2 * 257 * 256
    readout = Readout(**READOUT_VARIANTS["paper"])
    made = jax.eval_shape(readout.init, jax.random.key(0), jnp.zeros((1, 9, 2048, 3)))["params"]
    assert made["query"].shape == (1, 128) and made["condition"]["kernel"].shape == (128, 256)


@pytest.mark.parametrize("variant", TRACK_VARIANTS)
def test_every_variant_makes_tracks(variant):
    net = TrackNet(**TRACK_VARIANTS[variant])
    out, _ = jax.eval_shape(lambda: net.init_with_output(jax.random.key(0), jnp.zeros((2, 8, 3)))[0])
    assert out.shape == (2, net.steps, 8, 3)


def test_points_are_interchangeable_and_any_number_of_them_works(params):
    order = np.random.default_rng(3).permutation(7)
    got, _ = run(NET, params, cloud())
    permuted, _ = run(NET, params, cloud()[:, order])
    np.testing.assert_allclose(permuted, got[:, :, order], atol=1e-5)
    assert run(NET, params, cloud(points=1))[0].shape == (2, 4, 1, 3)


def test_points_see_each_other(params):
    changed = cloud()
    changed[:, 0] += 1
    difference = np.abs(run(NET, params, changed)[0] - run(NET, params, cloud())[0])
    assert difference[:, :, 1:].max() > 1e-3


def test_a_displacement_head_adds_the_point(params):
    absolute, _ = run(NET, params, cloud())
    displaced, _ = run(NET.clone(head="displacement"), params, cloud())
    np.testing.assert_allclose(displaced - absolute, np.broadcast_to(cloud()[:, None], absolute.shape), atol=1e-5)


def test_without_cross_attention_there_are_no_weights_of_it(params):
    plain = NET.clone(cross_attend_tokens=False)
    branch = ("cross", "cross_norm", "memory_norm")
    kept = {k: {n: v for n, v in part.items() if n not in branch} for k, part in params.items()}
    assert jax.tree.structure(numpy_params(plain, cloud())) == jax.tree.structure(kept)
    assert np.abs(run(plain, kept, cloud())[0] - run(NET, params, cloud())[0]).max() > 1e-3


def test_the_readout_ignores_the_order_of_points_but_not_of_steps():
    params = numpy_params(READOUT, tracks())
    got, aux = run(READOUT, params, tracks())
    order = np.random.default_rng(3).permutation(7)
    np.testing.assert_allclose(run(READOUT, params, tracks()[:, :, order])[0], got, atol=1e-5)
    assert np.abs(run(READOUT, params, tracks()[:, ::-1])[0] - got).max() > 1e-3
    # A token is a linear map of its own track, (step, coordinate).
    flat = tracks()[1, :, 5].reshape(-1)
    want = flat @ params["track"]["kernel"] + params["track"]["bias"]
    np.testing.assert_allclose(aux["track_tokens"][1, 5], want, atol=1e-5)


def test_the_2d_ablation_has_a_smaller_token_projection():
    params = numpy_params(READOUT, tracks(dims=2))
    assert params["track"]["kernel"].shape == (2 * 4, 16)
    assert run(READOUT, params, tracks(dims=2))[0].shape == (2, 6)


def test_the_query_starts_as_a_normal_draw():
    made = Readout(width=512, condition=6).init(jax.random.key(0), tracks())["params"]
    assert abs(float(made["query"].std()) - 1) < 0.15


def test_bfloat16_keeps_coordinates_and_parameters_in_float32(params):
    half = NET.clone(dtype=jnp.bfloat16)
    want, _ = run(NET, params, cloud())
    got, aux = run(half, params, cloud())
    assert got.dtype == jnp.float32 and aux["tokens"].dtype == jnp.bfloat16
    np.testing.assert_allclose(got, want, atol=0.05 * np.abs(want).max())
    made = jax.eval_shape(lambda: half.init(jax.random.key(0), cloud()))["params"]
    assert {p.dtype for p in jax.tree.leaves(made)} == {jnp.dtype("float32")}


def test_bad_settings_are_refused():
    with pytest.raises(UserError, match="expected one of absolute, displacement"):
        TrackNet(**SMALL, head="relative").init(jax.random.key(0), cloud())
    with pytest.raises(UserError, match=r"width 24 is not a multiple of model\.heads 5"):
        TrackNet(**SMALL | {"heads": 5}).init(jax.random.key(0), cloud())
