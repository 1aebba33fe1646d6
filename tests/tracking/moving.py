"""Small videos whose motion is known exactly."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from t2p.types import Tracks


def texture(seed: int, height: int, width: int, cell: int = 4) -> np.ndarray:
    """A smooth random picture [height, width, 3] uint8."""
    noise = np.random.default_rng(seed).random((height // cell, width // cell, 3)).astype(np.float32)
    return (cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1) * 255).astype(np.uint8)


def shifted(offsets: Sequence[tuple[float, float]], size: tuple[int, int] = (96, 128), seed: int = 0) -> np.ndarray:
    """A texture that stands `offsets[t]` = (x, y) pixels from its first place in frame t: [T, H, W, 3] uint8."""
    height, width = size
    border = 40
    picture = texture(seed, height + 2 * border, width + 2 * border)
    moves = [np.array([[1, 0, x - border], [0, 1, y - border]], np.float64) for x, y in offsets]
    return np.stack([cv2.warpAffine(picture, m, (width, height), flags=cv2.INTER_CUBIC) for m in moves])


def true_points(queries: np.ndarray, offsets: Sequence[tuple[float, float]], size: tuple[int, int]) -> np.ndarray:
    """[T, N, 2] in [0, 1]: where the queried surface points of `shifted` are."""
    offsets = np.array(offsets)[:, None] / np.array([size[1], size[0]])
    return queries[:, 1:] - offsets[queries[:, 0].astype(int), 0] + offsets


def pixel_errors(tracks: Tracks, truth: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[T, N] distances in pixels of the video."""
    return np.linalg.norm((tracks.points - truth) * [size[1], size[0]], axis=-1)
