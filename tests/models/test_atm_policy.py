"""ATM's policy network: frozen numbers, what it sees and does not see, its switches."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from weights import numpy_variables, run

from t2p.checkpoint import match_layers
from t2p.io import UserError
from t2p.models.atm_policy import Block, Depth, StateToken, Stem, TrackPolicy, Transformer, double_grid, patch_grid
from t2p.models.resnet import Norm

LAYERS = Depth(depth=1, heads=2, head_dim=6, mlp=10)
SMALL = {
    "views": 2,
    "image_size": (8, 16),
    "dim": 20,
    "temporal_dim": 8,
    "patch": 4,
    "spatial": LAYERS,
    "temporal": LAYERS,
    "states": (3, 2),
    "actions": 4,
    "track_steps": 4,
    "track_points": 8,
    "track_patch": 2,
    "spatial_text": True,
    "temporal_text": True,
    "head_hidden": 12,
    "head_layers": 1,
}

FROZEN = {
    "actions": [-0.640249, -0.424569, 0.103478],
    "spatial_in": [1.242479, -0.477621],
    "temporal_out": [2.102702, -2.557093, 0.046896],
}


def inputs(seed=0, steps=3):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    images = rng.integers(0, 256, (2, 2, steps, 8, 16, 3), np.uint8)
    tracks = rng.random((2, 2, steps, 4, 8, 2), np.float32)
    return images, tracks, normal(2, 5), (normal(2, steps, 3), normal(2, steps, 2))


@pytest.fixture(scope="module")
def small():
    net = TrackPolicy(**SMALL)
    return net, numpy_variables(net, *inputs())


def test_frozen_numbers(small):
    """Recorded when the network agreed with the released implementation to 1e-5."""
    actions, aux = run(*small, *inputs())
    assert actions.shape == (2, 3, 4)
    np.testing.assert_allclose(actions[0, :, 0], FROZEN["actions"], atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(aux["spatial_in"][1, -2, :2], FROZEN["spatial_in"], atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(aux["temporal_out"][1, 2, :3], FROZEN["temporal_out"], atol=1e-4, rtol=1e-4)


def test_a_step_sees_itself_and_those_before_it(small):
    images, tracks, text, states = inputs()
    want, _ = run(*small, images, tracks, text, states)
    later = images.copy()
    later[:, 1, 2] = 255 - later[:, 1, 2]
    got, _ = run(*small, later, tracks, text, states)
    np.testing.assert_array_equal(got[:, :2], want[:, :2])
    assert np.abs(got[:, 2] - want[:, 2]).max() > 1e-4
    first = (states[0] + np.array([1, 0, 0])[:, None], states[1])
    got, _ = run(*small, images, tracks, text, tuple(x.astype(np.float32) for x in first))
    assert (np.abs(got - want).max((0, 2)) > 1e-4).all()


def test_points_are_interchangeable_before_the_head_where_ids_match_views(small):
    """Section 4.2's permutation invariance: true of the early fusion, but not with the released modality ids."""
    images, tracks, text, states = inputs()
    order = np.random.default_rng(1).permutation(8)
    differences = {}
    for ids in ("views", "released"):
        net = small[0].clone(modality_ids=ids)
        tokens = [
            run(net, small[1], images, t, text, states, method="encode")[0] for t in (tracks, tracks[..., order, :])
        ]
        differences[ids] = np.abs(tokens[0] - tokens[1]).max()
    assert differences["views"] < 1e-5 and differences["released"] > 1e-3


def test_modality_ids():
    net = TrackPolicy(**SMALL)
    pictures, points, each = [0, 0, 1, 1], 8, 2
    released = pictures + [2] * points * each + [3] * points * each + [4]
    assert net._modalities().tolist() == released
    matched = pictures + [2, 2, 3, 3] * points + [4]
    assert net.clone(modality_ids="views")._modalities().tolist() == matched
    assert net.clone(early=False)._modalities().tolist() == [*pictures, 2]


def test_stem_is_two_strided_convolutions():
    """Oblong patches in a picture that they do not fill."""
    stem, x = Stem(6, (3, 4)), np.random.default_rng(0).random((2, 15, 18, 3), np.float32)
    variables = numpy_variables(stem, x, False)
    convolve = partial(jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    p, seen = variables["params"], variables["batch_stats"]
    norm = lambda y, n: Norm("batch").apply({"params": p[n], "batch_stats": seen[n]}, y, False)  # noqa: E731
    y = jax.nn.relu(norm(convolve(x, p["conv"]["kernel"], (2, 2), [(3, 3), (3, 3)]), "conv_norm"))
    y = convolve(y, p["patches"]["kernel"].reshape(3, 4, 64, 6), (3, 4), "VALID") + p["patches"]["bias"]
    want = norm(y, "norm").reshape(2, -1, 6)
    got = stem.apply(variables, x, False)
    assert patch_grid((15, 18), (3, 4)) == (2, 2) and got.shape == (2, 4, 6)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_hidden_layers_of_the_state(layers):
    """No ReLU after the first layer."""
    token, x = StateToken(4, 6, layers), np.random.default_rng(0).standard_normal((2, 3, 5)).astype(np.float32)
    variables = numpy_variables(token, x)
    y = x
    for i in range(layers + 1):
        layer = variables["params"][f"layer_{i}"]
        y = y @ layer["kernel"] + layer["bias"]
        y = np.maximum(y, 0) if 0 < i < layers else y
    np.testing.assert_allclose(token.apply(variables, x), y, rtol=1e-5, atol=1e-5)


def shapes(**changes):
    net = TrackPolicy(**{**SMALL, **changes})
    images, tracks, text, states = inputs()
    tracks = tracks if net.track_steps else None
    made = jax.eval_shape(lambda: net.init(jax.random.key(0), images, tracks, text, states))["params"]
    return {name: x.shape for name, x in flatten_dict(made, sep="/").items()}


def test_switches_of_the_two_fusions():
    both, early, late, none = shapes(), shapes(late=False), shapes(early=False), shapes(track_steps=0)
    assert both["head/layer_0/kernel"] == late["head/layer_0/kernel"] == (8 + 2 * 4 * 8 * 2, 12)
    assert early["head/layer_0/kernel"] == none["head/layer_0/kernel"] == (8, 12)
    assert both["modality_table"] == early["modality_table"] == (5, 20)
    assert late["modality_table"] == none["modality_table"] == (3, 20)
    assert set(both) == set(early) and set(both) - set(late) == {
        "embed_tracks/embed/kernel",
        "embed_tracks/embed/bias",
        "track_table",
    }
    assert set(late) == set(none) == set(shapes(track_steps=0, spatial_text=False, temporal_text=False))


def test_tokens_are_counted(small):
    aux = run(*small, *inputs())[1]
    net = small[0]
    assert aux["spatial_in"].shape == (6, net.spatial_tokens, 20) and net.spatial_tokens == 1 + 4 + 32 + 1
    assert aux["temporal_in"].shape == (2, 3, net.step_tokens, 8) and net.step_tokens == 5
    assert aux["looks"].shape == (1, 2, 3, 2, 2, 1, 2)
    assert 0 < aux["looks"].sum((-3, -2, -1)).max() < 1  # the rest goes to other tokens


def test_the_double_grid():
    grid = double_grid()
    assert grid.shape == (32, 2) and grid.dtype == np.float32
    step = 0.8 / 3
    np.testing.assert_allclose(
        grid[[0, 1, 4, 16]], [[0.05, 0.05], [0.05, 0.05 + step], [0.05 + step, 0.05], [0.15] * 2]
    )
    with pytest.raises(UserError, match="twice a square"):
        double_grid(20)


def test_stochastic_depth_leaves_out_the_feed_forward_branch_alone():
    block = Block(LAYERS, 0.25, jnp.float32, "matmul")
    x = np.random.default_rng(0).standard_normal((400, 2, 20)).astype(np.float32)
    variables = numpy_variables(block.clone(dropout=0.0), x, None)
    variables["params"]["mlp"]["fc2"]["bias"] += 1
    for name in ("kernel", "bias"):
        variables["params"]["out"][name] *= 0  # no attention
    train = jax.jit(lambda v: block.apply(v, x, None, rngs={"dropout": jax.random.key(0)})[0])
    left_out = np.all(np.asarray(train(variables)) == x, axis=(1, 2))
    assert 0.17 < left_out.mean() < 0.33
    variables["params"]["out"]["bias"] += 1
    assert not np.all(np.asarray(train(variables)) == x, axis=(1, 2)).any()  # attention is never left out as a whole


def test_scan_and_remat_compute_the_same():
    sizes = Depth(depth=2, heads=2, head_dim=4, mlp=6)
    plain, other = Transformer(sizes), Transformer(sizes, scan=True, remat=True)
    x = np.random.default_rng(0).standard_normal((2, 3, 8)).astype(np.float32)
    variables = numpy_variables(plain, x)
    stacked = match_layers(variables["params"], jax.eval_shape(lambda: other.init(jax.random.key(0), x))["params"])
    want, got = run(plain, variables, x), run(other, {"params": stacked}, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, want)


def test_pictures_of_another_size_are_refused(small):
    images, *rest = inputs()
    with pytest.raises(UserError, match=r"2 views of \(8, 16\) pixels"):
        small[0].apply(small[1], images[:, :, :, :, :8], *rest)
