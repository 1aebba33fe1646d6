"""Every outside convention: known values, round trips on images of unequal sides, and resizing."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from t2p.geometry import conventions as c

SIZES = st.tuples(st.integers(1, 700), st.integers(1, 700))
# The rows of these images' first pixel, whose centre is at (0.5, 0.5) pixels from the corner.
SIZE = (100, 200)
FIRST_PIXEL = np.array([0.5 / 200, 0.5 / 100])


def values(*shape: int) -> st.SearchStrategy:
    return arrays(np.float64, shape, elements=st.floats(-1.5, 2.5))


POINT_PAIRS = {
    "raster": (c.from_raster, c.to_raster),
    "pixel centres": (c.from_pixel_centers, c.to_pixel_centers),
    "[-1, 1]": (lambda p, _: c.from_normalized_pm1(p), lambda p, _: c.to_normalized_pm1(p)),
    "atm": (c.from_atm, c.to_atm),
}
QUERY_PAIRS = {
    "tapir": (c.from_tapir_queries, c.to_tapir_queries),
    "cotracker": (c.from_cotracker_queries, c.to_cotracker_queries),
}


@pytest.mark.parametrize("name", POINT_PAIRS)
@settings(deadline=None, max_examples=30)
@given(points=values(5, 2), size=SIZES)
def test_points_round_trip_both_ways(name, points, size):
    convert, back = POINT_PAIRS[name]
    np.testing.assert_allclose(back(convert(points, size), size), points, atol=1e-9)
    np.testing.assert_allclose(convert(back(points, size), size), points, atol=1e-9)


@pytest.mark.parametrize("name", QUERY_PAIRS)
@settings(deadline=None, max_examples=30)
@given(queries=values(4, 3), size=SIZES)
def test_queries_round_trip_both_ways(name, queries, size):
    convert, back = QUERY_PAIRS[name]
    np.testing.assert_allclose(back(convert(queries, size), size), queries, atol=1e-9)
    np.testing.assert_allclose(convert(back(queries, size), size), queries, atol=1e-9)


@settings(deadline=None, max_examples=30)
@given(points=arrays(np.float64, (6, 2), elements=st.floats(0, 1)), size=SIZES)
def test_amplify_round_trip_wherever_it_does_not_clamp(points, size):
    half_pixel = 0.5 / np.array(size[::-1])
    inside = np.clip(points, half_pixel, 1)
    back = c.from_amplify(c.to_amplify(inside, size), size)
    np.testing.assert_allclose(back, inside, atol=1e-9)


def test_the_first_pixel_in_every_convention():
    np.testing.assert_allclose(c.to_raster(FIRST_PIXEL, SIZE), [0.5, 0.5])
    np.testing.assert_allclose(c.to_pixel_centers(FIRST_PIXEL, SIZE), [0, 0])
    np.testing.assert_allclose(c.to_normalized_pm1(FIRST_PIXEL), [1 / 200 - 1, 1 / 100 - 1])
    np.testing.assert_allclose(c.to_atm(FIRST_PIXEL, SIZE), [0, 0])
    np.testing.assert_allclose(c.to_amplify(FIRST_PIXEL, SIZE), [-1, -1])
    query = np.array([3.0, *FIRST_PIXEL])
    np.testing.assert_allclose(c.to_tapir_queries(query, SIZE), [3, 0.5, 0.5])
    np.testing.assert_allclose(c.to_cotracker_queries(query, SIZE), [3, 0, 0])


def test_axes_are_not_confused():
    point = np.array([0.25, 0.75])  # a quarter across, three quarters down
    np.testing.assert_allclose(c.to_raster(point, SIZE), [50, 75])
    np.testing.assert_allclose(c.to_amplify(point, SIZE), [(75 - 0.5) / 50 - 1, (50 - 0.5) / 100 - 1])
    np.testing.assert_allclose(c.to_tapir_queries(np.array([7.0, *point]), SIZE), [7, 75, 50])
    np.testing.assert_allclose(c.swap_xy(point), [0.75, 0.25])


def test_amplify_clamps_and_sends_broken_coordinates_to_minus_one():
    points = np.array([[np.nan, 0.5], [0.5, np.inf], [-3.0, 5.0]])
    rows_columns = c.to_amplify(points, (10, 10))
    np.testing.assert_allclose(rows_columns, [[-0.1, -1], [-1, -0.1], [1, -1]])


def test_amplifys_clamp_is_the_same_before_and_after_the_change_of_coordinates():
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 2, (200, 2)).astype(np.float32)
    points[0] = np.nan, np.inf
    clamped = c.clamp_amplify(points, SIZE)
    np.testing.assert_allclose(c.to_amplify(clamped, SIZE, clamp=False), c.to_amplify(points, SIZE), atol=1e-6)
    inside = (np.abs(c.to_amplify(points, SIZE, clamp=False)) < 1).all(-1) & np.isfinite(points).all(-1)
    assert 0 < inside.sum() < 200 and (clamped[inside] == points[inside]).all()


def test_time_and_points_change_places():
    tracks = np.arange(2 * 3 * 4 * 2).reshape(2, 3, 4, 2)
    swapped = c.swap_time_and_points(tracks)
    assert swapped.shape == (2, 4, 3, 2)
    np.testing.assert_array_equal(swapped[1, 2, 0], tracks[1, 0, 2])
    np.testing.assert_array_equal(c.swap_time_and_points(swapped), tracks)


@pytest.mark.parametrize("new_size", [(30, 45), (240, 90)])
def test_a_point_keeps_its_place_when_the_image_is_resized(new_size):
    """A blob's centre, measured in pixels of the resized picture, is where the conventions say."""
    import cv2

    size, point = (120, 180), np.array([0.4, 0.65])
    y, x = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5, indexing="ij")
    center = c.to_raster(point, size)
    blob = np.exp(-((x - center[0]) ** 2 + (y - center[1]) ** 2) / (2 * 8.0**2))
    small = cv2.resize(
        blob, new_size[::-1], interpolation=cv2.INTER_AREA if new_size[0] < size[0] else cv2.INTER_LINEAR
    )
    rows, columns = np.meshgrid(np.arange(new_size[0]), np.arange(new_size[1]), indexing="ij")
    found = np.array([(columns * small).sum(), (rows * small).sum()]) / small.sum()
    np.testing.assert_allclose(found, c.to_pixel_centers(point, new_size), atol=0.02)
    np.testing.assert_allclose(c.from_pixel_centers(found, new_size), point, atol=1e-3)


def test_jax_arrays_stay_float32_and_numpy_float64():
    points = np.random.default_rng(0).random((3, 2))
    for convert, back in POINT_PAIRS.values():
        assert convert(points, SIZE).dtype == np.float64
        ours = back(convert(jnp.asarray(points, jnp.float32), SIZE), SIZE)
        assert isinstance(ours, jnp.ndarray) and ours.dtype == jnp.float32
    np.testing.assert_allclose(c.to_amplify(jnp.asarray(points), SIZE), c.to_amplify(points, SIZE), atol=1e-6)


def test_wrong_shapes_and_sizes_are_named():
    with pytest.raises(ValueError, match=r"points must have 2 numbers.*\(4, 3\)"):
        c.to_raster(np.zeros((4, 3)), SIZE)
    with pytest.raises(ValueError, match=r"size must be \(height, width\)"):
        c.to_raster(np.zeros((4, 2)), (0, 10))
    with pytest.raises(ValueError, match="queries must have 3"):
        c.to_tapir_queries(np.zeros((4, 2)), SIZE)
