"""A kinematic stand-in for Block Stack: no physics, exact tracks; what the methods' tests learn from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from t2p.data.store import finish, write_shard
from t2p.geometry.cameras import invert_transform, transform_points
from t2p.types import Camera, Episode, TrackSet

STEPS = 9
POSE = np.array([[0.038, 0.798, -0.601, 0.76], [0.999, -0.03, 0.023, -0.03], [0.0, -0.602, -0.798, 0.62], [0, 0, 0, 1]])
POSE[:3, 0] /= np.linalg.norm(POSE[:3, 0])
POSE[:3, 2] = np.cross(POSE[:3, 0], POSE[:3, 1])  # the columns of a rotation, to rounding
POSE[:3, 2] /= np.linalg.norm(POSE[:3, 2])
POSE[:3, 1] = np.cross(POSE[:3, 2], POSE[:3, 0])
CAMERA = Camera(np.array([[154.5, 0, 64], [0, 154.5, 64], [0, 0, 1]]), POSE, (128, 128))
DOWN = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)  # the tool's x and y axes, pointing down


def scene(seed: int, points: int = 96, actions: bool = True) -> Episode:
    """A cube is lifted and put on another one."""
    rng = np.random.default_rng(seed)
    green = np.array([rng.uniform(0.3, 0.4), rng.uniform(-0.2, -0.05), 0.05])
    blue = np.array([rng.uniform(0.3, 0.4), rng.uniform(0.05, 0.2), 0.03])
    target = green + [0, 0, 0.08]
    path = [blue] * 4 + [blue + [0, 0, 0.2], (blue + target) / 2 + [0, 0, 0.2], target + [0, 0, 0.15], target, target]
    moves = np.stack([blue, *path])  # [10, 3]
    grip = [0, 0, 1, 1, 1, 1, 1, 0, 0]
    surface = rng.uniform(-1, 1, (points, 3))
    surface[np.arange(points), rng.integers(3, size=points)] = 1
    on_blue = np.arange(points) % 2 == 0
    first = np.where(on_blue[:, None], blue + 0.03 * surface, green + 0.05 * surface)
    world = first + np.where(on_blue[:, None], moves[:, None] - blue, 0)
    tracks = transform_points(invert_transform(POSE), world).astype(np.float32)
    tool = np.concatenate([np.stack(path) + [0, 0, 0.02], np.tile(DOWN, (9, 1)), np.array(grip)[:, None]], axis=1)
    return Episode(
        id=f"scene_{seed}",
        fps=1.0,
        frames={"front": np.zeros((STEPS + 1, 8, 8, 3), np.uint8)},
        columns={"actions": np.concatenate([tool, tool[-1:]]).astype(np.float32)} if actions else {},
        cameras={"front": CAMERA},
        tracks={
            "exact/objects": {
                "front": TrackSet(
                    "global",
                    tracks,
                    np.ones(tracks.shape[:2], bool),
                    np.zeros((points, 3), np.float32),
                    "exact",
                    "1",
                    "camera",
                )
            }
        },
    )


def write(directory: Path, count: int, first: int = 0, actions: bool = True) -> Path:
    """A dataset of `count` scenes, split "train"."""
    write_shard(directory, "train", 0, [scene(first + i, actions=actions) for i in range(count)], codec="png")
    finish(directory, shards={"train": 1})
    return directory
