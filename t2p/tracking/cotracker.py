"""Adapter to CoTracker (Karaev et al., 2023, 2024), with which four of the five papers labelled their videos.

Needs PyTorch (`pip install t2p[cotracker]`) and CoTracker itself: a checkout of its repository or its installed
package. Its code and weights are licensed CC-BY-NC 4.0 (non-commercial); nothing of them is part of t2p.

Three conventions differ. CoTracker's pixels have their centres at whole numbers (t2p: at one half), its
coordinates are pixels (t2p: parts of width and height), and its video is channel-first float in 0 .. 255.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from t2p.geometry.conventions import from_pixel_centers, to_cotracker_queries
from t2p.io import UserError
from t2p.tracking.base import Span, Tracker, check_queries, check_video, frame_indices, inside
from t2p.types import Tracks

# model: (constructor arguments of the predictor, for the installed package; keywords of the hub's entry)
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "cotracker2": ({"offline": True, "v2": True, "window_len": 8}, {"version": "2"}),
    "cotracker3_offline": ({"offline": True, "v2": False, "window_len": 60}, {"version": "3"}),
}

# (video [1, T, 3, H, W] float32 in 0 .. 255, queries [1, N, 3] (t, x, y) in pixels) ->
# (tracks [1, T, N, 2] (x, y) in pixels, visible [1, T, N]), followed forward and backward
Predict = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class CoTracker(Tracker):
    """Runs `predict` on a video or a span of it and converts what goes in and comes out."""

    name = "cotracker"

    def __init__(self, predict: Predict, version: str):
        self.predict, self.version = predict, version

    def prepare(self, video: np.ndarray) -> np.ndarray:
        check_video(video)
        return video

    def track(self, features: np.ndarray, queries: np.ndarray, span: Span | None = None) -> Tracks:
        queries, span = check_queries(queries, len(features), span)
        size = features.shape[1:3]
        video = features[frame_indices(len(features), span)].transpose(0, 3, 1, 2).astype(np.float32)
        asked = to_cotracker_queries(queries - np.array([span[0], 0, 0], np.float32), size)
        points, visible = self.predict(video[None], asked[None])
        points = from_pixel_centers(np.asarray(points[0], np.float32), size)
        return Tracks(points=points, visible=np.asarray(visible[0], bool) & inside(points), queries=queries)


def load_cotracker(weights: str = "", checkout: str = "", model: str = "cotracker2") -> CoTracker:
    """CoTracker from a local checkout of its repository (torch.hub), or from the installed package `cotracker`.

    weights: a checkpoint (.pth); without one, a checkout loads or downloads the published weights as
    torch.hub does. UserError names what is missing.
    """
    if model not in MODELS:
        raise UserError(f"unknown CoTracker model {model!r}; expected one of {', '.join(MODELS)}")
    try:
        import torch
    except ImportError as e:
        raise UserError("tracker 'cotracker' needs PyTorch: pip install 't2p[cotracker]'") from e
    predictor = _from_checkout(checkout, model, weights) if checkout else _from_package(model, weights)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return CoTracker(_predict_with(predictor.to(device).eval(), device), model)


def _from_checkout(checkout: str, model: str, weights: str) -> Any:
    import torch

    keywords = MODELS[model][1]
    predictor = torch.hub.load(checkout, model, source="local", pretrained=not weights, **keywords)
    if weights:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        predictor.model.load_state_dict(state.get("model", state))
    return predictor


def _from_package(model: str, weights: str) -> Any:
    try:
        from cotracker.predictor import CoTrackerPredictor
    except ImportError as e:
        raise UserError(
            "CoTracker is not installed: give a checkout of github.com/facebookresearch/co-tracker with --checkout DIR"
        ) from e
    if not weights:
        raise UserError("the installed package cotracker needs its checkpoint: --weights FILE.pth")
    return CoTrackerPredictor(checkpoint=weights, **MODELS[model][0])


def _predict_with(predictor: Any, device: str) -> Predict:
    import torch

    def predict(video: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            tracks, visible = predictor(
                torch.from_numpy(video).to(device),
                queries=torch.from_numpy(queries).to(device),
                backward_tracking=True,
            )
        return tracks.cpu().numpy(), visible.cpu().numpy()

    return predict
