"""Small recordings with known content: frame i of a clip is one gray, `gray(i)`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def gray(index: int) -> int:
    return 20 + 5 * index % 200


def grays(frames: np.ndarray) -> list[int]:
    """The indices that the frames of a clip show (for clips of at most 40 frames)."""
    return [round((float(frame.mean()) - 20) / 5) for frame in frames]


def encode(path: Path, frames: Sequence[np.ndarray], fps: int = 10, codec: str = "libx264") -> Path:
    """Writes [H, W, 3] uint8 frames as a video with a key frame every 10."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = {"g": "10", "deadline": "realtime", "cpu-used": "8", "preset": "ultrafast"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def clip(path: Path, count: int, fps: int = 10, codec: str = "libx264", size: tuple[int, int] = (48, 64)) -> Path:
    """Writes a video whose frame i is gray(i)."""
    return encode(path, [np.full((*size, 3), gray(i), np.uint8) for i in range(count)], fps, codec)


def pictures(folder: Path, count: int) -> Path:
    """Writes 0.png, 1.png, ... without leading zeros, frame i gray(i)."""
    from PIL import Image

    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (64, 48), (gray(i),) * 3).save(folder / f"{i}.png")
    return folder
