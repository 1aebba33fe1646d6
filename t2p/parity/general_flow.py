"""Runs General Flow's network on recorded inputs and returns every recorded array under its recorded name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t2p.convert.base import Arrays, to_variables
from t2p.convert.general_flow import general_flow_rows, without_counters
from t2p.geometry.conventions import swap_time_and_points
from t2p.io import UserError
from t2p.methods.general_flow.labels import scale_labels
from t2p.methods.general_flow.losses import LossWeights, flow_losses
from t2p.models.general_flow import GeneralFlow
from t2p.types import Array

# What the official constructor can be asked for and this model has in one form only; a key may be absent.
FIXED: dict[str, Any] = {
    "NAME": "ScaleKPST",
    "traj_mixed_up": 0,
    "clip_align_args.fusion": "early",
    "clip_align_args.act": "elu",
    "clip_align_args.norm": "bn",
    "encoder_args.NAME": "PointNextEncoder",
    "encoder_args.in_channels": 6,
    "encoder_args.sa_use_res": False,
    "encoder_args.radius_scaling": 2,
    "encoder_args.nsample_scaling": 1,
    "encoder_args.num_posconvs": 2,
    "encoder_args.use_res": True,
    "encoder_args.aggr_args.feature_type": "dp_fj",
    "encoder_args.aggr_args.reduction": "max",
    "encoder_args.group_args.NAME": "ballquery",
    "encoder_args.group_args.normalize_dp": True,
    "encoder_args.conv_args.order": "conv-norm-act",
    "encoder_args.act_args.act": "relu",
    "encoder_args.norm_args.norm": "bn",
    "decoder_args.NAME": "PointNextDecoder",
    "cvae_args.NAME": "ScaleTrajCVAE",
    "cvae_args.vae_args.NAME": "ScaleRegVAE",
}


def network(meta: Mapping[str, Any], inputs: Arrays, checkpoint: Arrays) -> dict[str, np.ndarray]:
    """Fixtures baselines/general_flow*, at the highest matmul precision.

    meta["config"]["model"]: the official constructor's arguments; inputs: pos and rgb [b, n, 3], text_feat [b, e],
    dtraj [b, q, t + 1, 3] the true paths, z [m, b, 1, latent], eps [b, q, latent]. Running statistics normalise."""
    config = meta["config"]["model"]
    settings = model_settings(config)
    weights = without_counters(checkpoint)
    variables = to_variables(general_flow_rows(settings, weights), weights)
    model, x = GeneralFlow(**settings), {name: jnp.asarray(value) for name, value in inputs.items()}
    with jax.default_matmul_precision("highest"):
        outputs = _outputs(model, loss_weights(config), variables, x)
    return {name: np.asarray(value) for name, value in outputs.items()}


@partial(jax.jit, static_argnums=(0, 1))
def _outputs(model: GeneralFlow, weights: LossWeights, variables: Any, x: Mapping[str, Array]) -> dict[str, Array]:
    paths = x["dtraj"]
    direction, scale = scale_labels(paths, model.scale_method)
    scene = (x["pos"], x["rgb"], paths[:, :, 0], x["text_feat"])
    pred, aux = model.apply(variables, *scene, direction, scale, x["eps"])
    moved = paths[:, :, 1:] - paths[:, :, :1]
    losses = flow_losses(pred, direction, scale, moved, jnp.ones(paths.shape[:2]), weights)
    losses["acc_loss"] = losses.pop("place_loss")
    z = x["z"][:, :, 0].swapaxes(0, 1)
    sampled = model.apply(variables, z, aux["context"], method="paths")
    return {
        "trajectories": jnp.moveaxis(swap_time_and_points(sampled), 1, 2),
        "text_aligned": aux["text"],
        "point_context_all": aux["points"],
        "sstep": direction.reshape(*direction.shape[:2], -1),
        "scale": scale,
        **{f"loss_{name}": value for name, value in losses.items()},
        **_levels(aux["levels"]),
    }


def _levels(levels: list[tuple[Array, Array]]) -> dict[str, Array]:
    """Points [b, n, 3] and features [b, c, n] of each level, counted from 1."""
    places = {f"encoder_pos_{i}": points for i, (points, _) in enumerate(levels, 1)}
    features = {f"encoder_feat_{i}": x.swapaxes(1, 2) for i, (_, x) in enumerate(levels, 1)}
    return {**places, **features, "encoder_feat_last": features[f"encoder_feat_{len(levels)}"]}


def model_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The official constructor's arguments -> settings of models.general_flow.GeneralFlow."""
    for key, value in FIXED.items():
        if (given := _at(config, key, value)) != value:
            raise UserError(f"{key} is {given!r}; this model has {value!r} only")
    encoder, text, cvae = config["encoder_args"], config["clip_align_args"], config["cvae_args"]
    vae = cvae["vae_args"]
    return {
        "steps": cvae["traj_length"],
        "scale_method": cvae["scale_method"],
        "text_hidden": tuple(text["hidden_dim"]),
        "text_width": text["aligned_width"],
        "blocks": tuple(encoder["blocks"]),
        "strides": tuple(encoder["strides"]),
        "layers": encoder["sa_layers"],
        "width": encoder["width"],
        "expansion": encoder["expansion"],
        "radius": encoder["radius"],
        "neighbours": encoder["nsample"],
        "encoder_layers": vae["n_layer_in"],
        "decoder_layers": vae["n_layer_out"],
        "head_layers": vae["n_layer_pred"],
        "hidden": vae["hidden_dim"],
        "latent": vae["latent_dim"],
    }


def loss_weights(config: Mapping[str, Any]) -> LossWeights:
    """The official weights under our names."""
    args = config["loss_args"]
    return LossWeights(scale=args["s_weight"], divergence=args["k_weight"], places=args["a_weight"])


def _at(config: Mapping[str, Any], key: str, default: Any) -> Any:
    """The value at a dotted key, or the default where any part of it is absent."""
    value: Any = config
    for part in key.split("."):
        if part not in value:
            return default
        value = value[part]
    return value
