"""TAPIR and BootsTAPIR (t2p.models.tapir) behind the tracker protocol, with published weights from a file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t2p.convert.tapir import load
from t2p.io import UserError, local_copy
from t2p.models import tapir
from t2p.tracking.base import Span, Tracker, check_queries, check_video, frame_indices, inside
from t2p.types import Tracks


class TapirTracker(Tracker):
    """Feature maps once per video, then queries in chunks that do not influence each other.

    A span sees the maps of its own frames only. A causal (online) model lets no frame see a later one, but for
    the query itself; its tracks are those of running it frame by frame, computed for all frames at once.
    """

    def __init__(self, model: tapir.Tapir, params: Mapping[str, Any], name: str, version: str):
        self.model, self.params, self.name, self.version = model, params, name, version

    def prepare(self, video: np.ndarray) -> tapir.Features:
        check_video(video)
        return tapir.extract(self.model, self.params, video)

    def track(self, features: tapir.Features, queries: np.ndarray, span: Span | None = None) -> Tracks:
        length = features[0].lowres.shape[0]
        queries, span = check_queries(queries, length, span)
        rows = jnp.asarray(frame_indices(length, span))
        frames = tuple(tapir.Level(f.size, f.lowres[rows], f.hires[rows]) for f in features)
        found = tapir.track(self.model, self.params, frames, queries - np.array([span[0], 0, 0], np.float32))
        points = np.swapaxes(np.asarray(found.points, np.float32), 0, 1)
        visible = np.asarray(tapir.visible(found)).T & inside(points)
        return Tracks(points=points, visible=visible, queries=queries)


def load_tapir(name: str, weights: str, online: bool = False) -> TapirTracker:
    """`tapir` or `bootstapir` from a published file (.npy). online: the file is one of the causal models.

    UserError if the file holds the other of the two, or no such weights.
    """
    model, params = load(weights, causal=online)
    found = "bootstapir" if model.extra_layers else "tapir"
    if found != name:
        raise UserError(f"{weights} holds the weights of {found}: use --tracker {found}")
    digest = hashlib.sha256(local_copy(weights).read_bytes()).hexdigest()[:12]
    kind = "online" if online else "offline"
    return TapirTracker(model, jax.device_put(params), name, f"1 ({kind}; weights sha256 {digest})")
