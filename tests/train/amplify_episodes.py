"""Small episodes of random motion for AMPLIFY's stages, in the `cpu` variants' track set."""

from __future__ import annotations

import numpy as np

from t2p.types import Episode, TrackSet

POINTS, HORIZON = 9, 4


def episode(number: int, length: int, size: int, sentence: str) -> Episode:
    """Two views of size x size; windows of 4 frames from each of `length`."""
    rng = np.random.default_rng(number)
    start = rng.uniform(0.2, 0.8, (POINTS, 2)).astype(np.float32)
    walk = np.cumsum(rng.normal(0, 0.01, (length + HORIZON, POINTS, 2)), 0).astype(np.float32)
    windows = np.stack([start + walk[t : t + HORIZON] - walk[t] for t in range(length)])
    tracks = TrackSet(
        "window", windows, np.ones(windows.shape[:-1], bool), np.zeros((POINTS, 3), np.float32), "dis", "1"
    )
    frames = rng.integers(0, 256, (2, length, size, size, 3), np.uint8)
    return Episode(
        id=f"{number}",
        fps=20.0,
        frames={"front": frames[0], "wrist": frames[1]},
        columns={
            "actions": rng.normal(size=(length, 10)),
            "proprio/tool": rng.normal(size=(length, 9)),
            "proprio/gripper": rng.uniform(size=(length, 1)),
        },
        language=(sentence,),
        tracks={"simulator/amplify": {"front": tracks, "wrist": tracks}},
    )
