"""Which of a scene's things touch, as MuJoCo 2.3.7, with which LIBERO's results were made, would say."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import mujoco
import numpy as np


@dataclass(frozen=True)
class Contacts:
    """The things of one compiled model. geoms: [g] of each thing, by its number, those that count."""

    model: mujoco.MjModel
    geoms: tuple[np.ndarray, ...]

    @cached_property
    def owner(self) -> np.ndarray:
        """[ngeom] int: the number of the thing whose geom it is, len(geoms) where it is none's."""
        owner = np.full(self.model.ngeom, len(self.geoms))
        for number, geoms in enumerate(self.geoms):
            owner[geoms] = number
        return owner

    def touching(self, data: mujoco.MjData) -> np.ndarray:
        """[things + 1, things + 1] bool: whether any contact in `data` joins a geom of one with a geom of the other."""
        touching = np.zeros((len(self.geoms) + 1,) * 2, bool)
        a, b = self.owner[data.contact.geom].T
        touching[a, b] = touching[b, a] = True
        return touching

    def pair(self, a: int, b: int) -> Pair:
        """Two things by their numbers."""
        model = self.model
        boxes = [geoms[model.geom_type[geoms] == mujoco.mjtGeom.mjGEOM_BOX] for geoms in (self.geoms[a], self.geoms[b])]
        first, second = (grid.ravel() for grid in np.meshgrid(*boxes))
        kinds, affinities, welds = model.geom_contype, model.geom_conaffinity, model.body_weldid[model.geom_bodyid]
        collide = (kinds[first] & affinities[second]) | (kinds[second] & affinities[first])
        kept = (collide != 0) & (welds[first] != welds[second])
        return Pair(model, (a, b), first[kept], second[kept])


@dataclass(frozen=True)
class Pair:
    """Two things. numbers: theirs; a, b: [pairs], each box of one with each of the other, where they may collide."""

    model: mujoco.MjModel
    numbers: tuple[int, int]
    a: np.ndarray
    b: np.ndarray

    def touch(self, data: mujoco.MjData, touching: np.ndarray) -> bool:
        """MuJoCo 2.3.7 makes contacts of two boxes wherever they overlap. Newer ones make none where one has gone deep
        into the other; such boxes are found here. touching: of Contacts."""
        return bool(touching[self.numbers]) or self._boxes_overlap(data)

    def _boxes_overlap(self, data: mujoco.MjData) -> bool:
        """The separating axis theorem, for all pairs whose bounding spheres overlap."""
        apart, radius, sizes = (
            data.geom_xpos[self.b] - data.geom_xpos[self.a],
            self.model.geom_rbound,
            self.model.geom_size,
        )
        near = np.einsum("pi,pi->p", apart, apart) < (radius[self.a] + radius[self.b]) ** 2
        a, b, apart = self.a[near], self.b[near], apart[near]
        axes_a, axes_b = (data.geom_xmat[geoms].reshape(-1, 3, 3).swapaxes(1, 2) for geoms in (a, b))
        crossed = np.cross(axes_a[:, :, None], axes_b[:, None]).reshape(-1, 9, 3)
        axes = np.concatenate([axes_a, axes_b, crossed], axis=1)  # [pairs, 15, 3]
        reach = _reach(axes, axes_a, sizes[a]) + _reach(axes, axes_b, sizes[b])
        separated = np.abs(np.einsum("pci,pi->pc", axes, apart)) > reach
        return bool((~separated.any(axis=1)).any())


def _reach(directions: np.ndarray, axes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """[pairs, directions]: how far boxes with these axes [pairs, 3, 3], in rows, and half sizes [pairs, 3] reach."""
    return np.einsum("pca,pa->pc", np.abs(np.einsum("pci,pai->pca", directions, axes)), sizes)
