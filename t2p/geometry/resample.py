"""Resampling of tracks in time and of images in space as linear maps, for NumPy and JAX arrays."""

from __future__ import annotations

from typing import Literal

import numpy as np

from t2p.geometry.conventions import Size
from t2p.types import Array

Method = Literal["linear", "spline"]


def time_weights(steps: int, new_steps: int, method: Method = "linear") -> np.ndarray:
    """[new_steps, steps] float64: how each new step mixes the old ones, first and last steps kept.

    linear: between neighbours. spline: cubic through all steps, not-a-knot ends (a parabola through three steps,
    a line through two), as AMPLIFY stretches Bridge's 4 frames to 16."""
    if steps < 1 or new_steps < 1:
        raise ValueError(f"cannot resample {steps} steps to {new_steps}; both must be at least 1")
    if method not in ("linear", "spline"):
        raise ValueError(f'method must be "linear" or "spline"; got {method!r}')
    if steps == 1:
        return np.ones((new_steps, 1))
    old, new = np.linspace(0, 1, steps), np.linspace(0, 1, new_steps)
    if method == "linear":
        return np.stack([np.interp(new, old, unit) for unit in np.eye(steps)], axis=1)
    from scipy.interpolate import CubicSpline

    return CubicSpline(old, np.eye(steps))(new)


def resample_time(tracks: Array, new_steps: int, method: Method = "linear") -> Array:
    """Tracks [..., T, N, D] -> [..., new_steps, N, D], stretched over the same time. Points, not increments."""
    steps = tracks.shape[-3]
    weights = time_weights(steps, new_steps, method)
    xp = tracks.__array_namespace__()
    flat = tracks.reshape(*tracks.shape[:-2], -1)
    mixed = xp.asarray(weights, dtype=tracks.dtype) @ flat
    return mixed.reshape(*mixed.shape[:-1], *tracks.shape[-2:])


def interpolation_weights(times: np.ndarray, new_times: np.ndarray) -> np.ndarray:
    """[new, old] float64: how the value at each new time mixes those at `times` [old] (rising): its two neighbours,
    or the nearest end outside of them."""
    times = np.asarray(times, float)
    if times.ndim != 1 or not len(times) or (np.diff(times) <= 0).any():
        raise ValueError(f"times must rise; got {times}")
    return np.stack([np.interp(new_times, times, unit) for unit in np.eye(len(times))], axis=1)


def bilinear_weights(size: int, new_size: int) -> np.ndarray:
    """[new_size, size] float64: bilinear interpolation of one axis with half-pixel centres, edges repeated, no
    anti-aliasing (as PyTorch's interpolate without align_corners)."""
    place = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    return np.stack([np.interp(place, np.arange(size), unit) for unit in np.eye(size)], axis=1)


def resize_bilinear(images: Array, size: Size) -> Array:
    """Images [..., H, W, C] of a floating type -> [..., size[0], size[1], C], without anti-aliasing."""
    xp = images.__array_namespace__()
    down = xp.asarray(bilinear_weights(images.shape[-3], size[0]), dtype=images.dtype)
    across = xp.asarray(bilinear_weights(images.shape[-2], size[1]), dtype=images.dtype)
    return xp.einsum("ih,jw,...hwc->...ijc", down, across, images, optimize=True)
