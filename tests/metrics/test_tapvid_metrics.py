"""TAP-Vid's measures on tracks small enough to count by hand."""

import numpy as np
import pytest

from t2p.metrics.tapvid import evaluated, tapvid


def test_which_steps_count():
    frames = np.array([0.2, 2.0])
    np.testing.assert_array_equal(evaluated(frames, 4, "first").T, [[0, 1, 1, 1], [0, 0, 0, 1]])
    np.testing.assert_array_equal(evaluated(frames, 4, "strided").T, [[0, 1, 1, 1], [1, 1, 0, 1]])
    with pytest.raises(ValueError, match="last"):
        evaluated(frames, 4, "last")


def test_one_point_over_five_steps():
    true = np.zeros((5, 1, 2))
    pred = true.copy()
    pred[:, 0, 0] = np.array([50, 0, 3, 0, 20]) / 256  # the first is the query's and does not count
    visible, seen = np.array([1, 1, 1, 1, 1], bool), np.array([1, 1, 1, 0, 0], bool)
    found = tapvid(pred, seen[:, None], true, visible[:, None], np.zeros(1))
    assert found["occlusion_accuracy"] == 0.5
    assert found["pts_within_1"] == found["pts_within_2"] == 0.5  # steps 1 and 3 of four
    assert found["pts_within_4"] == found["pts_within_16"] == 0.75
    assert found["average_pts_within_thresh"] == pytest.approx((2 * 0.5 + 3 * 0.75) / 5)
    assert found["jaccard_1"] == pytest.approx(1 / (4 + 1))  # step 2 is seen, but not within 1 px
    assert found["jaccard_4"] == pytest.approx(2 / 4)
    assert found["average_jaccard"] == pytest.approx((2 / 5 + 3 / 2) / 5)


def test_points_seen_while_occluded_are_false_positives():
    true = np.zeros((3, 1, 2))
    visible, seen = np.array([1, 1, 0], bool)[:, None], np.ones((3, 1), bool)
    found = tapvid(true, seen, true, visible, np.zeros(1))
    assert found["average_jaccard"] == pytest.approx(1 / 2) and found["average_pts_within_thresh"] == 1


def test_videos_apart_and_points_left_out():
    true = np.zeros((2, 3, 2, 2))
    pred = true.copy()
    pred[0, :, 1] = 1.0
    visible = np.ones((2, 3, 2), bool)
    found = tapvid(pred, visible, true, visible, np.zeros((2, 2)))
    np.testing.assert_allclose(found["average_pts_within_thresh"], [0.5, 1])
    only = tapvid(pred, visible, true, visible, np.zeros((2, 2)), where=np.array([[True, False], [False, False]]))
    np.testing.assert_allclose(only["average_jaccard"], [1, np.nan])
