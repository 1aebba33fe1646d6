"""What AMPLIFY's three stages take from a batch (released code: LiberoDataset)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
import ml_collections

from t2p.geometry.conventions import Size, from_amplify, to_amplify
from t2p.io import UserError
from t2p.methods.bounds import COUNT
from t2p.types import Array, Batch, FieldWindow

BOUNDS = dict.fromkeys(("window.points", "window.horizon", "window.steps"), COUNT)

# What forward and inverse dynamics must have as the tokenizer had it. How fast motion is (horizon) may differ.
SHARED = {f"window.{name}": f"window.{name}" for name in ("views", "points", "steps", "image_size")}


def configure(config: ml_collections.ConfigDict) -> None:
    """Adds the released code's window."""
    config.window = ml_collections.ConfigDict(
        {
            "views": ("agentview", "eye_in_hand"),
            "track_set": "cotracker2/amplify",
            "points": 400,
            "horizon": 16,  # frames that a window of tracks covers (true_horizon): 16 for LIBERO, 4 for Bridge
            "steps": 16,  # to which they are resampled (track_pred_horizon)
            "method": "linear",  # or spline
            "image_size": (128, 128),  # (height, width) in which points were tracked and motion classes are counted
        }
    )


@dataclass(frozen=True)
class Window:
    """The tracks of all views from one frame on. points: of each view; horizon: frames; steps: T, after resampling."""

    views: tuple[str, ...]
    track_set: str
    points: int
    horizon: int
    steps: int
    method: Literal["linear", "spline"]
    image_size: Size

    @classmethod
    def from_config(cls, config: ml_collections.ConfigDict) -> Window:
        w = config.window
        if not w.views or w.steps < 2 or w.method not in ("linear", "spline"):
            raise UserError(
                f"window.views is {tuple(w.views)}, window.steps {w.steps}, window.method {w.method!r}; expected at "
                "least one view, at least 2 steps, and linear or spline"
            )
        height, width = w.image_size
        return cls(tuple(w.views), w.track_set, w.points, w.horizon, w.steps, w.method, (height, width))

    def fields(self) -> dict[str, Any]:
        """Of a WindowSpec."""
        return {
            "views": self.views,
            "track_set": self.track_set,
            "tracks": FieldWindow(tuple(range(self.horizon))),
            "track_clamp": self.image_size,
            "track_steps": None if self.steps == self.horizon else self.steps,
            "track_method": self.method,
            "points": self.points,
            "image_size": self.image_size,
        }

    def tracks(self, batch: Batch) -> tuple[Array, Array]:
        """-> tracks [B, V, T, N, 2], (row, column) in [-1, 1], and [B, T] bool, False past an episode's end."""
        found = [batch.tracks[self.track_set][view] for view in self.views]
        points = jnp.stack([jnp.asarray(tracks.points, jnp.float32) for tracks in found], axis=1)
        valid = found[0].valid
        valid = jnp.ones((points.shape[0], points.shape[2]), bool) if valid is None else jnp.asarray(valid)
        return to_amplify(points, self.image_size, clamp=False), valid  # clamped before they were resampled

    def to_batch_tracks(self, tracks: Array) -> Array:
        """The inverse of `tracks`: [..., 2] (row, column) in [-1, 1] -> (x, y) in [0, 1]."""
        return from_amplify(tracks, self.image_size)


def batch_rows(batch: Batch) -> int:
    """B."""
    return len(next(iter({**batch.images, **batch.features}.values())))
