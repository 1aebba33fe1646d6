"""3PoinTr's first stage: where will each point of a cloud be at T setpoints (Hung et al. 2026, section III)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from t2p import pytrees  # noqa: F401
from t2p.methods.attention import chosen_attention
from t2p.methods.base import Variables
from t2p.methods.bounds import COUNT, NUMBER, Bound, check_bounds
from t2p.methods.clouds import fill_by_repetition
from t2p.methods.rows import counted_rows, row_mean
from t2p.methods.threepointr.losses import track_loss, track_target
from t2p.methods.threepointr.scaling import (
    centre_and_radius,
    from_threepointr,
    to_threepointr,
    to_threepointr_displacement,
)
from t2p.models.threepointr import TRACK_VARIANTS, TrackNet
from t2p.types import Array, Batch, FieldWindow, Prediction, Tracks, WindowSpec

STAGE = "threepointr.tracks"
MILLIMETRES = 1000.0
NET_BOUNDS = dict.fromkeys(("width", "depth", "heads", "steps"), COUNT)
BOUNDS = {
    **{f"model.{name}": bound for name, bound in NET_BOUNDS.items()},
    "model.radius_quantile": Bound(0, above=True, most=1),
    "loss.noise": NUMBER,
    "loss.weight": NUMBER,
    "window.points": COUNT,
}


def configure(config: ml_collections.ConfigDict, variant: str = "paper") -> ml_collections.ConfigDict:
    """Adds the keys that this stage reads to a base config, at the released code's values, and returns it."""
    config.stage = STAGE
    config.model = ml_collections.ConfigDict(net_settings(variant))
    config.loss = ml_collections.ConfigDict({"noise": 0.01, "weight": 10.0, "drop_occluded": False})
    config.window = ml_collections.ConfigDict({"view": "front", "track_set": "exact/grid", "points": 2048})
    config.checkpoint.best = "val/ade_mm"
    return config


def net_settings(variant: str) -> dict[str, Any]:
    """A variant of the network, with the key of its coordinates: radius_quantile."""
    return {"cross_attend_tokens": True, "head": "absolute", "radius_quantile": 0.9, **TRACK_VARIANTS[variant]}


def make_net(settings: ml_collections.ConfigDict, config: ml_collections.ConfigDict, platform: str) -> TrackNet:
    """The track network of `settings` (see net_settings) as the rest of the config has it computed on `platform`."""
    chosen = {k: v for k, v in settings.items() if k != "radius_quantile"}
    width = chosen["width"] // chosen["heads"]
    attention = chosen_attention(config, platform, width, config.window.points)
    return TrackNet(**chosen, dtype=jnp.dtype(config.dtype), implementation=attention)


@dataclass(frozen=True)
class TracksStage:
    """noise: standard deviation added to the cloud in training, in 3PoinTr's units. weight: of the loss.
    drop_occluded: points that are hidden at any step are left out of cloud and loss (as General Flow does) instead of
    only those steps out of the loss: the switch behind the paper's claim."""

    net: TrackNet
    radius_quantile: float
    noise: float
    weight: float
    drop_occluded: bool
    view: str
    track_set: str
    points: int

    @classmethod
    def from_config(cls, config: ml_collections.ConfigDict, platform: str) -> TracksStage:
        check_bounds(config, BOUNDS)
        w, loss = config.window, config.loss
        net = make_net(config.model, config, platform)
        settings = float(config.model.radius_quantile), loss.noise, loss.weight, loss.drop_occluded
        return cls(net, *settings, w.view, w.track_set, w.points)

    @property
    def model(self) -> TrackNet:
        return self.net

    @property
    def window(self) -> WindowSpec:
        """An episode at its setpoints; points drawn anew at each access (released code)."""
        return WindowSpec(
            views=(self.view,),
            whole=True,
            track_set=self.track_set,
            tracks=FieldWindow(tuple(range(self.net.steps + 1))),
            num_points=self.points,
            replacement=False,
            space="camera",
        )

    def init(self, rng: jax.Array, batch: Batch) -> Variables:
        cloud = self._tracks(batch)[0][:, 0]
        return {"params": self.net.init({"params": rng}, cloud)["params"], "batch_stats": {}, "frozen": {}}

    def loss(self, variables: Variables, batch: Batch, rng: jax.Array, train: bool) -> tuple[jax.Array, dict[str, Any]]:
        points, counted = self._tracks(batch)
        if self.drop_occluded:
            points, counted = _without_occluded(points, counted)
        centre, radius = centre_and_radius(points[:, 0], self.radius_quantile)
        cloud = to_threepointr(points[:, 0], centre, radius)
        noisy = cloud + self.noise * jax.random.normal(rng, cloud.shape) if train else cloud
        displacement = to_threepointr_displacement(points[:, 1:] - points[:, :1], radius)
        target = track_target(noisy, displacement)
        tracks, _ = self.net.apply({"params": variables["params"]}, noisy)
        loss = track_loss(tracks, target, counted)
        metrics = {"ade_mm": self._ade(tracks - target, counted, radius, batch), "l1": loss}
        return self.weight * loss, {"metrics": metrics, "batch_stats": {}}

    def predict(self, variables: Variables, batch: Batch, rng: jax.Array) -> Prediction:
        """Tracks [B, T + 1, N, 3] in metres, all visible: the points of batch.tracks at step 0, and where they go."""
        cloud = self._tracks(batch)[0][:, 0]
        tracks = predict_tracks(self.net, variables["params"], cloud, self.radius_quantile)
        points = jnp.concatenate([cloud[:, None], tracks], axis=1)
        return Prediction(tracks=Tracks(points, jnp.ones(points.shape[:-1], bool), space="camera"))

    def flops_per_example(self, batch: Batch) -> float:
        return 3 * net_flops(self.net, self.points)

    def _tracks(self, batch: Batch) -> tuple[Array, Array]:
        """-> points [B, T + 1, N, 3]; counted [B, T, N]: visible, within the episode, in a row that counts."""
        tracks = batch.tracks[self.track_set][self.view]
        points = jnp.asarray(tracks.points, jnp.float32)
        rows = counted_rows(batch, len(points), "tracks")[:, None, None]
        counted = tracks.visible[:, 1:] & rows
        return points, counted if tracks.valid is None else counted & tracks.valid[:, 1:, None]

    def _ade(self, error: Array, counted: Array, radius: Array, batch: Batch) -> Array:
        """Mean error of each sample in millimetres, then over samples (released evaluation)."""
        distance = jnp.linalg.norm(error, axis=-1) * radius[:, None, None] * MILLIMETRES
        each = jnp.sum(distance * counted, (1, 2)) / jnp.maximum(jnp.sum(counted, (1, 2)), 1)
        return row_mean(each, counted_rows(batch, len(each), "tracks"))


def predict_tracks(net: TrackNet, params: Any, cloud: Array, radius_quantile: float) -> Array:
    """cloud [B, N, 3] metres -> tracks [B, T, N, 3] metres."""
    centre, radius = centre_and_radius(cloud, radius_quantile)
    tracks, _ = net.apply({"params": params}, to_threepointr(cloud, centre, radius))
    return from_threepointr(tracks, centre, radius)


def _without_occluded(points: Array, counted: Array) -> tuple[Array, Array]:
    """Points that are not counted at every step are replaced by copies of those that are."""
    b, t, n, d = points.shape
    whole = counted.all(1)
    flat = fill_by_repetition(points.swapaxes(1, 2).reshape(b, n, t * d), whole)
    any_left = whole.any(-1)[:, None, None]
    return flat.reshape(b, n, t, d).swapaxes(1, 2), jnp.broadcast_to(any_left, counted.shape)


def net_flops(net: TrackNet, points: int) -> float:
    """Multiply-adds of the matrix products, times two, of one forward pass of one cloud."""
    d, n = net.width, points
    ends = 3 * d + 2 * d * d + 3 * net.steps * d
    attention = 4 * d * d + 2 * n * d  # query, key, value, out; scores and weighted sum
    block = (2 if net.cross_attend_tokens else 1) * attention + 8 * d * d
    return 2.0 * n * (ends + net.depth * block)
