"""DP3's encoder: frozen numbers, its flags, and what a maximum over points promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from t2p.io import UserError
from t2p.models.dp3 import Dp3Encoder

FROZEN = {"cloud": [0.014366, -0.341289, 0.180792], "state": [-0.614846, 0.051721, -0.282146]}


def inputs(channels=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((2, 20, channels)).astype(np.float32), rng.random((2, 7), np.float32)


def numpy_params(model, *x, seed=1):
    shapes = flatten_dict(jax.eval_shape(lambda: model.init(jax.random.key(0), *x))["params"])
    rng = np.random.default_rng(seed)
    return unflatten_dict({k: 0.2 * rng.standard_normal(shapes[k].shape, np.float32) for k in sorted(shapes)})


def test_frozen_numbers():
    """Recorded when the encoder agreed with the released implementation to 4e-6."""
    model = Dp3Encoder()
    features, parts = model.apply({"params": numpy_params(model, *inputs())}, *inputs())
    assert features.shape == (2, 128)
    np.testing.assert_allclose(features[1, :3], FROZEN["cloud"], atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(features[1, 64:67], FROZEN["state"], atol=1e-4, rtol=1e-4)
    np.testing.assert_array_equal(features, np.concatenate([parts["cloud"], parts["state"]], -1))


@pytest.mark.parametrize(
    ("settings", "channels", "width"),
    [
        ({}, 3, 128),
        ({"colors": True}, 6, 128),
        ({"projection": False}, 3, 256 + 64),
        ({"projection": False, "colors": True}, 6, 512 + 64),
        ({"layer_norm": False, "final_norm": "none", "features": 40, "state_widths": (5, 6, 7)}, 3, 47),
    ],
)
def test_order_and_copies_of_points_do_not_matter(settings, channels, width):
    model, (cloud, state) = Dp3Encoder(**settings), inputs(channels)
    params = numpy_params(model, cloud, state)
    want, _ = model.apply({"params": params}, cloud, state)
    assert want.shape == (2, width)
    again = np.concatenate([cloud[:, ::-1], cloud[:, :5]], axis=1)
    np.testing.assert_allclose(model.apply({"params": params}, again, state)[0], want, atol=1e-5)


def test_norms_are_where_they_should_be():
    with_norms = flatten_dict(numpy_params(Dp3Encoder(colors=True), *inputs(6)), sep="/")
    norms = [n for n in with_norms if n.endswith("scale")]
    assert norms == [f"cloud/{n}/scale" for n in ("final_norm", "norm_0", "norm_1", "norm_2")]
    without = numpy_params(Dp3Encoder(layer_norm=False, final_norm="none"), *inputs())
    assert not [n for n in flatten_dict(without, sep="/") if n.endswith("scale")]


def test_features_before_the_maximum_may_be_negative_with_colors_only():
    for colors, channels in ((False, 3), (True, 6)):
        model, x = Dp3Encoder(projection=False, colors=colors), inputs(channels)
        _, parts = model.apply({"params": numpy_params(model, *x)}, *x)
        assert (parts["cloud"].min() < 0) == colors


def test_imagined_points_are_points_of_the_cloud():
    model, (cloud, state) = Dp3Encoder(), inputs()
    params = numpy_params(model, cloud, state)
    imagined = 2 * np.random.default_rng(2).standard_normal((2, 6, 7)).astype(np.float32)
    want, _ = model.apply({"params": params}, np.concatenate([cloud, imagined[..., :3]], 1), state)
    got, _ = model.apply({"params": params}, cloud, state, imagined)
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert np.abs(got - model.apply({"params": params}, cloud, state)[0]).max() > 1e-3


def test_bad_input():
    with pytest.raises(UserError, match="with colors takes points of 6 numbers; got 3"):
        Dp3Encoder(colors=True).init(jax.random.key(0), *inputs())
    with pytest.raises(UserError, match="expected one of layernorm, none"):
        Dp3Encoder(final_norm="batchnorm").init(jax.random.key(0), *(jnp.asarray(x) for x in inputs()))
