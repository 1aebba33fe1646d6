"""What General Flow's network is trained with, as released: four errors of each query's path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp

from t2p.models.general_flow import displacements
from t2p.types import Array


@dataclass(frozen=True)
class LossWeights:
    """Of the scale's error, the divergence from N(0, 1) and the error of places; the direction's has 1."""

    scale: float = 25.0
    divergence: float = 1.0
    places: float = 1.0


def flow_losses(
    outputs: Mapping[str, Array], direction: Array, scale: Array, moved: Array, counted: Array, weights: LossWeights
) -> dict[str, Array]:
    """{"loss", "step_loss", "scale_loss", "kl_loss", "place_loss"}, scalars: sums over steps and
    coordinates, means over the counted queries.

    outputs: of models.general_flow.GeneralFlow; direction [b, q, t, 3] and scale [b, q, s]: the labels; moved
    [b, q, t, 3] metres: p_t - p_0; counted: [b, q], weight of each query."""
    pred = {name: outputs[name] for name in ("direction", "scale")}
    places = jnp.cumsum(displacements(pred["direction"], pred["scale"]), axis=-2)
    each = {
        "step_loss": jnp.square(pred["direction"] - direction).sum((-2, -1)),
        "scale_loss": jnp.square(pred["scale"] - scale).sum(-1),
        "kl_loss": divergence(outputs["mean"], outputs["log_variance"]),
        "place_loss": jnp.square(places - moved).sum((-2, -1)),
    }
    parts = {name: counted_mean(value, counted) for name, value in each.items()}
    loss = parts["step_loss"] + weights.scale * parts["scale_loss"]
    loss += weights.divergence * parts["kl_loss"] + weights.places * parts["place_loss"]
    return {"loss": loss, **parts}


def divergence(mean: Array, log_variance: Array) -> Array:
    """Kullback-Leibler divergence of N(mean, exp(log_variance)) from N(0, 1): [..., d] -> [...]."""
    return -0.5 * (1 + log_variance - jnp.square(mean) - jnp.exp(log_variance)).sum(-1)


def counted_mean(values: Array, counted: Array) -> Array:
    """Mean of values over entries of weight `counted`; 0 if none counts."""
    return (values * counted).sum() / jnp.maximum(counted.sum(), 1)
