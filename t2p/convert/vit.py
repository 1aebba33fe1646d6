"""Weights of Vision Transformers under timm's names, which those of DINOv2's own release (facebookresearch/dinov2) are,
too: names, layouts, the network from shapes.

The classifier and DINOv2's token for hidden patches are left out. Register tokens, gated feed-forward blocks and
Hugging Face's names are not read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from t2p.convert.base import Arrays, Row, layer_norm, linear, strip_prefix, to_variables
from t2p.convert.registry import Converted, Options
from t2p.convert.resnet import KERNEL
from t2p.io import UserError
from t2p.models.layers import Dtype
from t2p.models.vit import ViT

ANCHOR = "patch_embed.proj.weight"
HEAD_WIDTH = 64  # of attention, in all published sizes; shapes do not tell it


def is_extra(name: str) -> bool:
    """Whether an official array is no part of the encoder."""
    return name == "mask_token" or name.startswith(("head.", "head_dist.", "fc_norm."))


def vit_rows(depth: int, scaled: bool) -> list[Row]:
    """The rows of models.vit.ViT's parameters; scaled: with LayerScale."""
    rows = [
        Row("cls_token", "class"),
        Row("pos_embed", "positions"),
        Row("patch_embed.proj.weight", "patch/kernel", KERNEL),
        Row("patch_embed.proj.bias", "patch/bias"),
        *layer_norm("norm", "norm"),
    ]
    for i in range(depth):
        official, ours = f"blocks.{i}", f"block_{i}"
        rows += [*layer_norm(f"{official}.norm1", f"{ours}/norm1"), *layer_norm(f"{official}.norm2", f"{ours}/norm2")]
        rows += [*linear(f"{official}.attn.qkv", f"{ours}/qkv"), *linear(f"{official}.attn.proj", f"{ours}/out")]
        rows += [*linear(f"{official}.mlp.fc1", f"{ours}/mlp/fc1"), *linear(f"{official}.mlp.fc2", f"{ours}/mlp/fc2")]
        if scaled:
            rows += [Row(f"{official}.ls{k}.gamma", f"{ours}/scale{k}") for k in (1, 2)]
    return rows


def vit_settings(arrays: Arrays, heads: int = 0) -> dict[str, Any]:
    """The settings of models.vit.ViT that a file's shapes tell. heads: of attention, 0: of 64 channels each. UserError
    for a network without them."""
    if missing := [name for name in ("cls_token", "pos_embed", "norm.weight") if name not in arrays]:
        raise UserError(f"it lacks {', '.join(missing)} and is no Vision Transformer with a class token and positions")
    dim, _, patch, _ = arrays[ANCHOR].shape
    places = arrays["pos_embed"].shape[1] - 1
    side = math.isqrt(places)
    if side * side != places:
        raise UserError(f"its table of positions has {places} places beside the class token's; expected a square")
    if not heads and dim % HEAD_WIDTH:
        raise UserError(f"it has {dim} channels, which are no heads of {HEAD_WIDTH}; name the heads")
    depth = 0
    while f"blocks.{depth}.norm1.weight" in arrays:
        depth += 1
    scaled = "blocks.0.ls1.gamma" in arrays
    heads = heads or dim // HEAD_WIDTH
    return {"patch": patch, "dim": dim, "depth": depth, "heads": heads, "grid": (side, side), "scaled": scaled}


def vit_from_arrays(arrays: Arrays, heads: int = 0, dtype: Dtype = jnp.float32) -> tuple[ViT, dict[str, Any]]:
    """The Vision Transformer in a file's arrays, alone or inside a model, and its variables {"params", "batch_stats"}.
    heads: as `vit_settings` has them. UserError when there is none, when there are several, or for other shapes."""
    found = {name: x for name, x in strip_prefix(arrays, ANCHOR).items() if not is_extra(name)}
    settings = vit_settings(found, heads)
    net, rows = ViT(**settings, dtype=dtype), vit_rows(settings["depth"], settings["scaled"])
    params = to_variables(rows, found)
    images = jax.ShapeDtypeStruct((1, *(side * net.patch for side in net.grid), 3), jnp.float32)
    wanted = flatten_dict(jax.eval_shape(net.init, jax.random.key(0), images)["params"], sep="/")
    given = {path: np.shape(x) for path, x in flatten_dict(params, sep="/").items()}
    if wrong := [f"{path} is {given[path]}, not {x.shape}" for path, x in wanted.items() if given[path] != x.shape]:
        raise UserError(f"its shapes are those of another kind of Vision Transformer: {'; '.join(wrong[:4])}")
    return net, {"params": params, "batch_stats": {}}


def read_vit(arrays: Arrays, others: Mapping[str, Arrays], options: Options) -> Converted:
    """A file of weights -> the part of a stage that config.init_from.images fills; see t2p.convert.registry."""
    net, variables = vit_from_arrays(arrays)
    settings = {name: getattr(net, name) for name in ("patch", "dim", "depth", "heads", "grid", "scaled")}
    return Converted({"model": settings}, {**variables, "frozen": {}})
