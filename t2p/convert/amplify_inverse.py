"""AMPLIFY's released inverse dynamics (pairlab/AMPLIFY): names, layouts and settings of its three heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from t2p.convert.base import Arrays, Row, layer_norm, linear, reshape
from t2p.convert.gpt import decoder_rows, depth_of, mask_of, without_buffers
from t2p.io import UserError

ANCHORS = {  # a name that each file with this head has
    "gaussian": "head.latents",
    "diffusion": "head.policy.noise_pred_net.pos_emb",
    "flow": "head.policy.net.proj_in.weight",
}
PROJECTIONS = {"image": "img_proj", "text": "text_proj", "proprio": "proprio_proj"}
DECODER, DENOISER, FLOW = "head.decoder", "head.policy.noise_pred_net", "head.policy.net"
SOLVER = "head.policy.solver.velocity_model.model"  # the flow network once more, as the ODE solver's attribute


def inverse_dynamics_rows(model: Mapping[str, Any]) -> list[Row]:
    """model: what `inverse_dynamics_settings` gives, or the arguments of models.inverse_dynamics.make_inverse_dynamics,
    of which kind, width, parts, depth, actions, condition, spread and learned_scale are read."""
    rows: list[Row] = []
    for part, name in PROJECTIONS.items():
        rows += linear(name, f"project_{part}") if part in model["parts"] else []
    return rows + {"gaussian": _gaussian_rows, "diffusion": _diffusion_rows, "flow": _flow_rows}[model["kind"]](model)


def _gaussian_rows(model: Mapping[str, Any]) -> list[Row]:
    count, width = model["actions"][0], model["width"]
    rows = [Row("head.latents", "head/tokens/latents", reshape((1, count, width), (count, width)))]
    rows += decoder_rows(DECODER, "head/tokens/decoder", model["depth"])
    rows += linear("head.action_proj", "head/mean")
    rows += [Row("head.std", "head/std")] if model.get("spread") == "scalar" else []
    return rows + ([Row("head.action_squash_scale", "head/scale")] if model.get("learned_scale") else [])


def _diffusion_rows(model: Mapping[str, Any]) -> list[Row]:
    def table(name: str, ours: str, length: int) -> Row:
        shape = (length, model["width"])
        return Row(f"{DENOISER}.{name}", f"head/{ours}", reshape((1, *shape), shape))

    rows = [table("pos_emb", "positions", model["actions"][0])]
    rows += [table("cond_pos_emb", "memory_positions", model["condition"] + 1)]
    names = {"input_emb": "inputs", "cond_obs_emb": "cond", "encoder.0": "memory_fc1", "encoder.2": "memory_fc2"}
    for theirs, ours in {**names, "head": "outputs"}.items():
        rows += linear(f"{DENOISER}.{theirs}", f"head/{ours}")
    rows += layer_norm(f"{DENOISER}.ln_f", "head/norm")
    for i in range(model["depth"]):
        layer, ours = f"{DENOISER}.decoder.layers.{i}", f"head/layer_{i}"
        rows += _attention_rows(f"{layer}.self_attn", f"{ours}/attend")
        rows += _attention_rows(f"{layer}.multihead_attn", f"{ours}/cross")
        for number in (1, 2, 3):
            rows += layer_norm(f"{layer}.norm{number}", f"{ours}/norm_{number}")
        for number in (1, 2):
            rows += linear(f"{layer}.linear{number}", f"{ours}/fc{number}")
    return rows


def _attention_rows(official: str, ours: str) -> list[Row]:
    """PyTorch's MultiheadAttention, whose packed projection lacks the dot before its part's name."""
    packed = linear(f"{official}.in_proj", ours)
    packed = [Row(row.official.replace("in_proj.", "in_proj_"), row.ours, row.transform) for row in packed]
    return packed + linear(f"{official}.out_proj", f"{ours}/out")


def _flow_rows(model: Mapping[str, Any]) -> list[Row]:
    time = f"{FLOW}.timestep_encoder.timestep_embedder"
    rows = [*linear(f"{time}.linear_1", "head/time_fc1"), *linear(f"{time}.linear_2", "head/time_fc2")]
    for theirs, ours in {"proj_in": "inputs", "proj_out_1": "modulation", "proj_out_2": "outputs"}.items():
        rows += linear(f"{FLOW}.{theirs}", f"head/{ours}")
    parts = {"norm1.linear": "modulation", "attn1.to_q": "query", "attn1.to_k": "key", "attn1.to_v": "value"}
    parts |= {"attn1.to_out.0": "out", "ff.net.0.proj": "fc1", "ff.net.2": "fc2"}
    for i in range(model["depth"]):
        for theirs, ours in parts.items():
            rows += linear(f"{FLOW}.transformer_blocks.{i}.{theirs}", f"head/block_{i}/{ours}")
    return rows


def inverse_dynamics_parameters(arrays: Arrays) -> Arrays:
    """The arrays that are parameters, each once. UserError if the two copies of the flow network differ."""
    arrays = without_buffers(arrays)
    copies = {name: name.replace(SOLVER, FLOW) for name in arrays if name.startswith(SOLVER)}
    changed = [
        name for name, first in copies.items() if first not in arrays or not np.array_equal(arrays[name], arrays[first])
    ]
    if changed:
        raise UserError(f"the file holds the flow network twice, but these copies differ: {', '.join(changed)}")
    return {name: value for name, value in arrays.items() if name not in copies}


def inverse_dynamics_settings(arrays: Arrays, heads: int = 8, steps: int = 16, codes: bool = True) -> dict[str, Any]:
    """Arguments of models.inverse_dynamics.make_inverse_dynamics that a file's shapes tell.

    They do not tell the heads of attention, nor whether codes are part of the condition (`codes`; see
    `condition_length`), nor with a flow head the steps of a chunk. UserError for another file."""
    kind = next((kind for kind, anchor in ANCHORS.items() if anchor in arrays), None)
    if kind is None:
        raise UserError(f"this is not AMPLIFY's inverse dynamics: it has none of {', '.join(ANCHORS.values())}")
    common = {"kind": kind, "heads": heads, "parts": (*projected(arrays), *(["codes"] if codes else []))}
    of_kind = {"gaussian": _gaussian_settings, "diffusion": _diffusion_settings, "flow": _flow_settings}[kind](arrays)
    return {"actions": (steps, of_kind.pop("numbers")), **common, **of_kind}


def projected(arrays: Arrays) -> tuple[str, ...]:
    """The parts of the condition that a file has projections for: all but codes."""
    return tuple(part for part, name in PROJECTIONS.items() if f"{name}.weight" in arrays)


def condition_length(arrays: Arrays) -> int | None:
    """Tokens of the condition, where a file tells: by the diffusion head's table of positions, or by the mask (a
    buffer) of the Gaussian head's cross-attention."""
    if f"{DENOISER}.cond_pos_emb" in arrays:
        return int(np.shape(arrays[f"{DENOISER}.cond_pos_emb"])[1]) - 1
    mask = mask_of(arrays, DECODER, "cross_attn")
    return None if mask is None else mask.shape[1]


def has_codes(arrays: Arrays, tokens: Mapping[str, int]) -> bool | None:
    """Whether codes are part of the condition; None where the file does not tell. tokens: of each part."""
    length = condition_length(arrays)
    if length is None:
        return None
    others = sum(tokens[part] for part in projected(arrays))
    if length not in (others, others + tokens["codes"]):
        raise UserError(
            f"this inverse dynamics has a condition of {length} tokens; with these image tokens and codes of the other "
            f"stages it has {others + tokens['codes']}, or {others} without codes"
        )
    return length > others


def _gaussian_settings(arrays: Arrays) -> dict[str, Any]:
    _, steps, width = np.shape(arrays["head.latents"])
    numbers = len(arrays["head.action_proj.weight"])
    settings = {"spread": "scalar" if "head.std" in arrays else "fixed", "depth": depth_of(arrays, DECODER)}
    settings |= {"learned_scale": "head.action_squash_scale" in arrays}
    return settings | {"width": width, "numbers": numbers, "actions": (steps, numbers)}


def _diffusion_settings(arrays: Arrays) -> dict[str, Any]:
    _, steps, width = np.shape(arrays[f"{DENOISER}.pos_emb"])
    numbers = len(arrays[f"{DENOISER}.head.weight"])
    depth = _count(arrays, f"{DENOISER}.decoder.layers.{{}}.norm1.weight")
    settings = {"condition": np.shape(arrays[f"{DENOISER}.cond_pos_emb"])[1] - 1, "depth": depth}
    return settings | {"width": width, "numbers": numbers, "actions": (steps, numbers)}


def _flow_settings(arrays: Arrays) -> dict[str, Any]:
    width, numbers = np.shape(arrays[ANCHORS["flow"]])
    depth = _count(arrays, f"{FLOW}.transformer_blocks.{{}}.ff.net.2.weight")
    return {"width": width, "depth": depth, "numbers": numbers}


def _count(arrays: Arrays, name: str) -> int:
    depth = 0
    while name.format(depth) in arrays:
        depth += 1
    return depth
