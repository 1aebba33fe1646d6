"""AMPLIFY's released files -> settings and variables of the stages of methods/amplify; see t2p.convert.registry."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from t2p.convert.amplify import (
    dynamics_variables,
    forward_dynamics_settings,
    motion_tokenizer_settings,
    policy_variables,
    split_bundle,
    tokenizer_variables,
)
from t2p.convert.amplify_inverse import inverse_dynamics_parameters, inverse_dynamics_settings
from t2p.convert.base import Arrays
from t2p.convert.gpt import without_buffers
from t2p.convert.registry import Converted, Options
from t2p.convert.resnet import resnet_from_arrays
from t2p.io import UserError
from t2p.models.fsq import codebook_size, levels_of
from t2p.models.resnet import VARIANTS, ResNet

Changes = dict[str, dict[str, Any]]


def read_motion_tokenizer(arrays: Arrays, others: Mapping[str, Arrays], options: Options) -> Converted:
    found = _tokenizer_settings(arrays, options)
    return Converted(found, {**tokenizer_variables(arrays), "batch_stats": {}, "frozen": {}})


def read_forward_dynamics(arrays: Arrays, others: Mapping[str, Arrays], options: Options) -> Converted:
    tokenizer = without_buffers(others["tokenizer"])
    encoder, images = resnet_from_arrays(others["images"])
    frozen = {"tokenizer": tokenizer_variables(tokenizer), "images": images}
    changes = _dynamics_changes(arrays, tokenizer, encoder, options)
    return Converted(changes, {**dynamics_variables(arrays, tokenizer), "batch_stats": {}, "frozen": frozen})


def read_inverse_dynamics(arrays: Arrays, others: Mapping[str, Arrays], options: Options) -> Converted:
    names = {"motion_tokenizer": "tokenizer", "forward_dynamics": "forward_dynamics", "img_encoder": "images"}
    parts = {part: others[name] for part, name in names.items()}
    return _policy({**parts, "inverse_dynamics": arrays}, options)


def read_bundle(arrays: Arrays, others: Mapping[str, Arrays], options: Options) -> Converted:
    return _policy(split_bundle(arrays), options)


def _policy(parts: dict[str, Arrays], options: Options) -> Converted:
    tokenizer, inverse = parts["motion_tokenizer"], inverse_dynamics_parameters(parts["inverse_dynamics"])
    steps = _tokenizer_settings(tokenizer, options)["window"]["steps"]
    variables, encoder = policy_variables(parts, steps)
    changes = _dynamics_changes(parts["forward_dynamics"], tokenizer, encoder, options)
    changes["model"]["inverse"] = _inverse_settings(inverse, options, steps)
    return Converted(changes, variables)


def _tokenizer_settings(arrays: Arrays, options: Options) -> Changes:
    """Tracks are taken to be as long as they are after resampling, which the weights do not tell apart."""
    found: Changes = motion_tokenizer_settings(without_buffers(arrays), options.codebook, options.window)
    found["model"]["heads"] = options.heads
    if options.image_size is not None:
        found["window"]["image_size"] = options.image_size
    return found


def _dynamics_changes(arrays: Arrays, tokenizer: Arrays, encoder: ResNet, options: Options) -> Changes:
    found = _tokenizer_settings(tokenizer, options)
    codes = codebook_size(levels_of(options.codebook))
    dynamics = {**forward_dynamics_settings(without_buffers(arrays), codes), "heads": options.heads}
    codes_and_text = len(tokenizer["encoder.encoder.transformer.pos_emb.weight"]) + 1
    tokens = len(arrays["trunk.transformer.pos_emb.weight"]) - codes_and_text
    pictures = _encoder_settings(encoder) | _picture_settings(tokens // len(tokenizer["decoder.view_emb.weight"]))
    model = {"tokenizer": found["model"], "dynamics": dynamics, "images": pictures}
    return {"model": model, "window": found["window"], "text": {"width": arrays["text_proj.weight"].shape[1]}}


def _encoder_settings(net: ResNet) -> dict[str, Any]:
    for name, variant in VARIANTS.items():
        if (net.blocks, net.bottleneck) == (variant["blocks"], variant["bottleneck"]):
            return {"encoder": name, "widths": net.widths, "stem": net.stem}
    raise UserError(f"the image encoder has blocks of {net.blocks} layers; expected one of {', '.join(VARIANTS)}")


def _picture_settings(tokens: int) -> dict[str, Any]:
    """Of so many tokens for each view: the size to which square pictures were resized, at 32 pixels a token."""
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise UserError(
            f"forward dynamics takes {tokens} image tokens of each view; expected those of a square picture"
        )
    return {"pooled": True} if tokens == 1 else {"size": (32 * side, 32 * side)}


def _inverse_settings(arrays: Arrays, options: Options, steps: int) -> dict[str, Any]:
    found = inverse_dynamics_settings(arrays, options.heads, steps)
    if found.get("learned_scale"):
        raise UserError("this inverse dynamics has a learned scale of its actions, which no released configuration has")
    std = {"std": "learned"} if found.get("spread") == "scalar" else {}
    taken = {"head": found["kind"], "depth": found["depth"], "heads": found["heads"], "parts": found["parts"]}
    return taken | {"actions": found["actions"][0], "action_dim": found["actions"][1]} | std
