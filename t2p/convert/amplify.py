"""AMPLIFY's released weights (pairlab/AMPLIFY): names, layouts and settings of the motion tokenizer, of forward
dynamics, and of the bundle of all stages."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from t2p.convert.amplify_inverse import inverse_dynamics_parameters, inverse_dynamics_rows, inverse_dynamics_settings
from t2p.convert.base import Arrays, Row, linear, to_variables
from t2p.convert.gpt import decoder_rows, depth_of, encoder_rows, mask_of, without_buffers
from t2p.convert.resnet import resnet_from_arrays
from t2p.io import UserError
from t2p.models.amplify import MASKS, attention_mask
from t2p.models.fsq import LEVELS, levels_of
from t2p.models.resnet import ResNet

# A name that each file of a model has (inverse dynamics': t2p.convert.amplify_inverse.ANCHORS).
ANCHORS = {
    "motion_tokenizer": "encoder.encoder_proj.weight",
    "forward_dynamics": "sos_token",
    "bundle": "motion_tokenizer.encoder.encoder_proj.weight",
}
PARTS = ("motion_tokenizer", "forward_dynamics", "inverse_dynamics", "img_encoder")  # of a bundle
IMAGES = "vis_enc."  # of a motion tokenizer: what it looks at pictures through


def motion_tokenizer_rows(depth: int, images: bool = False) -> list[Row]:
    """depth: of the encoder; images: it looks at pictures. The rows of models.amplify.MotionTokenizer."""
    encoder = decoder_rows if images else encoder_rows
    return [
        *linear("encoder.encoder_proj", "input"),
        *(linear("encoder.cond_proj", "image") if images else []),
        *encoder("encoder.encoder", "encoder", depth),
        *fsq_rows("quantize", "fsq"),
        *decoder_rows("decoder.decoder", "decoder", depth // 2),
        Row("decoder.track_pos_emb.weight", "tail/points"),
        Row("decoder.view_emb.weight", "tail/views"),
        *linear("decoder.decoder_mlp.0", "tail/fc1"),
        *linear("decoder.decoder_mlp.2", "tail/fc2"),
        *linear("decoder.decoder_proj", "tail/head"),
    ]


def forward_dynamics_rows(depth: int, bias: bool = False) -> list[Row]:
    """depth, bias: of the trunk. The rows of models.amplify.ForwardDynamics."""
    return [
        Row("sos_token", "start"),
        *linear("img_proj", "image"),
        *linear("text_proj", "text"),
        *fsq_rows("quantize", "fsq"),
        *encoder_rows("trunk", "trunk", depth, bias),
        *linear("unembed", "head"),
    ]


def fsq_rows(official: str, ours: str) -> list[Row]:
    return [
        *linear(f"{official}.project_in", f"{ours}/project_in"),
        *linear(f"{official}.project_out", f"{ours}/project_out"),
    ]


def motion_tokenizer_settings(
    arrays: Arrays, codebook: int = 2048, window: tuple[int, int] | None = None
) -> dict[str, Any]:
    """{"model": keys of config.model, "window": of config.window} that a file's shapes tell.

    They do not tell the heads of attention (8), nor which of the codebooks of as many numbers it is (`codebook`, its
    nominal size), nor the sides of a `window` of motion classes that is not square. The mask is that of the file's
    buffers, the released one (causal) where it has none. UserError where something does not fit, or for another
    file."""
    if missing := [n for n in (ANCHORS["motion_tokenizer"], "decoder.track_pos_emb.weight") if n not in arrays]:
        raise UserError(f"this is not AMPLIFY's motion tokenizer: it lacks {', '.join(missing)}")
    dim, given = arrays[ANCHORS["motion_tokenizer"]].shape
    points, views = len(arrays["decoder.track_pos_emb.weight"]), len(arrays["decoder.view_emb.weight"])
    numbers, classes = len(arrays["quantize.project_in.weight"]), len(arrays["decoder.decoder_proj.weight"])
    window = window or (math.isqrt(classes),) * 2
    if math.prod(window) != classes:
        raise UserError(f"this tokenizer has {classes} classes of motion; a window of {window} has {math.prod(window)}")
    if len(levels_of(codebook)) != numbers:
        fitting = ", ".join(str(size) for size, levels in LEVELS.items() if len(levels) == numbers)
        raise UserError(f"codes of this tokenizer have {numbers} numbers, so its codebook is {fitting}; got {codebook}")
    model = {
        "dim": dim,
        "depth": depth_of(arrays, "encoder.encoder"),
        "mlp": len(arrays["decoder.decoder_mlp.0.weight"]),
        "codebook": codebook,
        "window": window,
        "mask": encoder_mask(arrays) or "causal",
        "per_view": given == 2 * points and views > 1,
    }
    length = len(arrays["encoder.encoder.transformer.pos_emb.weight"]) // (views if model["per_view"] else 1)
    return {"model": model, "window": {"points": points, "steps": length + 1, "horizon": length + 1}}


def encoder_mask(arrays: Arrays) -> str | None:
    """Which of models.amplify.MASKS a motion tokenizer's encoder has, None for a file without masks. UserError for
    another mask, or one where the model has none."""
    masked = [("decoder.decoder", "self_attn"), ("decoder.decoder", "cross_attn"), ("encoder.encoder", "cross_attn")]
    for stack, attention in masked:
        if (mask := mask_of(arrays, stack, attention)) is not None and not mask.all():
            raise UserError(f"{attention} of this tokenizer's {stack} is masked, which no configuration of it is")
    mask = mask_of(arrays, "encoder.encoder", "self_attn" if sees_images(arrays) else "attn")
    if mask is None:
        return None
    length = len(arrays["encoder.encoder.transformer.pos_emb.weight"])
    for kind in MASKS:
        if np.array_equal(mask, attention_mask(kind, length)):
            return kind
    raise UserError(
        f"the attention mask of this tokenizer's encoder, {mask.shape} with {int(mask.sum())} places to look at, is "
        f"none of {', '.join(MASKS)} for its {length} steps"
    )


def sees_images(arrays: Arrays) -> bool:
    """Whether a motion tokenizer's encoder looks at pictures (cond_on_img of the release)."""
    return "encoder.cond_proj.weight" in arrays


def split_images(arrays: Arrays) -> tuple[Arrays, Arrays]:
    """A motion tokenizer's file -> (its own arrays, those of the image encoder that it looks through)."""
    images = {name: value for name, value in arrays.items() if name.startswith(IMAGES)}
    return {name: value for name, value in arrays.items() if name not in images}, images


def forward_dynamics_settings(arrays: Arrays, codes: int) -> dict[str, Any]:
    """Keys of config.model.dynamics that a file's shapes tell, all but the heads of attention (8). codes: that the
    tokenizer has."""
    if ANCHORS["forward_dynamics"] not in arrays:
        raise UserError(f"this is not AMPLIFY's forward dynamics: it has no {ANCHORS['forward_dynamics']}")
    classes = len(arrays["unembed.weight"])
    return {
        "depth": depth_of(arrays, "trunk"),
        "use_bias": "trunk.transformer.ln_f.bias" in arrays,
        "classes": "codes" if classes == codes else "nominal",
    }


def tokenizer_variables(arrays: Arrays) -> dict[str, Any]:
    """A motion tokenizer's file -> {"params"}; with {"frozen": {"images"}} where it looks at pictures."""
    own, images = split_images(without_buffers(arrays))
    rows = motion_tokenizer_rows(depth_of(own, "encoder.encoder"), sees_images(own))
    frozen = {"frozen": {"images": resnet_from_arrays(images)[1]}} if images else {}
    return {"params": to_variables(rows, own), **frozen}


def dynamics_variables(arrays: Arrays, tokenizer: Arrays) -> dict[str, Any]:
    """Forward dynamics' file -> {"params": {"dynamics"}}. Its quantiser must be the tokenizer's (else UserError)."""
    own = without_buffers(arrays)
    names = [row.official for row in fsq_rows("quantize", "fsq")]
    wrong = [n for n in names if n in own and not np.array_equal(own[n], tokenizer.get(n, np.nan))]
    if wrong:
        raise UserError(f"forward dynamics was trained on another motion tokenizer: they differ in {', '.join(wrong)}")
    rows = forward_dynamics_rows(depth_of(own, "trunk"), "trunk.transformer.ln_f.bias" in own)
    params = to_variables(rows, own)
    del params["fsq"]
    return {"params": {"dynamics": params}}


def split_bundle(arrays: Arrays) -> dict[str, Arrays]:
    """A bundle's arrays by part (`PARTS`), without the part's name. The text encoder's are left out: it is read from a
    directory of its own. UserError for a file that lacks a part."""
    start = next((name.partition("motion_tokenizer.")[0] for name in arrays if "motion_tokenizer." in name), "")
    parts: dict[str, Arrays] = {}
    for part in PARTS:
        prefix = f"{start}{part}."
        parts[part] = {name.removeprefix(prefix): x for name, x in arrays.items() if name.startswith(prefix)}
    if missing := [part for part, found in parts.items() if not found]:
        raise UserError(f"this is not AMPLIFY's bundle of all stages: it has no arrays of {', '.join(missing)}")
    return parts


def policy_variables(parts: dict[str, Arrays], steps: int) -> tuple[dict[str, Any], ResNet]:
    """The parts of a bundle -> the variables of methods.amplify.inverse's stage, and the image encoder. steps: of a
    chunk, which a flow head's file does not tell."""
    encoder, images = resnet_from_arrays(parts["img_encoder"])
    inverse = inverse_dynamics_parameters(parts["inverse_dynamics"])
    rows = inverse_dynamics_rows(inverse_dynamics_settings(inverse, steps=steps))
    tokenizer = without_buffers(parts["motion_tokenizer"])
    frozen = {
        "tokenizer": tokenizer_variables(tokenizer),
        "forward_dynamics": dynamics_variables(parts["forward_dynamics"], tokenizer),
        "images": images,
    }
    variables = {"params": {"inverse": to_variables(rows, inverse)}, "batch_stats": {}, "frozen": frozen}
    return variables, encoder
