"""Pieces that several networks share: attention, linear layers, norms, position tables.

Letters: b batch, n query tokens, m key tokens, h query heads, g key/value heads, d channels of a head.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from t2p.io import UserError

Array = jax.Array
Dtype = Any

ATTENTION = ("auto", "matmul", "xla", "cudnn", "blockwise")
LONG = 1024  # tokens from which "auto" goes block by block on a TPU
# Queries that "blockwise" takes at a time. For 3PoinTr's 20 clouds of 2048 points XLA then keeps a block's weights in a
# v5e's on-chip memory; with 256 it moved 2.3 times as many bytes, with 32 1.6 times (docs/scaling.md).
BLOCK = 64


def resolve_attention(choice: str, dtype: Dtype, platform: str, head_dim: int, length: int) -> str:
    """The implementation that `choice` means on this platform: "matmul", "xla", "cudnn" or "blockwise".

    "auto" takes cudnn on a GPU in half precision with a head width that it accepts, 3-D matrix products on a CPU
    (2-3 times faster there than XLA's 4-D sums), blockwise on a TPU for long sequences, and xla elsewhere. platform:
    "cpu", "gpu" or "tpu"; length: tokens that look at each other."""
    if choice not in ATTENTION:
        raise UserError(f"attention is {choice!r}; expected one of {', '.join(ATTENTION)}")
    fits = jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16) and head_dim % 8 == 0 and head_dim <= 128
    if choice == "cudnn" and (platform not in ("gpu", "cuda") or not fits):
        raise UserError(
            f"attention 'cudnn' needs a GPU, bfloat16 and heads of at most 128 channels, a multiple of 8; "
            f"here: {platform}, {jnp.dtype(dtype).name}, {head_dim} channels. Use 'auto'."
        )
    if choice != "auto":
        return choice
    if platform in ("gpu", "cuda"):
        return "cudnn" if fits else "xla"
    if platform == "tpu" and length >= LONG:
        return "blockwise"
    return "matmul" if platform == "cpu" else "xla"


def without_cudnn(implementation: str) -> str:
    """What `resolve_attention` gave for half precision, where the same network computes in float32."""
    return "xla" if implementation == "cudnn" else implementation


def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    implementation: str,
    mask: Array | None = None,
    bias: Array | None = None,
    dropout_rate: float = 0.0,
    dropout_rng: Array | None = None,
) -> Array:
    """softmax(q k^T / sqrt(d)) v, heads kept apart; the softmax is taken in float32.

    q: [b, n, h, d]; k, v: [b, m, g, d], where each of the g heads serves h / g query heads in order (g = 1:
    multi-query, g = h: multi-head); mask: bool, broadcastable to [b, h, n, m], True where a query may look; bias:
    added to q k^T / sqrt(d), broadcastable to [b, h, n, m]. implementation: what `resolve_attention` gave; "cudnn" and
    "blockwise" never hold a whole [n, m] matrix. Bias and dropout on the weights are only in "matmul", which therefore
    serves networks and training with them everywhere. Returns [b, n, h, d] in v's type."""
    if implementation == "matmul" or dropout_rate > 0.0 or bias is not None:
        return _matmul_attention(q, k, v, mask, bias, dropout_rate, dropout_rng)
    if implementation == "blockwise":
        return _blockwise_attention(q, k, v, mask)
    stock: Any = implementation
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation=stock)


def _matmul_attention(
    q: Array, k: Array, v: Array, mask: Array | None, bias: Array | None, rate: float, rng: Array | None
) -> Array:
    """The same as batched 3-D products: query heads that share keys are stacked as rows, [b g, n h/g, d]."""
    b, n, h, d = q.shape
    m, g = k.shape[1:3]
    rows = (q * d**-0.5).reshape(b, n, g, h // g, d).swapaxes(1, 2).reshape(b * g, n * (h // g), d)
    keys, values = (x.swapaxes(1, 2).reshape(b * g, m, d) for x in (k, v))
    logits = jnp.einsum("bnd,bmd->bnm", rows, keys, preferred_element_type=jnp.float32)

    def stacked(x: Array) -> Array:
        """What is broadcastable to [b, h, n, m], in the logits' order."""
        return jnp.broadcast_to(x, (b, h, n, m)).reshape(b, g, h // g, n, m).swapaxes(2, 3).reshape(logits.shape)

    if bias is not None:
        logits = logits + stacked(bias)
    if mask is not None:
        logits = jnp.where(stacked(mask), logits, jnp.finfo(jnp.float32).min)
    weights = dropout(jax.nn.softmax(logits, axis=-1).astype(v.dtype), rate, rng)
    out = jnp.einsum("bnm,bmd->bnd", weights, values)
    return out.reshape(b, g, n, h // g, d).swapaxes(1, 2).reshape(b, n, h, d)


def _blockwise_attention(q: Array, k: Array, v: Array, mask: Array | None) -> Array:
    """The same for a block of queries at a time: of the [n, m] weights of each head only a block's are ever there, in
    the backward pass too, which makes them again. Plain JAX, so that any mesh partitions it."""
    b, n, h, d = q.shape
    blocks = -(-n // BLOCK)
    size = -(-n // blocks)

    def cut(x: Array, axis: int) -> Array:
        """[.., n, ..] -> [blocks, .., size, ..], filled up with zeros."""
        x = jnp.pad(x, [(0, blocks * size - n if i == axis else 0) for i in range(x.ndim)])
        return jnp.moveaxis(x.reshape(*x.shape[:axis], blocks, size, *x.shape[axis + 1 :]), axis, 0)

    def one(queries: Array, allowed: Array | None) -> Array:
        return jax.nn.dot_product_attention(queries, k, v, mask=allowed, implementation="xla")

    allowed = None if mask is None else mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
    each = allowed is not None and allowed.shape[2] > 1  # the mask differs from query to query
    parts = (cut(q, 1), cut(allowed, 2)) if allowed is not None and each else cut(q, 1)
    run = jax.checkpoint(lambda part: one(*part) if each else one(part, allowed), prevent_cse=False)
    out = jax.lax.map(run, parts)  # [blocks, b, size, h, d]
    return jnp.moveaxis(out, 0, 1).reshape(b, blocks * size, h, d)[:, :n]


def dropout(x: Array, rate: float, rng: Array | None) -> Array:
    """Zeros each element with probability `rate` and scales the others so that the mean stays; rate 0 needs no rng.

    Eight random bits an element, four elements a word (as in FlashAttention's kernels): the rate is taken to one part
    in 256 and the scale is that rate's. With a word an element, a CPU draws for a fifth of a training step."""
    if rate == 0.0:
        return x
    dropped = round(rate * 256)
    if not 0 < dropped < 256 or rng is None:
        raise ValueError(f"dropout needs an rng and a rate of 0 or of 1/256 .. 255/256; got {rate}, {rng}")
    words = jax.random.bits(rng, (*x.shape[:-1], -(-x.shape[-1] // 4)), jnp.uint32)
    draws = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(*x.shape[:-1], -1)[..., : x.shape[-1]]
    return jnp.where(draws >= np.uint8(dropped), x * (256 / (256 - dropped)), 0.0)


def uniform_by_fan_in(fan_in: int) -> nn.initializers.Initializer:
    """PyTorch's default for linear and convolution layers, weights and biases: uniform in +-1/sqrt(fan_in)."""
    limit = 1.0 / math.sqrt(fan_in)

    def init(rng: Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> Array:
        return jax.random.uniform(rng, shape, dtype, -limit, limit)

    return init


class Linear(nn.Module):
    """y = x W + b with PyTorch's default initialisation: W and b uniform in +-1/sqrt(inputs).

    kernel_init: another one of W; b then starts at 0. Parameters are float32, the product is taken in `dtype`.
    [..., inputs] -> [..., features].

    The product is one of two matrices: of more axes, W's gradient would sum over several of them, for which XLA's CPU
    backend first writes a transposed copy (a fifth of AMPLIFY's training step)."""

    features: int
    use_bias: bool = True
    dtype: Dtype = jnp.float32
    kernel_init: nn.initializers.Initializer | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = uniform_by_fan_in(x.shape[-1])
        kernel = self.param("kernel", self.kernel_init or init, (x.shape[-1], self.features))
        rows = x.astype(self.dtype).reshape(math.prod(x.shape[:-1]), x.shape[-1])
        y = (rows @ kernel.astype(self.dtype)).reshape(*x.shape[:-1], self.features)
        if self.use_bias:
            bias_init = nn.initializers.zeros if self.kernel_init else init
            y = y + self.param("bias", bias_init, (self.features,)).astype(self.dtype)
        return y


class LayerNorm(nn.Module):
    """Layer norm over the last axis, statistics in float32; `use_bias=False`: scale only. Same shape and type."""

    epsilon: float
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = x.astype(jnp.float32)
        y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.epsilon)
        y = y * self.param("scale", nn.initializers.ones, (x.shape[-1],))
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return y.astype(x.dtype)


class Mlp(nn.Module):
    """Linear, erf GELU, dropout, Linear, dropout: the transformer's feed-forward block. [..., d] -> [..., d]."""

    hidden: int
    dropout: float = 0.0
    dtype: Dtype = jnp.float32
    kernel_init: nn.initializers.Initializer | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = Linear(self.hidden, dtype=self.dtype, kernel_init=self.kernel_init, name="fc1")(x)
        y = self._drop(nn.gelu(y, approximate=False))
        return self._drop(Linear(x.shape[-1], dtype=self.dtype, kernel_init=self.kernel_init, name="fc2")(y))

    def _drop(self, x: Array) -> Array:
        return dropout(x, self.dropout, self.make_rng("dropout")) if self.dropout else x


def sincos_1d(length: int, width: int, base: float = 10000.0) -> np.ndarray:
    """[length, width] float32: sines, then cosines, of pos * base^(-k / (width/2)), k = 0 .. width/2 - 1."""
    return _sincos(np.arange(length), width, base)


def sincos_2d(rows: int, columns: int, width: int) -> np.ndarray:
    """[rows * columns, width] float32, row-major: the first half of the channels encodes the column, the second
    the row, each as `sincos_1d` of half the width (He et al. 2022, MAE)."""
    row, column = np.divmod(np.arange(rows * columns), columns)
    return np.concatenate([_sincos(column, width // 2), _sincos(row, width // 2)], axis=1)


def _sincos(position: np.ndarray, width: int, base: float = 10000.0) -> np.ndarray:
    if width % 2:
        raise ValueError(f"a sin-cos table needs an even width; got {width}")
    angle = position[:, None] * base ** (-np.arange(width // 2) / (width / 2))
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)


def step_sinusoids(step: Array, width: int) -> Array:
    """[b] steps or times -> [b, width] float32: sines, then cosines, of step * 10000^(-k / (width/2 - 1))."""
    half = width // 2
    frequency = np.exp(-np.arange(half) * np.log(10000.0) / (half - 1)).astype(np.float32)
    angle = step.astype(jnp.float32)[:, None] * frequency
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
