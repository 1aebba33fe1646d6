"""Runs AMPLIFY's quantiser, motion tokenizer and forward dynamics on recorded inputs; every recorded array under its
recorded name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t2p.convert.amplify import encoder_mask, forward_dynamics_rows, fsq_rows, motion_tokenizer_rows, split_images
from t2p.convert.base import Arrays, Constant, Row, to_official, to_variables
from t2p.convert.gpt import without_buffers
from t2p.convert.resnet import resnet_from_arrays
from t2p.methods.amplify.images import one_after_the_other, side_by_side
from t2p.methods.amplify.motion import (
    Size,
    cross_entropy,
    likeliest,
    to_classes,
    to_tracks,
    to_velocities,
    view_weights,
)
from t2p.models import fsq
from t2p.models.amplify import ForwardDynamics, MotionTokenizer
from t2p.parity.encoders import image_tokens
from t2p.types import Array


def quantizer(meta: Mapping[str, Any], inputs: Arrays, checkpoint: Arrays) -> dict[str, np.ndarray]:
    """Fixtures amplify/fsq*: meta["config"]: {prefix of the arrays' names: {"levels", "dim"}}."""
    outputs: dict[str, np.ndarray] = {}
    for prefix, config in meta["config"].items():
        weights = {name.replace(prefix, "quantize.", 1): x for name, x in checkpoint.items() if name.startswith(prefix)}
        given = {name.removeprefix(prefix): x for name, x in inputs.items() if name.startswith(prefix)}
        module = fsq.FSQ(tuple(config["levels"]), config["dim"])
        found = _quantize(module, to_variables(fsq_rows("quantize", "fsq"), weights)["fsq"], given)
        outputs |= {prefix + name: np.asarray(value) for name, value in found.items()}
    return outputs


@partial(jax.jit, static_argnums=0)
def _quantize(module: fsq.FSQ, params: Any, x: Mapping[str, Array]) -> dict[str, Array]:
    def apply(z: Array) -> Any:
        return module.apply({"params": params}, z)

    out, indices, aux = apply(x["z"])
    found = {"projected": aux["projected"], "bounded": aux["bounded"], "codes": aux["codes"]}
    found |= {
        "indices": indices,
        "out": out,
        "grad_z": jax.grad(lambda z: (apply(z)[0] * x["cotangent"]).sum())(x["z"]),
    }
    found["arb_embeddings"] = module.apply({"params": params}, x["arb_indices"], method="embed")
    return found | {"arb_level_codes": fsq.to_codes(x["arb_indices"], module.levels)}


def motion_tokenizer(meta: Mapping[str, Any], inputs: Arrays, checkpoint: Arrays) -> dict[str, np.ndarray]:
    """Fixtures amplify/motion_tokenizer*: meta["config"]: the release's; inputs: traj [b, v, T, n, 2] and, where the
    encoder looks at pictures, what `_seen` takes."""
    config = meta["config"]
    model = tokenizer_from(config, tuple(meta["fsq_levels"]), checkpoint)
    own, encoder = split_images(without_buffers(checkpoint))
    rows = motion_tokenizer_rows(config["num_layers"], model.images)
    params = to_variables(rows, own)
    seen = _seen(config, model, inputs, encoder) if model.images else None
    weights = view_weights(config["cond_cameraviews"], config["loss"]["loss_weights"])
    height, width = config["loss"]["cls_img_size"]
    outputs, grads = _tokenize(model, (height, width), params, inputs["traj"], seen, weights)
    return _arrays(outputs | ({} if seen is None else {"img_tokens": seen}), rows, grads)


def _seen(config: Mapping[str, Any], model: MotionTokenizer, inputs: Arrays, encoder: Arrays) -> Array:
    """[b, p, .] tokens of the pictures, as the encoder is given them (VAEEncoder.forward): the views side by side or,
    with codes of each view, one after the other. inputs: images [b, v, H, W, 3], or img_tokens, [b, v, P, C] or as the
    encoder is given them."""
    if "images" in inputs:
        net, variables = resnet_from_arrays(encoder)
        vision = config.get("vision_encoder") or config.get("vision") or {}
        tokens = image_tokens(vision, net, variables, inputs["images"])
    else:
        tokens = jnp.asarray(inputs["img_tokens"])
    if tokens.ndim == 3:
        return tokens
    return one_after_the_other(tokens) if model.per_view else side_by_side(tokens)


CAUSAL_ENCODER = {True: "causal", False: "none", "diag": "diagonal"}


def tokenizer_from(config: Mapping[str, Any], levels: tuple[int, ...], arrays: Arrays) -> MotionTokenizer:
    """The release's configuration -> the model. arrays: the checkpoint's, whose mask counts if it has one."""
    return MotionTokenizer(
        views=len(config["cond_cameraviews"]),
        points=config["num_tracks"],
        steps=config["track_pred_horizon"] - 1,
        window=tuple(config["loss"]["rel_cls_img_size"]),
        levels=levels,
        dim=config["hidden_dim"],
        depth=config["num_layers"],
        heads=config["num_heads"],
        mlp=config["decoder_mlp_hidden_dim"],
        mask=encoder_mask(arrays) or CAUSAL_ENCODER[config["causal_encoder"]],
        per_view=config["per_view"],
        images=config.get("cond_on_img", False),
    )


@partial(jax.jit, static_argnums=(0, 1))
def _tokenize(
    model: MotionTokenizer, size: Size, params: Any, tracks: Array, images: Array | None, weights: Array
) -> Any:
    velocities = to_velocities(tracks)
    classes = to_classes(tracks, model.window, size)

    def loss(params: Any) -> tuple[Array, dict[str, Array]]:
        applied: Any = model.apply({"params": params}, velocities, images)
        logits, codes, aux = applied
        per_view = cross_entropy(logits, classes).mean((0, 2, 3))
        moved = likeliest(logits, model.window, size)
        total = (per_view * weights).sum()
        return total, {
            "velocities": velocities,
            "z_encoder": aux["encoded"],
            "z_projected": aux["projected"],
            "z_bounded": aux["bounded"],
            "fsq_codes": aux["codes"],
            "code_embeddings": aux["embeddings"],
            "indices": codes,
            "logits": logits,
            "pred_velocities": moved,
            "pred_traj": to_tracks(moved, tracks[:, :, 0]),
            "target_labels": classes,
            "loss_per_view": per_view,
            "loss": total,
        }

    grads, outputs = jax.grad(loss, has_aux=True)(params)
    return outputs, grads


def forward_dynamics(meta: Mapping[str, Any], inputs: Arrays, checkpoint: Arrays) -> dict[str, np.ndarray]:
    """Fixtures amplify/forward_dynamics*: meta["config"]: sizes; inputs: text_emb [b, 1, E], targets [b, L], and
    img_tokens [b, v P, C], or, where the configuration has a vision_encoder, images [b, v, H, W, 3] uint8."""
    config, weights = meta["config"], without_buffers(checkpoint)
    seen: dict[str, Array] = {}
    if vision := config.get("vision_encoder"):
        weights, encoder = split_encoder(weights)
        net, variables = resnet_from_arrays(encoder)
        seen["img_tokens"] = one_after_the_other(image_tokens(vision, net, variables, inputs["images"]))
    model = dynamics_from(config)
    rows = forward_dynamics_rows(model.depth, model.use_bias)
    tokens = seen.get("img_tokens", inputs.get("img_tokens"))
    outputs, grads = _predict(model, to_variables(rows, weights), tokens, inputs["text_emb"][:, 0], inputs["targets"])
    return _arrays(outputs | seen, rows, grads)


def split_encoder(arrays: Arrays) -> tuple[Arrays, Arrays]:
    """A file with forward_dynamics.* and img_encoder.* -> (the first without their prefix, the second)."""
    prefix = "forward_dynamics."
    dynamics = {name.removeprefix(prefix): x for name, x in arrays.items() if name.startswith(prefix)}
    return dynamics, {name: x for name, x in arrays.items() if name.startswith("img_encoder.")}


def dynamics_from(config: Mapping[str, Any]) -> ForwardDynamics:
    """The fixture's sizes -> the model."""
    return ForwardDynamics(
        image_tokens=config["num_views"] * config["tokens_per_view"],
        length=config["pred_seq_len"],
        classes=config["codebook_size"],
        levels=tuple(config["fsq_levels"]),
        dim=config["hidden_dim"],
        depth=config["n_layer"],
        heads=config["n_head"],
        use_bias=config["bias"],
    )


@partial(jax.jit, static_argnums=0)
def _predict(model: ForwardDynamics, params: Any, images: Array, text: Array, targets: Array) -> Any:
    def apply(params: Any, *arguments: Any, method: str | None = None) -> Any:
        return model.apply({"params": params}, *arguments, method=method)

    def loss(params: Any) -> tuple[Array, dict[str, Array]]:
        cond = apply(params, images, text, method="condition")
        logits, trunk = apply(params, cond, targets)
        total = cross_entropy(logits, targets).mean()
        found = {"cond_tokens": cond, "trunk_out": trunk, "logits": logits}
        return total, found | {"pred_indices_tf": logits.argmax(-1), "loss": total}

    grads, outputs = jax.grad(loss, has_aux=True)(params)
    codes, logits = apply(params, outputs["cond_tokens"], method="generate")
    embedded = apply(params, codes, method="embed")
    return outputs | {"ar_indices": codes, "ar_logits": logits, "ar_codes": embedded}, grads


def _arrays(outputs: Mapping[str, Array], rows: Sequence[Row | Constant], grads: Any) -> dict[str, np.ndarray]:
    """Outputs, and every parameter's gradient under its official name."""
    found = {name: np.asarray(value) for name, value in outputs.items()}
    return found | {f"grad__{name}": value for name, value in to_official(rows, grads).items()}
