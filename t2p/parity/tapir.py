"""Runs TAPIR on recorded inputs and returns every recorded array under its recorded name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from t2p.convert.tapir import from_arrays
from t2p.geometry.conventions import from_tapir_queries, to_raster
from t2p.models import tapir
from t2p.types import Array

Arrays = dict[str, np.ndarray]


def run(meta: Mapping[str, Any], inputs: Arrays, checkpoint: Arrays) -> Arrays:
    """Fixtures tapir/*: offline at one resolution ("same/"), at several ("multires/"), and frame by frame
    ("online/": the same weights in a causal model, on the video of "same/").

    meta["case"]["kwargs"]: the official constructor's arguments."""
    arguments = meta["case"]["kwargs"]
    causal = arguments.get("use_causal_conv", False)
    model, params = from_arrays(checkpoint, causal, **overrides(arguments))
    outputs: Arrays = {}
    for name in sorted({name.split("/")[0] for name in inputs if name.endswith("/video_uint8")}):
        found = offline(model, params, inputs[f"{name}/video_uint8"], inputs[f"{name}/query_points_tyx"])
        outputs |= {f"{name}/{key}": value for key, value in found.items()}
    if "online/query_points_tyx" in inputs:
        queries = inputs["online/query_points_tyx"]
        found = online(model.clone(causal=True), params, inputs["same/video_uint8"], queries)
        outputs |= {f"online/{key}": value for key, value in found.items()}
    return outputs


def overrides(constructor: Mapping[str, Any]) -> dict[str, Any]:
    """The official constructor's arguments that the weights do not tell, as settings of models.tapir.Tapir."""
    names = {"softmax_temperature": "temperature", "num_pips_iter": "iterations", "initial_resolution": "train_size"}
    found = {ours: constructor[theirs] for theirs, ours in names.items() if theirs in constructor}
    return found | ({"train_size": tuple(found["train_size"])} if "train_size" in found else {})


def offline(model: tapir.Tapir, params: Mapping[str, Any], video: np.ndarray, queries: np.ndarray) -> Arrays:
    """video: [T, H, W, 3] uint8, queries: [N, 3] (t, y, x) in pixels -> recorded names."""
    size = video.shape[1:3]
    features = tapir.extract(model, params, video)
    estimates = tapir.track_all(model, params, features, from_tapir_queries(queries, size))
    final = tapir.combine(model, estimates)
    outputs = _named(final, size) | {"visibles": np.asarray(tapir.visible(final))}
    for i, estimate in enumerate(estimates[:-1]):
        outputs |= {f"iter{i}/{name}": value for name, value in _named(estimate, size).items()}
    outputs["feat_lowres_frame0"] = np.asarray(features[0].lowres[0])
    outputs["feat_hires_frame0"] = np.asarray(features[0].hires[0])
    refined = tapir.resolutions(size, model.train_size)
    return outputs | {"refinement_resolutions": np.array([model.train_size, *refined], np.int64)}


def online(model: tapir.Tapir, params: Mapping[str, Any], video: np.ndarray, queries: np.ndarray) -> Arrays:
    """The same, one frame at a time; all queries lie in frame 0."""
    size = video.shape[1:3]
    features = tapir.extract(model, params, video[:1])
    points = tapir.query_features(features, from_tapir_queries(queries, size))
    state = tapir.initial_state(model, len(queries), len(features))
    found = []
    for frame in video:
        estimate, state = tapir.step(model, params, frame, points, state)
        found.append(estimate)
    return _named(jax.tree.map(lambda *x: np.concatenate(x, axis=1), *found), size)


def _named(estimate: tapir.Estimate, size: tuple[int, int]) -> dict[str, Array]:
    points = to_raster(np.asarray(estimate.points), size)
    return {"tracks": points, "occlusion": estimate.occlusion, "expected_dist": estimate.uncertainty}
