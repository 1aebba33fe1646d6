"""Pictures and videos to uint8 arrays: streamed, cut, sampled in time and resized while they are decoded."""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".gif")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
MAX_BYTES = 4 << 30  # of one decoded recording

Size = tuple[int, int]  # (height, width)


class DecodeError(ValueError):
    """A video or picture cannot be decoded; the message says why."""


def natural(name: str) -> list[Any]:
    """Sort key that puts 2.png before 10.png."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def images_in(folder: Path) -> list[Path]:
    """The pictures directly in a folder, in natural order."""
    found = (p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
    return sorted(found, key=lambda p: natural(p.name))


def decode_image(data: bytes | Path, size: Size | None = None) -> np.ndarray:
    """An encoded picture (bytes, or the path of a file) -> [H, W, 3] uint8."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
            rgb = image.convert("RGB")
            return np.asarray(_resized(rgb, size))
    except (OSError, SyntaxError, Image.DecompressionBombError) as e:
        raise DecodeError(f"not a readable picture ({e})") from e


def _resized(image: Any, size: Size | None) -> Any:
    from PIL import Image

    if size is None or image.size == (size[1], size[0]):
        return image
    return image.resize((size[1], size[0]), Image.Resampling.BILINEAR)  # widens its filter when it shrinks


def resize(frames: np.ndarray, size: Size | None) -> np.ndarray:
    """[T, H, W, 3] uint8 -> [T, h, w, 3]; the picture's edges stay its edges, so tracks in [0, 1] do not change."""
    from PIL import Image

    if size is None or frames.shape[1:3] == tuple(size):
        return frames
    return np.stack([np.asarray(_resized(Image.fromarray(frame), size)) for frame in frames])


def read_video(
    path: Path,
    *,
    size: Size | None = None,
    start: float | None = None,
    stop: float | None = None,
    fps: float | None = None,
) -> tuple[np.ndarray, float]:
    """A video, or its part [start, stop) in seconds -> ([T, H, W, 3] uint8, frames per second).

    fps: takes the frame nearest to each multiple of 1 / fps after `start` (frames are chosen, never blended);
    None keeps all. Only chosen frames are converted, at `size`. Raises DecodeError.
    """
    with _opened(path) as (container, stream):
        rate = _rate(stream)
        begin = start or 0.0
        timed = _timed_frames(container, stream, begin, rate)
        if fps is None:
            chosen = _between(timed, begin, math.inf if stop is None else stop, 0.5 / rate)
        else:
            chosen = _nearest(timed, _times(begin, stop, fps), 0.5 / rate)
        seconds = (stop if stop is not None else _duration(container, stream)) - begin
        frames = _stack((_to_rgb(frame, size) for frame in chosen), math.ceil(max(seconds, 0) * (fps or rate)) + 1)
    if frames is None:
        span = "" if start is None and stop is None else f" between {begin:g} s and {stop} s"
        raise DecodeError(f"the video has no frames{span}")
    return frames, fps or rate


def read_video_at(path: Path, times: Sequence[float], *, size: Size | None = None) -> np.ndarray:
    """The frames nearest to the given times (seconds, ascending) -> [len(times), H, W, 3] uint8.

    Raises DecodeError, also when the video ends more than half a frame before the last time."""
    with _opened(path) as (container, stream):
        rate = _rate(stream)
        chosen = _nearest(_timed_frames(container, stream, times[0], rate), iter(times), 0.5 / rate)
        frames = _stack((_to_rgb(frame, size) for frame in chosen), len(times))
    found = 0 if frames is None else len(frames)
    if frames is None or found < len(times):
        raise DecodeError(f"the video ends early: {len(times)} frames wanted up to {times[-1]:.2f} s, {found} found")
    return frames


def read_folder(
    folder: Path,
    recorded_fps: float,
    *,
    size: Size | None = None,
    start: float | None = None,
    stop: float | None = None,
    fps: float | None = None,
) -> tuple[np.ndarray, float]:
    """The pictures of a folder in natural order, recorded at `recorded_fps`, as read_video reads a video."""
    paths = images_in(folder)
    begin, end = start or 0.0, len(paths) / recorded_fps if stop is None else stop
    times = itertools.takewhile(lambda t: t < end - 1e-6, _times(begin, stop, fps or recorded_fps))
    indices = [i for i in (round(t * recorded_fps) for t in times) if i < len(paths)]
    frames = _stack((decode_image(paths[i], size) for i in indices), len(indices))
    if frames is None:
        raise DecodeError(f"no frames: the folder holds {len(paths)} pictures")
    return frames, fps or recorded_fps


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """(container, video stream); ffmpeg's errors become DecodeError."""
    import av

    if not path.is_file():
        raise DecodeError(f"there is no file {path}")
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise DecodeError("the file has no video stream")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield container, stream
    except av.FFmpegError as e:
        raise DecodeError(f"not a readable video ({e.strerror or e})") from e


def _rate(stream: Any) -> float:
    rate = stream.average_rate or stream.guessed_rate
    if not rate:
        raise DecodeError("the video does not say its frame rate")
    return float(rate)


def _duration(container: Any, stream: Any) -> float:
    """Seconds as the file's header says; 0 if it does not."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 1e6


def _timed_frames(container: Any, stream: Any, start: float, rate: float) -> Iterator[tuple[float, Any]]:
    """(seconds since the video's first frame, frame) from the key frame before `start` on.

    A file cut off in transfer often ends without a decoder's error, so its length is compared with its header's.
    """
    import av

    origin = stream.start_time or 0
    if start > 0:
        with contextlib.suppress(av.FFmpegError):  # cannot seek: decode from the beginning
            container.seek(origin + int(start / stream.time_base), stream=stream, backward=True)
    time = -1 / rate
    for frame in container.decode(stream):
        time = time + 1 / rate if frame.pts is None else float((frame.pts - origin) * stream.time_base)
        yield time, frame
    duration = _duration(container, stream)
    if time + 1 / rate < 0.9 * duration:
        raise DecodeError(f"the video ends at {time + 1 / rate:.1f} s of {duration:.1f} s: the file is cut off")


def _between(timed: Iterable[tuple[float, Any]], start: float, stop: float, half: float) -> Iterator[Any]:
    """The frames of [start, stop). Half a frame's grace: containers round times to their own clock."""
    for time, frame in timed:
        if time >= stop - half:
            return
        if time >= start - half:
            yield frame


def _times(start: float, stop: float | None, fps: float) -> Iterator[float]:
    count: Iterable[int] = itertools.count() if stop is None else range(max(1, round((stop - start) * fps)))
    return (start + k / fps for k in count)


def _nearest(timed: Iterable[tuple[float, Any]], targets: Iterator[float], half: float) -> Iterator[Any]:
    """For each target time the nearest frame; ends with the stream, `half` after its last frame."""
    target = next(targets)
    previous: tuple[float, Any] | None = None
    for time, frame in timed:
        while target <= time:
            late = previous is None or time - target <= target - previous[0]
            yield frame if late else previous[1]  # type: ignore[index]
            if (following := next(targets, None)) is None:
                return
            target = following
        previous = (time, frame)
    while previous is not None and target < previous[0] + half:
        yield previous[1]
        if (following := next(targets, None)) is None:
            return
        target = following


def _to_rgb(frame: Any, size: Size | None) -> np.ndarray:
    """A decoded frame -> [H, W, 3] uint8, resized by the converter and turned as the recording asks (phones)."""
    quarters = round(frame.rotation / 90) % 4
    height, width = size or (None, None)
    if quarters % 2:
        height, width = width, height
    rgb = frame.reformat(width=width, height=height, format="rgb24", interpolation="BILINEAR").to_ndarray()
    return np.rot90(rgb, quarters)


def _stack(frames: Iterator[np.ndarray], expected: int) -> np.ndarray | None:
    """Gathers frames without holding them twice; None if there are none."""
    buffer, count = None, 0
    for frame in frames:
        if buffer is None:
            _check_memory(expected, frame)
            buffer = np.empty((max(expected, 1), *frame.shape), np.uint8)
        if frame.shape != buffer.shape[1:]:
            raise DecodeError(f"the frames' size changes from {buffer.shape[1:3]} to {frame.shape[:2]}; give size=")
        if count == len(buffer):
            buffer = np.concatenate([buffer, np.empty_like(buffer[: max(count // 4, 8)])])
        buffer[count] = frame
        count += 1
    return None if buffer is None else buffer[:count]


def _check_memory(expected: int, frame: np.ndarray) -> None:
    if expected * frame.nbytes > MAX_BYTES:
        height, width = frame.shape[:2]
        raise DecodeError(
            f"about {expected} frames of {height}x{width} would take {expected * frame.nbytes / 2**30:.1f} GiB; "
            "give a smaller size= or fps=, or cut it into clips with a clip table"
        )
