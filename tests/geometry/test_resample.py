"""Resampling in time and image resizing against definitions written out here, and scipy's spline."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from t2p.geometry.resample import resample_time, resize_bilinear, time_weights


def tracks(steps: int) -> np.ndarray:
    return np.random.default_rng(steps).normal(size=(2, steps, 3, 2))


@pytest.mark.parametrize(("steps", "new"), [(4, 16), (16, 5), (1, 4), (7, 7), (5, 1)])
def test_linear_keeps_the_ends_and_walks_evenly_between(steps, new):
    x = tracks(steps)
    y = resample_time(x, new)
    assert y.shape == (2, new, 3, 2)
    for k in range(new):
        place = k * (steps - 1) / (new - 1) if new > 1 else 0
        low = min(int(place), max(steps - 2, 0))
        high = min(low + 1, steps - 1)
        np.testing.assert_allclose(y[:, k], x[:, low] + (place - low) * (x[:, high] - x[:, low]), atol=1e-12)


@pytest.mark.parametrize(("steps", "new"), [(2, 6), (3, 7), (4, 16), (16, 9)])
def test_spline_is_scipys_not_a_knot(steps, new):
    x = tracks(steps)
    want = CubicSpline(np.linspace(0, 1, steps), x, axis=1)(np.linspace(0, 1, new))
    np.testing.assert_allclose(resample_time(x, new, "spline"), want, atol=1e-9)


def test_spline_follows_a_cubic_exactly():
    curve = (np.linspace(0, 1, 4) ** 3)[:, None, None]
    np.testing.assert_allclose(resample_time(curve, 16, "spline")[:, 0, 0], np.linspace(0, 1, 16) ** 3, atol=1e-12)


def test_numpy_and_jax_agree_and_keep_their_type():
    x = tracks(4).astype(np.float32)
    for method in ("linear", "spline"):
        ours = resample_time(jnp.asarray(x), 16, method)
        assert ours.dtype == jnp.float32 and resample_time(x, 16, method).dtype == np.float32
        np.testing.assert_allclose(ours, resample_time(x, 16, method), atol=1e-5)


def test_unknown_methods_and_empty_tracks_are_refused():
    with pytest.raises(ValueError, match="cubic"):
        time_weights(4, 8, "cubic")
    with pytest.raises(ValueError, match="cannot resample 0 steps"):
        time_weights(0, 8)


def bilinear_by_hand(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    out = np.empty((*size, image.shape[2]))
    for i in range(size[0]):
        for j in range(size[1]):
            y = max((i + 0.5) * image.shape[0] / size[0] - 0.5, 0)
            x = max((j + 0.5) * image.shape[1] / size[1] - 0.5, 0)
            a, b = int(y), int(x)
            c, d = min(a + 1, image.shape[0] - 1), min(b + 1, image.shape[1] - 1)
            top = image[a, b] + (x - b) * (image[a, d] - image[a, b])
            low = image[c, b] + (x - b) * (image[c, d] - image[c, b])
            out[i, j] = top + (y - a) * (low - top)
    return out


@pytest.mark.parametrize("size", [(5, 9), (16, 3), (6, 8)])
def test_bilinear_resizing_is_not_anti_aliased(size):
    image = np.random.default_rng(0).random((6, 8, 3))
    np.testing.assert_allclose(resize_bilinear(image, size), bilinear_by_hand(image, size), atol=1e-12)
    both = resize_bilinear(jnp.asarray(np.stack([image, 1 - image])), size)
    np.testing.assert_allclose(both[1], bilinear_by_hand(1 - image, size), atol=1e-5)
