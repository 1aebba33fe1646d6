"""3PoinTr's coordinates and their inverse, NumPy and JAX; the loss of its track network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2p.io import UserError
from t2p.methods.threepointr import scaling
from t2p.methods.threepointr.losses import track_loss, track_target


def cloud(seed=0, batch=3, points=50):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(batch, points, 3)) * [0.3, 0.1, 0.05] + [0.2, -0.1, 0.8]


def test_radius_is_the_kth_smallest_distance():
    line = np.array([0.0, 1, 2, 3, 4, 5, 6, 7, 8, 14])[:, None] * [1.0, 0, 0]  # mean 5: distances 0 1 1 2 2 3 3 4 5 9
    for quantile, expected in ((0.9, 5), (1.0, 9), (0.5, 2), (0.01, 0)):
        centre, radius = scaling.centre_and_radius(line, quantile)
        np.testing.assert_allclose(centre, [5, 0, 0])
        assert radius == pytest.approx(expected + 1e-6, abs=1e-12)


def test_a_tenth_of_the_points_lies_outside_the_sphere():
    points = cloud()
    scaled = scaling.to_threepointr(points, *scaling.centre_and_radius(points))
    np.testing.assert_allclose(scaled.mean(1), 0, atol=1e-12)
    assert ((np.linalg.norm(scaled, axis=-1) > 1).sum(1) == 5).all()


def test_moving_and_scaling_a_scene_changes_nothing():
    points = cloud()
    other = 3 * points + [1, -2, 0.5]
    scaled = (scaling.to_threepointr(p, *scaling.centre_and_radius(p)) for p in (points, other))
    np.testing.assert_allclose(*scaled, rtol=1e-4)


def test_inverses():
    centre, radius = scaling.centre_and_radius(cloud())
    tracks = np.random.default_rng(1).normal(size=(3, 4, 50, 3))
    scaled = scaling.to_threepointr(tracks, centre, radius)
    np.testing.assert_allclose(scaling.from_threepointr(scaled, centre, radius), tracks, atol=1e-12)
    steps = scaling.to_threepointr_displacement(tracks[:, 1:] - tracks[:, :-1], radius)
    np.testing.assert_allclose(steps, scaled[:, 1:] - scaled[:, :-1], atol=1e-12)
    back = scaling.from_threepointr_displacement(steps, radius)
    np.testing.assert_allclose(back, tracks[:, 1:] - tracks[:, :-1], atol=1e-12)
    pose = scaling.to_threepointr(centre, centre, radius)  # one position a sample, as of an end effector
    np.testing.assert_allclose(pose, 0, atol=1e-12)


def test_jax_agrees():
    points = cloud().astype(np.float32)

    @jax.jit
    def both(x):
        frame = scaling.centre_and_radius(x)
        return scaling.to_threepointr(x, *frame), scaling.from_threepointr(x, *frame)

    frame = scaling.centre_and_radius(points)
    np.testing.assert_allclose(both(jnp.asarray(points))[0], scaling.to_threepointr(points, *frame), atol=1e-5)
    np.testing.assert_allclose(both(jnp.asarray(points))[1], scaling.from_threepointr(points, *frame), atol=1e-5)


def test_image_coordinates_of_the_2d_ablation():
    K = np.array([[[100.0, 0, 64], [0, 100, 32], [0, 0, 1]]])
    points = np.array([0, 0, 2.0])[None, None, None] * np.ones((1, 4, 5, 1))
    points[0, 1, 2] = [1.28, 0.64, 2]
    points[0, 3, 4] = [-1.28, 0, 2]
    seen = scaling.to_threepointr_image(points, K, (64, 128))
    assert seen.shape == (1, 4, 5, 2)
    np.testing.assert_allclose(seen[0, [0, 1, 3], [0, 2, 4]], [[0, 0], [1, 1], [-1, 0]], atol=1e-12)
    np.testing.assert_allclose(scaling.from_threepointr_image(seen, (64, 128))[0, 1, 2], [128, 64])


def test_bad_input():
    with pytest.raises(UserError, match=r"radius_quantile is 0\.0"):
        scaling.centre_and_radius(cloud(), 0.0)
    centre, radius = scaling.centre_and_radius(cloud(batch=2))
    with pytest.raises(ValueError, match="do not fit"):
        scaling.to_threepointr(cloud(batch=3), centre, radius)


def test_the_target_moves_with_the_noise():
    points = cloud()
    still = track_target(jnp.asarray(points), jnp.zeros((3, 2, 50, 3)))
    np.testing.assert_allclose(still, np.broadcast_to(points[:, None], still.shape), rtol=1e-6)


def test_only_counted_pairs_are_learned_from_and_all_of_them_alike():
    target = jnp.zeros((2, 2, 3, 3))
    tracks = target.at[0, 0, 0].set(jnp.array([3.0, -6, 0])).at[1, 1, 1].set(100.0)
    counted = jnp.zeros((2, 2, 3), bool).at[0, 0].set(True).at[1, 0, 0].set(True)
    assert track_loss(tracks, target, counted) == pytest.approx(9 / (4 * 3))
    assert track_loss(tracks, target, jnp.zeros_like(counted)) == 0
