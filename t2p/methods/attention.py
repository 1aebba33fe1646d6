"""What a config's `attention` means where a stage will run."""

from __future__ import annotations

import jax
import ml_collections

from t2p.models.layers import resolve_attention


def chosen_attention(config: ml_collections.ConfigDict, platform: str, head_dim: int, length: int) -> str:
    """The implementation for heads of head_dim channels over `length` tokens; platform: "" is that of JAX here."""
    return resolve_attention(config.attention, config.dtype, platform or jax.default_backend(), head_dim, length)
