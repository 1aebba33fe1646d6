"""Vision Transformers as image encoders (Dosovitskiy et al. 2021; DINOv2: Oquab et al. 2024), without the classifier.

Layers, names and the resizing of positions are timm's, so that its weights fit: t2p.convert.vit reads them. Letters: b
rows, h, w pixels, r rows and s columns of patches, d channels; channels last.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from t2p.geometry.conventions import Size
from t2p.io import UserError
from t2p.models.layers import Array, Dtype, LayerNorm, Linear, Mlp, attention
from t2p.models.resnet import IMAGENET, Statistics

EPSILON = 1e-6
INIT = nn.initializers.truncated_normal(0.02)


class ViT(nn.Module):
    """See `__call__`; `VARIANTS` has the published sizes. patch: its side in pixels; grid: rows and columns of the
    table of positions; scaled: LayerScale (DINOv2)."""

    patch: int = 16
    dim: int = 384
    depth: int = 12
    heads: int = 6
    grid: Size = (14, 14)
    scaled: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: Array) -> tuple[Array, Array]:
        """images: [b, h, w, 3], normalised, sides multiples of the patch (else UserError) -> the class token [b, d] and
        the patches' tokens, row after row, [b, r s, d], float32."""
        _, height, width, _ = images.shape
        self.tokens((height, width))
        embed = nn.Conv(self.dim, (self.patch,) * 2, self.patch, "VALID", dtype=self.dtype, name="patch")
        x = embed(images)
        size = height // self.patch, width // self.patch
        token = self.param("class", INIT, (1, 1, self.dim))
        positions = self.param("positions", INIT, (1, 1 + math.prod(self.grid), self.dim))
        first = jnp.broadcast_to(token, (len(x), 1, self.dim)).astype(x.dtype)
        x = jnp.concatenate([first, x.reshape(len(x), -1, self.dim)], axis=1)
        x = x + resized(positions, self.grid, size).astype(x.dtype)
        for i in range(self.depth):
            x = Block(self.heads, self.scaled, self.dtype, name=f"block_{i}")(x)
        x = LayerNorm(EPSILON, name="norm")(x).astype(jnp.float32)
        return x[:, 0], x[:, 1:]

    def tokens(self, size: Size) -> int:
        """Patches of a picture of `size` (H, W); UserError where they do not fill it."""
        if any(side % self.patch for side in size):
            p = self.patch
            raise UserError(
                f"pictures of {size[0]} x {size[1]} are not whole patches of {p} x {p}: give the image encoder a size "
                f"(height, width) of multiples of {p}, such as ({16 * p}, {16 * p})"
            )
        return math.prod(side // self.patch for side in size)

    @property
    def width(self) -> int:
        """Numbers of a token."""
        return self.dim

    def flops(self, size: Size) -> float:
        """Multiply-adds of the matrix products, times two, for one image of `size` (H, W)."""
        n, d = self.tokens(size), self.dim
        return 2.0 * (n * self.patch**2 * 3 * d + self.depth * (n + 1) * (12 * d * d + 2 * (n + 1) * d))


class Block(nn.Module):
    """Self-attention and a feed-forward block, each after a norm. [b, n, d] -> [b, n, d]."""

    heads: int
    scaled: bool
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, n, d = x.shape
        y = Linear(3 * d, dtype=self.dtype, kernel_init=INIT, name="qkv")(LayerNorm(EPSILON, name="norm1")(x))
        q, k, v = (part.reshape(b, n, self.heads, -1) for part in jnp.split(y, 3, axis=-1))
        y = attention(q, k, v, implementation="matmul").reshape(b, n, d)
        x = x + self._scale("scale1", Linear(d, dtype=self.dtype, kernel_init=INIT, name="out")(y))
        y = Mlp(4 * d, dtype=self.dtype, kernel_init=INIT, name="mlp")(LayerNorm(EPSILON, name="norm2")(x))
        return x + self._scale("scale2", y)

    def _scale(self, name: str, x: Array) -> Array:
        """LayerScale (Touvron et al. 2021), at DINOv2's 1e-5 to begin with."""
        if not self.scaled:
            return x
        return x * self.param(name, nn.initializers.constant(1e-5), (x.shape[-1],)).astype(x.dtype)


def resized(positions: Array, grid: Size, size: Size) -> Array:
    """The table [1, 1 + n, d], whose first row is the class token's, from a grid of patches to another one: bicubic,
    antialiased (timm; DINOv2's own code does not antialias). [1, 1 + r s, d]."""
    if tuple(grid) == tuple(size):
        return positions
    d = positions.shape[-1]
    table = positions[:, 1:].reshape(1, *grid, d)
    with jax.default_matmul_precision("highest"):
        table = jax.image.resize(table, (1, *size, d), "cubic", antialias=True)
    return jnp.concatenate([positions[:, :1], table.reshape(1, -1, d)], axis=1)


HALF: Statistics = ((0.5,) * 3, (0.5,) * 3)  # of timm's Vision Transformers
_SMALL, _BASE = {"dim": 384, "heads": 6}, {"dim": 768, "heads": 12}
_DINOV2 = {"patch": 14, "grid": (37, 37), "scaled": True}  # trained at 518 x 518
# 21.7, 85.8, 22.1 and 86.6 million parameters; timm's vit_small_patch16_224, ..., vit_base_patch14_dinov2.
VARIANTS: dict[str, dict[str, Any]] = {
    "vit_s16": _SMALL,
    "vit_b16": _BASE,
    "dinov2_s14": _SMALL | _DINOV2,
    "dinov2_b14": _BASE | _DINOV2,
}
# Of the pictures that published weights were trained with.
STATISTICS = {"vit_s16": HALF, "vit_b16": HALF, "dinov2_s14": IMAGENET, "dinov2_b14": IMAGENET}
