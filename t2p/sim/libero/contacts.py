"""Which of a scene's things touch, as LIBERO's MuJoCo 2.3.7 says it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

_COLLISION = 0  # group of geoms


@dataclass(frozen=True)
class Contacts:
    """The things of one compiled model. owner: [ngeom] int, the number of the thing that a collision geom belongs to,
    `things` for all other geoms."""

    model: mujoco.MjModel
    owner: np.ndarray
    things: int

    def touching(self, data: mujoco.MjData) -> np.ndarray:
        """[things + 1, things + 1] bool: whether any contact joins a geom of one with a geom of the other."""
        touching = np.zeros((self.things + 1, self.things + 1), bool)
        a, b = self.owner[data.contact.geom].T
        touching[a, b] = touching[b, a] = True
        return touching

    def box_pairs(self, a: int, b: int) -> np.ndarray:
        """[2, pairs]: the boxes of two things that may collide, each of one with each of the other."""
        model = self.model
        boxes = [np.flatnonzero((self.owner == n) & (model.geom_type == mujoco.mjtGeom.mjGEOM_BOX)) for n in (a, b)]
        first, second = (grid.ravel() for grid in np.meshgrid(*boxes, indexing="ij"))
        kinds, affinities, welds = model.geom_contype, model.geom_conaffinity, model.body_weldid[model.geom_bodyid]
        may = (kinds[first] & affinities[second]) | (kinds[second] & affinities[first])
        kept = (may != 0) & (welds[first] != welds[second])
        return np.stack([first[kept], second[kept]])


def find_contacts(model: mujoco.MjModel, roots: Sequence[int]) -> Contacts:
    """Things are given by the bodies at the roots of their trees."""
    by_root = np.full(model.nbody, len(roots))
    by_root[list(roots)] = np.arange(len(roots))
    by_geom = by_root[model.body_rootid[model.geom_bodyid]]
    return Contacts(model, np.where(model.geom_group == _COLLISION, by_geom, len(roots)), len(roots))


def boxes_overlap(model: mujoco.MjModel, data: mujoco.MjData, pairs: np.ndarray) -> bool:
    """Whether the boxes of any pair [2, pairs] overlap.

    MuJoCo 2.3.7 makes contacts of two boxes wherever they overlap; newer ones make none where one box is so deep in
    the other that all corners of their common face lie beyond it."""
    a, b = pairs
    apart = data.geom_xpos[b] - data.geom_xpos[a]
    near = (apart**2).sum(1) < (model.geom_rbound[a] + model.geom_rbound[b]) ** 2
    if not near.any():
        return False
    a, b, apart = a[near], b[near], apart[near]
    axes_a, axes_b = (data.geom_xmat[g].reshape(-1, 3, 3).swapaxes(1, 2) for g in (a, b))
    crossed = np.cross(axes_a[:, :, None], axes_b[:, None]).reshape(-1, 9, 3)
    candidates = np.concatenate([axes_a, axes_b, crossed], axis=1)  # of the separating axis theorem, [pairs, 15, 3]
    reach = _reach(candidates, axes_a, model.geom_size[a]) + _reach(candidates, axes_b, model.geom_size[b])
    separated = np.abs((candidates @ apart[:, :, None])[..., 0]) > reach
    return bool((~separated.any(axis=1)).any())


def _reach(directions: np.ndarray, axes: np.ndarray, size: np.ndarray) -> np.ndarray:
    """[pairs, directions]: how far boxes with these axes [pairs, 3, 3] (rows) and half sizes [pairs, 3] reach."""
    return (np.abs(directions @ axes.swapaxes(1, 2)) * size[:, None]).sum(-1)
