"""The flow head of AMPLIFY's inverse dynamics: GR00T N1's cross-attention transformer (Collins et al. 2025, appendix E;
Bjorck et al. 2025; layout of the released code).

The tokens of a chunk look at the condition in every block and never at each other, so an action knows of its
neighbours only through the condition. Letters: b batch, t actions of a chunk, m condition tokens, h heads, c channels
of a head, d channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from t2p.models.layers import Array, Dtype, Linear, attention, dropout, sincos_1d, step_sinusoids

SINUSOIDS = 256  # numbers that a time is spread over
BLOCK_EPSILON, OUT_EPSILON = 1e-5, 1e-6  # of the norms in the blocks and of the last one

# What the chunk attends to, layer by layer: keys and values [b, m, h, c].
Memory = Sequence[tuple[Array, Array]]


def position_table(length: int, width: int) -> np.ndarray:
    """[length, width] float32: the sines and cosines of `sincos_1d` by turns."""
    return sincos_1d(length, width).reshape(length, 2, width // 2).swapaxes(1, 2).reshape(length, width)


def plain_norm(x: Array, epsilon: float) -> Array:
    """Layer norm without parameters, in float32."""
    y = x.astype(jnp.float32)
    y = y - y.mean(-1, keepdims=True)
    return y / jnp.sqrt(jnp.square(y).mean(-1, keepdims=True) + epsilon)


class Block(nn.Module):
    """Cross-attention under a norm that the time shifts and scales, then a feed-forward block."""

    heads: int
    width: int
    dropout: float = 0.1
    dtype: Dtype = jnp.float32
    implementation: str = "matmul"

    def setup(self) -> None:
        self.modulation = Linear(2 * self.width, dtype=self.dtype)
        self.query, self.key, self.value, self.out = (Linear(self.width, dtype=self.dtype) for _ in range(4))
        self.fc1, self.fc2 = Linear(4 * self.width, dtype=self.dtype), Linear(self.width, dtype=self.dtype)

    def read(self, cond: Array) -> tuple[Array, Array]:
        """[b, m, d] -> the condition's keys and values."""
        return self._heads(self.key(cond)), self._heads(self.value(cond))

    def __call__(self, x: Array, time: Array, memory: tuple[Array, Array], train: bool) -> Array:
        """x: [b, t, d]; time: [b, d], embedded, after SiLU."""
        scale, shift = jnp.split(self.modulation(time)[:, None], 2, axis=-1)
        y = plain_norm(x, BLOCK_EPSILON) * (1 + scale) + shift
        y = (y + position_table(*x.shape[1:])).astype(self.dtype)  # in every block, and on normalised activations
        y = attention(self._heads(self.query(y)), *memory, implementation=self.implementation)
        # Twice, as in the released code: once in the attention, once behind it.
        x = x + self._drop(self._drop(self.out(y.reshape(x.shape)), train), train)
        y = nn.gelu(self.fc1(plain_norm(x, BLOCK_EPSILON).astype(self.dtype)), approximate=True)
        return x + self._drop(self.fc2(self._drop(y, train)), train)

    def _heads(self, x: Array) -> Array:
        return x.reshape(*x.shape[:2], self.heads, -1)

    def _drop(self, x: Array, train: bool) -> Array:
        return dropout(x, self.dropout, self.make_rng("dropout")) if train and self.dropout else x


class FlowTransformer(nn.Module):
    """Noisy actions, the flow's time and condition tokens -> the flow's velocity. Settings by name: `VARIANTS`.

    What depends on the condition alone (`read`) is made once for all steps of a sampling run (`denoise`)."""

    actions: tuple[int, int]  # (t, numbers of an action)
    width: int = 768
    depth: int = 4
    heads: int = 8
    dropout: float = 0.1
    dtype: Dtype = jnp.float32
    implementation: str = "matmul"

    def setup(self) -> None:
        self.time_fc1, self.time_fc2 = Linear(self.width), Linear(self.width)
        self.inputs = Linear(self.width)
        settings = (self.heads, self.width, self.dropout, self.dtype, self.implementation)
        self.blocks = [Block(*settings, name=f"block_{i}") for i in range(self.depth)]
        self.modulation, self.outputs = Linear(2 * self.width), Linear(self.actions[1])

    def __call__(self, cond: Array, x: Array, time: Array, train: bool = False) -> Array:
        """cond: [b, m, d] tokens without order; x: [b, t, a]; time: [b] or a scalar in [0, 1].

        Returns [b, t, a], float32. train: dropout, from the rng "dropout"."""
        return self.denoise(x, time, self.read(cond), train)

    def read(self, cond: Array, train: bool = False) -> Memory:
        return [block.read(cond) for block in self.blocks]

    def denoise(self, x: Array, time: Array, memory: Memory, train: bool = False) -> Array:
        time = nn.silu(self.embed_time(jnp.broadcast_to(time, x.shape[:1])))
        y = self.inputs(x).astype(self.dtype)
        for block, pair in zip(self.blocks, memory, strict=True):
            y = block(y, time, pair, train)
        shift, scale = jnp.split(self.modulation(time)[:, None], 2, axis=-1)  # the other order than in the blocks
        return self.outputs(plain_norm(y, OUT_EPSILON) * (1 + scale) + shift)

    def embed_time(self, time: Array) -> Array:
        """[b] -> [b, d] float32. Times are taken as they are, not stretched to 0 .. 1000."""
        sines, cosines = jnp.split(step_sinusoids(time, SINUSOIDS), 2, axis=-1)
        return self.time_fc2(nn.silu(self.time_fc1(jnp.concatenate([cosines, sines], axis=-1))))


# The table of variants: settings without those of the data.
VARIANTS = {"released": {"width": 768, "depth": 4, "heads": 8, "dropout": 0.1}}
