"""What methods do with clouds of a fixed number of points, some of which may not count."""

from __future__ import annotations

import jax.numpy as jnp

from t2p.types import Array


def fill_by_repetition(points: Array, kept: Array) -> Array:
    """Puts copies of the kept points, in turn, where the others stand: [..., N, D], kept [..., N] bool -> [..., N, D].

    A cloud without any kept point stays as it is."""
    order = jnp.argsort(~kept, axis=-1, stable=True)
    count = jnp.maximum(kept.sum(-1, keepdims=True), 1)
    turn = jnp.arange(kept.shape[-1]) % jnp.where(kept.any(-1, keepdims=True), count, kept.shape[-1])
    chosen = jnp.take_along_axis(order, turn, axis=-1)
    return jnp.take_along_axis(points, chosen[..., None], axis=-2)
