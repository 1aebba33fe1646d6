"""ATM's released weights (Large-Trajectory-Model/ATM): names, layouts, and the model's settings from shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from t2p.convert.base import (
    IDENTITY,
    TRANSPOSE,
    Arrays,
    Constant,
    Row,
    Transform,
    chain,
    linear,
    permute,
    reshape,
    to_variables,
)
from t2p.convert.registry import Converted, Options
from t2p.io import UserError
from t2p.models.layers import sincos_2d

ANCHOR = "track_embed"  # a name that every file of a track transformer has


def track_kernel(steps: int, channels: int, dim: int) -> Transform:
    """Conv1d [d, c, p] <-> Linear [(p, c), d]."""
    return chain(permute(2, 1, 0), reshape((steps, channels, dim), (steps * channels, dim)))


def patch_kernel(channels: int, patch: tuple[int, int], dim: int) -> Transform:
    """Conv2d [d, (frame, channel), row, column] <-> Linear [(row, column, frame, channel), d]."""
    ours = (*patch, channels, dim)
    return chain(permute(2, 3, 1, 0), reshape(ours, (int(np.prod(ours[:3])), dim)))


def track_transformer_rows(model: Mapping[str, Any]) -> list[Row | Constant]:
    """model: the settings of models.atm.TrackTransformer, of which dim, depth, track_patch, frames, patch and
    text_layers are read."""
    dim, channels = model["dim"], 3 * model["frames"]
    rows: list[Row | Constant] = [
        Row("track_embed", "track_table"),
        Row("img_embed", "image_table"),
        Row("mask_token", "mask_token"),
        Row("track_proj_encoder.conv.weight", "track_embed/kernel", track_kernel(model["track_patch"], 2, dim)),
        Row("track_proj_encoder.conv.bias", "track_embed/bias"),
        Row("img_proj_encoder.proj.weight", "image_embed/kernel", patch_kernel(channels, (model["patch"],) * 2, dim)),
        Row("img_proj_encoder.proj.bias", "image_embed/bias"),
        *linear("track_decoder", "track_head"),
        *linear("img_decoder", "image_head"),
    ]
    for i in range(model["text_layers"]):
        rows += linear(f"language_encoder.projection.{2 * i}", f"text/layer_{i}")
    for i in range(model["depth"]):
        rows += _block_rows(f"transformer.layers.{i}", f"block_{i}", dim)
    return rows


def _block_rows(official: str, ours: str, dim: int) -> list[Row | Constant]:
    zero = np.zeros(dim, np.float32)  # the norms' shift: a buffer that stays at zero
    return [
        Row(f"{official}.0.norm.gamma", f"{ours}/attention/norm/scale", IDENTITY),
        Constant(f"{official}.0.norm.beta", zero),
        Row(f"{official}.0.to_q.weight", f"{ours}/attention/query/kernel", TRANSPOSE),
        Row(f"{official}.0.to_kv.weight", f"{ours}/attention/key_value/kernel", TRANSPOSE),
        Row(f"{official}.0.to_out.0.weight", f"{ours}/attention/out/kernel", TRANSPOSE),
        Row(f"{official}.1.norm.gamma", f"{ours}/mlp_norm/scale", IDENTITY),
        Constant(f"{official}.1.norm.beta", zero),
        *linear(f"{official}.1.net.0", f"{ours}/mlp/fc1"),
        *linear(f"{official}.1.net.3", f"{ours}/mlp/fc2"),
    ]


def track_transformer_settings(arrays: Arrays, image_size: tuple[int, int] | None = None) -> dict[str, Any]:
    """The settings of models.atm.TrackTransformer that a file's shapes tell, all but dropout and pixel statistics.

    image_size: (H, W), needed only if the position table does not tell the grid of patches."""
    needed = ("track_embed", "img_embed", "img_proj_encoder.proj.weight", "track_proj_encoder.conv.weight")
    missing = [name for name in (*needed, "transformer.layers.0.0.to_q.weight") if name not in arrays]
    if missing:
        raise UserError(f"this is not a file of ATM's track transformer: it lacks {', '.join(missing)}")
    dim, channels, patch, _ = arrays["img_proj_encoder.proj.weight"].shape
    track_patch = arrays["track_proj_encoder.conv.weight"].shape[2]
    inner, head_dim = (
        len(arrays["transformer.layers.0.0.to_q.weight"]),
        len(arrays["transformer.layers.0.0.to_kv.weight"]) // 2,
    )
    text = count(arrays, "language_encoder.projection.{}.weight", step=2)
    return {
        "dim": dim,
        "depth": count(arrays, "transformer.layers.{}.0.to_q.weight"),
        "heads": inner // head_dim,
        "head_dim": head_dim,
        "image_size": image_size or _grid(arrays["img_embed"], patch),
        "patch": patch,
        "frames": channels // 3,
        "track_steps": arrays["track_embed"].shape[1] * track_patch,
        "track_patch": track_patch,
        "text_hidden": len(arrays["language_encoder.projection.0.weight"]) if text > 1 else 128,
        "text_layers": text,
    }


def text_width(arrays: Arrays) -> int:
    """The width of the sentence vectors that the weights expect."""
    return arrays["language_encoder.projection.0.weight"].shape[1]


def count(arrays: Arrays, name: str, step: int = 1) -> int:
    """How many arrays there are whose names are `name` with 0, step, 2 step ... in it."""
    found = 0
    while name.format(found * step) in arrays:
        found += 1
    return found


def _grid(table: np.ndarray, patch: int) -> tuple[int, int]:
    """(H, W) of the images, from the sin-cos table: the grid of patches whose table it is."""
    count, dim = table.shape[-2:]
    for columns in range(1, count + 1):
        rows = count // columns
        if rows * columns == count and np.allclose(table[0], sincos_2d(rows, columns, dim), atol=1e-3):
            return rows * patch, columns * patch
    raise UserError(f"the table img_embed of {count} patches is no grid's sin-cos table; give --image_size H W")


def read_track_transformer(arrays: Arrays, others: Mapping[str, Arrays], options: Options) -> Converted:
    """A released file -> the stage's settings and variables; see t2p.convert.registry."""
    settings = track_transformer_settings(arrays, options.image_size)
    params = to_variables(track_transformer_rows(settings), arrays)
    changes = {
        "model": settings,
        "window": {"horizon": settings["track_steps"]},
        "text": {"encoder": "bert", "width": text_width(arrays)},
    }
    return Converted(changes, {"params": params, "batch_stats": {}, "frozen": {}})
