"""Transformer stacks as nanoGPT has them, for AMPLIFY (Collins et al. 2025; released code): pre-norm, norms with a
scale only, exact GELU, learned positions on the sequence itself and none on what it is conditioned on.

Letters: b batch, n tokens, m tokens that are looked at, h heads, d channels, c channels of a head, l layers.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from t2p.models.layers import Array, Dtype, LayerNorm, Linear, attention, dropout

EPSILON = 1e-5
INIT = 0.02

# Keys and values of all layers, [l, b, m, h, c] each, for a sequence that is continued token by token.
Cache = tuple[Array, Array]


class Stack(nn.Module):
    """What the two kinds of layers share: sizes and the options of how they run."""

    depth: int  # 0: positions, dropout and the final norm alone
    heads: int
    dim: int
    length: int  # of the sequence that positions are learned for
    dropout: float = 0.1
    use_bias: bool = False
    dtype: Dtype = jnp.float32
    implementation: str = "matmul"
    remat: bool = False
    scan: bool = False

    def embed(self, x: Array, at: Array | int, rate: float) -> Array:
        """Adds the positions from `at` on. x: [b, n, d]."""
        table = self.param("positions", nn.initializers.normal(INIT), (self.length, self.dim))
        here = jax.lax.dynamic_slice_in_dim(table, at, x.shape[1])
        return dropout(x.astype(self.dtype) + here.astype(self.dtype), rate, self.rng(rate))

    def layers(
        self, kind: Any, x: Array, each: Any, *shared: Any, train: bool, final: dict[str, Any] | None = None
    ) -> tuple[Array, Any]:
        """All layers of a kind, called (x, the layer's part of `each`, *shared) -> (x, what it gives). `each` and what
        they give: trees with the layers first, or None. final: fields of the last layer that save it work; a scan,
        whose layers are all alike, leaves them."""
        if not self.depth:
            return x, each
        settings = self.settings(train)
        if self.scan:
            return self._scan(kind(**settings, name="blocks"), x, each, *shared)
        kind = nn.remat(kind) if self.remat else kind
        given = []
        for i in range(self.depth):
            part = jax.tree.map(lambda array, i=i: array[i], each)
            own = (final or {}) if i == self.depth - 1 else {}
            x, out = kind(**settings, **own, name=f"block_{i}")(x, part, *shared)
            given.append(out)
        return x, jax.tree.map(lambda *parts: jnp.stack(parts), *given)

    def settings(self, train: bool) -> dict[str, Any]:
        """The fields of a layer."""
        return {
            "heads": self.heads,
            "dropout": self.dropout if train else 0.0,
            "out_init": INIT / (2 * self.depth) ** 0.5,
            "use_bias": self.use_bias,
            "dtype": self.dtype,
            "implementation": self.implementation,
        }

    def _scan(self, layer: nn.Module, x: Array, each: Any, *shared: Any) -> tuple[Array, Any]:
        """All layers as one scan; parameters are stacked on a leading axis (see t2p.checkpoint.match_layers)."""

        def body(layer: Any, x: Array, part: Any) -> tuple[Array, Any]:
            return layer(x, part, *shared)

        body = nn.remat(body, prevent_cse=False) if self.remat else body
        rngs: dict[Any, bool] = {"params": True, "dropout": True}
        return nn.scan(body, variable_axes={"params": 0}, split_rngs=rngs, length=self.depth)(layer, x, each)

    def rng(self, rate: float) -> Array | None:
        return self.make_rng("dropout") if rate else None


class Encoder(Stack):
    """Layers of self-attention and a feed-forward block, and a final norm. See `__call__`."""

    @nn.compact
    def __call__(
        self,
        x: Array,
        mask: Array,
        train: bool = False,
        cache: Cache | None = None,
        at: Array | int = 0,
        last: int | None = None,
    ) -> tuple[Array, Cache | None]:
        """x: [b, n, d] -> [b, n, d] in `dtype`, and the cache with x's keys and values written in. last: only so many
        tokens from the end are asked for, and the last layer looks at the others without computing their outputs.

        mask: [n, m] bool, True where a token may look. With a cache x continues a sequence at position `at`, the cache
        has room for all m tokens (`empty_cache`) and mask's columns are its places; else m = n and no cache is given
        back. train: dropout, from the rng "dropout"."""
        x = self.embed(x, at, self.dropout if train else 0.0)
        last = last or x.shape[1]
        x, cache = self.layers(EncoderLayer, x, cache, mask, at, train=train, final={"last": last})
        return LayerNorm(EPSILON, use_bias=self.use_bias, name="norm")(x[:, -last:]), cache

    def empty_cache(self, batch: int) -> Cache:
        """Room for `length` tokens."""
        shape = (self.depth, batch, self.length, self.heads, self.dim // self.heads)
        return jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype)


class Decoder(Stack):
    """Layers of self-attention, feed-forward, cross-attention and a second feed-forward block, and a final norm."""

    @nn.compact
    def __call__(self, x: Array, cond: Array, mask: Array | None = None, train: bool = False) -> Array:
        """x: [b, n, d] queries; cond: [b, m, d] any number of tokens without order, taken as they are (not normalised);
        mask: [n, n] bool of the self-attention (None: all). -> [b, n, d] in `dtype`."""
        x = self.embed(x, 0, self.dropout if train else 0.0)
        x, _ = self.layers(DecoderLayer, x, None, cond.astype(self.dtype), mask, train=train)
        return LayerNorm(EPSILON, use_bias=self.use_bias, name="norm")(x)


class Layer(nn.Module):
    """The parts of a layer."""

    heads: int
    dropout: float
    out_init: float  # spread of the matrices that write into the residual stream
    use_bias: bool
    dtype: Dtype
    implementation: str

    def linear(self, features: int, name: str, out: bool = False) -> Linear:
        init = nn.initializers.normal(self.out_init if out else INIT)
        return Linear(features, self.use_bias, self.dtype, init, name=name)

    def norm(self, name: str) -> LayerNorm:
        return LayerNorm(EPSILON, use_bias=self.use_bias, name=name)

    def drop(self, x: Array) -> Array:
        return dropout(x, self.dropout, self.make_rng("dropout")) if self.dropout else x

    def split(self, x: Array, parts: int) -> list[Array]:
        """[b, n, parts d] -> parts times [b, n, h, c]."""
        b, n, _ = x.shape
        return [part.reshape(b, n, self.heads, -1) for part in jnp.split(x, parts, axis=-1)]

    def attend(self, q: Array, k: Array, v: Array, mask: Array | None, name: str) -> Array:
        """Attention and its output projection, [b, n, d]."""
        rng = self.make_rng("dropout") if self.dropout else None
        options: dict[str, Any] = {"dropout_rate": self.dropout, "dropout_rng": rng}
        y = attention(q, k, v, mask=mask, implementation=self.implementation, **options)
        width = y.shape[2] * y.shape[3]
        return self.drop(self.linear(width, name, out=True)(y.reshape(*y.shape[:2], width)))

    def feed(self, x: Array, name: str) -> Array:
        """The feed-forward block, four times as wide inside."""
        y = nn.gelu(self.linear(4 * x.shape[-1], f"{name}_fc1")(x), approximate=False)
        return self.drop(self.linear(x.shape[-1], f"{name}_fc2", out=True)(y))


class EncoderLayer(Layer):
    last: int | None = None  # tokens from the end whose outputs are computed; None: all

    @nn.compact
    def __call__(self, x: Array, cache: Any, mask: Array, at: Array | int) -> tuple[Array, Any]:
        """[b, n, d] -> [b, last or n, d]. cache: this layer's keys and values [b, m, h, c], or None."""
        q, k, v = self.split(self.linear(3 * x.shape[-1], "qkv")(self.norm("norm_1")(x)), 3)
        if cache is not None:
            old, new = cache, (k, v)
            cache = k, v = tuple(jax.lax.dynamic_update_slice(o, n, (0, at, 0, 0)) for o, n in zip(old, new))
        last = self.last or x.shape[1]
        x = x[:, -last:] + self.attend(q[:, -last:], k, v, mask[-last:], "out")
        return x + self.feed(self.norm("norm_2")(x), "mlp"), cache


class DecoderLayer(Layer):
    @nn.compact
    def __call__(self, x: Array, _: None, cond: Array, mask: Array | None) -> tuple[Array, None]:
        """The order is the released code's: the first feed-forward block stands before the cross-attention."""
        q, k, v = self.split(self.linear(3 * x.shape[-1], "qkv")(self.norm("norm_1")(x)), 3)
        x = x + self.attend(q, k, v, mask, "out")
        x = x + self.feed(self.norm("norm_2")(x), "mlp")
        (q,) = self.split(self.linear(x.shape[-1], "cross_query")(self.norm("norm_3")(x)), 1)
        k, v = self.split(self.linear(2 * x.shape[-1], "cross_key_value")(cond), 2)
        x = x + self.attend(q, k, v, None, "cross_out")
        return x + self.feed(self.norm("norm_4")(x), "mlp_2"), None
