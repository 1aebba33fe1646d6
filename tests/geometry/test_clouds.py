"""Furthest point sampling and cropping, by hand and against a plain loop; NumPy against JAX."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2p.geometry.clouds import furthest_points, gather_points, inside_box


def reference(points, count):
    """One cloud, one point after the other."""
    chosen = [0]
    while len(chosen) < count:
        distance = ((points[:, None] - points[chosen]) ** 2).sum(-1).min(1)
        chosen.append(int(np.argmax(distance)))
    return chosen


def test_points_on_a_line_in_the_order_of_their_distance():
    points = np.array([4.0, 0, 10, 7, 5])[:, None]
    assert furthest_points(points, 5).tolist() == [0, 2, 1, 3, 4]


def test_ties_go_to_the_lowest_index():
    corners = np.array([[0.0, 0], [1, 1], [1, 0], [0, 1], [1, 1]])
    assert furthest_points(corners, 5).tolist() == [0, 1, 2, 3, 0]  # then only copies are left, all at distance 0


def test_batches_and_lengths():
    points = np.random.default_rng(0).normal(size=(2, 3, 30, 3))
    lengths = np.array([[30, 7, 1], [12, 0, 29]])
    found = furthest_points(points, 12, lengths)
    for i in np.ndindex(2, 3):
        real = min(12, lengths[i])
        assert found[i][:real].tolist() == (reference(points[i][: lengths[i]], real) if real else [])
        assert (found[i][real:] == -1).all()
    picked = gather_points(points, found)
    np.testing.assert_array_equal(picked[0, 0], points[0, 0][found[0, 0]])
    assert picked.shape == (2, 3, 12, 3) and not picked[0, 2, 1:].any()


def test_more_than_there_is():
    points = np.random.default_rng(0).normal(size=(4, 3))
    found = furthest_points(points, 6)
    assert sorted(found[:4].tolist()) == [0, 1, 2, 3] and found[4:].tolist() == [-1, -1]


def test_jax_agrees_under_jit_and_does_not_unroll():
    points = np.random.default_rng(1).normal(size=(2, 64, 3)).astype(np.float32)
    lengths = np.array([64, 20])
    sample = jax.jit(partial(furthest_points, count=40, loop=jax.lax.fori_loop))
    found = sample(jnp.asarray(points), lengths=jnp.asarray(lengths))
    np.testing.assert_array_equal(found, furthest_points(points, 40, lengths))
    np.testing.assert_array_equal(jax.jit(gather_points)(points, found), gather_points(points, np.asarray(found)))
    assert len(str(jax.make_jaxpr(sample)(jnp.asarray(points), lengths=jnp.asarray(lengths)))) < 20_000


def test_the_box_includes_its_faces_and_ignores_colors():
    points = np.array([[0.0, 0, 0, 9, 9, 9], [1, 1, 1, 0, 0, 0], [1, 1, 1.01, 0, 0, 0], [-0.01, 0, 0, 0, 0, 0]])
    for array in (points, jnp.asarray(points)):
        assert inside_box(array, np.zeros(3), np.ones(3)).tolist() == [True, True, False, False]
    assert inside_box(points[None], [0, 0, 1.005], [2, 2, 2]).tolist() == [[False, False, True, False]]


def test_bad_input():
    with pytest.raises(ValueError, match="a count from 1 on"):
        furthest_points(np.zeros((4, 3)), 0)
    with pytest.raises(ValueError, match=r"\[\.\.\., N, D\]"):
        furthest_points(np.zeros(3), 2)
