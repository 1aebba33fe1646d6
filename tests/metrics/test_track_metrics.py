"""AMPLIFY's and Track2Act's measures on tracks small enough to count by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2p.metrics import tracks as m

HEIGHT = 128
PIXEL = 2 / HEIGHT


def test_amplify_counts_coordinates_strictly():
    true = np.zeros((1, 1, 2, 2, 2), np.float32)
    pred = true.copy()
    pred[0, 0, 1, 0] = [1 * PIXEL, 0.25 * PIXEL]  # exactly one pixel is not within one pixel
    pred[0, 0, 1, 1] = [20 * PIXEL, 0.5 * PIXEL]
    assert m.amplify_within(pred, true, 1, HEIGHT) == pytest.approx(6 / 8)
    assert m.amplify_within(pred, true, 2, HEIGHT) == pytest.approx(7 / 8)
    assert m.amplify_pixel_accuracy(pred, true, HEIGHT) == pytest.approx(5 / 8)
    assert m.amplify_delta_auc(pred, true, HEIGHT) == pytest.approx((6 / 8 + 9 * 7 / 8) / 10)
    assert m.mse(pred, true) == pytest.approx(PIXEL**2 * (1 + 1 / 16 + 400 + 1 / 4) / 8)
    assert m.l1(pred, true) == pytest.approx(PIXEL * 21.75 / 8)


def test_track2act_counts_points_and_not_coordinates():
    true = np.zeros((1, 2, 2))
    pred = np.array([[[3.0, 4.0], [0.0, 0.0]]])  # 5 px away in all: not within 5, within 6 .. 10
    assert m.track2act_delta(pred, true) == pytest.approx((0.5 + 1) / 2)
    coordinates = m.amplify_delta_auc(pred * PIXEL, true, HEIGHT)  # AMPLIFY: 3 px and 4 px apart
    assert coordinates == pytest.approx((0.7 + 0.6 + 1 + 1) / 4)


def test_track2act_averages_steps_then_clips_and_ignores_what_does_not_count():
    true = np.zeros((2, 2, 3, 2))
    pred = true.copy()
    pred[0, 0, :, 0] = 100.0  # first clip: nothing right at its first step, all right at its second
    pred[1, 0, 0, 0] = 100.0
    where = np.ones((2, 2, 3), bool)
    where[1, 0, 0] = False  # second clip: the wrong point does not count
    where[0, 1, :2] = False  # one point counts as much as three: shares are per step
    assert m.track2act_delta(pred, true, where) == pytest.approx((0.5 + 1) / 2)
    assert np.isnan(m.track2act_delta(pred, true, np.zeros_like(where)))


def test_cross_track_finds_the_nearest_time():
    true = np.stack([np.arange(4.0), np.zeros(4)], -1)[:, None]  # a walk along x
    late = np.roll(true, 1, 0)
    assert m.cross_track_l2(late, true) == 0  # right places at wrong times
    off = true + [0.0, 0.5]
    assert m.cross_track_l2(off, true) == pytest.approx(0.5)
    assert m.cross_track_l2(off, true, 0.9) == pytest.approx(0.5 * (1 + 0.9 + 0.81 + 0.729) / 4)


def test_nonzero_velocities():
    true = np.zeros((3, 1, 2))
    true[1:, 0, 0] = 1.0  # one of four velocities is not zero
    pred = np.zeros((3, 1, 2))
    pred[1:, 0, 0], pred[2, 0, 1] = 1.0, 1.0
    found = m.nonzero_velocity(pred, true)
    assert found["nonzero_pred_percent"] == 0.5 and found["nonzero_gt_percent"] == 0.25
    assert found["nonzero_pred_accuracy"] == 0.75 and found["nonzero_pred_f1"] == pytest.approx(1 / 1.5)
    assert m.nonzero_velocity(true * 0, true * 0)["nonzero_pred_f1"] == 0


def test_perplexity_of_even_and_single_use():
    assert m.codebook_perplexity(np.arange(8), 64) == pytest.approx(8, rel=1e-6)
    assert m.codebook_perplexity(np.zeros((3, 5), int), 64) == pytest.approx(1, rel=1e-6)
    assert m.normalized_codebook_perplexity(np.arange(8), 64) == pytest.approx(1, rel=1e-6)  # 8 indices, at most 8
    assert m.normalized_codebook_perplexity(np.arange(128) % 32, 64) == pytest.approx(0.5, rel=1e-6)


def test_jitted_jax_agrees_with_numpy():
    rng = np.random.default_rng(0)
    true = rng.uniform(-1, 1, (2, 6, 5, 2)).astype(np.float32)
    pred = true + rng.normal(0, 0.05, true.shape).astype(np.float32)
    where = rng.random((2, 6, 5)) < 0.7
    for name, value in jax.jit(lambda p, t: m.amplify_measures(p, t, HEIGHT))(pred, true).items():
        np.testing.assert_allclose(value, m.amplify_measures(pred, true, HEIGHT)[name], rtol=1e-5, err_msg=name)
    ours = jax.jit(m.track2act_delta)(pred * 64, true * 64, where)
    np.testing.assert_allclose(ours, m.track2act_delta(pred * 64, true * 64, where), rtol=1e-5)
    codes = rng.integers(0, 16, (4, 15))
    np.testing.assert_allclose(
        m.codebook_perplexity(jnp.asarray(codes), 16), m.codebook_perplexity(codes, 16), rtol=1e-5
    )


def test_shapes_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match=r"\(4, 2\).*\(1, 2\)"):
        m.mse(np.zeros((4, 2)), np.zeros((1, 2)))
