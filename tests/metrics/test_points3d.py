"""3PoinTr's errors on tracks small enough to count by hand."""

import numpy as np
import pytest

from t2p.metrics.points3d import ade, ade_of_most_moving, sample_ade


def straight(lengths: list[float], steps: int = 2) -> np.ndarray:
    """Points that go `lengths` along x in all: [1, steps + 1, N, 3]."""
    time = np.linspace(0, 1, steps + 1)[:, None]
    return np.stack([time * lengths, 0 * time * lengths, 0 * time * lengths], -1)[None]


def test_ade_is_a_mean_of_sample_means():
    true = np.concatenate([straight([1, 1]), straight([1, 1])])
    pred = true.copy()
    pred[0, 1:, :, 2] = 3.0
    pred[1, 1:, 0, 2] = 5.0
    visible = np.ones((2, 3, 2), bool)
    visible[1, 1:, 1] = False  # second sample: only its wrong point is seen
    assert ade(pred, true, visible) == pytest.approx((3 + 5) / 2)
    assert np.isnan(ade(pred, true, np.zeros_like(visible)))


def test_a_step_counts_only_if_the_one_before_is_seen_too():
    true = straight([2], steps=3)
    pred = true.copy()
    pred[0, 1:, 0, 1] = [1, 10, 100]
    visible = np.array([1, 1, 0, 1], bool)[None, :, None]
    assert ade(pred, true, visible) == pytest.approx(1)
    assert ade(pred, true, visible, seen_before=False) == pytest.approx((1 + 100) / 2)


def test_samples_without_a_counted_pair_have_no_error_of_their_own():
    true = np.concatenate([straight([1, 2])] * 2)
    visible = np.array([True, False])[:, None, None] & np.ones((2, 3, 2), bool)
    np.testing.assert_allclose(sample_ade(true + [0, 3, 4], true, visible), [5, np.nan])
    assert ade(true + [0, 3, 4], true, visible) == pytest.approx(5)


def test_the_most_moving_are_pooled_or_taken_per_sample():
    true = np.concatenate([straight([10, 9] + [0] * 18), straight([1] + [0] * 19)])
    pred = true.copy()
    pred[0, 1:, 0, 2], pred[0, 1:, 1, 2], pred[1, 1:, 0, 2] = 4, 2, 7
    visible = np.ones((2, 3, 20), bool)
    assert ade_of_most_moving(pred, true, visible) == pytest.approx((4 + 2) / 2)  # 2 of 40, both of the first
    assert ade_of_most_moving(pred, true, visible, pooled=False) == pytest.approx((4 + 7) / 2)
    visible[0, :, 0] = False  # never seen: not in the pool of 39
    assert ade_of_most_moving(pred, true, visible) == pytest.approx((2 + 7) / 2)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="expected pred and true"):
        ade(np.zeros((3, 4, 3)), np.zeros((3, 4, 3)), np.ones((3, 4), bool))
