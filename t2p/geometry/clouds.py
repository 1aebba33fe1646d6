"""Point clouds, [..., N, D]: which points to keep. For NumPy and JAX arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from t2p.types import Array

Loop = Callable[[int, int, Callable[[Any, Any], Any], Any], Any]


def python_loop(start: int, stop: int, body: Callable[[Any, Any], Any], state: Any) -> Any:
    """state = body(i, state) for i = start .. stop - 1: what jax.lax.fori_loop computes."""
    for i in range(start, stop):
        state = body(i, state)
    return state


def furthest_points(points: Array, count: int, lengths: Array | None = None, loop: Loop = python_loop) -> Array:
    """Furthest point sampling: indices [..., count] of points, each the furthest from all before it.

    points: [..., N, D]. It starts at index 0, compares squared distances (sums of squared differences) and takes
    the lowest index of a tie (PyTorch3D's deterministic rule, which DP3 and 3PoinTr follow). lengths: [...] int, how
    many leading points of each cloud are real (None: all). Entries past a cloud's length are -1.

    Under jax.jit give loop=jax.lax.fori_loop; the default would be unrolled."""
    if points.ndim < 2 or count < 1:
        raise ValueError(f"expected points [..., N, D] and a count from 1 on; got {tuple(points.shape)} and {count}")
    xp = points.__array_namespace__()
    size = points.shape[-2]
    length = xp.full(points.shape[:-2], size) if lengths is None else lengths
    real = xp.arange(size) < length[..., None]
    slots = xp.arange(count)

    def body(i: Any, state: tuple[Array, Array]) -> tuple[Array, Array]:
        """state: squared distance [..., N] of each point to those chosen before i, below 0 where none is real; the
        choices so far [..., count]."""
        distance, chosen = state
        index = xp.argmax(distance, axis=-1)[..., None]
        point = xp.take_along_axis(points, index[..., None], axis=-2)
        to_point = xp.sum(xp.square(points - point), axis=-1)
        chosen = xp.where(slots == i, index, chosen)
        return xp.minimum(distance, to_point), chosen

    far = xp.where(real, xp.asarray(xp.inf, dtype=points.dtype), xp.asarray(-1, dtype=points.dtype))
    nothing = xp.zeros((*points.shape[:-2], count), dtype=xp.argmax(far, axis=-1).dtype)
    _, chosen = loop(0, count, body, (far, nothing))
    return xp.where(slots < length[..., None], chosen, -1)


def gather_points(points: Array, indices: Array) -> Array:
    """points [..., N, D] at indices [..., K] -> [..., K, D]; zeros where an index is negative."""
    xp = points.__array_namespace__()
    taken = xp.take_along_axis(points, xp.clip(indices, 0, None)[..., None], axis=-2)
    return xp.where(indices[..., None] < 0, xp.zeros_like(taken), taken)


def inside_box(points: Array, low: Array, high: Array) -> Array:
    """Which points lie in the axis-aligned box, its faces included: [..., N, >= 3] -> bool [..., N].

    low, high: [3] corners in the unit of the points; columns after the first three (colors) are not looked at."""
    xp = points.__array_namespace__()
    xyz = points[..., :3]
    return xp.all((xyz >= xp.asarray(low, dtype=xyz.dtype)) & (xyz <= xp.asarray(high, dtype=xyz.dtype)), axis=-1)
