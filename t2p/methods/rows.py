"""Which rows of a batch count, and means over them."""

from __future__ import annotations

import jax.numpy as jnp

from t2p.types import Array, Batch


def counted_rows(batch: Batch, size: int, *fields: str) -> Array:
    """[B] bool: False on filling rows and on rows whose source lacks one of the fields."""
    rows = jnp.ones(size, bool) if batch.mask is None else jnp.asarray(batch.mask)
    for name in fields:
        rows = rows & batch.has[name] if name in batch.has else rows
    return rows


def row_mean(values: Array, rows: Array) -> Array:
    """Mean of values [B] over the rows of weight [B]; 0 if no row counts."""
    return jnp.sum(values * rows) / jnp.maximum(jnp.sum(rows), 1)
