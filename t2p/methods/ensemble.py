"""Temporal ensembling: one action from all chunks that still speak of this step (ACT, Zhao et al. 2023).

Letters: e environments, m chunks, t actions of a chunk, a numbers of an action.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp

from t2p.types import Array

EPSILON = 1e-8  # of the sum of weights (AMPLIFY's released code)


def ensemble(actions: Array, valid: Array, log_weight: Array) -> Array:
    """The weighted mean of what several chunks say of one step.

    actions: [e, m, a]; valid: [e, m] bool; log_weight: [e, m] or [m]. -> [e, a]; zeros where none is valid."""
    weight = jnp.where(valid, jnp.exp(log_weight), 0.0)
    weight = weight / (weight.sum(-1, keepdims=True) + EPSILON)
    return jnp.einsum("em,ema->ea", weight, actions)


def empty_chunks(environments: int, steps: int, width: int) -> dict[str, Array]:
    """The state before the first step: room for the last t = `steps` chunks, newest first, "chunks" [e, t, t, a], and
    how many have been given, "count" [e]."""
    return {
        "chunks": jnp.zeros((environments, steps, steps, width), jnp.float32),
        "count": jnp.zeros(environments, jnp.int32),
    }


def step(state: Mapping[str, Array], chunk: Array, decay: float = 0.01) -> tuple[Array, dict[str, Array]]:
    """Takes in the chunk that starts now, [e, t, a] -> (the action of this step [e, a], the state after it).

    AMPLIFY's released weighting: exp(-decay i), where i = 0 is the OLDEST chunk that covers this step, so that old
    chunks weigh most; an action of zeros alone counts as absent (padding), wherever it comes from."""
    chunks = jnp.concatenate([chunk[:, None].astype(jnp.float32), state["chunks"][:, :-1]], axis=1)
    steps = chunks.shape[1]
    count = jnp.minimum(state["count"] + 1, steps)
    age = jnp.arange(steps)  # chunk number j began j steps ago, so its action j is for now
    actions = chunks[:, age, age]
    valid = (age < count[:, None]) & jnp.any(actions != 0, axis=-1)
    oldest_first = count[:, None] - 1 - age
    return ensemble(actions, valid, -decay * oldest_first), {"chunks": chunks, "count": count}
