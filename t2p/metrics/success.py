"""How sure a success rate is, and the difference of two on the same episodes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Z95 = 1.959963984540054  # two-sided 95 % of the normal distribution


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """95 % interval of a rate (Wilson 1927). ValueError without trials, or with more successes than trials."""
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"expected 0 <= successes <= trials and at least one trial; got {successes} of {trials}")
    rate, z2 = successes / trials, Z95**2
    middle = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z95 / (1 + z2 / trials) * math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def paired_difference(a: Sequence[bool] | np.ndarray, b: Sequence[bool] | np.ndarray) -> tuple[float, float, float]:
    """Rate of a minus rate of b on the same episodes, and its 95 % interval (Agresti & Min 2005: half an episode is
    added to each of the four outcomes). -> (difference, low, high). ValueError for lists of different length."""
    x, y = np.asarray(a, bool), np.asarray(b, bool)
    if x.shape != y.shape or x.ndim != 1 or not len(x):
        raise ValueError(f"expected two lists of the same episodes; got {x.shape} and {y.shape}")
    only_a, only_b, n = float(np.sum(x & ~y)), float(np.sum(~x & y)), float(len(x))
    p, q, m = (only_a + 0.5) / (n + 2), (only_b + 0.5) / (n + 2), n + 2
    half = Z95 * math.sqrt((p + q - (p - q) ** 2) / m)
    return (only_a - only_b) / n, max(-1.0, p - q - half), min(1.0, p - q + half)
