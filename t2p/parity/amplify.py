"""AMPLIFY: measures, and the input that its networks get from the official files."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from t2p.metrics.tracks import (
    PIXEL_TOLERANCES,
    amplify_measures,
    amplify_within,
    codebook_perplexity,
    cross_track_l2,
    normalized_codebook_perplexity,
)


def _codebook_size(meta: dict[str, Any]) -> int:
    """From the configuration, or from the words with which the fixture describes its `indices`."""
    if "codebook_size" in meta["config"]:
        return meta["config"]["codebook_size"]
    found = re.search(r"codebook size (\d+)", meta["arrays"]["inputs"]["indices"]["what"])
    if not found:
        raise ValueError('meta.json names the codebook size neither in "config" nor in the description of "indices"')
    return int(found[1])


def metrics(meta: dict[str, Any], inputs: dict[str, np.ndarray], checkpoint: None = None) -> dict[str, np.ndarray]:
    """inputs: pred_traj, gt_traj (outputs rand__*), edge_pred, edge_gt (edge__*), code indices."""
    height = meta["config"]["img_size"][0]
    size = _codebook_size(meta)
    outputs = {}
    for name, pred, true in (
        ("rand", inputs["pred_traj"], inputs["gt_traj"]),
        ("edge", inputs["edge_pred"], inputs["edge_gt"]),
    ):
        values = amplify_measures(pred, true, height)
        values |= {f"tol_{k:02d}": amplify_within(pred, true, k, height) for k in PIXEL_TOLERANCES}
        outputs |= {f"{name}__{key}": value for key, value in values.items()}
    outputs["rand__cross_track_l2_discount0.9"] = cross_track_l2(inputs["pred_traj"], inputs["gt_traj"], 0.9)
    outputs["codebook_perplexity"] = codebook_perplexity(inputs["indices"], size)
    outputs["normalized_codebook_perplexity"] = normalized_codebook_perplexity(inputs["indices"], size)
    return outputs
