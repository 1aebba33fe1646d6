"""Small random episodes for the tests of the store."""

from __future__ import annotations

import numpy as np

from t2p.types import Camera, Episode, TrackSet


def track_set(rng: np.random.Generator, *shape: int) -> TrackSet:
    """shape: (T, N) for a global set, (T, h, N) for a window set."""
    points = rng.random((*shape, 2), np.float32)
    layout = "window" if len(shape) == 3 else "global"
    return TrackSet(layout, points, rng.random(shape) < 0.7, rng.random((shape[-1], 3), np.float32), "walk", "2")


def make_episode(number: int, length: int = 11, views: tuple[str, ...] = ("front", "wrist")) -> Episode:
    """Every field filled; odd numbers have the set "walk/grid", all have "walk/amplify" in the first view."""
    rng = np.random.default_rng(number)
    tracks = {"walk/amplify": {views[0]: track_set(rng, length, 4, 6)}}
    if number % 2:
        tracks["walk/grid"] = {view: track_set(rng, length, 5) for view in views}
    return Episode(
        id=f"e{number}",
        fps=12.5,
        frames={v: rng.integers(0, 256, (length, 12 + 2 * i, 18, 3), np.uint8) for i, v in enumerate(views)},
        columns={
            "actions": rng.normal(size=(length, 7)).astype(np.float32),
            "proprio/joints": rng.normal(size=(length, 3)),
            "reward": np.arange(length),
            "done": np.arange(length) == length - 1,
        },
        language=("pick up the cup", f"number {number}"),
        cameras={views[0]: Camera(np.diag([20.0, 20.0, 1.0]), np.eye(4), (12, 18))},
        tracks=tracks,
        source="tests",
        task=f"task{number % 2}",
        info={"number": number, "nested": {"a": [1, 2]}},
    )
