"""Finite scalar quantisation (Mentzer et al. 2024): each number of a short vector is bounded and rounded to one of a
few levels; there is no codebook to learn and no loss of its own.

Letters: ... any axes, k numbers of a code, d channels of the network around it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from t2p.io import UserError
from t2p.models.layers import Array, Linear

EPSILON = 1e-3  # how far the bounds lie outside the last levels, as a share

# Levels by the nominal size of the codebook (AMPLIFY's released code). Some products are smaller: 1000 of 1024, 1920 of
# 2048, 4375 of 4096.
LEVELS: dict[int, tuple[int, ...]] = {
    16: (5, 3),
    64: (8, 8),
    256: (8, 6, 5),
    512: (8, 8, 8),
    1024: (8, 5, 5, 5),
    2048: (8, 8, 6, 5),
    4096: (7, 5, 5, 5, 5),
}


def levels_of(size: int) -> tuple[int, ...]:
    """UserError for a size that is not in the table."""
    if size not in LEVELS:
        raise UserError(f"the codebook's size is {size}; expected one of {', '.join(map(str, LEVELS))}")
    return LEVELS[size]


def codebook_size(levels: Sequence[int]) -> int:
    """Codes that there are."""
    return math.prod(levels)


def basis(levels: Sequence[int]) -> np.ndarray:
    """[k] int32: what one step of each number adds to the index; the first number counts fastest."""
    return np.cumprod([1, *levels[:-1]]).astype(np.int32)


def bound(z: Array, levels: Sequence[int]) -> Array:
    """[..., k] -> [..., k] float32, within half a level of the levels: those of an even count lie one step lower."""
    count = np.asarray(levels, np.float32)
    half = (count - 1) * (1 + EPSILON) / 2
    offset = np.where(count % 2 == 0, 0.5, 0.0).astype(np.float32)
    shift = np.arctanh(offset / half).astype(np.float32)
    return jnp.tanh(z.astype(jnp.float32) + shift) * half - offset


def quantize(z: Array, levels: Sequence[int]) -> Array:
    """[..., k] -> codes [..., k] in [-1, 1]. The gradient passes through the rounding unchanged."""
    bounded = bound(z, levels)
    rounded = bounded + jax.lax.stop_gradient(jnp.round(bounded) - bounded)
    return rounded / _half(levels)


def to_indices(codes: Array, levels: Sequence[int]) -> Array:
    """Codes [..., k] -> [...] int32."""
    digits = jnp.round(codes * _half(levels)).astype(jnp.int32) + np.asarray(levels, np.int32) // 2
    return (digits * basis(levels)).sum(-1)


def to_codes(indices: Array, levels: Sequence[int]) -> Array:
    """[...] -> codes [..., k]; of an index past the last code the last number wraps around."""
    digits = jnp.asarray(indices)[..., None] // basis(levels) % np.asarray(levels, np.int32)
    return (digits - np.asarray(levels, np.int32) // 2) / _half(levels)


def _half(levels: Sequence[int]) -> np.ndarray:
    return (np.asarray(levels) // 2).astype(np.float32)


class FSQ(nn.Module):
    """The quantiser between two linear layers; always float32. [..., d] -> [..., d]."""

    levels: tuple[int, ...]
    dim: int

    def setup(self) -> None:
        self.project_in = Linear(len(self.levels))
        self.project_out = Linear(self.dim)

    def __call__(self, z: Array) -> tuple[Array, Array, dict[str, Array]]:
        """-> embeddings [..., d], indices [...] int32, and the numbers on the way."""
        projected = self.project_in(z.astype(jnp.float32))
        codes = quantize(projected, self.levels)
        aux = {"projected": projected, "bounded": bound(projected, self.levels), "codes": codes}
        return self.project_out(codes), to_indices(codes, self.levels), aux

    def embed(self, indices: Array) -> Array:
        """[...] -> [..., d]: what `__call__` gives for these indices."""
        if self.is_initializing():  # all parameters, whichever method comes first
            self.project_in(jnp.zeros((self.dim,)))
        return self.project_out(to_codes(indices, self.levels))
