"""The frozen track transformer as the policy uses it: the tracks of a fixed grid of points in any picture."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from t2p.methods import atm
from t2p.methods.base import Variables
from t2p.methods.weights import digest
from t2p.models.atm import TrackTransformer
from t2p.models.atm_policy import double_grid
from t2p.types import Array

TRACKER = "track_transformer"  # in variables["frozen"]


@dataclass(frozen=True)
class PredictedTracks:
    """points: n, twice a square number (released: two grids of 4 x 4). text_encoder, text_width: what makes the
    sentences' vectors. An Encoder (t2p.methods.base): its tokens are the points, each with its places at all steps."""

    net: TrackTransformer
    points: int
    text_encoder: str
    text_width: int

    @classmethod
    def from_config(cls, config: ml_collections.ConfigDict, platform: str) -> PredictedTracks:
        points = config.model.net.track_points
        double_grid(points)  # there is one
        net = atm.make_net(config.model.track_transformer, points, config, platform)
        return cls(net, points, config.text.encoder, config.text.width)

    @property
    def name(self) -> str:
        return TRACKER

    @property
    def trained(self) -> bool:
        return False

    @property
    def text(self) -> bool:
        return True

    @property
    def shape(self) -> tuple[int, int]:
        """(N, 2 T)."""
        return self.points, 2 * self.net.track_steps

    @property
    def grid(self) -> np.ndarray:
        """[N, 2] in ATM's coordinates."""
        return double_grid(self.points)

    def init(self, rng: jax.Array) -> dict[str, Any]:
        """{"params", "batch_stats"}."""
        images = jnp.zeros((1, self.net.frames, *self.net.image_size, 3))
        found = self.net.init({"params": rng}, images, self.grid[None], jnp.zeros((1, self.text_width)))
        return {"params": found["params"], "batch_stats": {}}

    def blank(self) -> dict[str, Any]:
        """{"params"} of zeros."""
        shapes = jax.eval_shape(self.init, jax.random.key(0))["params"]
        return {"params": jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)}

    def predict(self, own: Variables, images: Array, text: Array) -> Array:
        """images: [B, f, H, W, 3], 0 .. 255; text: [B, E] -> [B, T, N, 2] in ATM's coordinates."""
        points = jnp.broadcast_to(self.grid, (images.shape[0], self.points, 2))
        found: Any = self.net.apply({"params": own["params"]}, images, points, text)
        return found[0]

    def encode(self, own: Variables, images: Array, text: Array | None = None) -> Array:
        """uint8 [B, H, W, 3] and sentences [B, E] -> [B, N, 2 T] float32."""
        assert text is not None, "tracks are predicted for what is to be done"
        tracks = self.predict(own, images[:, None], text)
        return tracks.swapaxes(1, 2).reshape(images.shape[0], *self.shape)

    def from_features(self, features: Array) -> Array:
        """What `encode` gives [..., N, 2 T] -> tracks [..., T, N, 2]."""
        return features.reshape(*features.shape[:-1], self.net.track_steps, 2).swapaxes(-3, -2)

    def key(self, own: Variables) -> dict[str, Any]:
        """All that predicted tracks depend on, JSON-able; see t2p.methods.base.Encoder."""
        ways = ("parent", "name", "dtype", "implementation", "remat", "scan", "attention_dropout", "mlp_dropout")
        net = {field.name: getattr(self.net, field.name) for field in fields(self.net) if field.name not in ways}
        return {
            **net,
            "compute": jnp.dtype(self.net.dtype).name,
            "grid": self.points,
            "text": self.text_encoder,
            "weights": digest(own["params"]),
        }

    def flops(self, text_width: int) -> float:
        """Of one picture."""
        return atm.predict_flops(self.net, self.points, text_width)
