"""What 3PoinTr's track network learns from (paper, section III; target and denominator as in the released code)."""

from __future__ import annotations

import jax.numpy as jnp

from t2p.types import Array


def track_target(cloud: Array, displacement: Array) -> Array:
    """The places to predict: the cloud as the network sees it, its noise included, plus the true displacements.

    cloud: [b, n, 3]; displacement: [b, t, n, 3] from the first frame to steps 1 .. t; both in 3PoinTr's units."""
    return cloud[:, None] + displacement


def track_loss(tracks: Array, target: Array, counted: Array) -> Array:
    """Mean absolute error per coordinate over all counted (step, point) pairs of the batch together; 0 if none is.

    tracks, target: [b, t, n, 3]; counted: [b, t, n] bool, True where the point is visible and the step is real."""
    error = jnp.abs(tracks - target) * counted[..., None]
    return error.sum() / jnp.maximum(counted.sum() * tracks.shape[-1], 1)
