"""Statistics of columns equal NumPy's over all rows, however the rows come."""

from __future__ import annotations

import json

import numpy as np
import pytest

from t2p.data.statistics import Accumulator, from_json, to_json


def accumulate(rows: np.ndarray, pieces: int, **options) -> Accumulator:
    accumulator = Accumulator(rows.shape[1], **options)
    for part in np.array_split(rows, pieces):
        accumulator.add(part)
    return accumulator


@pytest.mark.parametrize("pieces", [1, 7, 200])
def test_equal_to_numpy_also_far_from_zero(pieces):
    rows = np.random.default_rng(0).normal(size=(150, 3)) * [1, 1e-3, 50] + [0, 1e4, -7]
    s = accumulate(rows, pieces).result()
    assert s.count == 150
    np.testing.assert_allclose(s.mean, rows.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(s.std, rows.std(0), rtol=1e-7)
    np.testing.assert_array_equal([s.min, s.max], [rows.min(0), rows.max(0)])
    np.testing.assert_allclose([s.q01, s.q99], np.quantile(rows, [0.01, 0.99], axis=0))


@pytest.mark.parametrize("pieces", [1, 13])
def test_quantiles_of_many_rows_come_from_every_nth_row(pieces):
    rows = np.random.default_rng(1).normal(size=(1000, 2))
    s = accumulate(rows, pieces, sample=300).result()
    np.testing.assert_allclose([s.q01, s.q99], np.quantile(rows[::4], [0.01, 0.99], axis=0))
    np.testing.assert_allclose(s.mean, rows.mean(0), atol=1e-12)


def test_json_keeps_every_bit_and_no_rows_are_refused():
    s = accumulate(np.random.default_rng(2).random((20, 2), np.float32), 3).result()
    back = from_json(json.loads(json.dumps(to_json(s))))
    for name in ("count", "mean", "std", "min", "max", "q01", "q99"):
        np.testing.assert_array_equal(getattr(back, name), getattr(s, name))
    with pytest.raises(ValueError, match="no rows"):
        Accumulator(2).result()
