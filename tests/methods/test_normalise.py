"""Limits: to [-1, 1] and back, numbers that stand still, what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from t2p.io import UserError
from t2p.methods.normalise import Limits, empty_statistics


@pytest.mark.parametrize("xp", [np, jnp])
def test_limits_go_to_one_and_back(xp):
    limits = Limits.of([-2.0, 0.0, 5.0], [4.0, 0.5, 5.00001])
    rows = xp.asarray([[-2.0, 0.0, 5.0], [4.0, 0.5, 5.00001], [1.0, 0.25, 6.0]], dtype=xp.float32)
    seen = limits.normalise(rows)
    assert seen.dtype == rows.dtype
    np.testing.assert_allclose(np.asarray(seen)[:, :2], [[-1, -1], [1, 1], [0, 0]], atol=1e-6)
    np.testing.assert_allclose(np.asarray(seen)[:, 2], [0, 0, 1], atol=2e-5)  # hardly varies: only shifted
    np.testing.assert_allclose(np.asarray(limits.undo(seen)), np.asarray(rows), rtol=1e-6, atol=1e-6)


def test_limits_of_one_number_hold_for_all():
    np.testing.assert_allclose(Limits.of([0.0], [2.0]).normalise(np.array([[0.0, 1.0, 2.0]])), [[-1, 0, 1]])


def test_bad_limits_are_refused():
    with pytest.raises(UserError, match="a low and a high value of each"):
        Limits.of([0.0, 1.0], [1.0])
    with pytest.raises(UserError, match="a low and a high value of each"):
        Limits.of([1.0], [0.0])
    with pytest.raises(UserError, match=r"limits of 2 numbers were given for 3"):
        Limits.of([0.0, 0.0], [1.0, 1.0]).normalise(np.zeros(3))
    with pytest.raises(UserError, match=r"statistics\.actions is empty.*`t2p train` fills"):
        Limits.from_config(empty_statistics("actions"), "actions")
