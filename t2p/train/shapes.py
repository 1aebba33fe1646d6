"""The shapes of a batch without any data, from what a stage's window says of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from t2p import pytrees  # noqa: F401
from t2p.io import UserError
from t2p.types import ANY_VIEW, Batch, FieldWindow, Tracks, WindowSpec

Shape = Callable[..., jax.ShapeDtypeStruct]  # sizes after the batch axis, dtype= -> a whole array of the batch


def window_shapes(window: WindowSpec, text_width: int, batch_size: int) -> Batch:
    """A global batch of `window` as ShapeDtypeStructs, with every field that the pipeline would give.

    Raises UserError where the window leaves a size to the data."""

    def shape(*sizes: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch_size, *sizes), dtype)

    columns = _columns(window, shape)
    actions = columns.pop("actions", None)
    asked = {
        "images": _images(window, shape),
        "clean": _images(window, shape) if window.clean else {},
        "features": _features(window, shape),
        "goal": _goal(window, shape),
        "tracks": _tracks(window, shape),
        "actions": actions,
        "proprio": {name.partition("/")[2]: x for name, x in columns.items()},
        "cameras": {v: (shape(3, 3), shape(4, 4)) for v in window.views} if window.cameras else {},
        "text": shape(text_width) if window.text else None,
    }
    fields: dict[str, Any] = {name: value for name, value in asked.items() if value}
    if actions is not None:
        fields["action_valid"] = shape(actions.shape[1], dtype=jnp.bool_)
    has = {name: shape(dtype=jnp.bool_) for name in asked if name in fields}
    return Batch(**fields, has=has, index=shape(dtype=jax.dtypes.canonicalize_dtype("int64")))


def _views(window: WindowSpec) -> tuple[str, ...]:
    return (ANY_VIEW,) if window.one_view else window.views


def _picture(window: WindowSpec) -> tuple[int, int, int]:
    if window.image_size is None:
        raise UserError("this stage takes pictures of any size, so the shapes of a batch cannot be told without data")
    return (*window.image_size, 3)


def _images(window: WindowSpec, shape: Shape) -> dict[str, jax.ShapeDtypeStruct]:
    if window.images is None:
        return {}
    one = shape(len(window.images.offsets), *_picture(window), dtype=jnp.uint8)
    return dict.fromkeys(_views(window), one)


def _features(window: WindowSpec, shape: Shape) -> dict[str, jax.ShapeDtypeStruct]:
    """float16, as they are cached where nothing else is asked for."""
    if window.features is None:
        return {}
    assert window.feature_shape is not None, "a stage knows what its encoder gives"
    one = shape(len(window.features.offsets), *window.feature_shape, dtype=jnp.float16)
    return dict.fromkeys(_views(window), one)


def _goal(window: WindowSpec, shape: Shape) -> dict[str, jax.ShapeDtypeStruct]:
    if window.goal is None:
        return {}
    return dict.fromkeys(_views(window), shape(*_picture(window), dtype=jnp.uint8))


def _tracks(window: WindowSpec, shape: Shape) -> dict[str, dict[str, Tracks]]:
    if window.tracks is None or window.track_set is None:
        return {}
    steps, points = window.track_steps or len(window.tracks.offsets), window.num_points or window.points
    if points is None:
        raise UserError("this stage takes any number of points, so the shapes of a batch cannot be told without data")
    places = shape(steps, points, 2 if window.space == "image" else 3)
    visible, valid = shape(steps, points, dtype=jnp.bool_), shape(steps, dtype=jnp.bool_)
    one = Tracks(places, visible, valid=valid, space=window.space)
    return {window.track_set: dict.fromkeys(_views(window), one)}


def _columns(window: WindowSpec, shape: Shape) -> dict[str, jax.ShapeDtypeStruct]:
    """{"actions", "proprio/<name>": [B, steps, numbers]}."""
    asked: dict[str, FieldWindow | None] = {"actions": window.actions}
    asked |= {f"proprio/{key}": window.proprio for key in window.proprio_keys}
    taken = {name: field for name, field in asked.items() if field is not None}
    if unknown := [name for name in taken if name not in window.widths]:
        raise UserError(
            f"how many numbers the column {unknown[0]!r} has cannot be told without data; give data.sources paths"
        )
    return {name: shape(len(field.offsets), window.widths[name]) for name, field in taken.items()}
