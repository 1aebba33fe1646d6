"""AMPLIFY's preparation of tracks: coordinates, resampling in time, the grid of queries, windows of a video."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from t2p.geometry.conventions import (
    Size,
    from_amplify,
    from_pixel_centers,
    swap_xy,
    to_amplify,
    to_cotracker_queries,
    to_pixel_centers,
)
from t2p.geometry.resample import resample_time
from t2p.methods.amplify.motion import class_velocities, to_tracks, to_velocities
from t2p.tracking.annotate import Job, annotate_video
from t2p.tracking.base import Span, Tracker, frame_indices
from t2p.types import Tracks


class BrightnessTracker(Tracker):
    """The fixture's stand-in for a tracker: a point lies where it was asked for, moved right and down by the frame's
    mean brightness (0 .. 1) in pixels, and is visible in frames brighter than half. Keeps what it was shown."""

    name, version = "brightness", "1"

    def __init__(self, size: Size):
        self.size = size
        self.means: list[np.ndarray] = []  # [h] of each window, 0 .. 255

    def prepare(self, video: np.ndarray) -> np.ndarray:
        return video.mean((1, 2, 3), dtype=np.float32)

    def track(self, features: np.ndarray, queries: np.ndarray, span: Span | None = None) -> Tracks:
        means = features[frame_indices(len(features), span or (0, len(features)))]
        self.means.append(means)
        pixels = to_pixel_centers(queries[:, 1:], self.size) + means[:, None, None] / 255
        visible = np.repeat(means[:, None] / 255 > 0.5, len(queries), axis=1)
        return Tracks(from_pixel_centers(pixels, self.size), visible, queries)


def preprocess(meta: dict[str, Any], inputs: dict[str, np.ndarray], checkpoint: None = None) -> dict[str, np.ndarray]:
    """Fixture amplify/preprocess. meta["config"]: img_shape, new_seq_len, n_tracks, horizon; inputs: px_tracks
    [v, T, n, 2] pixels (row, column) in a picture of img_shape, video [T, 3, S, S] uint8."""
    config, size = meta["config"], tuple(meta["config"]["img_shape"])
    tracks = to_amplify(from_pixel_centers(swap_xy(inputs["px_tracks"]), size), size)
    outputs = {
        "normalized": tracks,
        "unnormalized": swap_xy(to_pixel_centers(from_amplify(tracks, size), size)),
        "linear": resample_time(tracks, config["new_seq_len"], "linear"),
        "spline": resample_time(tracks, config["new_seq_len"], "spline"),
        "points": to_tracks(to_velocities(tracks), tracks[..., 0, :, :]),
    }
    window = tuple(meta["arrays"]["outputs"]["rel_diffs"]["shape"][-3:-1])
    outputs["rel_diffs"] = class_velocities(window, size)[None, None]
    return outputs | _annotated(inputs["video"], math.isqrt(config["n_tracks"]), config["horizon"])


def _annotated(video: np.ndarray, side: int, horizon: int) -> dict[str, np.ndarray]:
    """What `t2p annotate --layout amplify` makes of the video, in CoTracker's pixels."""
    frames = np.moveaxis(video, 1, -1)
    size = frames.shape[1:3]
    tracker = BrightnessTracker(size)
    job = Job("", "", tracker.name, "amplify", layout_options={"side": side, "horizon": horizon})
    found = annotate_video(job, tracker, "video", "view", frames, None)
    queries = to_cotracker_queries(found.queries, size)
    return {
        "grid_standard": to_amplify(found.queries[:, 1:], size)[None],
        "grid_cotracker": queries[None],
        "window_queries": queries,
        "window_frame_means": np.stack(tracker.means),
        "tracks": to_pixel_centers(found.points, size),
        "vis": found.visible.astype(np.float32),
    }
