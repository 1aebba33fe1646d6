"""General Flow's view of a scene: which points are asked for, where the scene stands, how it is moved in training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from t2p.geometry.clouds import gather_points
from t2p.geometry.rotations import euler_xyz_to_matrix
from t2p.types import Array


@dataclass(frozen=True)
class Augment:
    """What is drawn for each scene, uniformly. turn: radians about x, y and z, in +-turn; stretch: the range of the
    factor; shift: metres along each axis, in +-shift. The defaults are the released values."""

    turn: tuple[float, float, float] = (0.9424778, 0.9424778, 0.3141593)
    stretch: tuple[float, float] = (0.75, 1.25)
    shift: float = 0.2

    def draw(self, rng: Array, scenes: int) -> dict[str, Array]:
        """{"rotation": [b, 3, 3], "factor": [b], "shift": [b, 3]}."""
        turn, stretch, shift = jax.random.split(rng, 3)
        angles = jnp.array(self.turn) * jax.random.uniform(turn, (scenes, 3), minval=-1.0)
        return {
            "rotation": euler_xyz_to_matrix(angles),
            "factor": jax.random.uniform(stretch, (scenes,), minval=self.stretch[0], maxval=self.stretch[1]),
            "shift": self.shift * jax.random.uniform(shift, (scenes, 3), minval=-1.0),
        }


def move(points: Array, centre: Array, drawn: dict[str, Array]) -> Array:
    """Centred points [b, ..., 3] turned, stretched and shifted as drawn; centre: [b, 3], subtracted first.

    A turn about the origin before centring, as released, is the same."""
    b, flat = points.shape[0], points.reshape(points.shape[0], -1, 3) - centre[:, None]
    turned = jnp.einsum("bij,bnj->bni", drawn["rotation"], flat) * drawn["factor"][:, None, None]
    return (turned + drawn["shift"][:, None]).reshape(b, *points.shape[1:])


def draw_queries(rng: Array, whole: Array, count: int) -> Array:
    """`count` different points of each scene, uniformly among those where whole [b, n] is True; others follow only
    when these are used up. Returns indices [b, count]."""
    order = jax.random.uniform(rng, whole.shape) + whole
    return jax.lax.top_k(order, count)[1]


def take_paths(paths: Array, index: Array) -> Array:
    """paths [b, n, t, 3] at index [b, q] -> [b, q, t, 3]."""
    b, n, *rest = paths.shape
    return gather_points(paths.reshape(b, n, -1), index).reshape(b, -1, *rest)


def in_chunks(queries: Array, size: int) -> Array:
    """queries [b, n, 3] -> [chunks, b, size, 3]; the last chunk is filled up with the first queries."""
    b, n = queries.shape[:2]
    index = jnp.arange(-(-n // size) * size) % n
    return queries[:, index].reshape(b, -1, size, 3).swapaxes(0, 1)


def from_chunks(paths: Array, count: int) -> Array:
    """[chunks, ..., size, 3] -> [..., count, 3]: `in_chunks` undone on the last but one axis."""
    joined: Any = jnp.moveaxis(paths, 0, -3)
    return joined.reshape(*joined.shape[:-3], -1, 3)[..., :count, :]
