"""General Flow's network, ScaleKPST (Yuan et al. 2024): where query points of a scene will go, many answers.

A cloud with colors, the queries and a sentence pass PointNeXt; a conditional variational autoencoder of each query's
path, its direction and its scale apart, gives as many paths as latents. Letters: b batch, n points, q queries,
m samples, t future steps, w channels of a point, s scales of a path.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from t2p.geometry.conventions import swap_time_and_points
from t2p.io import UserError
from t2p.models.layers import Array, Dtype, Linear
from t2p.models.pointnext import PointNext, batch_norm

TEXT_WIDTH = 512  # of the sentence vector: CLIP ViT-B/32

# How a path of t steps d_i becomes directions d_i / s: s is the path's length (TLN), the distance between its ends
# (TDN), or each step's own length (SDN: t scales).
SCALE_METHODS = ("TLN", "TDN", "SDN")


def displacements(direction: Array, scale: Array) -> Array:
    """direction [..., t, 3], scale [..., s] -> steps of the path, [..., t, 3] metres."""
    return direction * scale[..., None]


class TextAlignment(nn.Module):
    """Linear layers with ELU between them, BatchNorm at the end. [b, e] -> [b, width]."""

    hidden: tuple[int, ...]
    width: int

    @nn.compact
    def __call__(self, text: Array, train: bool) -> Array:
        x = text.astype(jnp.float32)
        for i, width in enumerate((*self.hidden, self.width)):
            x = Linear(width, name=f"layer_{i}")(nn.elu(x) if i else x)
        return batch_norm(train, "norm")(x)


class EluMlp(nn.Module):
    """`layers` times (Linear, ELU). [..., c] -> [..., hidden]."""

    hidden: int
    layers: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i in range(self.layers):
            x = nn.elu(Linear(self.hidden, name=f"layer_{i}")(x))
        return x


class Head(nn.Module):
    """`layers` times (Linear, ELU), then Linear. [..., hidden] -> [..., features]."""

    features: int
    hidden: int
    layers: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return Linear(self.features, name="out")(EluMlp(self.hidden, self.layers, name="mlp")(x))


class GeneralFlow(nn.Module):
    """Settings by name: `VARIANTS`, which share the defaults. dtype: of PointNeXt's products; the rest is float32.

    encoder_layers, decoder_layers (at least one each: 0 counts as 1), head_layers: hidden layers of the
    autoencoder; layers: of PointNeXt, on the way to a level."""

    steps: int  # t
    width: int
    blocks: tuple[int, ...]
    layers: int
    hidden: int
    encoder_layers: int
    decoder_layers: int
    head_layers: int
    latent: int = 16
    scale_method: str = "TLN"
    strides: tuple[int, ...] = (1, 4, 4, 4, 4)
    radius: float = 0.05
    neighbours: int = 32
    expansion: int = 4
    text_hidden: tuple[int, ...] = (256, 64)
    text_width: int = 6
    dtype: Dtype = jnp.float32

    @property
    def scales(self) -> int:
        """s."""
        return self.steps if self.scale_method == "SDN" else 1

    def setup(self) -> None:
        if self.scale_method not in SCALE_METHODS:
            raise UserError(f"model.scale_method is {self.scale_method!r}; expected one of {', '.join(SCALE_METHODS)}")
        # In place of colors and coordinates: the specification leaves its initialisation open.
        self.query = self.param("query", nn.initializers.normal(1.0), (6,))
        self.text = TextAlignment(self.text_hidden, self.text_width)
        self.points = point_net(self)
        self.path_encoder = EluMlp(self.hidden, max(1, self.encoder_layers))
        self.mean, self.log_variance = Linear(self.latent), Linear(self.latent)
        self.path_decoder = EluMlp(self.hidden, max(1, self.decoder_layers))
        self.direction = Head(3 * self.steps, self.hidden, self.head_layers)
        self.scale = Head(self.scales, self.hidden, self.head_layers)

    def context(
        self, cloud: Array, colors: Array, queries: Array, text: Array, train: bool = False
    ) -> tuple[Array, dict[str, Any]]:
        """What the autoencoder knows of each query, its place and its feature: [b, q, 3 + w] float32.

        cloud, colors: [b, n, 3], metres and normalised colors; queries: [b, q, 3] metres; text: [b, e]. aux: "text"
        [b, text_width]; "levels": PointNeXt's; "points": features [b, n + q, w], those of the queries last."""
        cloud, queries = jnp.asarray(cloud, jnp.float32), jnp.asarray(queries, jnp.float32)
        aligned = self.text(text, train)
        known = jnp.concatenate([jnp.asarray(colors, jnp.float32), cloud], axis=-1)
        x = jnp.concatenate([known, jnp.broadcast_to(self.query, (*queries.shape[:2], 6))], axis=1)
        sentence = jnp.broadcast_to(aligned[:, None], (*x.shape[:2], aligned.shape[-1]))
        places = jnp.concatenate([cloud, queries], axis=1)
        features, levels = self.points(places, jnp.concatenate([x, sentence], axis=-1), train)
        points = features.astype(jnp.float32)
        context = jnp.concatenate([queries, points[:, cloud.shape[1] :]], axis=-1)
        return context, {"text": aligned, "levels": levels, "points": points}

    def encode(self, direction: Array, scale: Array, context: Array) -> tuple[Array, Array]:
        """direction [b, q, t, 3], scale [b, q, s] -> mean and log variance of the latent, [b, q, latent] each."""
        path = direction.reshape(*direction.shape[:2], -1)
        x = self.path_encoder(jnp.concatenate([path, scale, context], axis=-1))
        return self.mean(x), self.log_variance(x)

    def decode(self, z: Array, context: Array) -> tuple[Array, Array]:
        """z [..., latent], context [..., 3 + w] -> direction [..., t, 3] and scale [..., s]."""
        x = self.path_decoder(jnp.concatenate([z, context], axis=-1))
        direction = self.direction(x)
        return direction.reshape(*direction.shape[:-1], self.steps, 3), self.scale(x)

    def paths(self, z: Array, context: Array) -> Array:
        """Places at steps 1 .. t, [b, m, t, q, 3] metres. z: [b, m, latent], one latent for all queries of a scene."""
        shape = (*z.shape[:2], context.shape[1])
        each = jnp.broadcast_to(z[:, :, None], (*shape, z.shape[-1]))
        known = jnp.broadcast_to(context[:, None], (*shape, context.shape[-1]))
        steps = displacements(*self.decode(each, known))
        return swap_time_and_points(known[..., None, :3] + jnp.cumsum(steps, axis=-2))

    def sample(
        self, cloud: Array, colors: Array, queries: Array, text: Array, z: Array
    ) -> tuple[Array, dict[str, Any]]:
        """`paths` of queries in a scene, whose arguments are those of `context`."""
        context, aux = self.context(cloud, colors, queries, text)
        return self.paths(z, context), aux

    def __call__(
        self,
        cloud: Array,
        colors: Array,
        queries: Array,
        text: Array,
        direction: Array,
        scale: Array,
        noise: Array,
        train: bool = False,
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """The true paths through the autoencoder: {"direction", "scale", "mean", "log_variance"}.

        noise: [b, q, latent], N(0, 1) draws; the other arguments as in `context` and `encode`, whose context is
        aux["context"]."""
        context, aux = self.context(cloud, colors, queries, text, train)
        mean, log_variance = self.encode(direction, scale, context)
        direction, scale = self.decode(mean + noise * jnp.exp(0.5 * log_variance), context)
        outputs = {"direction": direction, "scale": scale, "mean": mean, "log_variance": log_variance}
        return outputs, aux | {"context": context}


def point_net(model: GeneralFlow) -> PointNext:
    """The PointNeXt of this model's settings."""
    return PointNext(
        width=model.width,
        blocks=model.blocks,
        strides=model.strides,
        layers=model.layers,
        radius=model.radius,
        neighbours=model.neighbours,
        expansion=model.expansion,
        dtype=model.dtype,
    )


# Settings of GeneralFlow by name, as released; steps follows the task (released: 3). Parameters: 0.9, 5.6 and 17.1
# million.
VARIANTS: dict[str, dict[str, Any]] = {
    "S": {"width": 32, "blocks": (1, 1, 1, 1, 1), "layers": 3, "hidden": 384}
    | {"encoder_layers": 1, "decoder_layers": 0, "head_layers": 0},
    "B": {"width": 32, "blocks": (1, 2, 3, 2, 2), "layers": 1, "hidden": 512}
    | {"encoder_layers": 2, "decoder_layers": 2, "head_layers": 2},
    "L": {"width": 64, "blocks": (1, 2, 3, 2, 2), "layers": 1, "hidden": 512}
    | {"encoder_layers": 2, "decoder_layers": 2, "head_layers": 2},
}
