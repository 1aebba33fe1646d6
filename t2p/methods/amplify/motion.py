"""Motion as AMPLIFY's tokenizer sees it: velocities of points, and the classes of a window of pixels that they fall
into (Collins et al. 2025, section 3.1; released code). Coordinates are (row, column) in [-1, 1] of the image.

Letters: ... any axes, t time steps of a track, n points, c classes; a window of R rows and C columns has c = R C
classes, row by row, and its middle is no motion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from t2p.io import UserError
from t2p.types import Array

Window = tuple[int, int]
Size = tuple[int, int]  # (height, width) in pixels

# Released code (loss_weights): how much a camera's view counts.
VIEW_WEIGHTS = {"agentview": 0.9, "eye_in_hand": 0.1, "all": 1.0, "corner": 1.0, "corner2": 1.0, "front": 1.0}


def to_velocities(tracks: Array) -> Array:
    """[..., t, n, 2] -> [..., t - 1, n, 2]: differences in time, not scaled any further."""
    return tracks[..., 1:, :, :] - tracks[..., :-1, :, :]


def to_tracks(velocities: Array, start: Array) -> Array:
    """The inverse: velocities [..., t - 1, n, 2] and the first points [..., n, 2] -> [..., t, n, 2]."""
    xp = velocities.__array_namespace__()
    start = start[..., None, :, :]
    return xp.concatenate([start, start + xp.cumsum(velocities, axis=-3)], axis=-3)


def to_classes(tracks: Array, window: Window, size: Size) -> Array:
    """[..., t, n, 2] -> [..., t - 1, n] int32: the differences of positions rounded to whole pixels of a picture of
    `size`; motions beyond the window count as its border."""
    half = np.asarray(size, np.float32) / 2
    places = jnp.round(jnp.clip(tracks * half + half, 0, np.asarray(size, np.float32) - 1))
    middle = np.asarray(window) // 2
    steps = jnp.clip(to_velocities(places), -middle, middle).astype(jnp.int32) + middle
    return steps[..., 0] * window[1] + steps[..., 1]


def class_velocities(window: Window, size: Size) -> np.ndarray:
    """[R, C, 2] float32: the velocity that each class stands for."""
    rows, columns = (np.arange(count) - count // 2 for count in window)
    pixels = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)
    return (pixels * (2.0 / np.asarray(size))).astype(np.float32)


def likeliest(logits: Array, window: Window, size: Size) -> Array:
    """Logits [..., c] -> velocities [..., 2] of the best class."""
    return jnp.asarray(class_velocities(window, size)).reshape(-1, 2)[logits.argmax(-1)]


def cross_entropy(logits: Array, classes: Array) -> Array:
    """[..., c] and [...] int -> [...]."""
    picked = jnp.take_along_axis(logits, classes[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - picked


def weigh_views(config: ml_collections.ConfigDict) -> None:
    """Sets loss.weights to those of window.views; a view that the released code does not name counts 1."""
    config.loss.weights = tuple(VIEW_WEIGHTS.get(view, 1.0) for view in config.window.views)


def view_weights(views: Sequence[str], weights: Mapping[str, float] = VIEW_WEIGHTS) -> np.ndarray:
    """[v] float32. UserError for a view without one."""
    unknown = [view for view in views if view not in weights]
    if unknown:
        raise UserError(f"no weight for the view {', '.join(unknown)}; there are weights for {', '.join(weights)}")
    return np.asarray([weights[view] for view in views], np.float32)
