"""PointNeXt: which points meet, what BatchNorm remembers, frozen numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from weights import numpy_variables, run

from t2p.io import UserError
from t2p.models import pointnext
from t2p.models.pointnext import PointNext

# Means over the points: what comes back, and the coarsest level of the second cloud. See test_frozen_numbers.
FROZEN = {"back": [0.004604, 1.599554, 0.0, 0.0], "level_2": [1.840462, 1.482858, 3.488509, 0.0]}


def net(**changes):
    settings = {"width": 8, "blocks": (1, 2, 1), "strides": (1, 2, 4), "layers": 2, "radius": 0.3, "neighbours": 6}
    return PointNext(**(settings | {"expansion": 3} | changes))


def cloud(n=64, c=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((2, n, 3), np.float32), rng.standard_normal((2, n, c), np.float32)


def test_ball_query_takes_the_first_points_in_index_order_and_repeats_the_first():
    points = cloud(80)[0]
    centres = points[:, ::3]
    got = np.asarray(pointnext.ball_query(jnp.asarray(centres), jnp.asarray(points), 0.25, 5))
    fewer = 0
    for b, row in enumerate(centres):
        for m, centre in enumerate(row):
            inside = np.flatnonzero(np.square(points[b].astype(np.float64) - centre).sum(-1) < 0.25**2)
            fewer += len(inside) < 5
            np.testing.assert_array_equal(got[b, m], [*inside, *[inside[0]] * 5][:5])
    assert 0 < fewer < centres.shape[0] * centres.shape[1]


def test_a_centre_far_from_all_points_gets_one_of_them():
    points = jnp.zeros((1, 7, 3))
    assert not pointnext.ball_query(points[:, :2] + 9, points, 0.1, 3).any()


def test_interpolation_weighs_by_distance_not_by_its_square():
    coarse = jnp.array([[[0.0, 0, 0], [3.0, 0, 0], [0, 6.0, 0], [50.0, 0, 0]]])
    features = jnp.array([[[1.0, 0], [0, 1.0], [7.0, 7.0], [1e3, 1e3]]])
    fine = jnp.array([[[1.0, 0, 0], [3.0, 0, 0]]])
    weight = 1 / np.array([1.0, 2.0, np.sqrt(37.0)])
    weight /= weight.sum()
    got = pointnext.interpolate(fine, coarse, features)
    np.testing.assert_allclose(got[0, 0], weight @ np.asarray(features[0, :3]), rtol=1e-5)
    np.testing.assert_allclose(got[0, 1], [0, 1], atol=1e-5)


def test_frozen_numbers():
    """Recorded when levels, radii and decoder agreed with the released network's numbers to 5e-6."""
    model, x = net(), cloud()
    features, levels = run(model, numpy_variables(model, *x, False), *x, train=False)
    assert features.shape == (2, 64, 8)
    assert [(p.shape, f.shape[-1]) for p, f in levels] == [((2, 64, 3), 8), ((2, 32, 3), 16), ((2, 8, 3), 32)]
    np.testing.assert_allclose(features.mean((0, 1))[:4], FROZEN["back"], atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(levels[2][1][1].mean(0)[:4], FROZEN["level_2"], atol=1e-4, rtol=1e-4)


def test_moved_points_with_the_same_features_give_the_same_result():
    """The network sees offsets and distances; places reach it only as features."""
    model, (points, x) = net(), cloud()
    points = np.round(points * 1024) / 1024  # so that moving them by one is exact
    variables = numpy_variables(model, points, x, False)
    want, _ = run(model, variables, points, x, train=False)
    np.testing.assert_allclose(run(model, variables, points + 1.0, x, train=False)[0], want, atol=1e-5)
    assert np.abs(run(model, variables, points[:, ::-1], x, train=False)[0] - want).max() > 1e-2


def test_running_statistics():
    """Training normalises by the batch and remembers a tenth of it; inference normalises by what is remembered."""
    model, x = net(), cloud()
    variables = numpy_variables(model, *x, False)
    train = jax.jit(lambda variables, *x: model.apply(variables, *x, True, mutable=["batch_stats"]))
    trained, new = train(variables, *x)
    fixed, _ = run(model, variables, *x, train=False)
    assert np.abs(trained[0] - fixed).max() > 0.1

    joined = np.random.default_rng(3).standard_normal((5, 7, 4), np.float32)
    norm = pointnext.batch_norm(True, "norm")
    start = {"mean": jnp.full(4, 2.0), "var": jnp.full(4, 3.0)}
    weights = {"params": {"scale": jnp.ones(4), "bias": jnp.zeros(4)}, "batch_stats": start}
    y, changed = norm.apply(weights, joined, mutable=["batch_stats"])
    np.testing.assert_allclose(y.mean((0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(changed["batch_stats"]["mean"], 1.8 + 0.1 * joined.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(changed["batch_stats"]["var"], 2.7 + 0.1 * joined.var((0, 1)), rtol=1e-5)
    assert jax.tree.structure(new["batch_stats"]) == jax.tree.structure(variables["batch_stats"])


def test_half_precision_is_near():
    x = cloud()
    variables = numpy_variables(net(), *x, False)
    full, half = (run(net(dtype=t), variables, *x, train=False)[0] for t in (jnp.float32, jnp.bfloat16))
    assert half.dtype == jnp.bfloat16 and np.abs(full - half).max() < 0.05 * np.abs(full).max()


def test_multiply_adds_count_every_kernel():
    model, x = net(), cloud()
    params = flatten_dict(numpy_variables(model, *x, False)["params"])
    kernels = {k[:-1]: v for k, v in params.items() if k[-1] == "kernel"}
    rows = {"stem": 64, "level_1": 32 * 6, "level_2": 8 * 6}
    total = 0
    for path, kernel in kernels.items():
        name = path[0]
        n = rows.get(name, 0) or {"aggregation": 32 * 6}.get(path[1], 32)
        n = {"level_0": 64, "level_1": 32}[path[1][:7]] if name == "decoder" else n
        total += n * kernel.size
    assert pointnext.multiply_adds(model, 64, 5) == total


def init(model, *x):
    return jax.eval_shape(lambda: model.init(jax.random.key(0), *x, False))


def test_bad_input():
    x = cloud()
    with pytest.raises(UserError, match="has 2 points; expected at least 3"):
        init(net(), *cloud(16))
    with pytest.raises(UserError, match=r"model.strides is \(2, 2, 4\) for 3 levels"):
        init(net(strides=(2, 2, 4)), *x)
    with pytest.raises(UserError, match=r"model.blocks \(1, 0, 1\)"):
        init(net(blocks=(1, 0, 1)), *x)
