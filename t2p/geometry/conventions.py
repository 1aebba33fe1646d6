"""Coordinates of image tracks: from and to each convention in use outside t2p.

Inside t2p a point of an image is (x, y), x right, y down, in units of the image's width and height: 0 is the
left (top) edge, 1 the right (bottom) edge. A size is always (height, width) in pixels. Every function takes
NumPy or JAX arrays, keeps their floating type, and has its inverse beside it.

| convention | first pixel's centre | who uses it |
|---|---|---|
| raster pixels | (0.5, 0.5) | TAPIR, TAP-Vid, pinhole intrinsics in t2p |
| pixel centres | (0, 0) | CoTracker, OpenCV |
| [-1, 1] | (1/W - 1, 1/H - 1) | sampling grids |
| ATM | (0, 0) | pixel centres divided by (W, H) |
| AMPLIFY | (-1, -1) | pixel centres in (row, column), divided by half the size, less one |
"""

from __future__ import annotations

from t2p.types import Array

Size = tuple[int, int]  # (height, width) in pixels


def _width_height(points: Array, size: Size) -> Array:
    """(W, H) as an array of the points' own kind and type."""
    _check_last_axis(points, 2, "points")
    height, width = size
    if height <= 0 or width <= 0:
        raise ValueError(f"size must be (height, width) in pixels, both positive; got {tuple(size)}")
    return points.__array_namespace__().asarray([width, height], dtype=points.dtype)


def _check_last_axis(array: Array, length: int, what: str) -> None:
    if array.ndim == 0 or array.shape[-1] != length:
        raise ValueError(f"{what} must have {length} numbers on their last axis; got shape {tuple(array.shape)}")


def from_raster(points: Array, size: Size) -> Array:
    """Pixels, (0, 0) the first pixel's corner -> [0, 1]. points: [..., 2] (x, y)."""
    return points / _width_height(points, size)


def to_raster(points: Array, size: Size) -> Array:
    """[0, 1] -> pixels, (0, 0) the first pixel's corner. points: [..., 2] (x, y)."""
    return points * _width_height(points, size)


def from_pixel_centers(points: Array, size: Size) -> Array:
    """Pixels, (0, 0) the first pixel's centre (CoTracker, OpenCV) -> [0, 1]. points: [..., 2] (x, y)."""
    return (points + 0.5) / _width_height(points, size)


def to_pixel_centers(points: Array, size: Size) -> Array:
    """[0, 1] -> pixels, (0, 0) the first pixel's centre (CoTracker, OpenCV). points: [..., 2] (x, y)."""
    return points * _width_height(points, size) - 0.5


def from_normalized_pm1(points: Array) -> Array:
    """[-1, 1], the image's edges at -1 and 1 -> [0, 1]. points: [..., 2] (x, y)."""
    _check_last_axis(points, 2, "points")
    return (points + 1) / 2


def to_normalized_pm1(points: Array) -> Array:
    """[0, 1] -> [-1, 1], the image's edges at -1 and 1. points: [..., 2] (x, y)."""
    _check_last_axis(points, 2, "points")
    return points * 2 - 1


def swap_xy(points: Array) -> Array:
    """(x, y) <-> (y, x), that is (row, column), on the last axis; its own inverse."""
    _check_last_axis(points, 2, "points")
    return points[..., ::-1]


def swap_time_and_points(tracks: Array) -> Array:
    """Time-major [..., T, N, D] <-> point-major [..., N, T, D]; its own inverse.

    For visibility, which has no coordinate axis, give visible[..., None] and take [..., 0]."""
    if tracks.ndim < 3:
        raise ValueError(f"tracks must be [..., T, N, D] or [..., N, T, D]; got shape {tuple(tracks.shape)}")
    return tracks.__array_namespace__().moveaxis(tracks, -3, -2)


def _with_time(queries: Array, points: Array) -> Array:
    xp = queries.__array_namespace__()
    return xp.concat([queries[..., :1], points], axis=-1)


def from_tapir_queries(queries: Array, size: Size) -> Array:
    """(t, y, x) with raster pixels -> (t, x, y) with [0, 1]. queries: [..., 3]."""
    _check_last_axis(queries, 3, "queries")
    return _with_time(queries, from_raster(swap_xy(queries[..., 1:]), size))


def to_tapir_queries(queries: Array, size: Size) -> Array:
    """(t, x, y) with [0, 1] -> (t, y, x) with raster pixels. queries: [..., 3]."""
    _check_last_axis(queries, 3, "queries")
    return _with_time(queries, swap_xy(to_raster(queries[..., 1:], size)))


def from_cotracker_queries(queries: Array, size: Size) -> Array:
    """(t, x, y) with pixel centres at integers -> (t, x, y) with [0, 1]. queries: [..., 3]."""
    _check_last_axis(queries, 3, "queries")
    return _with_time(queries, from_pixel_centers(queries[..., 1:], size))


def to_cotracker_queries(queries: Array, size: Size) -> Array:
    """(t, x, y) with [0, 1] -> (t, x, y) with pixel centres at integers. queries: [..., 3]."""
    _check_last_axis(queries, 3, "queries")
    return _with_time(queries, to_pixel_centers(queries[..., 1:], size))


def from_atm(points: Array, size: Size) -> Array:
    """ATM's stored tracks (CoTracker's pixels over (W, H); not clipped) -> [0, 1]. points: [..., 2] (x, y)."""
    return points + 0.5 / _width_height(points, size)


def to_atm(points: Array, size: Size) -> Array:
    """[0, 1] -> ATM's tracks: half a pixel less, so that official weights see what they were trained on."""
    return points - 0.5 / _width_height(points, size)


def from_amplify(points: Array, size: Size) -> Array:
    """AMPLIFY's network coordinates, (row, column) in [-1, 1] -> (x, y) in [0, 1]. points: [..., 2]."""
    half = _width_height(points, size) / 2
    return from_pixel_centers((swap_xy(points) + 1) * half, size)


def clamp_amplify(points: Array, size: Size) -> Array:
    """(x, y) in [0, 1], cut off at the borders of AMPLIFY's network coordinates, which are pixel 0 and pixel `side`; a
    coordinate that is not finite becomes pixel 0. What lies inside stays as it is, bit for bit. See `to_amplify`."""
    xp = points.__array_namespace__()
    sides = _width_height(points, size)
    first, last = from_pixel_centers(xp.zeros_like(sides), size), from_pixel_centers(sides, size)
    return xp.where(xp.isfinite(points), xp.clip(points, first, last), first)


def to_amplify(points: Array, size: Size, clamp: bool = True) -> Array:
    """(x, y) in [0, 1] -> AMPLIFY's network coordinates: (row, column), pixel / (side / 2) - 1, clamped to [-1, 1].

    size: the image in which the points were tracked (not one resized later). A coordinate that is not finite
    becomes pixel 0, so -1, as in the AMPLIFY release. clamp: False for predictions, which may leave the picture."""
    xp = points.__array_namespace__()
    pixels = to_pixel_centers(points, size)
    pixels = xp.where(xp.isfinite(pixels), pixels, xp.zeros_like(pixels))
    scaled = pixels / (_width_height(points, size) / 2) - 1
    return swap_xy(xp.clip(scaled, -1, 1) if clamp else scaled)
