"""Names of nanoGPT-style stacks (AMPLIFY's release): t2p.models.gpt."""

from __future__ import annotations

import numpy as np

from t2p.convert.base import Arrays, Row, linear
from t2p.io import UserError

# Arrays of the official files that nothing learns: masks, tables of sines, and a scalar that only tells the device.
BUFFERS = (".attn_mask", ".inv_freq", ".pe", "_dummy_variable")


def without_buffers(arrays: Arrays) -> Arrays:
    """The arrays that are parameters."""
    return {name: value for name, value in arrays.items() if not name.endswith(BUFFERS)}


def encoder_rows(official: str, ours: str, depth: int, bias: bool = False) -> list[Row]:
    """The rows of a models.gpt.Encoder."""
    parts = {"attn.c_attn": "qkv", "attn.c_proj": "out", "mlp.c_fc": "mlp_fc1", "mlp.c_proj": "mlp_fc2"}
    return _stack_rows(official, ours, depth, parts, norms=2, bias=bias)


def decoder_rows(official: str, ours: str, depth: int, bias: bool = False) -> list[Row]:
    """The rows of a models.gpt.Decoder."""
    parts = {"self_attn.c_attn": "qkv", "self_attn.c_proj": "out", "mlp.c_fc": "mlp_fc1", "mlp.c_proj": "mlp_fc2"}
    parts |= {"cross_attn.q_proj": "cross_query", "cross_attn.kv_proj": "cross_key_value"}
    parts |= {"cross_attn.c_proj": "cross_out", "mlp_2.c_fc": "mlp_2_fc1", "mlp_2.c_proj": "mlp_2_fc2"}
    return _stack_rows(official, ours, depth, parts, norms=4, bias=bias)


def _stack_rows(official: str, ours: str, depth: int, parts: dict[str, str], norms: int, bias: bool) -> list[Row]:
    rows = [Row(f"{official}.transformer.pos_emb.weight", f"{ours}/positions")]
    rows += _norm_rows(f"{official}.transformer.ln_f", f"{ours}/norm", bias)
    for i in range(depth):
        layer, block = f"{official}.transformer.h.{i}", f"{ours}/block_{i}"
        for number in range(1, norms + 1):
            rows += _norm_rows(f"{layer}.ln_{number}", f"{block}/norm_{number}", bias)
        for theirs, name in parts.items():
            rows += linear(f"{layer}.{theirs}", f"{block}/{name}", bias)
    return rows


def _norm_rows(official: str, ours: str, bias: bool) -> list[Row]:
    rows = [Row(f"{official}.weight", f"{ours}/scale")]
    return rows + [Row(f"{official}.bias", f"{ours}/bias")] if bias else rows


def depth_of(arrays: Arrays, official: str) -> int:
    """How many layers the files have of a stack."""
    depth = 0
    while f"{official}.transformer.h.{depth}.ln_1.weight" in arrays:
        depth += 1
    return depth


def mask_of(arrays: Arrays, official: str, attention: str) -> np.ndarray | None:
    """The mask [n, m] bool, True where a token may look, of a stack's layers, or None where the file has none.
    attention: "attn", "self_attn" or "cross_attn". UserError unless it is the same in all layers."""
    start, end = f"{official}.transformer.h.", f".{attention}.attn_mask"
    names = [name for name in arrays if name.startswith(start) and name.endswith(end)]
    masks = [np.asarray(arrays[name]).astype(bool) for name in names]
    if not masks:
        return None
    if other := [name for name, mask in zip(names, masks) if not np.array_equal(mask, masks[0])]:
        raise UserError(f"the layers of {official} have different attention masks: {', '.join([names[0], *other])}")
    return masks[0].reshape(masks[0].shape[-2:])
