"""How a gripper from above takes hold of something: between its sides, or by its rim, where the fingers have room.

All numbers are read off robosuite's Panda gripper, or chosen here. Metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

# From the grip site: up to the palm, which what is held must not meet, and down to the fingertips.
DEPTHS, TIPS = (0.02, 0.016, 0.012), 0.0145
PALM = (0.0, 0.108, 0.034)  # the hand in its own axes: along the direction of closing from, to; across up to
WIDEST = 0.072  # what fits between the open fingers
RIM = 0.003  # half of a wall
CLEAR = 0.006  # of free space all around the gripper, that is enough
YAWS = np.deg2rad((90, 75, 105, 60, 120, 45, 135, 30, 150, 15, 165, 0))  # of the direction of closing; home is first
SLIDES = (0.0, -0.12, 0.12, -0.25, 0.25)  # off the middle, of a thing's depth


@dataclass(frozen=True)
class Opening:
    """How far the fingers are apart. finger: where one of them is, as PALM; half: whether that is half open."""

    finger: tuple[float, float, float]
    half: bool


FULL, HALF = Opening((0.030, 0.072, 0.013), False), Opening((0.011, 0.052, 0.013), True)


@dataclass(frozen=True)
class Grasp:
    """A pose of the grip site; half: the fingers come half open. clear: m to the next thing."""

    position: np.ndarray
    rotation: np.ndarray
    half: bool
    clear: float


def points_of(model: mujoco.MjModel, data: mujoco.MjData, geoms: np.ndarray) -> np.ndarray:
    """[n, 3] points on and in the boxes round geoms [g]."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 5)] * 3), axis=-1).reshape(-1, 3)
    boxes = model.geom_aabb[geoms]
    local = boxes[:, None, :3] + grid * boxes[:, None, 3:]
    turned = np.einsum("gij,gkj->gki", data.geom_xmat[geoms].reshape(-1, 3, 3), local)
    return (data.geom_xpos[geoms][:, None] + turned).reshape(-1, 3)


def pointing_down(yaw: float) -> np.ndarray:
    """[3, 3] of the grip site: it looks down, its fingers close along the direction yaw (rad, from the world's x)."""
    closing, down = np.array([np.cos(yaw), np.sin(yaw), 0.0]), np.array([0.0, 0.0, -1.0])
    return np.stack([closing, np.cross(down, closing), down], axis=1)


def find_grasp(points: np.ndarray, obstacles: np.ndarray) -> Grasp:
    """For a thing made of points [n, 3] among the points [m, 3] of others.

    Round its middle if it is thin enough in any direction, else by its rim; of those, where there is room enough for
    the gripper, or most; of those, where it is thinnest, as near to how the hand is at home as may be."""
    thin = any(np.ptp(points @ pointing_down(yaw)[:, 0]) <= WIDEST for yaw in YAWS)
    best: tuple[tuple, Grasp] | None = None
    for opening in (FULL,) if thin else (FULL, HALF):
        for depth in DEPTHS:
            for yaw in YAWS:
                for rank, grasp in _grasps(points, obstacles, pointing_down(yaw), depth, opening, thin):
                    if best is None or rank > best[0]:
                        best = rank, grasp
    assert best is not None  # something is thin somewhere, or wide everywhere
    return best[1]


def _grasps(
    points: np.ndarray, obstacles: np.ndarray, rotation: np.ndarray, depth: float, opening: Opening, thin: bool
) -> list[tuple[tuple, Grasp]]:
    """Those of one direction, with what they are worth."""
    along, across = points @ rotation[:, 0], points @ rotation[:, 1]
    (low, high), width = (along.min(), along.max()), np.ptp(along)
    if thin and width > WIDEST:
        return []
    height = max(points[:, 2].max() - depth, points[:, 2].min() + TIPS)
    found = []
    for place in [(low + high) / 2] if thin else [high - RIM, low + RIM]:
        for slide in SLIDES if thin else (0.0,):
            middle = (across.min() + across.max()) / 2 + slide * np.ptp(across)
            position = place * rotation[:, 0] + middle * rotation[:, 1] + (0, 0, height)
            clear = clearance(obstacles, position, rotation, opening)
            rank = min(clear, CLEAR), -round(width, 2) if thin else 0.0
            found.append((rank, Grasp(position, rotation, opening.half, clear)))
    return found


def clearance(obstacles: np.ndarray, position: np.ndarray, rotation: np.ndarray, opening: Opening) -> float:
    """m, horizontally, between the gripper at a pose, or on its way down to it, and points [n, 3]."""
    local = (obstacles - position) @ rotation  # its third axis looks down
    along, across = np.abs(local[:, 0]), np.abs(local[:, 1])
    found = np.inf
    for (start, end, width), reach in ((opening.finger, TIPS), (PALM, -DEPTHS[0] - 0.003)):
        outside = np.maximum(np.maximum(start - along, along - end), 0), np.maximum(across - width, 0)
        found = min(found, np.min(np.hypot(*outside)[local[:, 2] < reach], initial=np.inf))
    return float(found)
