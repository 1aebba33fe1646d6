"""Diffusion Policy's official weights (real-stanford/diffusion_policy, CNN variant): names, layouts, settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from t2p.convert.base import Arrays, Row, Transform, chain, linear, permute
from t2p.io import UserError

ANCHOR = "diffusion_step_encoder.1.weight"  # a name that every file with the U-Net has

CONV = permute(2, 1, 0)  # Conv1d [out, in, k] <-> [k, in, out]
FLIP = Transform(lambda x: x[::-1], lambda x: x[::-1])
UPSAMPLE = chain(permute(2, 0, 1), FLIP)  # ConvTranspose1d [in, out, k] <-> [k, in, out], as a plain convolution


def unet1d_rows(model: Mapping[str, Any]) -> list[Row]:
    """model: the settings of models.unet1d.ConditionalUnet1D, of which input_dim, down_dims and local_dim (absent: 0)
    are read."""
    dims, inputs, local = tuple(model["down_dims"]), model["input_dim"], model.get("local_dim", 0)
    rows = [*linear("diffusion_step_encoder.1", "step_fc1"), *linear("diffusion_step_encoder.3", "step_fc2")]
    if local:
        for i in range(2):
            rows += _residual(f"local_cond_encoder.{i}", f"local_{i}", local, dims[0])
    for i, (before, width) in enumerate(zip((inputs, *dims), dims, strict=False)):
        rows += _residual(f"down_modules.{i}.0", f"down_{i}_block_0", before, width)
        rows += _residual(f"down_modules.{i}.1", f"down_{i}_block_1", width, width)
        if i < len(dims) - 1:
            rows += _conv(f"down_modules.{i}.2.conv", f"down_{i}_downsample")
    for i in range(2):
        rows += _residual(f"mid_modules.{i}", f"mid_{i}", dims[-1], dims[-1])
    for i, (width, before) in enumerate(zip(dims[-2::-1], dims[:0:-1], strict=True)):
        rows += _residual(f"up_modules.{i}.0", f"up_{i}_block_0", 2 * before, width)
        rows += _residual(f"up_modules.{i}.1", f"up_{i}_block_1", width, width)
        rows += _conv(f"up_modules.{i}.2.conv", f"up_{i}_upsample", UPSAMPLE)
    return [*rows, *_conv_block("final_conv.0", "final_block"), *_conv("final_conv.1", "final_conv")]


def _conv(official: str, ours: str, kernel: Transform = CONV) -> list[Row]:
    return [Row(f"{official}.weight", f"{ours}/kernel", kernel), Row(f"{official}.bias", f"{ours}/bias")]


def _conv_block(official: str, ours: str) -> list[Row]:
    norm = [
        Row(f"{official}.block.1.weight", f"{ours}/norm/scale"),
        Row(f"{official}.block.1.bias", f"{ours}/norm/bias"),
    ]
    return _conv(f"{official}.block.0", f"{ours}/conv") + norm


def _residual(official: str, ours: str, before: int, after: int) -> list[Row]:
    rows = linear(f"{official}.cond_encoder.1", f"{ours}/film")
    for i in range(2):
        rows += _conv_block(f"{official}.blocks.{i}", f"{ours}/block_{i}")
    return rows if before == after else rows + _conv(f"{official}.residual_conv", f"{ours}/shortcut")


def unet1d_settings(arrays: Arrays, groups: int = 8) -> dict[str, Any]:
    """The settings of models.unet1d.ConditionalUnet1D that a file's shapes tell; they do not tell the groups."""
    first = "down_modules.0.0"
    needed = (ANCHOR, f"{first}.blocks.0.block.0.weight", f"{first}.cond_encoder.1.weight")
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise UserError(f"this is not a file of Diffusion Policy's U-Net: it lacks {', '.join(missing)}")
    width, inputs, kernel = np.shape(arrays[needed[1]])
    film, condition = np.shape(arrays[needed[2]])
    step_dim = np.shape(arrays[ANCHOR])[1]
    local = arrays.get("local_cond_encoder.0.blocks.0.block.0.weight")
    return {
        "input_dim": inputs,
        "global_dim": condition - step_dim,
        "local_dim": 0 if local is None else np.shape(local)[1],
        "step_dim": step_dim,
        "down_dims": _down_dims(arrays),
        "kernel_size": kernel,
        "groups": groups,
        "film_scale": film == 2 * width,
    }


def _down_dims(arrays: Arrays) -> tuple[int, ...]:
    dims: list[int] = []
    while (name := f"down_modules.{len(dims)}.0.blocks.0.block.0.weight") in arrays:
        dims.append(len(arrays[name]))
    return tuple(dims)
