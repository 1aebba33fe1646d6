"""Directions and scales of paths."""

import jax.numpy as jnp
import numpy as np
import pytest

from t2p.io import UserError
from t2p.methods.general_flow.labels import scale_labels
from t2p.models.general_flow import displacements

PATHS = np.array([[[0, 0, 0], [3, 0, 0], [3, 4, 0], [3, 4, 0]], [[1, 1, 1]] * 4], np.float64)


@pytest.mark.parametrize(("method", "scale"), [("TLN", [7]), ("TDN", [5]), ("SDN", [3, 4, 1])])
@pytest.mark.parametrize("xp", [np, jnp])
def test_scales_by_hand(method, scale, xp):
    direction, got = scale_labels(xp.asarray(PATHS), method)
    np.testing.assert_allclose(got[0], scale, rtol=1e-6)
    assert direction.shape == (2, 3, 3) and not np.asarray(direction[0, 2]).any()


@pytest.mark.parametrize("method", ["TLN", "TDN", "SDN"])
def test_directions_and_scales_give_the_steps_back(method):
    paths = np.random.default_rng(0).standard_normal((4, 5, 6, 3))
    steps = displacements(*scale_labels(paths, method))
    np.testing.assert_allclose(steps, np.diff(paths, axis=-2), atol=1e-12)
    direction, scale = scale_labels(paths, method)
    stretched, longer = scale_labels(3.0 * paths + 1.0, method)
    np.testing.assert_allclose(stretched, direction, atol=1e-12)
    np.testing.assert_allclose(longer, 3.0 * scale, rtol=1e-12)


@pytest.mark.parametrize("method", ["TLN", "TDN", "SDN"])
def test_a_path_that_does_not_move_has_direction_0_and_scale_1(method):
    for move in (0.0, 2e-7):
        direction, scale = scale_labels(PATHS[1] + move * np.arange(4)[:, None] / 3, method)
        assert not direction.any() and (scale == 1).all()
    direction, scale = scale_labels(PATHS[1] + 1e-5 * np.arange(4)[:, None], method)
    assert direction.any() and (scale < 1e-4).all()


def test_a_path_that_returns_has_a_length_but_no_distance():
    loop = np.array([[0, 0, 0], [1, 0, 0], [0, 0, 0]], np.float32)
    assert scale_labels(loop, "TLN")[1] == 2 and scale_labels(loop, "TLN")[0].any()
    assert scale_labels(loop, "TDN")[1] == 1 and not scale_labels(loop, "TDN")[0].any()


def test_unknown_method():
    with pytest.raises(UserError, match="'tln'; expected one of TLN, TDN, SDN"):
        scale_labels(PATHS, "tln")
