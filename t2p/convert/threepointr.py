"""3PoinTr's networks: names and layouts of weights kept under PyTorch's conventions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from t2p.convert.base import Constant, Row, layer_norm, linear, reshape


def track_net_rows(model: Mapping[str, Any]) -> list[Row | Constant]:
    """model: the settings of models.threepointr.TrackNet, of which depth and cross_attend_tokens are read."""
    rows: list[Row | Constant] = [*linear("head", "head")]
    for i in range(3):
        rows += linear(f"tokens.{i}", f"token_{i}")
    for i in range(model["depth"]):
        rows += _block_rows(f"blocks.{i}", f"block_{i}", model["cross_attend_tokens"])
    return rows


def readout_rows(model: Mapping[str, Any]) -> list[Row | Constant]:
    """model: the settings of models.threepointr.Readout, of which width is read."""
    width = model["width"]
    return [
        Row("query", "query", reshape((1, 1, width), (1, width))),
        *linear("track", "track"),
        *_block_rows("block", "block", cross=True),
        *linear("cond", "condition"),
    ]


def _block_rows(official: str, ours: str, cross: bool) -> list[Row | Constant]:
    rows: list[Row | Constant] = [
        *layer_norm(f"{official}.norm1", f"{ours}/self_norm"),
        *linear(f"{official}.self.qkv", f"{ours}/self/qkv", bias=False),
        *linear(f"{official}.self.out", f"{ours}/self/out"),
        *layer_norm(f"{official}.norm3", f"{ours}/mlp_norm"),
        *linear(f"{official}.mlp.0", f"{ours}/mlp/fc1"),
        *linear(f"{official}.mlp.1", f"{ours}/mlp/fc2"),
    ]
    return [*rows, *(_cross_rows(official, ours) if cross else [])]


def _cross_rows(official: str, ours: str) -> list[Row]:
    return [
        *layer_norm(f"{official}.norm2", f"{ours}/cross_norm"),
        *layer_norm(f"{official}.norm_memory", f"{ours}/memory_norm"),
        *linear(f"{official}.cross.q", f"{ours}/cross/query", bias=False),
        *linear(f"{official}.cross.k", f"{ours}/cross/key", bias=False),
        *linear(f"{official}.cross.v", f"{ours}/cross/value", bias=False),
        *linear(f"{official}.cross.out", f"{ours}/cross/out"),
    ]
