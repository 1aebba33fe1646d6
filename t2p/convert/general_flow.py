"""General Flow's released network (michaelyuancb/general_flow, ScaleKPST): names and layouts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from t2p.convert.base import Arrays, Constant, Row, Transform, layer_norm, linear, reshape
from t2p.io import UserError

_COUNTER = ".num_batches_tracked"
_CVAE = "cvae.cvae"


def without_counters(arrays: Arrays) -> dict[str, np.ndarray]:
    """The arrays but BatchNorm's counters of batches, which nothing reads."""
    return {name: value for name, value in arrays.items() if not name.endswith(_COUNTER)}


def general_flow_rows(model: Mapping[str, Any], names: Iterable[str]) -> list[Row | Constant]:
    """Rows of {"params": ..., "batch_stats": ...}. model: settings of models.general_flow.GeneralFlow, of which the
    numbers of layers are read; names: those of the file, read for the names of the autoencoder's hidden layers."""
    rows: list[Row | Constant] = [Row("query_embedding", "params/query", reshape((1, 1, 6), (6,)))]
    for i in range(len(model["text_hidden"]) + 1):
        rows += linear(f"clip_alignment.clip_align_linear_{i}", f"params/text/layer_{i}")
    rows += batch_norm("clip_alignment.clip_align_bn", "text/norm")
    return [*rows, *_point_rows(model["blocks"], model["layers"]), *_autoencoder_rows(model, list(names))]


def batch_norm(official: str, ours: str) -> list[Row]:
    """The rows of one PyTorch BatchNorm, its counter left out."""
    running = (("running_mean", "mean"), ("running_var", "var"))
    statistics = [Row(f"{official}.{theirs}", f"batch_stats/{ours}/{name}") for theirs, name in running]
    return layer_norm(official, f"params/{ours}") + statistics


def _pointwise(dims: int) -> Transform:
    """A convolution of extent 1 in `dims` dimensions, [out, in, 1 ...], <-> kernel [in, out]."""
    ones = (1,) * dims
    return Transform(lambda x: x.reshape(x.shape[:2]).T, lambda x: x.T.reshape(*x.shape[::-1], *ones))


def _conv_norm(official: str, ours: str, dims: int) -> list[Row]:
    kernel = Row(f"{official}.0.weight", f"params/{ours}/conv/kernel", _pointwise(dims))
    return [kernel, *batch_norm(f"{official}.1", f"{ours}/norm")]


def _point_rows(blocks: tuple[int, ...], layers: int) -> list[Row]:
    stem = "encoder.encoder.0.0.convs.0.0"
    rows = [Row(f"{stem}.weight", "params/points/stem/kernel", _pointwise(1))]
    rows += [Row(f"{stem}.bias", "params/points/stem/bias")]
    for i, count in enumerate(blocks):
        for j in range(layers if i else 0):
            rows += _conv_norm(f"encoder.encoder.{i}.0.convs.{j}", f"points/level_{i}/layer_{j}", 2)
        for j in range(1, count):
            official, ours = f"encoder.encoder.{i}.{j}", f"points/level_{i}_block_{j}"
            rows += _conv_norm(f"{official}.convs.convs.0", f"{ours}/aggregation/layer_0", 2)
            rows += _conv_norm(f"{official}.pwconv.0", f"{ours}/expand", 1)
            rows += _conv_norm(f"{official}.pwconv.1", f"{ours}/contract", 1)
    for i in range(len(blocks) - 1):
        for j in range(2):
            rows += _conv_norm(f"decoder.decoder.{i}.0.convs.{j}", f"points/decoder/level_{i}_layer_{j}", 1)
    return rows


def _autoencoder_rows(model: Mapping[str, Any], names: list[str]) -> list[Row]:
    rows = linear(f"{_CVAE}.linear_means", "params/mean") + linear(f"{_CVAE}.linear_log_var", "params/log_variance")
    rows += _hidden_rows("enc_MLP", "path_encoder", max(1, model["encoder_layers"]), names)
    rows += _hidden_rows("dec_MLP", "path_decoder", max(1, model["decoder_layers"]), names)
    for official, ours in (("pred_MLP_1", "direction"), ("pred_MLP_2", "scale")):
        rows += _hidden_rows(official, f"{ours}/mlp", model["head_layers"], names)
        rows += linear(f"{_CVAE}.{official}.pred_head", f"params/{ours}/out")
    return rows


def _hidden_rows(official: str, ours: str, count: int, names: list[str]) -> list[Row]:
    """The hidden layers of one part, in the order of the numbers in their names; UserError if there are not `count`."""
    inside = [
        n.removesuffix(".weight") for n in names if n.startswith(f"{_CVAE}.{official}.") and n.endswith(".weight")
    ]
    hidden = sorted((n for n in inside if not n.endswith(".pred_head")), key=_numbers)
    if len(hidden) != count:
        raise UserError(f"the weights have {len(hidden)} hidden layers in {_CVAE}.{official}; the model has {count}")
    return [row for i, name in enumerate(hidden) for row in linear(name, f"params/{ours}/layer_{i}")]


def _numbers(name: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", name)]
