"""Statistics of actions and proprioception, from the numeric columns alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from t2p.types import Statistics

SAMPLE = 1 << 20  # rows from which quantiles are taken; exact up to so many


class Accumulator:
    """Statistics of the rows seen so far, float64.

    Count, mean, standard deviation (of the population), minimum and maximum are exact (Chan et al. 1979, pairwise
    updating). Quantiles are exact up to `sample` rows; beyond, they are those of every 2nd, 4th, 8th ... row.
    """

    def __init__(self, width: int, sample: int = SAMPLE):
        self.width, self.count = width, 0
        self._sample, self._stride, self._kept = sample, 1, 0
        self._mean, self._squares = np.zeros(width), np.zeros(width)
        self._min, self._max = np.full(width, np.inf), np.full(width, -np.inf)
        self._rows: list[np.ndarray] = []

    def add(self, rows: np.ndarray) -> None:
        """rows: [T, d]."""
        if not len(rows):
            return
        rows = rows.astype(np.float64)
        mean, total = rows.mean(0), self.count + len(rows)
        shift = mean - self._mean
        self._squares += ((rows - mean) ** 2).sum(0) + shift**2 * (self.count * len(rows) / total)
        self._mean += shift * (len(rows) / total)
        self._min, self._max = np.minimum(self._min, rows.min(0)), np.maximum(self._max, rows.max(0))
        self._keep(rows)
        self.count = total

    def _keep(self, rows: np.ndarray) -> None:
        """Keeps the rows whose position among all is a multiple of the stride."""
        kept = rows[-self.count % self._stride :: self._stride].copy()
        self._rows.append(kept)
        self._kept += len(kept)
        while self._kept > self._sample:
            self._rows = [np.concatenate(self._rows)[::2]]
            self._kept, self._stride = len(self._rows[0]), self._stride * 2

    def result(self) -> Statistics:
        """The statistics; ValueError when no row was seen."""
        if not self.count:
            raise ValueError("no rows")
        q01, q99 = np.quantile(np.concatenate(self._rows), (0.01, 0.99), axis=0)
        std = np.sqrt(self._squares / self.count)
        return Statistics(self.count, self._mean, std, self._min, self._max, q01, q99)


def to_json(statistics: Statistics) -> dict[str, Any]:
    """-> JSON-able; floats keep every bit."""
    fields = ("mean", "std", "min", "max", "q01", "q99")
    return {"count": statistics.count, **{name: np.asarray(getattr(statistics, name)).tolist() for name in fields}}


def from_json(value: Mapping[str, Any]) -> Statistics:
    """The inverse of `to_json`."""
    return Statistics(value["count"], **{k: np.asarray(v, np.float64) for k, v in value.items() if k != "count"})
