"""What the readers of videos with tracks made elsewhere share."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from t2p.data.sources import SourceError
from t2p.data.sources.decode import (
    VIDEO_SUFFIXES,
    DecodeError,
    Size,
    images_in,
    natural,
    read_folder,
    read_video,
    read_video_at,
    resize,
)
from t2p.io import PathLike, UserError


def to_tracks(
    raw: np.ndarray, visible: np.ndarray, convert: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """A file's coordinates [..., D] and visibility [...] -> (points float32, visible) as t2p stores them.

    convert: (x, y) [..., 2] in the file's units -> [0, 1]; a third coordinate (depth) is kept. Points that are
    not finite or lie outside the picture become invisible. A coordinate that is not finite becomes 0 in the
    FILE's units: AMPLIFY's loader puts 0 there before it normalises, so that its network sees exactly -1, and
    `to_amplify` returns exactly that for pixel 0 (half a pixel added here, taken off again there).
    """
    finite = np.isfinite(raw)
    clean = np.where(finite, raw, 0).astype(np.float64)
    xy = convert(clean[..., :2])
    inside = ((xy >= 0) & (xy <= 1)).all(-1)
    points = np.concatenate([xy, clean[..., 2:]], -1).astype(np.float32)
    return points, visible.astype(bool) & finite.all(-1) & inside


def first_seen(points: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """[T, N, D], [T, N] -> queries [N, 3]: where each point is when it is first visible (frame 0 if it never is).

    For files that do not keep the frames at which their points were queried."""
    frames = visible.argmax(0)
    positions = points[frames, np.arange(points.shape[1]), :2]
    return np.concatenate([frames[:, None], positions], -1).astype(np.float32)


def check_shapes(key: str, points: np.ndarray, visible: np.ndarray, length: int, dims: tuple[int, ...]) -> None:
    """SourceError unless points are [T, N, D] with D in `dims`, visible is [T, N], and T is the video's length."""
    if points.ndim != 3 or points.shape[-1] not in dims or points.shape[:2] != visible.shape:
        wanted = " or ".join(str(d) for d in dims)
        raise SourceError(
            key, f"expected tracks [T, N, {wanted}] and visibility [T, N], got {points.shape} and {visible.shape}"
        )
    if len(points) != length:
        raise SourceError(key, f"the tracks cover {len(points)} frames, the video has {length}")


def files_below(path: PathLike, suffixes: tuple[str, ...], what: str) -> dict[str, Path]:
    """{path below `path` without suffix: file}, in natural order. UserError if there are none."""
    root = Path(path)
    found = [root] if root.is_file() else [p for p in root.rglob("*") if p.suffix in suffixes]
    if not found:
        raise UserError(f"{path} holds no files {' or '.join(suffixes)}; expected {what}")
    base = root.parent if root.is_file() else root
    return {p.relative_to(base).with_suffix("").as_posix(): p for p in sorted(found, key=lambda p: natural(str(p)))}


def tracked_video(
    key: str, arrays: Mapping[str, np.ndarray], video: Path, size: Size | None, recorded_fps: float | None
) -> tuple[np.ndarray, float, Size]:
    """The frames that belong to a file of tracks -> (frames at `size`, frames per second, size they had before).

    They are the array "video" [T, H, W, 3] uint8, or a video or folder of frames called `video` (its suffix is
    found here). The rate is the array "fps", else the video's, else `recorded_fps`.
    """
    rate = float(arrays["fps"]) if "fps" in arrays else recorded_fps
    if "video" in arrays:
        frames = arrays["video"]
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise SourceError(key, f"video must be uint8 [T, H, W, 3], got {frames.dtype} {frames.shape}")
        return resize(frames, size), _known(key, rate), frames.shape[1:3]
    try:
        if video.is_dir() and images_in(video):
            frames, _ = read_folder(video, _known(key, rate))
            return resize(frames, size), _known(key, rate), frames.shape[1:3]
        file = next((f for f in map(video.with_name, (video.name + s for s in VIDEO_SUFFIXES)) if f.exists()), None)
        if file is None:
            raise SourceError(key, f"no video: expected an array video, {video}.mp4 (or the like) or a folder {video}")
        frames, fps = read_video(file, size=size)
        return frames, rate or fps, read_video_at(file, [0.0]).shape[1:3]
    except DecodeError as e:
        raise SourceError(key, str(e)) from e


def _known(key: str, rate: float | None) -> float:
    if not rate:
        raise SourceError(key, "the frame rate is not in the file: give recorded_fps=")
    return rate


def import_h5py() -> Any:
    """The module h5py; UserError with the command that installs it."""
    try:
        import h5py
    except ModuleNotFoundError as e:
        raise UserError("HDF5 files need h5py: pip install h5py") from e
    return h5py


@contextlib.contextmanager
def hdf5(key: str, path: Path, layout: str) -> Iterator[Any]:
    """An open HDF5 file; one that is none, is cut off, or lacks something is a SourceError that says so, with the
    layout expected."""
    h5py = import_h5py()
    try:
        with h5py.File(path, "r") as file:
            yield file
    except SourceError:
        raise
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError) as e:  # whatever h5py makes of it
        reason = e.args[-1] if e.args else type(e).__name__
        if "truncated file" in str(e):
            raise SourceError(key, f"{path.name} is cut off ({reason}); copy or download it again") from e
        raise SourceError(key, f"{path.name} is not as expected ({reason}); the layout is {layout}") from e


def libero_sentence(stem: str) -> str:
    """The instruction in a LIBERO file name: "KITCHEN_SCENE3_turn_on_the_stove_demo" -> "turn on the stove"."""
    name = stem.removesuffix("_demo")
    if name[:1].isupper():
        name = re.sub(r"^.*?SCENE\d+_", "", name)
    return name.replace("_", " ")


def numeric(values: Any) -> np.ndarray:
    """Numbers per frame -> a column [T, d] float32."""
    array = np.asarray(values, dtype=np.float32)
    return array.reshape(len(array), -1)
