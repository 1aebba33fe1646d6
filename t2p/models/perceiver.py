"""Perceiver IO's decoder block: tokens attend to each other, then to a fixed memory (Jaegle et al. 2021).

3PoinTr's track network and its policy's readout are both made of it. Letters: b batch, n tokens, m memory tokens,
h heads, d channels.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from t2p.models.layers import Array, Dtype, LayerNorm, Linear, Mlp, attention

XAVIER = nn.initializers.xavier_uniform()  # the released initialisation of all linear layers; biases start at 0
XavierLinear = partial(Linear, kernel_init=XAVIER)


def _attend(q: Array, k: Array, v: Array, heads: int, implementation: str) -> Array:
    """q [b, n, d]; k, v [b, m, d]; each head is a contiguous slice of d. -> [b, n, d]."""
    q, k, v = (x.reshape(*x.shape[:2], heads, -1) for x in (q, k, v))
    y = attention(q, k, v, implementation=implementation)
    return y.reshape(*y.shape[:2], -1)


class SelfAttention(nn.Module):
    """Multi-head attention among [b, n, d]; one projection without bias gives q, k, v in this order."""

    heads: int
    dtype: Dtype
    implementation: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        d = x.shape[-1]
        qkv = XavierLinear(3 * d, use_bias=False, dtype=self.dtype, name="qkv")(x)
        q, k, v = jnp.split(qkv, 3, axis=-1)
        y = _attend(q, k, v, self.heads, self.implementation)
        return XavierLinear(d, dtype=self.dtype, name="out")(y)


class CrossAttention(nn.Module):
    """Multi-head attention of x [b, n, d] to memory [b, m, d]; q, k, v without bias."""

    heads: int
    dtype: Dtype
    implementation: str

    @nn.compact
    def __call__(self, x: Array, memory: Array) -> Array:
        d = x.shape[-1]
        project = partial(XavierLinear, d, use_bias=False, dtype=self.dtype)
        k, v = project(name="key")(memory), project(name="value")(memory)
        y = _attend(project(name="query")(x), k, v, self.heads, self.implementation)
        return XavierLinear(d, dtype=self.dtype, name="out")(y)


class DecoderBlock(nn.Module):
    """Pre-norm: x += self-attention; x += cross-attention to memory; x += MLP of 4 d (3PoinTr's released code).

    x: [b, n, d]; memory: [b, m, d], or None for a block without that branch. Returns [b, n, d]."""

    heads: int
    epsilon: float = 1e-5
    dtype: Dtype = jnp.float32
    implementation: str = "matmul"

    @nn.compact
    def __call__(self, x: Array, memory: Array | None) -> Array:
        settings = (self.heads, self.dtype, self.implementation)
        x = x + SelfAttention(*settings, name="self")(LayerNorm(self.epsilon, name="self_norm")(x))
        if memory is not None:
            query = LayerNorm(self.epsilon, name="cross_norm")(x)
            memory = LayerNorm(self.epsilon, name="memory_norm")(memory)
            x = x + CrossAttention(*settings, name="cross")(query, memory)
        mlp = Mlp(4 * x.shape[-1], dtype=self.dtype, kernel_init=XAVIER, name="mlp")
        return x + mlp(LayerNorm(self.epsilon, name="mlp_norm")(x))
