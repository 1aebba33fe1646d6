"""General Flow as 3PoinTr's Table I trains it: for one task, from scratch, on 3D tracks of a cloud.

What differs from the released training: the embodiment's points are gone from the tracks already, so no cube is cut
out around the queries and no hand is masked; the sentence is the same for all scenes, a constant vector; tracks
carry no colors, so the three color channels are zeros; the cloud is all N points of the window; queries are drawn
uniformly, where the release balances path lengths by k-means and draws some in clusters.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from t2p import pytrees  # noqa: F401
from t2p.geometry.conventions import swap_time_and_points
from t2p.io import UserError
from t2p.methods.base import Variables
from t2p.methods.bounds import COUNT, NUMBER, POSITIVE, check_bounds
from t2p.methods.general_flow.labels import scale_labels
from t2p.methods.general_flow.losses import LossWeights, counted_mean, flow_losses
from t2p.methods.general_flow.scene import Augment, draw_queries, from_chunks, in_chunks, move, take_paths
from t2p.models.general_flow import TEXT_WIDTH, VARIANTS, GeneralFlow, point_net
from t2p.models.pointnext import multiply_adds
from t2p.types import Array, Batch, FieldWindow, Prediction, Tracks, WindowSpec

STAGE = "general_flow.flow"
MILLIMETRES = 1000.0
BOUNDS = {
    **dict.fromkeys((f"window.{name}" for name in ("points", "queries", "test_queries", "samples")), COUNT),
    **dict.fromkeys((f"model.{name}" for name in ("steps", "width", "layers", "hidden", "latent")), COUNT),
    **dict.fromkeys((f"model.{name}" for name in ("neighbours", "expansion", "text_width")), COUNT),
    **dict.fromkeys((f"model.{name}_layers" for name in ("encoder", "decoder", "head")), NUMBER),
    **dict.fromkeys((f"loss.{name}" for name in ("scale", "divergence", "places", "shift")), NUMBER),
    "model.radius": POSITIVE,
}


def configure(config: ml_collections.ConfigDict, variant: str = "B") -> ml_collections.ConfigDict:
    """Adds the keys that this stage reads to a base config, at the released values, and returns it.

    Steps and points follow the task: 3PoinTr's has them. The released schedule is a cosine over 200 epochs, 10 of them
    warm-up; lengths in steps follow the data set."""
    config.stage = STAGE
    model = {"steps": 9, "scale_method": "TLN", "latent": 16, "strides": (1, 4, 4, 4, 4), "radius": 0.05}
    model |= {"neighbours": 32, "expansion": 4, "text_hidden": (256, 64), "text_width": 6, **VARIANTS[variant]}
    config.model = ml_collections.ConfigDict(model)
    window = {"view": "front", "track_set": "exact/cloud", "points": 2048}
    window |= {"queries": 128, "test_queries": 512, "samples": 10}
    config.window = ml_collections.ConfigDict(window)
    config.loss = ml_collections.ConfigDict(vars(LossWeights()) | vars(Augment()))
    config.batch_size = 128
    # The sentence is constant, so BatchNorm cancels what these layers give. Their gradients are rounding, which Adam
    # would blow up to full steps, and the running mean, a little behind, would be divided by a variance of 0.
    config.optimizer.freeze = ("text/layer_.*",)
    config.optimizer.update({"name": "adamw", "learning_rate": 1e-3, "weight_decay": 1e-4, "clip_norm": 10.0})
    return config


@dataclass(frozen=True)
class GeneralFlowStage:
    """points: N, of the cloud; queries, test_queries: asked for in one pass in training, and in validation and
    prediction; samples: M latents of a scene."""

    model: GeneralFlow
    weights: LossWeights
    augment: Augment
    view: str
    track_set: str
    points: int
    queries: int
    test_queries: int
    samples: int

    @classmethod
    def from_config(cls, config: ml_collections.ConfigDict) -> GeneralFlowStage:
        check_bounds(config, BOUNDS)
        w, loss = config.window, config.loss
        augment = Augment(tuple(loss.turn), tuple(loss.stretch), loss.shift)
        if len(augment.turn) != 3 or len(augment.stretch) != 2 or not 0 < augment.stretch[0] <= augment.stretch[1]:
            raise UserError(
                f"loss.turn is {augment.turn} and loss.stretch {augment.stretch}; expected three angles and the "
                f"smallest and the largest factor, above 0"
            )
        weights = LossWeights(loss.scale, loss.divergence, loss.places)
        queries = (w.queries, w.test_queries, w.samples)
        return cls(_model(config), weights, augment, w.view, w.track_set, w.points, *queries)

    @property
    def window(self) -> WindowSpec:
        """An episode at its setpoints: tracks of steps 0 .. T, N of those that are visible at step 0."""
        return WindowSpec(
            views=(self.view,),
            whole=True,
            track_set=self.track_set,
            tracks=FieldWindow(tuple(range(self.model.steps + 1))),
            num_points=self.points,
            replacement=False,
            space="camera",
        )

    def init(self, rng: jax.Array, batch: Batch) -> Variables:
        paths, _ = self._paths(batch)
        cloud, known = paths[:, :, 0], paths[:, : self._count(paths, train=True)]
        direction, scale = scale_labels(known, self.model.scale_method)
        noise = jnp.zeros((*scale.shape[:2], self.model.latent))
        variables = self.model.init({"params": rng}, *self._scene(cloud, known[:, :, 0]), direction, scale, noise)
        return {"params": variables["params"], "batch_stats": variables["batch_stats"], "frozen": {}}

    def loss(self, variables: Variables, batch: Batch, rng: jax.Array, train: bool) -> tuple[jax.Array, dict[str, Any]]:
        """Over drawn queries that are visible at every step. ade_mm: the mean distance over steps, queries and samples
        of paths from drawn latents (one in training), as the scene was augmented."""
        query_rng, augment_rng, noise_rng, latent_rng = jax.random.split(rng, 4)
        paths, counted = self._paths(batch)
        index = draw_queries(query_rng, counted > 0, self._count(paths, train))
        cloud, known = self._placed(paths, index, augment_rng if train else None)
        counted = jnp.take_along_axis(counted, index, axis=1)
        direction, scale = scale_labels(known, self.model.scale_method)
        noise = jax.random.normal(noise_rng, (*scale.shape[:2], self.model.latent))
        inputs = (*self._scene(cloud, known[:, :, 0]), direction, scale, noise)
        outputs, aux, stats = self._apply(variables, inputs, train)
        parts = flow_losses(outputs, direction, scale, known[:, :, 1:] - known[:, :, :1], counted, self.weights)
        z = jax.random.normal(latent_rng, (len(cloud), 1 if train else self.samples, self.model.latent))
        sampled = self.model.apply(_stored(variables), z, jax.lax.stop_gradient(aux["context"]), method="paths")
        error = jnp.linalg.norm(sampled - swap_time_and_points(known)[:, None, 1:], axis=-1).mean((1, 2))
        metrics = parts | {"ade_mm": MILLIMETRES * counted_mean(jax.lax.stop_gradient(error), counted)}
        return parts["loss"], {"metrics": metrics, "batch_stats": stats}

    def predict(self, variables: Variables, batch: Batch, rng: jax.Array) -> Prediction:
        """Tracks [B, T + 1, N, 3] of all points that batch.tracks shows at its first step (metres, camera frame; step
        0 as given), the mean over the samples, all taken as visible; aux["samples"]: [B, M, T, N, 3]."""
        cloud = self._tracks(batch).points[:, 0].astype(jnp.float32)
        centre = cloud.mean(1)
        centred = cloud - centre[:, None]
        z = jax.random.normal(rng, (len(cloud), self.samples, self.model.latent))

        def paths(queries: Array) -> Array:
            return self.model.apply(_stored(variables), *self._scene(centred, queries), z, method="sample")[0]

        chunks = in_chunks(centred, self._count(cloud, train=False))
        samples = from_chunks(jax.lax.map(paths, chunks), cloud.shape[1]) + centre[:, None, None, None]
        points = jnp.concatenate([cloud[:, None], samples.mean(1)], axis=1)
        tracks = Tracks(points, jnp.ones(points.shape[:-1], bool), space="camera")
        return Prediction(tracks=tracks, aux={"samples": samples})

    def flops_per_example(self, batch: Batch) -> float:
        points = self._tracks(batch).points.shape[-2]
        return train_flops(self.model, points, min(self.queries, points))

    def _count(self, paths: Array, train: bool) -> int:
        return min(self.queries if train else self.test_queries, paths.shape[1])

    def _tracks(self, batch: Batch) -> Tracks:
        tracks = batch.tracks[self.track_set][self.view]
        if tracks.points.shape[-1] != 3:
            raise UserError(
                f"the track set {self.track_set!r} has points of {tracks.points.shape[-1]} numbers; General Flow needs "
                f"3D tracks in the camera's frame: name such a set in config.window.track_set"
            )
        return tracks

    def _paths(self, batch: Batch) -> tuple[Array, Array]:
        """Paths [b, n, t + 1, 3] and the weight of each [b, n]: 0 where a step is not visible and on rows that do not
        count. Steps that pad a window repeat its last place and are learned."""
        tracks = self._tracks(batch)
        counted = jnp.asarray(tracks.visible).all(-2)
        for rows in (batch.mask, batch.has.get("tracks")):
            counted = counted if rows is None else counted & rows[:, None]
        return swap_time_and_points(jnp.asarray(tracks.points, jnp.float32)), counted.astype(jnp.float32)

    def _placed(self, paths: Array, index: Array, rng: Array | None) -> tuple[Array, Array]:
        """The cloud [b, n, 3] and the paths at index [b, q, t + 1, 3], the mean of the queries' starts at the origin;
        then, with an rng, moved. Labels are taken after this."""
        cloud, known = paths[:, :, 0], take_paths(paths, index)
        centre = known[:, :, 0].mean(1)
        if rng is None:
            return cloud - centre[:, None], known - centre[:, None, None]
        drawn = self.augment.draw(rng, len(cloud))
        return move(cloud, centre, drawn), move(known, centre, drawn)

    def _scene(self, cloud: Array, queries: Array) -> tuple[Array, Array, Array, Array]:
        """The network's cloud, colors (none: zeros), queries and sentence (a constant of length one)."""
        text = jnp.full((cloud.shape[0], TEXT_WIDTH), TEXT_WIDTH**-0.5)
        return cloud, jnp.zeros_like(cloud), queries, text

    def _apply(self, variables: Variables, inputs: tuple[Array, ...], train: bool) -> tuple[Any, Any, Any]:
        """-> outputs, aux, the running statistics after it."""
        if not train:
            return *self.model.apply(_stored(variables), *inputs), {}
        (outputs, aux), new = self.model.apply(_stored(variables), *inputs, train=True, mutable=["batch_stats"])
        return outputs, aux, new["batch_stats"]


def _stored(variables: Variables) -> dict[str, Any]:
    return {name: variables[name] for name in ("params", "batch_stats")}


def _model(config: ml_collections.ConfigDict) -> GeneralFlow:
    settings: dict[str, Any] = {k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in config.model.items()}
    model = GeneralFlow(**settings, dtype=jnp.dtype(config.dtype))
    points = config.window.points + min(config.window.queries, config.window.test_queries, config.window.points)
    for stride in model.strides:
        points //= max(stride, 1)
    if points < 3:
        raise UserError(
            f"window.points {config.window.points} and the queries leave {points} points at the coarsest of the levels "
            f"with model.strides {model.strides}; expected at least 3: give more points or smaller strides"
        )
    return model


def train_flops(model: GeneralFlow, points: int, queries: int) -> float:
    """Multiply-adds of the linear layers, times two, of one forward and backward pass (three times the forward one)
    of one scene."""
    total = multiply_adds(point_net(model), points + queries, 6 + model.text_width)
    total += sum(a * b for a, b in pairwise((TEXT_WIDTH, *model.text_hidden, model.text_width)))
    known, path, hidden = 3 + model.width, 3 * model.steps + model.scales, model.hidden
    layers = max(1, model.encoder_layers) + max(1, model.decoder_layers) - 2 + 2 * model.head_layers
    each = (path + known) * hidden + 2 * hidden * model.latent + (model.latent + known) * hidden
    return 6.0 * (total + queries * (each + layers * hidden**2 + hidden * path))
