"""Intervals of success rates against published values and against simulation."""

import numpy as np
import pytest

from t2p.metrics.success import paired_difference, wilson


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)],
)  # Newcombe 1998, table I
def test_wilson_gives_the_published_intervals(successes, trials, low, high):
    assert wilson(successes, trials) == pytest.approx((low, high), abs=6e-5)


def test_impossible_counts_are_refused():
    for successes, trials in ((1, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="successes"):
            wilson(successes, trials)


def test_the_paired_interval_covers_the_truth_and_uses_the_pairing():
    rng, covered, widths = np.random.default_rng(0), 0, []
    for _ in range(400):
        hard = rng.uniform(size=100)
        a, b = hard < 0.7, hard < 0.6  # the same episodes are hard for both
        difference, low, high = paired_difference(a, b)
        assert low <= difference <= high
        covered += low <= 0.1 <= high
        widths.append(high - low)
    assert covered / 400 > 0.93
    a, b = rng.uniform(size=100) < 0.7, rng.uniform(size=100) < 0.6
    _, low, high = paired_difference(a, b)
    assert high - low > 1.3 * np.mean(widths)


def test_different_lists_are_refused():
    with pytest.raises(ValueError, match="same episodes"):
        paired_difference([True], [True, False])
