"""DP3's released encoder (YanjieZe/3D-Diffusion-Policy): names and layouts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from t2p.convert.base import Constant, Row, layer_norm, linear
from t2p.models.dp3 import WIDTHS


def dp3_encoder_rows(model: Mapping[str, Any]) -> list[Row | Constant]:
    """model: the settings of models.dp3.Dp3Encoder, all but dtype.

    The released layers stand in a list with their norm and ReLU: layer i has number 3 i."""
    rows: list[Row | Constant] = []
    for i in range(len(WIDTHS) + model["colors"]):
        rows += linear(f"extractor.mlp.{3 * i}", f"cloud/layer_{i}")
        if model["layer_norm"] and i < len(WIDTHS):
            rows += layer_norm(f"extractor.mlp.{3 * i + 1}", f"cloud/norm_{i}")
    if model["projection"]:
        normed = model["final_norm"] == "layernorm"
        rows += linear(f"extractor.final_projection{'.0' if normed else ''}", "cloud/projection")
        rows += layer_norm("extractor.final_projection.1", "cloud/final_norm") if normed else []
    for i in range(len(model["state_widths"])):
        rows += linear(f"state_mlp.{2 * i}", f"state/layer_{i}")
    return rows
