"""ATM's released policies (Large-Trajectory-Model/ATM): names, layouts, and the network's settings from shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from t2p.convert.atm import (
    count,
    patch_kernel,
    track_kernel,
    track_transformer_rows,
    track_transformer_settings,
)
from t2p.convert.base import (
    Arrays,
    Constant,
    Row,
    constants,
    layer_norm,
    linear,
    reshape,
    to_official,
    to_variables,
)
from t2p.convert.registry import Converted, Options
from t2p.convert.resnet import KERNEL, batch_norm
from t2p.io import UserError
from t2p.models.atm_policy import STEM, TIME_BASE, VARIANTS, Depth, patch_grid

ANCHOR = "action_cls_token"  # a name that every file of a policy has
TRACKER = "track."  # before the names of the frozen track transformer
FROZEN = "frozen/track_transformer/params/"
STATES, COPY = "extra_encoder.encoders", "extra_encoder.proprio_mlp"  # the last of STATES once more
NEEDED = (  # that settings are read from
    *("image_encoders.0.proj.weight", "track_proj_encoder.conv.weight", "track_patch_pos_embed"),
    *(f"{part}_transformer.layers.0.{x}.weight" for part in ("spatial", "temporal") for x in ("1.qkv", "3.net.0")),
    *("language_encoder_spatial.projection.0.weight", "policy_head.net.0.weight"),
)
COUNTER = "num_batches_tracked"
WAVES = "temporal_position_encoding_fn.inv_freq"
STATE_NAMES = {7: "joint_states", 2: "gripper_states", 3: "ee_states"}  # by their numbers
HEADS = {part: VARIANTS["released"][part].heads for part in ("spatial", "temporal")}
Rows = list[Row | Constant]


def policy_rows(model: Mapping[str, Any]) -> Rows:
    """model: settings of models.atm_policy.TrackPolicy, tracks in both places. The rows lead to {"params",
    "batch_stats"}."""
    d, c = model["dim"], model["temporal_dim"] or model["dim"]
    views, patch, tokens = model["views"], model["track_patch"], model["track_steps"] // model["track_patch"]
    rows: Rows = [
        Row("spatial_token", "spatial_token", reshape((1, 1, d), (d,))),
        Row("modality_embed", "modality_table", _leading(2 * views + 1, d)),
        Row("track_patch_pos_embed", "track_table", _leading(views * tokens, d - 16)),
        Row("img_patch_pos_embed", "image_table", _leading(_patches(model), d)),
        Row("action_cls_token", "action_token", reshape((1, 1, c), (c,))),
        Row("track_proj_encoder.conv.weight", "embed_tracks/embed/kernel", track_kernel(patch, 2 + views, d)),
        Row("track_proj_encoder.conv.bias", "embed_tracks/embed/bias"),
        Constant(WAVES, (TIME_BASE ** (-np.arange(0, c, 2) / c)).astype(np.float32)),
    ]
    for part in ("spatial", "temporal"):
        for i in range(model["text_layers"]):
            rows += linear(f"language_encoder_{part}.projection.{2 * i}", f"project_{part}/layer_{i}")
        for i in range(model[part].depth):
            rows += _block_rows(f"{part}_transformer.layers.{i}", f"{part}_layers/block_{i}")
    rows += linear("spatial_downsample", "down") if model["temporal_dim"] else []
    rows += _state_rows(len(model["states"]), model.get("state_layers", 0))
    for i in range(model["head_layers"] + 1):
        rows += linear(f"policy_head.net.{2 * i}", f"head/layer_{i}")
    return _below("params/", rows) + [row for i in range(views) for row in _stem_rows(i, model)]


def all_rows(model: Mapping[str, Any], tracker: Mapping[str, Any]) -> Rows:
    """Those of a policy with its frozen track transformer. tracker: settings of models.atm.TrackTransformer."""
    theirs = [replace(row, official=TRACKER + row.official) for row in track_transformer_rows(tracker)]
    return policy_rows(model) + _below(FROZEN, theirs)


def _below(path: str, rows: Rows) -> Rows:
    return [replace(row, ours=path + row.ours) if isinstance(row, Row) else row for row in rows]


def policy_variables(rows: Sequence[Row | Constant], arrays: Arrays) -> dict[str, Any]:
    """A policy's file -> what the rows lead to. UserError where the copy of the last state encoder differs, or the
    waves of the time encoding are others."""
    return to_variables(rows, _own_arrays(rows, arrays))


def policy_arrays(rows: Sequence[Row | Constant], variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Variables -> all arrays of an official file; counters of batches are 0."""
    arrays = to_official(rows, variables) | constants(rows)
    norms = [name for name in arrays if name.endswith("running_var")]
    arrays |= {name.replace("running_var", COUNTER): np.zeros((), np.int64) for name in norms}
    return arrays | copied(arrays)


def copied(arrays: Arrays) -> dict[str, np.ndarray]:
    """What an official file holds a second time."""
    return {copy: arrays[first] for copy, first in _copies(arrays).items()}


def _own_arrays(rows: Sequence[Row | Constant], arrays: Arrays) -> dict[str, np.ndarray]:
    """Without counters and copies, and with the waves exactly as they should be if they nearly are (their last bit
    depends on who computed them)."""
    copies = _copies(arrays)
    if changed := [c for c, first in copies.items() if not np.array_equal(arrays.get(c, arrays[first]), arrays[first])]:
        raise UserError(f"the file holds the last encoder of the state twice, but these differ: {', '.join(changed)}")
    own = {n: x for n, x in arrays.items() if not n.endswith(COUNTER) and n not in copies}
    for name, value in constants(rows).items():
        if name.endswith(WAVES) and name in own and np.allclose(own[name], value, rtol=1e-5):
            own[name] = value
    return own


def _copies(arrays: Arrays) -> dict[str, str]:
    """{name of a copy: name of the array that it repeats}."""
    last = f"{STATES}.{count(arrays, STATES + '.{}.0.weight') - 1}."
    return {name.replace(last, f"{COPY}."): name for name in arrays if name.startswith(last)}


def _leading(count: int, width: int) -> Any:
    """A table with an axis of one before it."""
    return reshape((1, count, width), (count, width))


def _patches(model: Mapping[str, Any]) -> int:
    rows, columns = patch_grid(model["image_size"], _patch_size(model))
    return model["views"] * rows * columns


def _patch_size(model: Mapping[str, Any]) -> tuple[int, int]:
    return model["patch"], model.get("patch_width", 0) or model["patch"]


def _stem_rows(i: int, model: Mapping[str, Any]) -> list[Row]:
    official, ours = f"image_encoders.{i}", f"stem_{i}"
    kernel = patch_kernel(STEM, _patch_size(model), model["dim"])
    rows = [
        Row(f"{official}.conv.0.weight", f"params/{ours}/conv/kernel", KERNEL),
        Row(f"{official}.proj.weight", f"params/{ours}/patches/kernel", kernel),
        *batch_norm(f"{official}.conv.1", f"{ours}/conv_norm"),
        *batch_norm(f"{official}.bn", f"{ours}/norm"),
    ]
    bias = [Row(f"{official}.proj.bias", f"params/{ours}/patches/bias")] if model.get("patch_bias", True) else []
    return rows + bias


def _block_rows(official: str, ours: str) -> list[Row]:
    return [
        *layer_norm(f"{official}.0.norm", f"{ours}/norm"),
        *linear(f"{official}.1.qkv", f"{ours}/qkv", bias=False),
        *linear(f"{official}.1.output_layer.0", f"{ours}/out"),
        *layer_norm(f"{official}.2.norm", f"{ours}/mlp_norm"),
        *linear(f"{official}.3.net.0", f"{ours}/mlp/fc1"),
        *linear(f"{official}.3.net.3", f"{ours}/mlp/fc2"),
    ]


def _state_rows(count: int, layers: int) -> list[Row]:
    """Linear layers are counted with the ReLUs between them, of which there is none after the first and the last."""
    if not layers:
        return [row for i in range(count) for row in linear(f"{STATES}.{i}.0", f"state_{i}")]
    places = [(layer, 2 * layer - 1 if layer else 0) for layer in range(layers + 1)]
    return [
        row for i in range(count) for j, at in places for row in linear(f"{STATES}.{i}.{at}", f"state_{i}/layer_{j}")
    ]


def policy_settings(arrays: Arrays, image_size: tuple[int, int], heads: Mapping[str, int] = HEADS) -> dict[str, Any]:
    """The settings of models.atm_policy.TrackPolicy that a file's shapes tell; UserError for another file. They do not
    tell `heads`, those of attention in the spatial and the temporal transformer, nor which of these are given the
    sentence. image_size: (H, W) of the track transformer's pictures, which are the policy's."""
    if missing := [name for name in NEEDED if name not in arrays]:
        raise UserError(f"this is not a file of ATM's policy: it lacks {', '.join(missing)}")
    views = count(arrays, "image_encoders.{}.proj.weight")
    patch, patch_width = arrays["image_encoders.0.proj.weight"].shape[-2:]
    dim, _, track_patch = arrays["track_proj_encoder.conv.weight"].shape
    head, text = count(arrays, "policy_head.net.{}.weight", 2), "language_encoder_spatial.projection"
    layers = count(arrays, text + ".{}.weight", 2)
    return {
        "views": views,
        "image_size": image_size,
        "dim": dim,
        "temporal_dim": len(arrays["spatial_downsample.weight"]) if "spatial_downsample.weight" in arrays else 0,
        "patch": patch,
        "patch_width": 0 if patch_width == patch else patch_width,
        "patch_bias": "image_encoders.0.proj.bias" in arrays,
        "spatial": _depth(arrays, "spatial", heads["spatial"]),
        "temporal": _depth(arrays, "temporal", heads["temporal"]),
        **_state_settings(arrays),
        "actions": len(arrays[f"policy_head.net.{2 * (head - 1)}.weight"]),
        "track_steps": arrays["track_patch_pos_embed"].shape[1] // views * track_patch,
        "track_points": VARIANTS["released"]["track_points"],
        "track_patch": track_patch,
        "text_hidden": len(arrays[f"{text}.0.weight"]) if layers > 1 else 128,
        "text_layers": layers,
        "head_hidden": len(arrays["policy_head.net.0.weight"]),
        "head_layers": head - 1,
    }


def _state_settings(arrays: Arrays) -> dict[str, Any]:
    first = [arrays[f"{STATES}.{i}.0.weight"] for i in range(count(arrays, STATES + ".{}.0.weight"))]
    layers = sum(name.startswith(f"{STATES}.0.") and name.endswith(".weight") for name in arrays) - 1 if first else 0
    return {
        "states": tuple(weight.shape[1] for weight in first),
        "state_hidden": len(first[0]) if layers else 128,
        "state_layers": layers,
    }


def _depth(arrays: Arrays, part: str, heads: int) -> Depth:
    layer = f"{part}_transformer.layers"
    inner = len(arrays[f"{layer}.0.1.qkv.weight"]) // 3
    if inner % heads:
        raise UserError(f"{layer}.0.1.qkv.weight is {inner} wide for each of q, k and v, no multiple of {heads} heads")
    depth = count(arrays, layer + ".{}.1.qkv.weight")
    return Depth(depth, heads, inner // heads, len(arrays[f"{layer}.0.3.net.0.weight"]))


def read_policy(arrays: Arrays, others: Mapping[str, Arrays], options: Options) -> Converted:
    """A released policy -> the stage's settings and variables; see t2p.convert.registry."""
    tracker, model = _settings(arrays, options)
    changes = {"track_transformer": tracker, "net": _net(model)}
    return Converted(_changes(arrays, model, changes), policy_variables(all_rows(model, tracker), arrays))


def read_cloned(arrays: Arrays, others: Mapping[str, Arrays], options: Options) -> Converted:
    """The same of behaviour cloning: zeros stand for tracks, both transformers are given the sentence, and the track
    transformer in the file, which is of no use, is left out."""
    tracker, model = _settings(arrays, options)
    variables = policy_variables(all_rows(model, tracker), arrays)
    net = _net(model) | {"spatial_text": True, "temporal_text": True}
    changes = {"track_transformer": tracker, "net": net, "tracks": "zero"}
    return Converted(_changes(arrays, model, changes), {**variables, "frozen": {}})


def _settings(arrays: Arrays, options: Options) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of the track transformer and of the policy. UserError for another file."""
    theirs = {name.removeprefix(TRACKER): x for name, x in arrays.items() if name.startswith(TRACKER)}
    tracker = track_transformer_settings(theirs, options.image_size)
    return tracker, policy_settings(arrays, tracker["image_size"])


def _net(model: Mapping[str, Any]) -> dict[str, Any]:
    """config.model.net: views, pictures and state are the window's."""
    plain = {name: asdict(value) if isinstance(value, Depth) else value for name, value in model.items()}
    return {name: value for name, value in plain.items() if name not in ("views", "image_size", "states")}


def _changes(arrays: Arrays, model: Mapping[str, Any], changed: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """UserError for a part of the state that the released code does not know."""
    if unknown := [width for width in model["states"] if width not in STATE_NAMES]:
        raise UserError(f"the policy takes a state of {unknown[0]} numbers; expected {STATE_NAMES}")
    window: dict[str, Any] = {"image_size": model["image_size"], "proprio_widths": model["states"]}
    window["proprio"] = tuple(STATE_NAMES[width] for width in model["states"])
    if model["views"] != VARIANTS["released"]["views"]:
        window["views"] = tuple(f"view_{i}" for i in range(model["views"]))
    text = {"encoder": "bert", "width": arrays["language_encoder_spatial.projection.0.weight"].shape[1]}
    return {"model": changed, "window": window, "text": text}
