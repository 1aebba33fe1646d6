"""ATM's first stage: the track transformer learns where points go (Wen et al. 2024, section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from t2p import pytrees  # noqa: F401
from t2p.geometry.conventions import from_atm, to_atm
from t2p.io import UserError
from t2p.methods.attention import chosen_attention
from t2p.methods.base import Variables
from t2p.methods.bounds import COUNT, DROPOUT, NUMBER, SHARE, check_bounds
from t2p.methods.rows import counted_rows, row_mean
from t2p.models.atm import VARIANTS, TrackTransformer, unpatchify
from t2p.types import ANY_VIEW, Array, Batch, FieldWindow, Prediction, Tracks, WindowSpec

STAGE = "atm.track_transformer"
_COUNTS = ("dim", "depth", "heads", "patch", "frames", "track_steps", "track_patch", "text_hidden", "text_layers")
NET_BOUNDS = {
    **dict.fromkeys(_COUNTS, COUNT),
    "head_dim": NUMBER,  # 0: dim / heads
    "attention_dropout": DROPOUT,
    "mlp_dropout": DROPOUT,
}
BOUNDS = {
    **dict.fromkeys(("window.points", "window.horizon"), COUNT),
    **{f"model.{name}": bound for name, bound in NET_BOUNDS.items()},
    **dict.fromkeys((f"loss.{name}" for name in ("track", "image", "invisible", "invisible_validation")), NUMBER),
    "loss.patch_mask": SHARE,
}


@dataclass(frozen=True)
class Loss:
    """track, image: weights of the two parts. patch_mask: probability that a patch is hidden. invisible,
    invisible_validation: weight of points that the tracker does not see, in training and in validation.
    mask_padding: leave out the steps that repeat an episode's last frame (the released code learns from them)."""

    track: float
    image: float
    patch_mask: float
    invisible: float
    invisible_validation: float
    mask_padding: bool


def net_settings(variant: str = "paper") -> dict[str, Any]:
    """The network's keys at the values of a variant."""
    settings = {"text_hidden": 128, "text_layers": 1, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    return settings | {"attention_dropout": 0.2, "mlp_dropout": 0.2, **VARIANTS[variant]}


def configure(config: ml_collections.ConfigDict, variant: str = "paper") -> ml_collections.ConfigDict:
    """Adds the keys that this stage reads to a base config, at the paper's values, and returns it."""
    config.stage = STAGE
    model = net_settings(variant)
    config.model = ml_collections.ConfigDict(model)
    window = {"views": ("agentview", "eye_in_hand"), "track_set": "dis/atm", "points": 32}
    config.window = ml_collections.ConfigDict(window | {"horizon": model["track_steps"]})
    loss = Loss(track=10.0, image=1.0, patch_mask=0.5, invisible=1.0, invisible_validation=0.1, mask_padding=True)
    config.loss = ml_collections.ConfigDict(vars(loss))
    config.optimizer.freeze = ("image_table",)
    return config


@dataclass(frozen=True)
class TrackTransformerStage:
    """horizon: track steps in the data; where it is not model.track_steps, tracks are interpolated to those."""

    model: TrackTransformer
    settings: Loss
    views: tuple[str, ...]
    track_set: str
    points: int
    horizon: int

    @classmethod
    def from_config(cls, config: ml_collections.ConfigDict, platform: str) -> TrackTransformerStage:
        check_bounds(config, BOUNDS)
        window = config.window
        model, views = make_net(config.model, window.points, config, platform), tuple(window.views)
        return cls(model, Loss(**config.loss), views, window.track_set, window.points, window.horizon)

    @property
    def window(self) -> WindowSpec:
        """`frames` images that end at t, and the tracks of t .. t + horizon - 1, one view an example."""
        resampled = self.horizon != self.model.track_steps
        return WindowSpec(
            views=self.views,
            one_view=True,
            images=FieldWindow(tuple(range(1 - self.model.frames, 1)), pad="zero"),
            track_set=self.track_set,
            tracks=FieldWindow(tuple(range(self.horizon)), pad="repeat"),
            num_points=self.points,
            track_steps=self.model.track_steps if resampled else None,
            text=True,
            image_size=self.model.image_size,
        )

    def init(self, rng: jax.Array, batch: Batch) -> Variables:
        images, tracks, text = self._inputs(batch)
        variables = self.model.init({"params": rng}, images, tracks.points[:, 0], text)
        return {"params": variables["params"], "batch_stats": {}, "frozen": {}}

    def loss(self, variables: Variables, batch: Batch, rng: jax.Array, train: bool) -> tuple[jax.Array, dict[str, Any]]:
        """Patches are hidden at random in validation too, as in the released code."""
        images, tracks, text = self._inputs(batch)
        mask_rng, dropout_rng = jax.random.split(rng)
        shape = (images.shape[0], self.model.image_tokens)
        patch_mask = jax.random.bernoulli(mask_rng, self.settings.patch_mask, shape)
        points, patches, aux = self._apply(
            variables, images, tracks, text, patch_mask=patch_mask, train=train, rngs={"dropout": dropout_rng}
        )
        weight = self._point_weight(tracks, train)
        valid = tracks.valid if self.settings.mask_padding else None
        track = row_mean(track_error(points, tracks.points, weight, valid), _rows(batch, "tracks"))
        image = row_mean(image_error(patches, aux["target_patches"]), _rows(batch, "images"))
        loss = self.settings.track * track + self.settings.image * image
        metrics = {"loss": loss, "track_loss": track, "image_loss": image, **self._pixels(points, tracks, valid, batch)}
        return loss, {"metrics": metrics, "batch_stats": {}}

    def predict(self, variables: Variables, batch: Batch, rng: jax.Array) -> Prediction:
        """Tracks of the points that batch.tracks shows at its first step, all taken as visible (the model does not
        predict visibility); aux["image"]: the image as the model reconstructs it, [B, f, H, W, 3] in about [0, 1]."""
        images, tracks, text = self._inputs(batch)
        points, patches, _ = self._apply(variables, images, tracks, text)
        size = self.model.image_size
        image = unpatchify(patches, size, self.model.patch) * jnp.array(self.model.std) + jnp.array(self.model.mean)
        visible = jnp.ones(points.shape[:-1], bool)
        return Prediction(tracks=Tracks(from_atm(points, size), visible), aux={"image": image})

    def flops_per_example(self, batch: Batch) -> float:
        assert batch.text is not None, "the window asks for text"
        points = batch.tracks[self.track_set][ANY_VIEW].points
        return train_flops(self.model, points.shape[-2], batch.text.shape[-1])

    def _apply(self, variables: Variables, images: Array, tracks: Tracks, text: Array, **options: Any) -> Any:
        """The model sees where the points are at the first step, and nothing else of the tracks."""
        return self.model.apply({"params": variables["params"]}, images, tracks.points[:, 0], text, **options)

    def _inputs(self, batch: Batch) -> tuple[Array, Tracks, Array]:
        """Images, tracks in ATM's coordinates, sentence vectors."""
        images, tracks = batch.images[ANY_VIEW], batch.tracks[self.track_set][ANY_VIEW]
        points = to_atm(jnp.asarray(tracks.points, jnp.float32), images.shape[2:4])
        return images, tracks.replace(points=points), batch.text

    def _point_weight(self, tracks: Tracks, train: bool) -> Array:
        invisible = self.settings.invisible if train else self.settings.invisible_validation
        return jnp.where(tracks.visible, 1.0, invisible)

    def _pixels(self, points: Array, tracks: Tracks, valid: Array | None, batch: Batch) -> dict[str, Array]:
        """Squared error per coordinate (px^2) and distance (px), over all points and steps of the image's size."""
        scale = jnp.array([self.model.image_size[1], self.model.image_size[0]], jnp.float32)
        error = (points - tracks.points) * scale
        squared, distance = jnp.square(error), jnp.linalg.norm(error, axis=-1, keepdims=True)
        rows = _rows(batch, "tracks")
        return {
            "mse_px": row_mean(_step_mean(squared, valid), rows),
            "distance_px": row_mean(_step_mean(distance, valid), rows),
        }


def make_net(
    chosen: Mapping[str, Any], points: int, config: ml_collections.ConfigDict, platform: str
) -> TrackTransformer:
    """The network of `chosen` (see net_settings) for so many points, running as the config says."""
    settings: dict[str, Any] = {k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in chosen.items()}
    settings["head_dim"] = settings["head_dim"] or settings["dim"] // settings["heads"]
    _check(settings)
    model = TrackTransformer(**settings, dtype=jnp.dtype(config.dtype), remat=config.remat, scan=config.scan_layers)
    return model.clone(implementation=chosen_attention(config, platform, model.head_dim, model.tokens(points)))


def _check(model: Mapping[str, Any]) -> None:
    """Raises UserError for sizes that do not go together; BOUNDS has been checked."""
    size = model["image_size"]
    if len(size) != 2 or min(size) < 1:
        raise UserError(f"model.image_size is {size}; expected (height, width), each at least 1")
    if model["head_dim"] < 1:
        raise UserError(
            f"model.dim {model['dim']} is less than model.heads {model['heads']}; expected at least as much"
        )
    h, w = size
    if h % model["patch"] or w % model["patch"]:
        raise UserError(f"model.image_size {h}x{w} is not a multiple of model.patch {model['patch']}")
    if model["track_steps"] % model["track_patch"]:
        raise UserError(
            f"model.track_steps {model['track_steps']} is not a multiple of {model['track_patch']} (track_patch)"
        )
    if model["dim"] % 4:
        raise UserError(f"model.dim {model['dim']} is not a multiple of 4, which the image's position table needs")


def _rows(batch: Batch, name: str) -> Array:
    """[B] weight of each row: 0 on filling rows and on rows whose source has no field `name`."""
    return counted_rows(batch, batch.images[ANY_VIEW].shape[0], name).astype(jnp.float32)


def _step_mean(values: Array, valid: Array | None) -> Array:
    """[B, T, N, D] -> [B], over the steps where valid [B, T] (None: all)."""
    steps = values.mean((2, 3))
    if valid is None:
        return steps.mean(1)
    return jnp.sum(steps * valid, 1) / jnp.maximum(jnp.sum(valid, 1), 1)


def track_error(points: Array, target: Array, weight: Array, valid: Array | None) -> Array:
    """Mean of weight * squared error for each row, not divided by the weights' sum. points: [B, T, N, 2]; weight:
    [B, T, N]; valid: [B, T] or None. Returns [B]."""
    return _step_mean(jnp.square(points - target) * weight[..., None], valid)


def image_error(patches: Array, target: Array) -> Array:
    """Mean squared error over all patches of each row, hidden or not: [B, l, k] -> [B]."""
    return jnp.square(patches - target).mean((1, 2))


def train_flops(model: TrackTransformer, points: int, text_width: int) -> float:
    """Multiply-adds of the matrix products, times two, of one forward and backward pass of one example.

    The first layer of each input needs no gradient of its input, so it counts twice instead of three times."""
    blocks, tracks, images, text = _products(model, points, text_width)
    ends = tracks + images
    return 2.0 * (3 * (blocks + ends + sum(text[1:])) + 2 * (ends + text[0]))


def predict_flops(model: TrackTransformer, points: int, text_width: int) -> float:
    """The same of a forward pass for tracks alone: the picture is not reconstructed."""
    blocks, tracks, images, text = _products(model, points, text_width)
    return 2.0 * (blocks + 2 * tracks + images + sum(text))


def _products(model: TrackTransformer, points: int, text_width: int) -> tuple[int, int, int, list[int]]:
    """Multiply-adds of the blocks, of tracks and of images at either end, and of each layer for the sentence."""
    d, inner, length = model.dim, model.heads * model.head_dim, model.tokens(points)
    track_tokens = length - model.image_tokens - 1
    projections = 2 * d * inner + 2 * d * model.head_dim + 8 * d * d  # query, out; key and value; mlp
    blocks = model.depth * (length * projections + 2 * length**2 * inner)
    tracks = track_tokens * 2 * model.track_patch * d
    images = model.image_tokens * 3 * model.frames * model.patch**2 * d
    sizes = [text_width] + [model.text_hidden] * (model.text_layers - 1) + [d]
    return blocks, tracks, images, [a * b for a, b in pairwise(sizes)]
