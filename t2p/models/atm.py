"""ATM's track transformer (Wen et al. 2024, "Any-point Trajectory Modeling for Policy Learning", section 4.1).

From one image, a sentence and the present places of any points, it predicts where the points go over the next
steps; reconstructing the image from masked patches is its auxiliary task (He et al. 2022).

Letters: b batch, f stacked frames, t track steps, n points, l tokens, d channels, p track steps per token,
q side of an image patch in pixels. Coordinates here are ATM's: pixels with centres at integers over (W, H).
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from t2p.io import UserError
from t2p.models.layers import Array, Dtype, LayerNorm, Linear, Mlp, attention, dropout, sincos_1d, sincos_2d

EPSILON = 1e-5


def patchify(images: Array, patch: int | tuple[int, int]) -> Array:
    """[b, f, H, W, c] -> [b, rows * columns, p q f c], inside a patch by (row, column, frame, channel).

    patch: its side, or (p, q), its height and width. What is left over below and to the right of the last whole
    patches is not looked at, as by a convolution with kernel = stride = patch."""
    p, q = (patch, patch) if isinstance(patch, int) else patch
    b, f, h, w, c = images.shape
    rows, columns = h // p, w // q
    x = images[:, :, : rows * p, : columns * q].reshape(b, f, rows, p, columns, q, c)
    return x.transpose(0, 2, 4, 3, 5, 1, 6).reshape(b, rows * columns, -1)


def unpatchify(patches: Array, size: tuple[int, int], patch: int, channels: int = 3) -> Array:
    """The inverse of `patchify`; size: (H, W) of the images."""
    b, rows, columns = patches.shape[0], size[0] // patch, size[1] // patch
    x = patches.reshape(b, rows, columns, patch, patch, -1, channels)
    return x.transpose(0, 5, 1, 3, 2, 4, 6).reshape(b, -1, *size, channels)


class MultiQueryAttention(nn.Module):
    """Attention whose keys and values have one head that all query heads share, and are taken from the residual
    stream before the norm: only the queries are normalised (as in the released code; the paper is silent)."""

    heads: int
    head_dim: int
    dropout: float
    dtype: Dtype
    implementation: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, length, d = x.shape
        q = LayerNorm(EPSILON, use_bias=False, name="norm")(x)
        q = Linear(self.heads * self.head_dim, use_bias=False, dtype=self.dtype, name="query")(q)
        kv = Linear(2 * self.head_dim, use_bias=False, dtype=self.dtype, name="key_value")(x)
        k, v = jnp.split(kv[:, :, None], 2, axis=-1)
        y = attention(
            q.reshape(b, length, self.heads, self.head_dim),
            k,
            v,
            implementation=self.implementation,
            dropout_rate=self.dropout,
            dropout_rng=self.make_rng("dropout") if self.dropout else None,
        )
        y = Linear(d, use_bias=False, dtype=self.dtype, name="out")(y.reshape(b, length, -1))
        return dropout(y, self.dropout, self.make_rng("dropout")) if self.dropout else y


class Block(nn.Module):
    """Pre-norm transformer block, norms with a scale only. Returns (x, intermediates)."""

    heads: int
    head_dim: int
    attention_dropout: float
    mlp_dropout: float
    dtype: Dtype
    implementation: str

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, dict[str, Array]]:
        attend = MultiQueryAttention(
            self.heads, self.head_dim, self.attention_dropout, self.dtype, self.implementation, name="attention"
        )
        a = attend(x)
        x = x + a
        y = LayerNorm(EPSILON, use_bias=False, name="mlp_norm")(x)
        y = Mlp(4 * x.shape[-1], self.mlp_dropout, self.dtype, name="mlp")(y)
        x = x + y
        return x, {"attention": a, "mlp": y, "out": x}


class TextProjection(nn.Module):
    """Linear (ReLU Linear)*: the sentence's vector becomes one token. [b, e] -> [b, d]."""

    dim: int
    hidden: int
    layers: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i in range(self.layers - 1):
            x = nn.relu(Linear(self.hidden, dtype=self.dtype, name=f"layer_{i}")(x))
        return Linear(self.dim, dtype=self.dtype, name=f"layer_{self.layers - 1}")(x)


class TrackTransformer(nn.Module):
    """See `__call__`. The released configuration is `VARIANTS["paper"]`."""

    dim: int
    depth: int
    heads: int
    head_dim: int  # heads * head_dim may differ from dim
    image_size: tuple[int, int]  # (H, W)
    patch: int  # q
    frames: int  # f
    track_steps: int  # t
    track_patch: int  # p
    text_hidden: int = 128
    text_layers: int = 1
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    attention_dropout: float = 0.2
    mlp_dropout: float = 0.2
    dtype: Dtype = jnp.float32
    implementation: str = "matmul"
    remat: bool = False
    scan: bool = False

    @property
    def image_tokens(self) -> int:
        return (self.image_size[0] // self.patch) * (self.image_size[1] // self.patch)

    def tokens(self, points: int) -> int:
        """Of one example with so many points: tracks, picture, sentence."""
        return self.track_steps // self.track_patch * points + self.image_tokens + 1

    @nn.compact
    def __call__(
        self, images: Array, points: Array, text: Array, patch_mask: Array | None = None, train: bool = False
    ) -> tuple[Array, Array, dict[str, Any]]:
        """Predicts tracks and the image.

        images: [b, f, H, W, 3], 0 .. 255, the last one the present; points: [b, n, 2] present places (any n);
        text: [b, e]; patch_mask: [b, rows * columns] bool, True where the mask token stands for the patch;
        train: dropout, from the rng "dropout". Returns tracks [b, t, n, 2], all steps, the present one too, and
        patches [b, rows * columns, q q f 3] of the normalised images, both float32, and named intermediates."""
        self._check(images)
        aux: dict[str, Any] = {}
        aux["pixels"] = (images.astype(jnp.float32) / 255.0 - jnp.array(self.mean)) / jnp.array(self.std)
        aux["target_patches"] = patchify(aux["pixels"], self.patch)

        # Sec. 4.1, "we mask out the future positions of all points": each step repeats the present place.
        aux["track_input"] = jnp.repeat(points[:, None].astype(jnp.float32), self.track_steps, axis=1)
        aux["track_tokens"] = self._embed_tracks(aux["track_input"])
        aux["patch_embed"], aux["image_tokens"] = self._embed_images(aux["target_patches"], patch_mask)
        project = TextProjection(self.dim, self.text_hidden, self.text_layers, self.dtype, name="text")
        aux["language_token"] = project(text)

        tokens = [aux["track_tokens"], aux["image_tokens"], aux["language_token"][:, None]]
        x = aux["sequence_in"] = jnp.concatenate(tokens, axis=1)
        x, aux["blocks"] = self._blocks(x, train)
        aux["sequence_out"] = x  # no final norm

        n = aux["track_tokens"].shape[1]
        tracks = self._decode_tracks(x[:, :n], points.shape[1])
        pixels = 3 * self.frames * self.patch**2
        patches = Linear(pixels, dtype=self.dtype, name="image_head")(x[:, n:-1])
        return tracks, patches.astype(jnp.float32), aux

    def _embed_tracks(self, tracks: Array) -> Array:
        """[b, t, n, 2] -> [b, t/p n, d], p steps of a point a token; coordinates stay float32 up to here."""
        b, t, n, _ = tracks.shape
        x = tracks.reshape(b, t // self.track_patch, self.track_patch, n, 2).swapaxes(2, 3)
        x = Linear(self.dim, name="track_embed")(x.reshape(b, -1, n, 2 * self.track_patch))
        table = sincos_1d(t // self.track_patch, self.dim)[None, :, None]
        x = x + self.param("track_table", lambda _: jnp.asarray(table))  # learned; nothing names the point
        return x.reshape(b, -1, self.dim).astype(self.dtype)

    def _embed_images(self, patches: Array, mask: Array | None) -> tuple[Array, Array]:
        """[b, l, q q f 3] -> patch embeddings [b, l, d] and image tokens [b, l, d]."""
        embed = Linear(self.dim, dtype=self.dtype, name="image_embed")(patches)
        token = self.param("mask_token", nn.initializers.normal(1.0), (1, 1, self.dim)).astype(self.dtype)
        x = embed if mask is None else jnp.where(mask[:, :, None], token, embed)
        rows, columns = self.image_size[0] // self.patch, self.image_size[1] // self.patch
        table = self.param("image_table", lambda _: jnp.asarray(sincos_2d(rows, columns, self.dim))[None])
        # Stored with the weights, as in the released files, but never learned.
        return embed, x + jax.lax.stop_gradient(table).astype(self.dtype)

    def _decode_tracks(self, x: Array, n: int) -> Array:
        """[b, t/p n, d] -> [b, t, n, 2], in float32: bfloat16 would round to a quarter of a pixel."""
        b = x.shape[0]
        y = Linear(2 * self.track_patch, name="track_head")(x)
        y = y.reshape(b, self.track_steps // self.track_patch, n, self.track_patch, 2)
        return y.swapaxes(2, 3).reshape(b, self.track_steps, n, 2)

    def _blocks(self, x: Array, train: bool) -> tuple[Array, list[dict[str, Array]]]:
        """All layers, and the intermediates of each (none under scan, which would have to store them all)."""
        rates = (self.attention_dropout, self.mlp_dropout) if train else (0.0, 0.0)
        settings = (self.heads, self.head_dim, *rates, self.dtype, self.implementation)
        if self.scan:
            return self._scan(Block(*settings, name="blocks"), x), []
        layer = nn.remat(Block) if self.remat else Block
        seen = []
        for i in range(self.depth):
            x, aux = layer(*settings, name=f"block_{i}")(x)
            seen.append(aux)
        return x, seen

    def _scan(self, block: Block, x: Array) -> Array:
        """All layers as one scan; parameters are stacked on a leading axis (see t2p.checkpoint.match_layers)."""

        def body(block: Block, x: Array, _: None) -> tuple[Array, None]:
            return block(x)[0], None

        body = nn.remat(body, prevent_cse=False) if self.remat else body
        rngs: dict[Any, bool] = {"params": True, "dropout": True}
        layers = nn.scan(body, variable_axes={"params": 0}, split_rngs=rngs, length=self.depth)
        return layers(block, x, None)[0]

    def _check(self, images: Array) -> None:
        shape = (self.frames, *self.image_size, 3)
        if images.shape[1:] != shape:
            raise UserError(
                f"the model was made for images [batch, frames, height, width, channels] with {shape} after the "
                f"batch axis; got {tuple(images.shape)}. Annotate the data at this size or set model.image_size."
            )


# The table of variants: settings of TrackTransformer by name. "paper" has 13,032,200 parameters.
VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {
        "dim": 384,
        "depth": 8,
        "heads": 8,
        "head_dim": 48,
        "image_size": (128, 128),
        "patch": 16,
        "frames": 1,
        "track_steps": 16,
        "track_patch": 4,
    },
}
