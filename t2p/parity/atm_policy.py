"""Runs ATM's policy on recorded inputs, step by step and in closed loop; every recorded array under its name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t2p.convert.atm_policy import ANCHOR, all_rows, copied, policy_variables
from t2p.convert.atm_policy import policy_settings as sizes
from t2p.convert.base import Arrays, Row, strip_prefix, to_official
from t2p.geometry.conventions import to_atm
from t2p.methods.atm_policy import AtmPolicy, AtmPolicyStage
from t2p.methods.atm_tracks import PredictedTracks
from t2p.methods.columns import Columns
from t2p.models.atm import TrackTransformer
from t2p.models.atm_policy import TrackPolicy, double_grid
from t2p.parity.atm import model_settings
from t2p.types import Array, Batch

STATE_WIDTHS = {"joint_states": 7, "gripper_states": 2, "ee_states": 3}  # in the network's order


def policy(meta: Mapping[str, Any], inputs: Arrays, checkpoint: Arrays) -> dict[str, np.ndarray]:
    """Fixtures atm/policy*, at the highest matmul precision.

    meta: "constructor", "track_transformer_constructor" (the official classes' arguments), "grad_param_names"; inputs:
    obs, track_obs, task_emb, the state's parts, action, and act_* of the closed loop; checkpoint: the official state
    dict. Gradients are those of the loss in evaluation mode."""
    arrays = strip_prefix(checkpoint, ANCHOR)
    settings = policy_settings(meta["constructor"], arrays)
    tracker = model_settings(meta["track_transformer_constructor"])
    rows = all_rows(settings, tracker)
    variables = policy_variables(rows, arrays)
    stage = make_stage(meta["constructor"], settings, tracker, inputs["task_emb"].shape[-1])
    scale = meta["constructor"]["policy_head_cfg"].get("loss_coef", 1.0)
    arguments = _arguments(stage, inputs)
    with jax.default_matmul_precision("highest"):
        outputs, grads = _forward(stage, variables, arguments, scale)
        outputs |= _closed_loop(stage, variables, inputs)
    own = [r for r in rows if isinstance(r, Row) and r.ours.startswith("params/")]
    named = to_official(own, {"params": grads})
    result = {**outputs, **_gradients(meta["grad_param_names"], named | copied(named))}
    return {name: np.asarray(value) for name, value in result.items()}


def policy_settings(constructor: Mapping[str, Any], arrays: Arrays) -> dict[str, Any]:
    """The official constructor's arguments and state dict -> settings of models.atm_policy.TrackPolicy. Sizes are those
    of the weights: some arguments may be left to their defaults, and tracks may be cut shorter than "tracks" says (the
    track-length ablation)."""
    obs, head = constructor["obs_cfg"], constructor["policy_head_cfg"]
    parts = {part: constructor[f"{part}_transformer_cfg"] for part in ("spatial", "temporal")}
    size = tuple(obs["obs_shapes"]["rgb"][-2:])
    return {
        **sizes(arrays, size, {part: chosen["num_heads"] for part, chosen in parts.items()}),
        **{f"{part}_text": chosen.get("use_language_token", True) for part, chosen in parts.items()},
        "mean": tuple(obs["img_mean"]),
        "std": tuple(obs["img_std"]),
        "track_points": obs["obs_shapes"]["tracks"][1],
        "squash": head.get("action_squash", False),
    }


def _state_keys(obs: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(key for key in STATE_WIDTHS if key in obs["extra_states"])


def make_stage(
    constructor: Mapping[str, Any], settings: dict[str, Any], tracker: dict[str, Any], text_width: int
) -> AtmPolicyStage:
    """The stage that the official classes make together."""
    keys, views = _state_keys(constructor["obs_cfg"]), tuple(f"view_{i}" for i in range(settings["views"]))
    tracks = PredictedTracks(TrackTransformer(**tracker), settings["track_points"], "", text_width)
    zero = constructor["track_cfg"].get("use_zero_track", False)
    columns = Columns(keys, settings["states"], None)
    steps = constructor["obs_cfg"]["max_seq_len"]
    return AtmPolicyStage(TrackPolicy(**settings), None if zero else tracks, columns, views, steps)


def _arguments(stage: AtmPolicyStage, inputs: Arrays) -> dict[str, Any]:
    """The recorded inputs, channels last; of the pictures for tracks those that are looked at."""
    frames = 1 if stage.tracker is None else stage.tracker.net.frames
    return {
        "images": jnp.asarray(np.moveaxis(inputs["obs"], 3, -1)),
        "clips": jnp.asarray(np.moveaxis(inputs["track_obs"][:, :, :, -frames:], 4, -1)),
        "text": jnp.asarray(inputs["task_emb"]),
        "states": tuple(jnp.asarray(inputs[key]) for key in stage.columns.proprio),
        "actions": jnp.asarray(inputs["action"]),
    }


@partial(jax.jit, static_argnums=0)
def _forward(stage: AtmPolicyStage, variables: Any, x: Mapping[str, Any], scale: float) -> tuple[dict[str, Array], Any]:
    tracks = stage.tracks(variables, x["clips"], x["text"])

    def loss(params: Any) -> tuple[Array, dict[str, Array]]:
        own = {"params": params, "batch_stats": variables["batch_stats"]}
        actions, aux = stage.net.apply(own, x["images"], tracks, x["text"], x["states"])
        target = x["actions"].reshape(actions.shape)
        value = scale * jnp.square(actions - target).mean()
        return value, {"loss": value, "action_pred": actions, **aux}

    grads, out = jax.grad(loss, has_aux=True)(variables["params"])
    b, t = x["images"].shape[0], x["images"].shape[2]
    per_step = lambda y: y.reshape(b, t, *y.shape[1:])  # noqa: E731
    names = ("loss", "action_pred", "spatial_in", "spatial_out", "temporal_in", "temporal_flat_in", "temporal_out")
    found = {name: out[name] for name in (*names, "head_in")}
    found["temporal_mask"] = out["temporal_mask"][None].astype(jnp.float32)
    found["image_tokens"] = per_step(out["image_tokens"])
    if "track_patch_embed" in out:
        embed = out["track_patch_embed"]
        found["track_patch_embed"] = embed.reshape(-1, *embed.shape[2:])
    return {**found, "recon_track": tracks}, grads


def _closed_loop(stage: AtmPolicyStage, variables: Any, inputs: Arrays) -> dict[str, np.ndarray]:
    """Actions and tracks of every step of an episode in each environment; and the grid that is asked for."""
    acting = AtmPolicy(stage, "osc_delta")
    keys = jax.random.split(jax.random.key(0), inputs["act_obs"].shape[1])
    state: Any = None
    actions, tracks = [], []
    for step in range(len(inputs["act_obs"])):
        obs = Batch(
            images={view: inputs["act_obs"][step][:, i, None] for i, view in enumerate(stage.views)},
            proprio={key: inputs[f"act_{key}"][step][:, None] for key in stage.columns.proprio},
            text=inputs["task_emb"],
        )
        state = acting.reset(variables, obs, keys) if state is None else state
        action, state, aux = _act(acting, variables, state, obs, keys)
        actions.append(np.asarray(action))
        tracks.append(_tracks(stage, aux, len(keys)))
    grid = double_grid(stage.net.track_points)
    return {"act_action": np.stack(actions), "act_tracks": np.stack(tracks), "grid_points": grid}


@partial(jax.jit, static_argnums=0)
def _act(acting: AtmPolicy, variables: Any, state: Any, obs: Batch, keys: Array) -> Any:
    return acting.act(variables, state, obs, keys)


def _tracks(stage: AtmPolicyStage, aux: Mapping[str, Any], environments: int) -> np.ndarray:
    """[E, V, T, N, 2] in ATM's coordinates, zeros where they stand for tracks."""
    if "tracks" in aux:
        return to_atm(np.asarray(aux["tracks"]), stage.net.image_size)
    return np.asarray(stage.no_tracks(environments, 1))[:, :, 0]


def _gradients(names: list[str], grads: Arrays) -> dict[str, np.ndarray]:
    """Norms of all, and the whole gradient of tokens and tables."""
    squares = {name: np.square(g, dtype=np.float64).sum() for name, g in grads.items()}
    norms = np.sqrt([squares[name] for name in names]).astype(np.float32)
    whole = np.sqrt(sum(squares[name] for name in names)).astype(np.float32)
    tables = {f"grad_{name}": g for name, g in grads.items() if "." not in name}
    return {"grad_norms": norms, "grad_global_norm": whole, **tables}
