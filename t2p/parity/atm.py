"""Runs ATM's models on recorded inputs and returns every recorded array under its recorded name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t2p.convert.atm import ANCHOR, track_transformer_rows
from t2p.convert.base import Arrays, strip_prefix, to_official, to_variables
from t2p.methods.atm import image_error, track_error
from t2p.models.atm import TrackTransformer, unpatchify
from t2p.types import Array

INVISIBLE = 0.1  # weight of invisible points in the official validation loss


def track_transformer(meta: Mapping[str, Any], inputs: Arrays, checkpoint: Arrays) -> dict[str, np.ndarray]:
    """The track transformer (fixture atm/track_transformer), at the highest matmul precision.

    meta: "constructor" (the official class's arguments), "loss_weights", "grad_param_names"; inputs: vid, track,
    task_emb, vis, patch_mask; checkpoint: the official state dict."""
    settings = model_settings(meta["constructor"])
    rows = track_transformer_rows(settings)
    params = to_variables(rows, strip_prefix(checkpoint, ANCHOR))
    model = TrackTransformer(**settings)
    arguments = _arguments(model, inputs)
    with jax.default_matmul_precision("highest"):
        outputs = _forward(model, params, arguments)
        losses, grads = _losses(model, params, arguments, meta["loss_weights"])
    result = {**outputs, **losses, **_gradients(meta["grad_param_names"], to_official(rows, grads))}
    return {name: np.asarray(value) for name, value in result.items()}


def model_settings(constructor: Mapping[str, Any]) -> dict[str, Any]:
    """The official constructor's arguments -> settings of models.atm.TrackTransformer."""
    body, track = constructor["transformer_cfg"], constructor["track_cfg"]
    video, text = constructor["vid_cfg"], constructor["language_encoder_cfg"]
    size = video["img_size"]
    return {
        "dim": body["dim"],
        "depth": body["depth"],
        "heads": body["heads"],
        "head_dim": body["dim_head"] or body["dim"] // body["heads"],
        "attention_dropout": body["attn_dropout"],
        "mlp_dropout": body["ff_dropout"],
        "image_size": (size, size) if isinstance(size, int) else tuple(size),
        "patch": video["patch_size"],
        "frames": video.get("frame_stack", 1),
        "mean": tuple(video.get("img_mean", (0.5, 0.5, 0.5))),
        "std": tuple(video.get("img_std", (0.5, 0.5, 0.5))),
        "track_steps": track["num_track_ts"],
        "track_patch": track.get("patch_size", 1),
        "text_hidden": text["hidden_size"],
        "text_layers": text["num_layers"],
    }


def _arguments(model: TrackTransformer, inputs: Arrays) -> dict[str, Array]:
    """The recorded inputs as the model takes them: the last frames, channels last, the points at step 0."""
    images = np.moveaxis(inputs["vid"][:, -model.frames :], 2, -1)
    return {
        "images": jnp.asarray(images),
        "track": jnp.asarray(inputs["track"]),
        "text": jnp.asarray(inputs["task_emb"]),
        "visible": jnp.asarray(inputs["vis"]),
        "patch_mask": jnp.asarray(inputs["patch_mask"]),
    }


def _apply(model: TrackTransformer, params: Any, x: Mapping[str, Array], mask: Array | None) -> Any:
    return model.apply({"params": params}, x["images"], x["track"][:, 0], x["text"], mask)


@partial(jax.jit, static_argnums=0)
def _forward(model: TrackTransformer, params: Any, x: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs and intermediates of the run that sees all patches, and of the masked one."""
    tracks, patches, aux = _apply(model, params, x, None)
    masked_tracks, masked_patches, masked = _apply(model, params, x, x["patch_mask"])
    first = aux["blocks"][0]
    return {
        "vid_normalized": jnp.moveaxis(aux["pixels"], -1, 2),
        "target_patches": aux["target_patches"],
        "track_input": aux["track_input"],
        "track_tokens": aux["track_tokens"],
        "image_patch_embed": aux["patch_embed"],
        "image_tokens": aux["image_tokens"],
        "masked_image_tokens": masked["image_tokens"],
        "language_token": aux["language_token"],
        "sequence_in": aux["sequence_in"],
        "attn0_out": first["attention"],
        "ff0_out": first["mlp"],
        "layer0_out": first["out"],
        "sequence_out": aux["sequence_out"],
        "rec_track": tracks,
        "rec_patches": patches,
        "rec_image": jnp.moveaxis(unpatchify(patches, model.image_size, model.patch), -1, 2),
        "masked_sequence_out": masked["sequence_out"],
        "masked_rec_track": masked_tracks,
        "masked_rec_patches": masked_patches,
    }


@partial(jax.jit, static_argnums=0)
def _losses(
    model: TrackTransformer, params: Any, x: Mapping[str, Array], weights: Mapping[str, float]
) -> tuple[dict[str, Array], Any]:
    """Losses of the masked run as in training (every point counts fully) and in validation, and the gradient."""

    def train_loss(params: Any) -> tuple[Array, dict[str, Array]]:
        tracks, patches, aux = _apply(model, params, x, x["patch_mask"])
        image = image_error(patches, aux["target_patches"]).mean()
        result: dict[str, Array] = {}
        for name, weight in (("train", 1.0), ("val", jnp.where(x["visible"] == 0, INVISIBLE, x["visible"]))):
            point_weight = jnp.broadcast_to(weight, x["visible"].shape)
            track = track_error(tracks, x["track"], point_weight, None).mean()
            total = weights["lbd_track"] * track + weights["lbd_img"] * image
            result |= {f"{name}_loss": total, f"{name}_track_loss": track, f"{name}_img_loss": image}
        return result["train_loss"], result

    return jax.grad(train_loss, has_aux=True)(params)[::-1]


def _gradients(names: list[str], grads: Arrays) -> dict[str, np.ndarray]:
    squares = {name: np.square(g, dtype=np.float64).sum() for name, g in grads.items()}
    return {
        "grad_norms": np.sqrt([squares[name] for name in names]).astype(np.float32),
        "grad_global_norm": np.sqrt(sum(squares.values())).astype(np.float32),
        "grad_mask_token": grads["mask_token"],
        "grad_track_embed": grads["track_embed"],
        "grad_to_kv_0": grads["transformer.layers.0.0.to_kv.weight"],
        "grad_img_patch_proj": grads["img_proj_encoder.proj.weight"],
    }
