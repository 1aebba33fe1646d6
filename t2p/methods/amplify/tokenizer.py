"""AMPLIFY's first stage: motion as a short sequence of codes (Collins et al. 2025, section 2.2; released code)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from t2p import pytrees  # noqa: F401
from t2p.io import UserError
from t2p.methods.amplify import images, inputs
from t2p.methods.amplify.images import ImageEncoder, side_by_side
from t2p.methods.amplify.motion import (
    Window,
    cross_entropy,
    likeliest,
    to_classes,
    to_tracks,
    to_velocities,
    weigh_views,
)
from t2p.methods.attention import chosen_attention
from t2p.methods.base import TRUE_CODES, Predict, Variables
from t2p.methods.bounds import COUNT, DROPOUT, NUMBER, POSITIVE, check_bounds
from t2p.methods.rows import counted_rows, row_mean
from t2p.metrics.tracks import amplify_measures, normalized_codebook_perplexity
from t2p.models.amplify import DECODERS, MASKS, OUTPUTS, MotionTokenizer
from t2p.models.fsq import codebook_size, levels_of
from t2p.types import Array, Batch, Prediction, Tracks, WindowSpec

STAGE = "amplify.motion_tokenizer"
MEASURES = ("mse", "normalized_accuracy", "delta_auc")  # of the paper's Table 2
NET_BOUNDS = {
    **dict.fromkeys(("dim", "depth", "heads", "mlp"), COUNT),
    "latents": NUMBER,
    "input_scale": POSITIVE,
    "dropout": DROPOUT,
}
# Settings that the network has by the same names.
NET_KEYS = ("dim", "depth", "heads", "mlp", "mask", "latents", "queries", "output", "per_view", "input_scale")
BOUNDS = {**{f"model.{name}": bound for name, bound in NET_BOUNDS.items()}, **inputs.BOUNDS}


def net_settings() -> dict[str, Any]:
    """The tokenizer's keys at the released code's values."""
    return {
        "dim": 768,
        "depth": 2,  # layers of the encoder; the decoder has half as many (paper: silent)
        "heads": 8,
        "mlp": 256,
        "codebook": 2048,  # nominal size: see t2p.models.fsq.LEVELS
        "window": (15, 15),  # rows and columns of motion classes, pixels
        "mask": "causal",  # or none, diagonal (paper, Appendix E)
        "latents": 0,  # codes of an example; 0: one for each step (released), which are 15; paper: 16
        "queries": "steps",  # of the decoder (released); paper, section 2.2: points
        # Of the decoder: classes of motion; or, with the squared error, coordinates in [-1, 1] (paper, Appendix E) or
        # velocities (lucidrains' amplify-pytorch, whose network is another one).
        "output": "classes",
        "per_view": False,
        "input_scale": 1.0,  # the encoder sees velocities times this; released: as they are, a pixel is 1/64
        "dropout": 0.1,
        # joint: the encoder looks at the first pictures, too (paper, Appendix E: Joint Tokenization; released: no),
        # through a frozen image encoder, to which the other keys belong.
        "images": {"joint": False, **images.settings()},
    }


def configure(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Adds the keys that this stage reads to a base config, at the released code's values, and returns it."""
    config.stage = STAGE
    config.model = ml_collections.ConfigDict(net_settings())
    # weights: of the views, in their order (released code). mask_padding: leave out the steps that repeat an episode's
    # last frame; the released code learns from them.
    config.loss = ml_collections.ConfigDict({"weights": (), "mask_padding": False})
    inputs.configure(config)
    weigh_views(config)
    config.optimizer.update({"schedule": "constant", "b2": 0.95})
    return config


def make_net(
    settings: ml_collections.ConfigDict, window: inputs.Window, config: ml_collections.ConfigDict, platform: str
) -> MotionTokenizer:
    """The tokenizer of `settings` (see net_settings) as the rest of the config has it computed on `platform`."""
    s = settings
    if s.mask not in MASKS or s.queries not in DECODERS or s.output not in OUTPUTS:
        raise UserError(
            f"mask is {s.mask!r}, queries {s.queries!r}, output {s.output!r}; expected one of {', '.join(MASKS)}, of "
            f"{', '.join(DECODERS)}, and of {', '.join(OUTPUTS)}"
        )
    if joint(s) and s.images.trained:
        raise UserError(
            "the motion tokenizer's image encoder is trained (images.trained is True); it looks through a frozen one"
        )
    if s.dim % s.heads:
        raise UserError(f"the motion tokenizer's dim {s.dim} is not a multiple of its {s.heads} heads")
    net = MotionTokenizer(
        views=len(window.views),
        points=window.points,
        steps=window.steps - 1,
        window=_window(s.window),
        levels=levels_of(s.codebook),
        **{name: s[name] for name in NET_KEYS},
        images=joint(s),
        dropout=s.dropout,
        dtype=jnp.dtype(config.dtype),
        remat=config.remat,
        scan=config.scan_layers,
    )
    attention = chosen_attention(config, platform, s.dim // s.heads, net.tokens)
    return net.clone(implementation=attention)


def joint(settings: ml_collections.ConfigDict) -> bool:
    """Whether the tokenizer looks at pictures; settings of older checkpoints do not say."""
    return "images" in settings and settings.images.joint


def make_encoder(settings: ml_collections.ConfigDict, features: str = "") -> ImageEncoder | None:
    """Through which a tokenizer of `settings` looks at pictures, in float32, on which codes depend; None: at none."""
    return ImageEncoder.from_config(settings.images, jnp.float32, features) if joint(settings) else None


def _window(sizes: tuple[int, int]) -> Window:
    if len(sizes) != 2 or any(size < 1 or size % 2 == 0 for size in sizes):
        raise UserError(f"the window of motion classes is {tuple(sizes)}; expected two odd numbers (rows, columns)")
    return sizes[0], sizes[1]


@dataclass(frozen=True)
class MotionTokenizerStage:
    """weights: of the views' losses. mask_padding: leave out steps past an episode's end. encoder: of the pictures
    (variables["frozen"]["images"]), None where motion alone is seen."""

    net: MotionTokenizer
    inputs: inputs.Window
    weights: tuple[float, ...]
    mask_padding: bool
    encoder: ImageEncoder | None = None

    @classmethod
    def from_config(cls, config: ml_collections.ConfigDict, platform: str) -> MotionTokenizerStage:
        check_bounds(config, BOUNDS)
        window = inputs.Window.from_config(config)
        weights = tuple(config.loss.weights)
        if len(weights) != len(window.views) or min(weights) < 0:
            raise UserError(
                f"loss.weights is {weights}; expected a number from 0 on for each of the views, which are "
                f"{', '.join(window.views)}"
            )
        encoder = make_encoder(config.model, config.data.features)
        if encoder is None and images.NAME in config.init_from:
            raise UserError(
                "init_from.images is given, and the motion tokenizer looks at no pictures: set model.images.joint to "
                "True"
            )
        net = make_net(config.model, window, config, platform)
        return cls(net, window, weights, config.loss.mask_padding, encoder)

    @property
    def model(self) -> MotionTokenizer:
        return self.net

    @property
    def window(self) -> WindowSpec:
        return WindowSpec(**self.inputs.fields(), **self.looks())

    def looks(self) -> dict[str, Any]:
        """Of a WindowSpec: pictures or their tokens, or nothing."""
        return {} if self.encoder is None else self.encoder.window()

    def init(self, rng: jax.Array, batch: Batch) -> Variables:
        rngs = jax.random.split(rng)
        velocities = to_velocities(self.inputs.tracks(batch)[0])
        if self.encoder is None:
            tokens, frozen = None, {}
        else:
            tokens = side_by_side(self.encoder.zeros(*velocities.shape[:2]))
            frozen = {images.NAME: self.encoder.init(rngs[1])}
        params = self.net.init({"params": rngs[0]}, velocities, tokens)["params"]
        return {"params": params, "batch_stats": {}, "frozen": frozen}

    def see(self, variables: Variables, batch: Batch) -> Array | None:
        """[B, P, V C] of the first pictures, views side by side (released code); None where motion alone is seen."""
        if self.encoder is None:
            return None
        with jax.default_matmul_precision("highest"):
            return side_by_side(self.encoder.see(self.encoder.find(variables), batch, self.inputs.views))

    def codes(self, variables: Variables, batch: Batch) -> Array:
        """[B, L] of the motion in batch.tracks."""
        velocities, params = to_velocities(self.inputs.tracks(batch)[0]), {"params": variables["params"]}
        found: Any = self.net.apply(params, velocities, self.see(variables, batch), method="encode")
        return found[1]

    def loss(self, variables: Variables, batch: Batch, rng: jax.Array, train: bool) -> tuple[jax.Array, dict[str, Any]]:
        """In validation also the measures of what the codes give back, as tracks."""
        tracks, valid = self.inputs.tracks(batch)
        rows = counted_rows(batch, len(tracks), "tracks", *(("images", "features") if self.encoder else ()))
        params, velocities = {"params": variables["params"]}, to_velocities(tracks)
        seen = self.see(variables, batch)
        if train:
            options: dict[str, Any] = {"train": True, "rngs": {"dropout": rng}, "method": "errors"}
            applied: Any = self.net.apply(params, velocities, self._errors, tracks, seen, **options)
            each, codes = applied  # [B, V, T - 1], [B, L]
        else:
            applied = self.net.apply(params, velocities, seen)
            output, codes, _ = applied
            each = self._errors(output, tracks)
        counted = valid[:, None, 1:] if self.mask_padding else jnp.ones_like(each)
        of_views = (each * counted).sum(-1) / jnp.maximum(counted.sum(-1), 1)
        loss = row_mean(of_views @ jnp.asarray(self.weights), rows)
        used = jnp.where(rows[:, None], codes, -1)  # -1 is no code
        metrics = {"loss": loss, "perplexity": normalized_codebook_perplexity(used, self.codebook)}
        if not train:
            metrics |= measures(self.tracks(output, tracks[:, :, 0]), tracks, self.inputs.image_size[0], rows)
        return loss, {"metrics": metrics, "batch_stats": {}}

    def predict(self, variables: Variables, batch: Batch, rng: jax.Array) -> Prediction:
        """The tracks of all views as the codes give them back, [B, V, T, N, 2]; aux["codes"] [B, L]."""
        tracks, _ = self.inputs.tracks(batch)
        seen = self.see(variables, batch)
        applied: Any = self.net.apply({"params": variables["params"]}, to_velocities(tracks), seen)
        points = self.inputs.to_batch_tracks(self.tracks(applied[0], tracks[:, :, 0]))
        return Prediction(tracks=Tracks(points, jnp.ones(points.shape[:-1], bool)), aux={"codes": applied[1]})

    @property
    def codebook(self) -> int:
        return codebook_size(self.net.levels)

    def readings(self) -> dict[str, Predict]:
        return {TRUE_CODES: self.predict}

    def flops_per_example(self, batch: Batch) -> float:
        return 3 * net_flops(self.net) + self.picture_flops()

    def picture_flops(self) -> float:
        """Of looking at an example's pictures."""
        return 0.0 if self.encoder is None else len(self.inputs.views) * self.encoder.flops()

    def tracks(self, output: Array, start: Array) -> Array:
        """The network's output [B, V, T - 1, N, c] and the first points [B, V, N, 2] -> tracks [B, V, T, N, 2]."""
        if self.net.output == "coordinates":
            return jnp.concatenate([start[:, :, None], output], axis=2)
        if self.net.output == "classes":
            output = likeliest(output, self.net.window, self.inputs.image_size)
        return to_tracks(output, start)

    def _errors(self, output: Array, tracks: Array) -> Array:
        """[..., T - 1, N, c] and [..., T, N, 2] -> [..., T - 1], means over the points."""
        if self.net.output == "classes":
            return cross_entropy(output, to_classes(tracks, self.net.window, self.inputs.image_size)).mean(-1)
        targets = tracks[..., 1:, :, :] if self.net.output == "coordinates" else to_velocities(tracks)
        return jnp.square(output - targets).mean((-2, -1))


def measures(predicted: Array, true: Array, height: int, rows: Array) -> dict[str, Array]:
    """The paper's Table 2 over the rows that count. predicted, true: [B, V, T, N, 2]."""
    each = jax.vmap(lambda p, t: amplify_measures(p, t, height))(predicted, true)
    return {name: row_mean(each[name], rows) for name in MEASURES}


def net_flops(net: MotionTokenizer) -> float:
    """Multiply-adds of the matrix products, times two, of one forward pass of one example."""
    d, n, v = net.dim, net.points, net.views
    length = net.tokens + net.latents
    encoder = net.depth * length * (12 * d * d + 2 * length * d)
    queries = net.tokens if net.queries == "steps" else v * n
    cross = queries * (2 * d * d + 2 * net.length * d) + net.length * 2 * d * d
    decoder = net.depth // 2 * (queries * (20 * d * d + 2 * queries * d) + cross)
    inputs = net.tokens * (n * (1 if net.per_view else v) * 2) * d
    if net.queries == "steps":
        tail = v * net.steps * n * net.mlp * net.outputs + net.tokens * d * (net.mlp + net.outputs)
    else:
        tail = queries * d * net.steps * net.outputs
    return 2.0 * (encoder + decoder + inputs + tail + np.prod([net.length, d, 2 * len(net.levels)]))
