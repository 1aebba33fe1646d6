"""AMPLIFY's second stage: the motion to come, as codes, from pictures and a sentence (Collins et al. 2025, section 2.3;
released code)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import ml_collections

from t2p import pytrees  # noqa: F401
from t2p.io import UserError
from t2p.methods.amplify import images, inputs, tokenizer
from t2p.methods.amplify.images import ImageEncoder, one_after_the_other
from t2p.methods.amplify.motion import cross_entropy
from t2p.methods.amplify.tokenizer import MotionTokenizerStage
from t2p.methods.attention import chosen_attention
from t2p.methods.base import MODEL, TAUGHT, TRUE_CODES, Predict, Variables
from t2p.methods.bounds import COUNT, DROPOUT, check_bounds
from t2p.methods.rows import counted_rows, row_mean
from t2p.models.amplify import ForwardDynamics, MotionTokenizer
from t2p.models.fsq import codebook_size
from t2p.models.layers import without_cudnn
from t2p.types import Array, Batch, Prediction, Tracks, WindowSpec

STAGE = "amplify.forward_dynamics"
CLASSES = ("nominal", "masked", "codes")
NET_BOUNDS = {**dict.fromkeys(("depth", "heads"), COUNT), "dropout": DROPOUT}
BOUNDS = {
    **{f"model.tokenizer.{name}": bound for name, bound in tokenizer.NET_BOUNDS.items()},
    **{f"model.dynamics.{name}": bound for name, bound in NET_BOUNDS.items()},
    **inputs.BOUNDS,
}


def net_settings() -> dict[str, Any]:
    """Forward dynamics' keys at the released code's values; its width is the tokenizer's."""
    return {
        "depth": 8,  # paper, Appendix E: 4 does slightly better
        "heads": 8,
        "dropout": 0.1,
        "use_bias": False,
        # Of the head: the codebook's nominal size (released), the same with what is no code masked, or codes alone.
        "classes": "nominal",
    }


def configure(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Adds the keys that this stage reads to a base config, at the released code's values, and returns it."""
    config.stage = STAGE
    parts = {"tokenizer": tokenizer.net_settings(), "dynamics": net_settings(), "images": images.settings()}
    config.model = ml_collections.ConfigDict(parts)
    inputs.configure(config)
    config.text.update({"encoder": "t5", "width": 512})
    for name in ("tokenizer", images.NAME):
        config.init_from[name] = ml_collections.ConfigDict({"path": "", "rules": ()})
    config.optimizer.update({"schedule": "constant", "b2": 0.95, "clip_norm": 1.0})
    return config


def make_net(
    chosen: ml_collections.ConfigDict, motion: MotionTokenizer, tokens: int, config: Any, platform: str
) -> ForwardDynamics:
    """The network of `chosen` (see net_settings) for a tokenizer's codes after so many image tokens."""
    if chosen.classes not in CLASSES:
        raise UserError(f"model.dynamics.classes is {chosen.classes!r}; expected one of {', '.join(CLASSES)}")
    if motion.dim % chosen.heads:
        raise UserError(f"model.tokenizer.dim {motion.dim} is not a multiple of model.dynamics.heads {chosen.heads}")
    nominal = config.model.tokenizer.codebook
    net = ForwardDynamics(
        image_tokens=tokens,
        length=motion.length,
        classes=codebook_size(motion.levels) if chosen.classes == "codes" else nominal,
        masked=chosen.classes == "masked",
        levels=motion.levels,
        dim=motion.dim,
        **{name: chosen[name] for name in ("depth", "heads", "dropout", "use_bias")},
        dtype=jnp.dtype(config.dtype),
        remat=config.remat,
        scan=config.scan_layers,
    )
    length = net.conditions + net.length
    return net.clone(implementation=chosen_attention(config, platform, motion.dim // chosen.heads, length))


@dataclass(frozen=True)
class ForwardDynamicsStage:
    """The frozen tokenizer (variables["frozen"]["tokenizer"]) names the codes and gives their embeddings, the image
    encoder the tokens, `net` predicts. It trains in config.dtype; `exact` is the stage with which codes are chosen."""

    builds_on: ClassVar[Mapping[str, Mapping[str, str]]] = {"tokenizer": {"model.tokenizer": "model", **inputs.SHARED}}

    motion: MotionTokenizerStage
    images: ImageEncoder
    net: ForwardDynamics

    @classmethod
    def from_config(cls, config: ml_collections.ConfigDict, platform: str) -> ForwardDynamicsStage:
        check_bounds(config, BOUNDS)
        window = inputs.Window.from_config(config)
        motion = tokenizer.make_net(config.model.tokenizer, window, config, platform)
        encoder = ImageEncoder.from_config(config.model.images, jnp.dtype(config.dtype), config.data.features)
        tokens = len(window.views) * encoder.tokens
        net = make_net(config.model.dynamics, motion, tokens, config, platform)
        weights = (1.0,) * len(window.views)  # its loss is not used here
        looks = tokenizer.make_encoder(config.model.tokenizer)
        return cls(MotionTokenizerStage(motion, window, weights, False, looks), encoder, net)

    def exact(self) -> ForwardDynamicsStage:
        """The same in float32. Half precision, wherever it is left, moves the logits by a share of 0.004 and more, and
        the best of 2048 with it once in a hundred times (benchmarks/amplify_codes.py)."""
        implementation = without_cudnn(self.net.implementation)
        net = self.net.clone(dtype=jnp.float32, implementation=implementation)
        return replace(self, images=self.images.exact(), net=net)

    @property
    def model(self) -> ForwardDynamics:
        return self.net

    @property
    def inputs(self) -> inputs.Window:
        return self.motion.inputs

    @property
    def encoder(self) -> ImageEncoder:
        return self.images

    @property
    def window(self) -> WindowSpec:
        return WindowSpec(**self.inputs.fields(), **self.motion.looks() | self.images.window(), text=True)

    def init(self, rng: jax.Array, batch: Batch) -> Variables:
        rngs = jax.random.split(rng, 3)
        tokenizer = self.motion.init(rngs[0], batch)
        own = self.images.init(rngs[1])
        tokens = one_after_the_other(self.images.zeros(inputs.batch_rows(batch), len(self.inputs.views)))

        def run(net: ForwardDynamics, tokens: Array, text: Array, codes: Array) -> Any:
            return net(net.condition(tokens, text), codes)

        codes = jnp.zeros((len(tokens), self.net.length), jnp.int32)
        params = dict(self.net.init({"params": rngs[2]}, tokens, batch.text, codes, method=run)["params"])
        del params["fsq"]  # the tokenizer's
        # An encoder of its own comes with the tokenizer: its codes are those of the weights that it was trained on.
        frozen = {"tokenizer": {name: tokenizer[name] for name in ("params", "frozen") if tokenizer[name]}}
        return self.images.place({"params": {"dynamics": params}, "batch_stats": {}, "frozen": frozen}, own)

    def loss(self, variables: Variables, batch: Batch, rng: jax.Array, train: bool) -> tuple[jax.Array, dict[str, Any]]:
        """Mean cross-entropy of the codes, each after the true ones before it. In validation the likeliest codes, still
        after the true ones, are decoded and measured as tracks (released code)."""
        tracks, _ = self.inputs.tracks(batch)
        rows = counted_rows(batch, len(tracks), "tracks", "images", "features")
        codes = self.codes(variables, batch)
        logits = self.logits(variables, batch, codes, rng) if train else self.exact_logits(variables, batch, codes)
        loss = row_mean(cross_entropy(logits, codes).mean(-1), rows)
        best = logits.argmax(-1)
        metrics = {"loss": loss, "accuracy": row_mean((best == codes).mean(-1), rows)}
        if not train:
            height = self.inputs.image_size[0]
            metrics |= tokenizer.measures(self.decode(variables, best, tracks[:, :, 0]), tracks, height, rows)
            resting = jnp.broadcast_to(tracks[:, :, :1], tracks.shape)
            baseline = tokenizer.measures(resting, tracks, height, rows)
            metrics |= {f"still_{name}": value for name, value in baseline.items()}
        return loss, {"metrics": metrics, "batch_stats": {}}

    def predict(self, variables: Variables, batch: Batch, rng: jax.Array) -> Prediction:
        """Codes one after the other, greedily, and the tracks that they mean from where batch.tracks begins, [B, V, T,
        N, 2]; aux["codes"] [B, L]."""
        with jax.default_matmul_precision("highest"):
            exact = self.exact()
            codes = exact.generate(variables, exact.condition(variables, batch))
        return self._prediction(variables, batch, codes)

    def predict_taught(self, variables: Variables, batch: Batch, rng: jax.Array) -> Prediction:
        """The same with the likeliest code after the true ones of batch.tracks, at every place (released code: what
        its validation measures)."""
        codes = self.codes(variables, batch)
        return self._prediction(variables, batch, self.exact_logits(variables, batch, codes).argmax(-1))

    def reconstruct(self, variables: Variables, batch: Batch, rng: jax.Array) -> Prediction:
        """The true codes of batch.tracks and the tracks that they stand for."""
        return self.motion.predict(self._tokenizer(variables), batch, rng)

    @property
    def codebook(self) -> int:
        return self.motion.codebook

    def readings(self) -> dict[str, Predict]:
        return {MODEL: self.predict, TAUGHT: self.predict_taught, TRUE_CODES: self.reconstruct}

    def _prediction(self, variables: Variables, batch: Batch, codes: Array) -> Prediction:
        start = self.inputs.tracks(batch)[0][:, :, 0]
        points = self.inputs.to_batch_tracks(self.decode(variables, codes, start))
        return Prediction(tracks=Tracks(points, jnp.ones(points.shape[:-1], bool)), aux={"codes": codes})

    def logits(self, variables: Variables, batch: Batch, codes: Array, dropout: jax.Array | None = None) -> Array:
        """[B, L, classes] after the true codes. dropout: its rng, None: without."""
        options: dict[str, Any] = {} if dropout is None else {"train": True, "rngs": {"dropout": dropout}}
        own, cond = self.net_variables(variables), self.condition(variables, batch)
        found: Any = self.net.apply(own, cond, codes, method="logits", **options)
        return found

    def exact_logits(self, variables: Variables, batch: Batch, codes: Array) -> Array:
        """The same without dropout, in float32."""
        with jax.default_matmul_precision("highest"):
            return self.exact().logits(variables, batch, codes)

    def codes(self, variables: Variables, batch: Batch) -> Array:
        """The true codes [B, L] of batch.tracks."""
        return jax.lax.stop_gradient(self.motion.codes(self._tokenizer(variables), batch))

    def condition(self, variables: Variables, batch: Batch) -> Array:
        """[B, V P + 1, d] of a batch's pictures, or their tokens, and sentences."""
        tokens = self.images.see(self.images.find(variables), batch, self.inputs.views)
        return self.condition_on(variables, one_after_the_other(tokens), batch.text)

    def condition_on(self, variables: Variables, tokens: Array, text: Array) -> Array:
        """The same of image tokens [B, V P, C] and sentence vectors [B, E]."""
        cond: Any = self.net.apply(self.net_variables(variables), tokens, text, method="condition")
        return cond

    def generate(self, variables: Variables, cond: Array, dropout: jax.Array | None = None) -> Array:
        """Greedy codes [B, L]; classes beyond the codebook, if not masked, wrap around, as in the released code.
        dropout: its rng, where it is left on."""
        options: dict[str, Any] = {} if dropout is None else {"train": True, "rngs": {"dropout": dropout}}
        found: Any = self.net.apply(self.net_variables(variables), cond, method="generate", **options)
        return found[0]

    def embed(self, variables: Variables, codes: Array) -> Array:
        """[B, L] -> [B, L, d]."""
        own = {"params": self._tokenizer(variables)["params"]}
        found: Any = self.motion.net.apply(own, codes, method="embed")
        return found

    def decode(self, variables: Variables, codes: Array, start: Array) -> Array:
        """Codes [B, L] and first points [B, V, N, 2] -> tracks [B, V, T, N, 2] in AMPLIFY's coordinates."""
        embedded, own = self.embed(variables, codes), {"params": self._tokenizer(variables)["params"]}
        output: Any = self.motion.net.apply(own, embedded, method="decode")
        return self.motion.tracks(output, start)

    def net_variables(self, variables: Variables) -> Variables:
        """The network's parameters; its quantiser is the frozen tokenizer's."""
        fsq = jax.lax.stop_gradient(variables["frozen"]["tokenizer"]["params"]["fsq"])
        return {"params": {**variables["params"]["dynamics"], "fsq": fsq}}

    def flops_per_example(self, batch: Batch) -> float:
        assert batch.text is not None, "the window asks for text"
        pictures = len(self.inputs.views) * self.images.flops() * (3 if self.images.trained else 1)
        own = 3 * net_flops(self.net, self.images.net.width, batch.text.shape[-1])
        return own + pictures + tokenizer.net_flops(self.motion.net) + self.motion.picture_flops()

    def _tokenizer(self, variables: Variables) -> Variables:
        """Its variables; in "frozen" those of the image encoder that it looks through, if it does."""
        return jax.lax.stop_gradient({"frozen": {}, **variables["frozen"]["tokenizer"]})


def net_flops(net: ForwardDynamics, image: int, text: int) -> float:
    """Multiply-adds of the matrix products, times two, of one forward pass of one example."""
    d, length = net.dim, net.conditions + net.length
    trunk = net.depth * length * (12 * d * d + 2 * length * d)
    trunk -= net.conditions * (9 * d * d + 2 * length * d)  # the last layer's outputs for them are not asked for
    return 2.0 * (trunk + net.image_tokens * image * d + text * d + net.length * d * net.classes)
