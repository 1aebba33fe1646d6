"""ATM's policy, a ViT-T that tracks guide (Wen et al. 2024, section 4.2, Figure 9 and Appendix B; released code).

A spatial transformer makes one token of the pictures and predicted tracks of each step, a temporal one looks back over
the last steps, and a head that is given the tracks once more says the action. Behaviour cloning is the same network
without tracks, told what to do in words.

Letters: b batch, t steps of history, v views, k track steps, n points, l tokens, d channels, p track steps per token,
h heads. Coordinates of tracks are ATM's (see t2p.models.atm).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from t2p.io import UserError
from t2p.models.atm import EPSILON, TextProjection, patchify
from t2p.models.layers import (
    Array,
    Dtype,
    LayerNorm,
    Linear,
    Mlp,
    attention,
    dropout,
    sincos_1d,
    uniform_by_fan_in,
)
from t2p.models.resnet import Norm

ID_CHANNELS = 16  # of a track token, alike on all tokens of a point
TIME_BASE = 10.0  # of the wave lengths of the time encoding (released code; usually 10000)
STEM = 64  # channels of the first convolution
ModalityIds = Literal["released", "views"]


def double_grid(points: int = 32) -> np.ndarray:
    """[n, 2] float32: the points whose tracks are predicted, two square grids one after the other, x slowest."""
    side = math.isqrt(points // 2)
    if points != 2 * side**2:
        raise UserError(f"{points} points are no double grid; expected twice a square number (released: 32)")
    axes = [np.linspace(low, low + 0.8, side) for low in (0.05, 0.15)]
    grids = [np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2) for axis in axes]
    return np.concatenate(grids).astype(np.float32)


def patch_grid(image_size: tuple[int, int], patch: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of the whole patches in a picture that the first convolution has halved (an odd side up)."""
    (height, width), (p, q) = image_size, patch
    return (height + 1) // 2 // p, (width + 1) // 2 // q


@dataclass(frozen=True)
class Depth:
    """Sizes of one of the two transformers; heads * head_dim need not be its width."""

    depth: int
    heads: int
    head_dim: int
    mlp: int


class Stem(nn.Module):
    """One token per patch: a 7x7 convolution that halves the picture, and one with kernel = stride = (height, width) of
    a patch, which leaves out what is below and to the right of the last whole patches.

    [b, H, W, 3] -> [b, rows * columns, d]; BatchNorm statistics are in the collection batch_stats, taken over the whole
    batch on all devices (the released code's are each process's own)."""

    dim: int
    patch: tuple[int, int]
    use_bias: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        init = uniform_by_fan_in(7 * 7 * x.shape[-1])
        settings: dict[str, Any] = {"use_bias": False, "kernel_init": init, "dtype": self.dtype}
        x = nn.Conv(STEM, (7, 7), 2, [(3, 3), (3, 3)], **settings, name="conv")(x)
        x = nn.relu(Norm("batch", self.dtype, name="conv_norm")(x, train))
        x = Linear(self.dim, use_bias=self.use_bias, dtype=self.dtype, name="patches")(patchify(x[:, None], self.patch))
        return Norm("batch", self.dtype, name="norm")(x, train)


class StateToken(nn.Module):
    """A part of the robot's state -> its token: Linear, (Linear, ReLU) layers - 1 times, Linear. Nothing is between the
    first two, as in the released code. [b, t, width] -> [b, t, c]."""

    dim: int
    hidden: int
    layers: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = Linear(self.hidden, name="layer_0")(x)
        for i in range(1, self.layers):
            x = nn.relu(Linear(self.hidden, name=f"layer_{i}")(x))
        return Linear(self.dim, name=f"layer_{self.layers}")(x)


class TrackTokens(nn.Module):
    """[b, v, k, n, 2] -> [b, n, v k/p, d]: p steps of a point in one view a token, before positions."""

    dim: int
    patch: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, tracks: Array) -> Array:
        b, v, k, n, _ = tracks.shape
        one_hot = jnp.broadcast_to(jnp.eye(v)[None, :, None, None], (b, v, k, n, v))
        x = jnp.concatenate([tracks.astype(jnp.float32), one_hot], axis=-1)
        x = x.reshape(b, v, k // self.patch, self.patch, n, 2 + v).transpose(0, 4, 1, 2, 3, 5)
        x = x.reshape(b, n, v * (k // self.patch), self.patch * (2 + v))
        return Linear(self.dim, name="embed")(x).astype(self.dtype)  # coordinates stay float32 up to here


class Block(nn.Module):
    """Pre-norm block. Stochastic depth is on the feed-forward branch alone, as in the released code.

    [b, l, d] -> [b, l, d], and how much the first token looks at each [b, h, l]."""

    sizes: Depth
    dropout: float
    dtype: Dtype
    implementation: str

    @nn.compact
    def __call__(self, x: Array, mask: Array | None) -> tuple[Array, Array]:
        b, length, d = x.shape
        heads, head_dim = self.sizes.heads, self.sizes.head_dim
        y = LayerNorm(EPSILON, name="norm")(x)
        qkv = Linear(3 * heads * head_dim, use_bias=False, dtype=self.dtype, name="qkv")(y)
        q, k, v = jnp.moveaxis(qkv.reshape(b, length, 3, heads, head_dim), 2, 0)
        y = attention(q, k, v, implementation=self.implementation, mask=mask).reshape(b, length, -1)
        x = x + self._drop(Linear(d, dtype=self.dtype, name="out")(y))
        y = LayerNorm(EPSILON, name="mlp_norm")(x)
        y = Mlp(self.sizes.mlp, self.dropout, self.dtype, name="mlp")(y)
        return x + self._skip(y), _first_looks(q, k)

    def _drop(self, x: Array) -> Array:
        return dropout(x, self.dropout, self.make_rng("dropout")) if self.dropout else x

    def _skip(self, x: Array) -> Array:
        """Leaves out the branch for whole rows."""
        if not self.dropout:
            return x
        kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.dropout, (x.shape[0], 1, 1))
        return jnp.where(kept, x / (1 - self.dropout), 0.0)


def _first_looks(q: Array, k: Array) -> Array:
    """[b, l, h, c] each -> [b, h, l] float32: the weights with which token 0 attends."""
    logits = jnp.einsum("bhc,blhc->bhl", q[:, 0], k, preferred_element_type=jnp.float32)
    return jax.nn.softmax(logits * q.shape[-1] ** -0.5, axis=-1)


class Transformer(nn.Module):
    """[b, l, d] -> [b, l, d], no final norm; and the layers' weights of the first token [layers, b, h, l]."""

    sizes: Depth
    dropout: float = 0.1
    dtype: Dtype = jnp.float32
    implementation: str = "matmul"
    remat: bool = False
    scan: bool = False

    @nn.compact
    def __call__(self, x: Array, mask: Array | None = None, train: bool = False) -> tuple[Array, Array]:
        settings = (self.sizes, self.dropout if train else 0.0, self.dtype, self.implementation)
        x = x.astype(self.dtype)
        if self.scan:
            return self._scan(Block(*settings, name="blocks"), x, mask)
        layer = nn.remat(Block) if self.remat else Block
        looks = []
        for i in range(self.sizes.depth):
            x, seen = layer(*settings, name=f"block_{i}")(x, mask)
            looks.append(seen)
        return x, jnp.stack(looks)

    def _scan(self, block: Block, x: Array, mask: Array | None) -> tuple[Array, Array]:
        """All layers as one scan; parameters are stacked on a leading axis (see t2p.checkpoint.match_layers)."""

        def body(block: Block, x: Array, _: None) -> tuple[Array, Array]:
            return block(x, mask)

        body = nn.remat(body, prevent_cse=False) if self.remat else body
        rngs: dict[Any, bool] = {"params": True, "dropout": True}
        layers = nn.scan(body, variable_axes={"params": 0}, split_rngs=rngs, length=self.sizes.depth)
        return layers(block, x, None)


class Head(nn.Module):
    """Linear, ReLU, ..., Linear, in float32; squash: tanh at its end. [b, t, c] -> [b, t, actions]."""

    actions: int
    hidden: int
    layers: int
    squash: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i in range(self.layers):
            x = nn.relu(Linear(self.hidden, name=f"layer_{i}")(x))
        x = Linear(self.actions, name=f"layer_{self.layers}")(x)
        return jnp.tanh(x) if self.squash else x


class TrackPolicy(nn.Module):
    """See `encode` and `decode`. The released configuration is `VARIANTS["released"]`.

    track_steps: k, of which there may be fewer than are predicted (Figure 6); 0: no tracks at all. early, late: whether
    the spatial transformer and the head are given them (Table 2). spatial_text, temporal_text: whether the sentence is
    a token of these transformers; its projections are there in any case, as in the released files. modality_ids:
    "released" numbers track tokens view by view though they come point by point, so that half of the points has one
    id in both views and half the other; "views" gives each token its own view's."""

    views: int
    image_size: tuple[int, int]  # (H, W)
    dim: int
    temporal_dim: int  # 0: dim, without a projection between the two
    patch: int  # height of a patch in pixels, after the first convolution has halved the picture
    spatial: Depth
    temporal: Depth
    states: tuple[int, ...]  # numbers of each part of the robot's state
    actions: int
    track_steps: int
    track_points: int
    track_patch: int  # p
    early: bool = True
    late: bool = True
    spatial_text: bool = False
    temporal_text: bool = False
    modality_ids: ModalityIds = "released"
    patch_width: int = 0  # of a patch; 0: as wide as high
    patch_bias: bool = True
    state_hidden: int = 128
    state_layers: int = 0  # hidden layers between a part of the state and its token
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    text_hidden: int = 128
    text_layers: int = 1
    head_hidden: int = 1024
    head_layers: int = 2
    squash: bool = False
    dropout: float = 0.1
    dtype: Dtype = jnp.float32
    spatial_attention: str = "matmul"
    temporal_attention: str = "matmul"
    remat: bool = False
    scan: bool = False

    @property
    def patch_size(self) -> tuple[int, int]:
        """(height, width) of a patch."""
        return self.patch, self.patch_width or self.patch

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the patches of a view."""
        return patch_grid(self.image_size, self.patch_size)

    @property
    def width(self) -> int:
        """Of the temporal transformer."""
        return self.temporal_dim or self.dim

    @property
    def track_tokens(self) -> int:
        """Of the spatial transformer, all points and views."""
        return self.views * self.track_points * (self.track_steps // self.track_patch) if self.fuses_early else 0

    @property
    def spatial_tokens(self) -> int:
        rows, columns = self.grid
        return 1 + self.views * rows * columns + self.track_tokens + self.spatial_text

    @property
    def step_tokens(self) -> int:
        """m: of one step in the temporal transformer."""
        return 2 + self.temporal_text + len(self.states)

    @property
    def fuses_early(self) -> bool:
        return self.early and self.track_steps > 0

    @property
    def fuses_late(self) -> bool:
        return self.late and self.track_steps > 0

    def setup(self) -> None:
        dtype, d, c = self.dtype, self.dim, self.width
        normal, (rows, columns) = nn.initializers.normal(1.0), self.grid
        self.stems = [Stem(d, self.patch_size, self.patch_bias, dtype, name=f"stem_{i}") for i in range(self.views)]
        self.image_table = self.param("image_table", normal, (self.views * rows * columns, d))
        if self.fuses_early:
            tokens = self.views * (self.track_steps // self.track_patch)
            self.embed_tracks = TrackTokens(d, self.track_patch, dtype)
            self.track_table = self.param("track_table", normal, (tokens, d - ID_CHANNELS))
        modalities = self.views * (1 + self.fuses_early) + 1
        self.modality_table = self.param("modality_table", normal, (modalities, d))
        self.spatial_token = self.param("spatial_token", normal, (d,))
        text = (self.text_hidden, self.text_layers, dtype)
        self.project_spatial, self.project_temporal = TextProjection(d, *text), TextProjection(c, *text)
        shared = {"dtype": dtype, "remat": self.remat, "scan": self.scan}
        self.spatial_layers = Transformer(self.spatial, self.dropout, implementation=self.spatial_attention, **shared)
        self.temporal_layers = Transformer(
            self.temporal, self.dropout, implementation=self.temporal_attention, **shared
        )
        self.down = Linear(c, dtype=dtype) if self.temporal_dim else None
        self.state_tokens = [self._state_token(f"state_{i}") for i in range(len(self.states))]
        self.action_token = self.param("action_token", nn.initializers.normal(1e-6), (c,))
        self.head = Head(self.actions, self.head_hidden, self.head_layers, self.squash)

    def _state_token(self, name: str) -> nn.Module:
        if not self.state_layers:
            return Linear(self.width, name=name)
        return StateToken(self.width, self.state_hidden, self.state_layers, name=name)

    def __call__(
        self, images: Array, tracks: Array | None, text: Array, states: tuple[Array, ...], train: bool = False
    ) -> tuple[Array, dict[str, Any]]:
        """`encode` and `decode`: the actions of all steps [b, t, a], each from what came up to it."""
        tokens, seen = self.encode(images, tracks, text, states, train)
        actions, aux = self.decode(tokens, tracks, train)
        return actions, {**seen, **aux}

    def encode(
        self, images: Array, tracks: Array | None, text: Array, states: tuple[Array, ...], train: bool = False
    ) -> tuple[Array, dict[str, Any]]:
        """Each step by itself -> its tokens [b, t, m, c] float32: action token, (sentence), what is seen, state.

        images: [b, v, t, H, W, 3], 0 .. 255; tracks: [b, v, t, k, n, 2], None with track_steps 0; text: [b, e]; states:
        [b, t, width] each. aux["looks"]: [layers, b, t, h, v, rows, columns], the attention of the summary's token to
        the patches (Figure 7). train: dropout, from the rng "dropout"; batch_stats must be mutable."""
        self._check(images)
        b, t = images.shape[0], images.shape[2]
        aux: dict[str, Any] = {"image_tokens": self._see(images, train)}
        parts = [aux["image_tokens"] + self.image_table.astype(self.dtype)]
        if self.fuses_early:
            aux["track_patch_embed"] = self.embed_tracks(_by_step(tracks))
            parts.append(self._track_tokens(aux["track_patch_embed"]))
        word, told = self.project_spatial(text), self.project_temporal(text)
        parts += [jnp.repeat(word, t, axis=0)[:, None]] if self.spatial_text else []
        x = jnp.concatenate(parts, axis=1)
        x = x + self.modality_table[self._modalities()[: x.shape[1]]].astype(self.dtype)
        first = jnp.broadcast_to(self.spatial_token.astype(self.dtype), (b * t, 1, self.dim))
        aux["spatial_in"] = jnp.concatenate([first, x], axis=1)
        aux["spatial_out"], looks = self.spatial_layers(aux["spatial_in"], None, train)
        aux["looks"] = self._on_pictures(looks, b, t)
        summary = aux["spatial_out"][:, 0] if self.down is None else self.down(aux["spatial_out"][:, 0])
        aux["temporal_in"] = self._step_tokens(summary.reshape(b, t, -1), told, states)
        return aux["temporal_in"], aux

    def decode(self, tokens: Array, tracks: Array | None, train: bool = False) -> tuple[Array, dict[str, Any]]:
        """tokens: [b, t, m, c], oldest step first; tracks: as for `encode`. A step sees itself and those before it.

        -> the actions of all steps [b, t, a] float32."""
        b, t, m, c = tokens.shape
        steps = np.repeat(np.arange(t), m)
        aux: dict[str, Any] = {"temporal_mask": steps[:, None] >= steps[None]}
        x = tokens + jnp.asarray(sincos_1d(t, c, TIME_BASE))[:, None]
        aux["temporal_flat_in"] = x.reshape(b, t * m, c)
        y, _ = self.temporal_layers(aux["temporal_flat_in"], jnp.asarray(aux["temporal_mask"])[None, None], train)
        aux["temporal_out"] = features = y.reshape(b, t, m, c)[:, :, 0].astype(jnp.float32)
        if self.fuses_late:
            flat = _by_step(tracks).reshape(b, t, -1)  # (view, time, point, xy)
            features = jnp.concatenate([features, flat], axis=-1)
        aux["head_in"] = features
        return self.head(features), aux

    def _see(self, images: Array, train: bool) -> Array:
        """[b, v, t, H, W, 3] -> [b t, v rows columns, d]; each view has a stem of its own."""
        x = (images.astype(jnp.float32) / 255.0 - jnp.array(self.mean)) / jnp.array(self.std)
        x = x.swapaxes(0, 1).reshape(self.views, -1, *images.shape[3:])
        return jnp.concatenate([stem(x[i], train) for i, stem in enumerate(self.stems)], axis=1)

    def _track_tokens(self, x: Array) -> Array:
        """[b, n, v k/p, d] -> [b, n v k/p, d]: positions are added to most channels; the last ones, by which a point's
        tokens know each other, are those of its first token (nothing is learned for a point: any order will do)."""
        b, n, tokens, d = x.shape
        placed = x[..., :-ID_CHANNELS] + self.track_table.astype(self.dtype)
        names = jnp.broadcast_to(x[:, :, :1, -ID_CHANNELS:], (b, n, tokens, ID_CHANNELS))
        return jnp.concatenate([placed, names], axis=-1).reshape(b, n * tokens, d)

    def _modalities(self) -> np.ndarray:
        """The row of the modality table for each token: the views' patches, the tracks in the views, the sentence."""
        rows, columns = self.grid
        pictures = np.repeat(np.arange(self.views), rows * columns)
        if not self.fuses_early:
            return np.append(pictures, self.views)
        each, views = self.track_steps // self.track_patch, self.views + np.arange(self.views)
        tracks = np.repeat(views, self.track_points * each)
        if self.modality_ids == "views":
            tracks = np.tile(np.repeat(views, each), self.track_points)
        return np.concatenate([pictures, tracks, [2 * self.views]])

    def _step_tokens(self, summary: Array, told: Array, states: tuple[Array, ...]) -> Array:
        b, t, c = summary.shape
        parts = [jnp.broadcast_to(self.action_token, (b, t, c))]
        parts += [jnp.broadcast_to(told[:, None], (b, t, c))] if self.temporal_text else []
        parts += [summary, *(embed(x) for embed, x in zip(self.state_tokens, states, strict=True))]
        return jnp.stack([part.astype(jnp.float32) for part in parts], axis=2)

    def _on_pictures(self, looks: Array, b: int, t: int) -> Array:
        """[layers, b t, h, l] -> [layers, b, t, h, v, rows, columns]."""
        rows, columns = self.grid
        patches = looks[..., 1 : 1 + self.views * rows * columns]
        return patches.reshape(looks.shape[0], b, t, looks.shape[2], self.views, rows, columns)

    def _check(self, images: Array) -> None:
        if (images.shape[1], *images.shape[3:]) != (self.views, *self.image_size, 3):
            raise UserError(
                f"the policy was made for {self.views} views of {self.image_size} pixels; got pictures [batch, views, "
                f"steps, height, width, channels] of shape {tuple(images.shape)}"
            )


def _by_step(tracks: Array | None) -> Array:
    """[b, v, t, k, n, 2] -> [b t, v, k, n, 2]."""
    assert tracks is not None, "a policy with tracks is given them"
    b, v, t = tracks.shape[:3]
    return jnp.moveaxis(tracks, 2, 1).reshape(b * t, v, *tracks.shape[3:])


# The table of variants: settings of TrackPolicy by name. With its track transformer "released" has 21,936,879
# parameters. Sizes are the released code's; the paper gives none but 16 track steps and 32 points.
VARIANTS: dict[str, dict[str, Any]] = {
    "released": {
        "views": 2,
        "image_size": (128, 128),
        "dim": 128,
        "temporal_dim": 64,
        "patch": 8,
        "spatial": Depth(depth=7, heads=8, head_dim=120, mlp=256),
        "temporal": Depth(depth=4, heads=6, head_dim=64, mlp=256),
        "states": (7, 2),
        "actions": 7,
        "track_steps": 16,
        "track_points": 32,
        "track_patch": 16,
    },
}
