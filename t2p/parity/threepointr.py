"""Runs 3PoinTr's networks on recorded inputs and returns every recorded array under its recorded name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t2p.convert.base import Arrays, to_official, to_variables
from t2p.convert.threepointr import readout_rows, track_net_rows
from t2p.geometry.conventions import swap_time_and_points
from t2p.methods.threepointr import scaling
from t2p.methods.threepointr.losses import track_loss, track_target
from t2p.metrics.points3d import sample_ade
from t2p.models.threepointr import Readout, TrackNet
from t2p.types import Array

MILLIMETRES = 1000.0


def networks(meta: Mapping[str, Any], inputs: Arrays, checkpoint: Arrays) -> dict[str, np.ndarray]:
    """Fixture threepointr/networks, at the highest matmul precision.

    meta["config"]: sizes and flags; inputs: cloud [b, n, 3] metres, noise [b, n, 3] in 3PoinTr's coordinates,
    displacement [b, n, t, 3] metres, visible [b, n, t]; checkpoint: weights under "track_net." and "policy."."""
    config = meta["config"]
    net, readout = models(config)
    x = {name: jnp.asarray(inputs[name]) for name in ("cloud", "noise")}
    x["displacement"] = swap_time_and_points(jnp.asarray(inputs["displacement"]))
    x["visible"] = swap_time_and_points(jnp.asarray(inputs["visible"])[..., None])[..., 0]
    with jax.default_matmul_precision("highest"):
        outputs = _track_net(net, config["radius_quantile"], _below(checkpoint, "track_net."), x)
        params = to_variables(readout_rows({"width": readout.width}), _below(checkpoint, "policy."))
        condition, aux = readout.apply({"params": params}, outputs["tracks_normalised"])
    outputs |= {"policy_condition": condition, "policy_track_tokens": aux["track_tokens"]}
    outputs |= {"ade_mm_per_sample": _ade(outputs["tracks_metric"], x)}
    point_major = {n: swap_time_and_points(outputs[n]) for n in ("tracks_normalised", "tracks_metric")}
    return {name: np.asarray(value) for name, value in (outputs | point_major).items()}


def models(config: Mapping[str, Any]) -> tuple[TrackNet, Readout]:
    """The networks that a fixture's config describes; the readout has one head."""
    epsilon = config["norm_eps"]
    net = TrackNet(
        width=config["width"],
        depth=config["depth"],
        heads=config["heads"],
        steps=config["T"],
        cross_attend_tokens=config["cross_attend_tokens"],
        epsilon=epsilon,
    )
    return net, Readout(width=config["token"], condition=config["cond"], epsilon=epsilon)


def _below(checkpoint: Arrays, prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): value for name, value in checkpoint.items() if name.startswith(prefix)}


def _track_net(net: TrackNet, radius_quantile: float, weights: Arrays, x: Mapping[str, Array]) -> dict[str, Any]:
    """Outputs, loss, and the norm of its gradient for each tensor: 0 for those of a branch that is switched off."""
    settings = {"depth": net.depth, "cross_attend_tokens": net.cross_attend_tokens}
    rows = track_net_rows(settings)
    off = {r.official for r in track_net_rows(settings | {"cross_attend_tokens": True})} - {r.official for r in rows}
    params = to_variables(rows, {name: value for name, value in weights.items() if name not in off})
    outputs, grads = _step(net, radius_quantile, params, x)
    norms = {f"grad_norm/{name}": np.linalg.norm(g) for name, g in to_official(rows, grads).items()}
    return outputs | norms | {f"grad_norm/{name}": 0.0 for name in off & set(weights)}


@partial(jax.jit, static_argnums=(0, 1))
def _step(net: TrackNet, radius_quantile: float, params: Any, x: Mapping[str, Array]) -> tuple[dict[str, Array], Any]:
    """What the network makes of the noisy cloud (tracks are time-major), its loss, and the loss's gradient."""
    centre, radius = scaling.centre_and_radius(x["cloud"], radius_quantile)
    cloud = scaling.to_threepointr(x["cloud"], centre, radius)
    noisy = cloud + x["noise"]
    target = track_target(noisy, scaling.to_threepointr_displacement(x["displacement"], radius))

    def loss(params: Any) -> tuple[Array, dict[str, Array]]:
        tracks, aux = net.apply({"params": params}, noisy)
        value = track_loss(tracks, target, x["visible"])
        return value, {"loss": value, "tokens": aux["tokens"], "tracks_normalised": tracks}

    grads, outputs = jax.grad(loss, has_aux=True)(params)
    outputs |= {"centre": centre[:, None], "radius": radius, "cloud_normalised": cloud}
    outputs["tracks_metric"] = scaling.from_threepointr(outputs["tracks_normalised"], centre, radius)
    return outputs, grads


def _ade(tracks: Array, x: Mapping[str, Array]) -> np.ndarray:
    """[b] millimetres, over the pairs that are visible at the step itself; all points are visible at step 0."""
    start = x["cloud"][:, None]
    pred, true = (jnp.concatenate([start, steps], axis=1) for steps in (tracks, start + x["displacement"]))
    visible = jnp.concatenate([jnp.ones_like(x["visible"][:, :1]), x["visible"]], axis=1)
    return MILLIMETRES * sample_ade(pred, true, visible, seen_before=False)
