"""AMPLIFY's released files -> settings and variables of the stages of methods/amplify; see t2p.convert.registry."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from t2p.convert.amplify import (
    IMAGES,
    PARTS,
    dynamics_variables,
    forward_dynamics_settings,
    motion_tokenizer_settings,
    policy_variables,
    sees_images,
    split_bundle,
    split_images,
    tokenizer_variables,
)
from t2p.convert.amplify_inverse import has_codes, inverse_dynamics_parameters, inverse_dynamics_settings
from t2p.convert.base import Arrays
from t2p.convert.gpt import mask_of, without_buffers
from t2p.convert.registry import Converted, Options
from t2p.convert.resnet import resnet_from_arrays
from t2p.io import UserError
from t2p.models.fsq import codebook_size, levels_of
from t2p.models.resnet import VARIANTS, ResNet

Changes = dict[str, dict[str, Any]]


def read_motion_tokenizer(arrays: Arrays, others: Mapping[str, Arrays], options: Options) -> Converted:
    found = _tokenizer_settings(arrays, options)
    return Converted(found, {"batch_stats": {}, "frozen": {}, **tokenizer_variables(arrays)}, _views(arrays))


def read_forward_dynamics(arrays: Arrays, others: Mapping[str, Arrays], options: Options) -> Converted:
    tokenizer = others["tokenizer"]
    encoder, images = resnet_from_arrays(others["images"])
    frozen = {"tokenizer": tokenizer_variables(tokenizer), "images": images}
    changes = _dynamics_changes(arrays, tokenizer, encoder, options)
    variables = {**dynamics_variables(arrays, tokenizer), "batch_stats": {}, "frozen": frozen}
    return Converted(changes, variables, _views(tokenizer))


def read_inverse_dynamics(arrays: Arrays, others: Mapping[str, Arrays], options: Options) -> Converted:
    names = {"motion_tokenizer": "tokenizer", "forward_dynamics": "forward_dynamics", "img_encoder": "images"}
    parts = {part: others[name] for part, name in names.items()}
    return _policy({**parts, "inverse_dynamics": arrays}, options)


def read_bundle(arrays: Arrays, others: Mapping[str, Arrays], options: Options) -> Converted:
    return _policy(split_bundle(arrays), options)


def _policy(parts: dict[str, Arrays], options: Options) -> Converted:
    tokenizer, dynamics, inverse, _ = (parts[name] for name in PARTS)
    steps = _tokenizer_settings(tokenizer, options)["window"]["steps"]
    variables, encoder = policy_variables(parts, steps)
    changes = _dynamics_changes(dynamics, tokenizer, encoder, options)
    tokens = {"image": _image_tokens(dynamics, tokenizer), "text": 1, "proprio": 1, "codes": _codes(tokenizer)}
    changes["model"]["inverse"] = _inverse_settings(inverse, tokens, options, steps)
    return Converted(changes, variables, _views(tokenizer))


def _tokenizer_settings(arrays: Arrays, options: Options) -> Changes:
    """Tracks are taken to be as long as they are after resampling, which the weights do not tell apart."""
    found: Changes = motion_tokenizer_settings(arrays, options.codebook, options.window)
    found["model"]["heads"] = options.heads
    if sees_images(arrays):
        found["model"]["images"] = {"joint": True, **_tokenizer_pictures(arrays)}
    if options.image_size is not None:
        found["window"]["image_size"] = options.image_size
    return found


def _tokenizer_pictures(arrays: Arrays) -> dict[str, Any]:
    """Keys of the image encoder through which a tokenizer looks. How many tokens of a view it was given the
    masks of its cross-attention tell, which are buffers; without them pictures have the released size."""
    _, encoder = split_images(without_buffers(arrays))
    if not encoder:
        raise UserError(f"this motion tokenizer looks at pictures, and its file has no image encoder, {IMAGES}...")
    mask = mask_of(arrays, "encoder.encoder", "cross_attn")
    size = {} if mask is None else _picture_settings(mask.shape[1] // _views(arrays))
    return _encoder_settings(resnet_from_arrays(encoder)[0]) | size


def _views(tokenizer: Arrays) -> int:
    return len(tokenizer["decoder.view_emb.weight"])


def _codes(tokenizer: Arrays) -> int:
    """Of an example."""
    return len(tokenizer["encoder.encoder.transformer.pos_emb.weight"])


def _image_tokens(arrays: Arrays, tokenizer: Arrays) -> int:
    """Of each view, that forward dynamics takes before the sentence and the codes."""
    return (len(arrays["trunk.transformer.pos_emb.weight"]) - _codes(tokenizer) - 1) // _views(tokenizer)


def _dynamics_changes(arrays: Arrays, tokenizer: Arrays, encoder: ResNet, options: Options) -> Changes:
    found = _tokenizer_settings(tokenizer, options)
    codes = codebook_size(levels_of(options.codebook))
    dynamics = {**forward_dynamics_settings(without_buffers(arrays), codes), "heads": options.heads}
    pictures = _encoder_settings(encoder) | _picture_settings(_image_tokens(arrays, tokenizer))
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
        raise UserError(f"the model was given {tokens} image tokens of each view; expected those of a square picture")
    return {"pooled": True} if tokens == 1 else {"size": (32 * side, 32 * side)}


def _inverse_settings(arrays: Arrays, tokens: dict[str, int], options: Options, steps: int) -> dict[str, Any]:
    codes = has_codes(arrays, tokens)
    if codes and not options.codes:
        raise UserError("this inverse dynamics is conditioned on codes of motion; leave out --no_codes")
    codes = options.codes if codes is None else codes
    found = inverse_dynamics_settings(inverse_dynamics_parameters(arrays), options.heads, steps, codes)
    if found.get("learned_scale"):
        raise UserError("this inverse dynamics has a learned scale of its actions, which no released configuration has")
    std = {"std": "learned"} if found.get("spread") == "scalar" else {}
    taken = {"head": found["kind"], "depth": found["depth"], "heads": found["heads"], "parts": found["parts"]}
    return taken | {"actions": found["actions"][0], "action_dim": found["actions"][1]} | std
