"""Runs AMPLIFY's quantiser, motion tokenizer and forward dynamics on recorded inputs; every recorded array under its
recorded name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from t2p.convert.amplify import forward_dynamics_rows, fsq_rows, motion_tokenizer_rows
from t2p.convert.base import Arrays, Constant, Row, to_official, to_variables
from t2p.convert.gpt import without_buffers
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
    """Fixtures amplify/motion_tokenizer*: meta["config"]: the release's; inputs: traj [b, v, T, n, 2]."""
    config = meta["config"]
    model = tokenizer_from(config, tuple(meta["fsq_levels"]))
    rows = motion_tokenizer_rows(config["num_layers"])
    params = to_variables(rows, without_buffers(checkpoint))
    weights = view_weights(config["cond_cameraviews"], config["loss"]["loss_weights"])
    height, width = config["loss"]["cls_img_size"]
    outputs, grads = _tokenize(model, (height, width), params, inputs["traj"], weights)
    return _arrays(outputs, rows, grads)


def tokenizer_from(config: Mapping[str, Any], levels: tuple[int, ...]) -> MotionTokenizer:
    """The release's configuration -> the model."""
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
        mask="causal" if config["causal_encoder"] else "none",
        per_view=config["per_view"],
    )


@partial(jax.jit, static_argnums=(0, 1))
def _tokenize(model: MotionTokenizer, size: Size, params: Any, tracks: Array, weights: Array) -> Any:
    velocities = to_velocities(tracks)
    classes = to_classes(tracks, model.window, size)

    def loss(params: Any) -> tuple[Array, dict[str, Array]]:
        applied: Any = model.apply({"params": params}, velocities)
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
    """Fixtures amplify/forward_dynamics*: meta["config"]: sizes; inputs: img_tokens [b, v P, C], text_emb [b, 1, E],
    targets [b, L]."""
    model = dynamics_from(meta["config"])
    rows = forward_dynamics_rows(model.depth, model.use_bias)
    params = to_variables(rows, without_buffers(checkpoint))
    outputs, grads = _predict(model, params, inputs["img_tokens"], inputs["text_emb"][:, 0], inputs["targets"])
    return _arrays(outputs, rows, grads)


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
