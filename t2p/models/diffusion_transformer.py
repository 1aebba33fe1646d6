"""Diffusion Policy's transformer denoiser (Chi et al. 2023), the diffusion head of AMPLIFY's released code.

PyTorch's stock decoder layers, pre-norm: the actions attend to each other, then to a memory of the diffusion step and
the condition tokens. Letters: b batch, t actions of a chunk, m condition tokens, h heads, c channels of a head,
d channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from t2p.io import UserError
from t2p.models.layers import Array, Dtype, LayerNorm, Linear, attention, dropout, step_sinusoids

EPSILON = 1e-5
INIT = nn.initializers.normal(0.02)  # of matrices and positions; biases start at 0

Pair = tuple[Array, Array]  # keys and values, [b, m, h, c] each
Memory = Sequence[Pair]  # of the condition, layer by layer


class PackedAttention(nn.Module):
    """Multi-head attention whose projections to q, k, v lie in one matrix, in this order (torch MultiheadAttention)."""

    heads: int
    width: int
    dtype: Dtype
    implementation: str

    def setup(self) -> None:
        self.kernel = self.param("kernel", INIT, (self.width, 3 * self.width))
        self.bias = self.param("bias", nn.initializers.zeros, (3 * self.width,))
        self.out = Linear(self.width, dtype=self.dtype, kernel_init=INIT)

    def read(self, memory: Array) -> Pair:
        """[b, m, d] -> its keys and values."""
        k, v = jnp.split(self._project(memory, self.width, 3 * self.width), 2, axis=-1)
        return self._heads(k), self._heads(v)

    def __call__(self, x: Array, memory: Pair, rate: float, rng: jax.Array | None) -> Array:
        """x: [b, t, d] -> [b, t, d]. rate, rng: of dropout on the weights."""
        q = self._heads(self._project(x, 0, self.width))
        y = attention(q, *memory, implementation=self.implementation, dropout_rate=rate, dropout_rng=rng)
        return self.out(y.reshape(x.shape))

    def _project(self, x: Array, start: int, stop: int) -> Array:
        kernel, bias = self.kernel[:, start:stop].astype(self.dtype), self.bias[start:stop].astype(self.dtype)
        return x.astype(self.dtype) @ kernel + bias

    def _heads(self, x: Array) -> Array:
        return x.reshape(*x.shape[:2], self.heads, -1)


class Layer(nn.Module):
    """x += self-attention; x += cross-attention; x += feed-forward block (PyTorch decoder layer, norm first)."""

    heads: int
    width: int
    dropout: float
    dtype: Dtype
    implementation: str

    def setup(self) -> None:
        settings = (self.heads, self.width, self.dtype, self.implementation)
        self.attend, self.cross = PackedAttention(*settings), PackedAttention(*settings)
        self.norm_1, self.norm_2, self.norm_3 = (LayerNorm(EPSILON) for _ in range(3))
        self.fc1, self.fc2 = (Linear(n * self.width, dtype=self.dtype, kernel_init=INIT) for n in (4, 1))

    def read(self, memory: Array) -> Pair:
        return self.cross.read(memory)

    def __call__(self, x: Array, memory: Pair, train: bool) -> Array:
        rate = self.dropout if train else 0.0

        def drop(y: Array) -> Array:
            return dropout(y, rate, self._rng(rate))

        y = self.norm_1(x)
        x = x + drop(self.attend(y, self.attend.read(y), rate, self._rng(rate)))
        x = x + drop(self.cross(self.norm_2(x), memory, rate, self._rng(rate)))
        y = drop(nn.gelu(self.fc1(self.norm_3(x)), approximate=False))
        return x + drop(self.fc2(y))

    def _rng(self, rate: float) -> jax.Array | None:
        return self.make_rng("dropout") if rate else None


class DiffusionTransformer(nn.Module):
    """Noisy actions, the diffusion step and condition tokens -> what the schedule asks for. Settings: `VARIANTS`.

    What depends on the condition alone (`read`) is made once for all steps of a sampling run (`denoise`)."""

    actions: tuple[int, int]  # (t, numbers of an action)
    condition: int  # m: positions are learned for this many tokens, and one for the diffusion step
    width: int = 768
    depth: int = 4
    heads: int = 8
    dropout: float = 0.1
    dtype: Dtype = jnp.float32
    implementation: str = "matmul"

    def setup(self) -> None:
        self.positions = self.param("positions", INIT, (self.actions[0], self.width))
        self.memory_positions = self.param("memory_positions", INIT, (1 + self.condition, self.width))
        self.inputs = Linear(self.width, kernel_init=INIT)
        self.cond = Linear(self.width, dtype=self.dtype, kernel_init=INIT)
        self.memory_fc1, self.memory_fc2 = (Linear(n * self.width, dtype=self.dtype, kernel_init=INIT) for n in (4, 1))
        settings = (self.heads, self.width, self.dropout, self.dtype, self.implementation)
        self.layers = [Layer(*settings, name=f"layer_{i}") for i in range(self.depth)]
        self.norm, self.outputs = LayerNorm(EPSILON), Linear(self.actions[1], kernel_init=INIT)

    def __call__(self, cond: Array, x: Array, step: Array, train: bool = False) -> Array:
        """cond: [b, m, d]; x: [b, t, a]; step: [b] or a scalar, of the diffusion.

        Returns [b, t, a], float32. train: dropout, from the rng "dropout"."""
        return self.denoise(x, step, self.read(cond), train)

    def read(self, cond: Array, train: bool = False) -> Memory:
        if cond.shape[1] != self.condition:
            raise UserError(
                f"the condition has {cond.shape[1]} tokens; this diffusion head has positions for {self.condition}"
            )
        memory = self._remember(self.cond(cond), self.memory_positions[1:])
        return [layer.read(memory) for layer in self.layers]

    def denoise(self, x: Array, step: Array, memory: Memory, train: bool = False) -> Array:
        sinusoids = step_sinusoids(jnp.broadcast_to(step, x.shape[:1]), self.width)[:, None]
        clock = self._remember(sinusoids, self.memory_positions[:1])
        y = (self.inputs(x) + self.positions).astype(self.dtype)
        for layer, pair in zip(self.layers, memory, strict=True):
            whole = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), layer.read(clock), pair)
            y = layer(y, whole, train)
        return self.outputs(self.norm(y).astype(jnp.float32))

    def _remember(self, tokens: Array, positions: Array) -> Array:
        """The memory's feed-forward block: each token by itself, so that the step's need not wait for the others."""
        y = tokens.astype(self.dtype) + positions.astype(self.dtype)
        return self.memory_fc2(jax.nn.mish(self.memory_fc1(y)))


# The table of variants: settings without those of the data.
VARIANTS = {"released": {"width": 768, "depth": 4, "heads": 8, "dropout": 0.1}}
