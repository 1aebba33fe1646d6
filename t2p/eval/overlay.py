"""Pictures of tracks: points over frames, coloured by where they start, with trails that fade in time."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from t2p.io import PathLike, write_bytes

SHORT_SIDE = 320  # smaller frames are enlarged by a whole factor, so that points and trails can be told apart
_RIM = 20  # grey value around a dot
_FRACTION = 4  # bits of a pixel in drawing coordinates
_GAP = 6  # pixels between pictures
_LABEL = 22  # pixels for a line of text


def rainbow(points: np.ndarray) -> np.ndarray:
    """Colours by position: the whole circle of hues, spread evenly over the points from the upper left to the lower
    right. points: [N, 2] in [0, 1] -> uint8 [N, 3]."""
    import cv2

    x, y = np.asarray(points, np.float32).T
    rank = np.argsort(np.argsort(0.35 * x + 0.65 * y, kind="stable"), kind="stable")
    hue = 0.85 * 179 * rank / max(1, len(rank) - 1)  # red to violet: the ends differ
    hsv = np.stack([hue, np.full_like(hue, 230), np.full_like(hue, 255)], -1)
    return cv2.cvtColor(hsv.round().astype(np.uint8)[None], cv2.COLOR_HSV2RGB)[0]


def draw_tracks(
    frames: np.ndarray,
    tracks: np.ndarray,
    visible: np.ndarray,
    *,
    colors: np.ndarray | None = None,
    trail: int = 8,
    truth: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """Tracks over a video: a dot where a point is, a line where it was in the `trail` frames before. Hidden points are
    not drawn, nor trails across the frames in which they were hidden.

    frames: uint8 [T, H, W, 3]; tracks: [T, N, 2] (x, y) in [0, 1]; visible: bool [T, N]; colors: uint8 [N, 3], or None
    for `rainbow` of the points' places in the first frame. truth: (tracks, visible) as they really were, drawn on the
    left in the same colours, with titles. -> uint8 [T, H', W', 3], enlarged so that the short side is at least 320.
    """
    _check(frames, tracks, visible)
    big = enlarge(frames)
    origin = tracks[0] if truth is None else truth[0][0]
    colors = rainbow(origin) if colors is None else np.asarray(colors, np.uint8)
    drawn = _draw(big, tracks, visible, colors, trail)
    if truth is None:
        return drawn
    _check(frames, *truth)
    left = _draw(big, truth[0], truth[1], colors, trail)
    return np.stack([beside([("truth", a), ("prediction", b)]) for a, b in zip(left, drawn)])


def draw_paths(
    picture: np.ndarray, tracks: np.ndarray, visible: np.ndarray, *, colors: np.ndarray | None = None
) -> np.ndarray:
    """Whole tracks over one picture: a dot where each point ends, the way there brighter the later it is.

    picture: uint8 [H, W, 3]; the rest as in `draw_tracks`, whose last frame this is, with trails of the tracks' length.
    """
    frame = enlarge(picture[None])
    _check(frame, tracks[-1:], visible[-1:])
    colors = rainbow(tracks[0]) if colors is None else np.asarray(colors, np.uint8)
    return _draw(frame, tracks, visible, colors, trail=len(tracks))[0]


def enlarge(frames: np.ndarray, short_side: int = SHORT_SIDE) -> np.ndarray:
    """uint8 [T, H, W, 3] times the smallest whole factor that makes the short side at least `short_side`."""
    import cv2

    h, w = frames.shape[1:3]
    factor = -(-short_side // min(h, w))
    if factor <= 1:
        return frames.copy()
    return np.stack([cv2.resize(f, (w * factor, h * factor), interpolation=cv2.INTER_CUBIC) for f in frames])


def _check(frames: np.ndarray, tracks: np.ndarray, visible: np.ndarray) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"expected uint8 frames [T, H, W, 3], got {frames.dtype} {list(frames.shape)}")
    if tracks.ndim != 3 or tracks.shape[2] != 2 or len(tracks) != len(frames):
        raise ValueError(f"expected tracks [{len(frames)}, N, 2], got {list(tracks.shape)}")
    if visible.shape != tracks.shape[:2]:
        raise ValueError(f"expected visible {list(tracks.shape[:2])}, got {list(visible.shape)}")


def _draw(frames: np.ndarray, tracks: np.ndarray, visible: np.ndarray, colors: np.ndarray, trail: int) -> np.ndarray:
    """The frames are those of the last steps of the tracks."""
    h, w = frames.shape[1:3]
    # Far beyond the picture drawing coordinates would overflow; what lies there is not seen.
    near = np.clip(np.nan_to_num(tracks), -2, 3)
    pixels = ((near * (w, h) - 0.5) * (1 << _FRACTION)).round().astype(np.int32)
    shown = np.asarray(visible, bool)
    out = frames.copy()
    for image, t in zip(out, range(len(tracks) - len(frames), len(tracks)), strict=True):
        for age in range(min(trail, t), 0, -1):
            step = slice(t - age, t - age + 2)
            _segments(image, pixels[step], shown[step], colors, 1 - age / (trail + 1))
        _dots(image, pixels[t], shown[t], colors)
    return out


def _segments(image: np.ndarray, ends: np.ndarray, shown: np.ndarray, colors: np.ndarray, opacity: float) -> None:
    """Draws in place the way of each point between two frames. ends: [2, N, 2]; shown: [2, N]."""
    import cv2

    moved = shown.all(0) & (ends[0] != ends[1]).any(-1)
    if not moved.any():
        return
    width = max(1, round(min(image.shape[:2]) / 200))
    layer = image.copy()
    for (a, b), color in zip(ends[:, moved].transpose(1, 0, 2).tolist(), colors[moved].tolist()):
        cv2.line(layer, a, b, color, width, cv2.LINE_AA, _FRACTION)
    cv2.addWeighted(layer, opacity, image, 1 - opacity, 0, dst=image)


def _dots(image: np.ndarray, at: np.ndarray, shown: np.ndarray, colors: np.ndarray) -> None:
    """Draws in place a dot with a dark rim for each point, with smooth edges. at: [N, 2] in drawing coordinates."""
    # Dots take at most a few per cent of the picture, however many there are.
    room = 0.12 * np.sqrt(image.size / 3 / max(1, len(at)))
    radius = float(np.clip(min(image.shape[:2]) / 110, 1.0, max(1.0, room)))
    rim = 1.0 if radius >= 2 else 0.0
    reach = int(np.ceil(radius + rim + 1))
    h, w = image.shape[:2]
    for (x, y), color in zip(at[shown] / (1 << _FRACTION), colors[shown]):
        left, top = round(float(x)) - reach, round(float(y)) - reach
        rows = slice(max(top, 0), min(top + 2 * reach + 1, h))
        columns = slice(max(left, 0), min(left + 2 * reach + 1, w))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            continue
        distance = np.hypot(np.arange(columns.start, columns.stop) - x, np.arange(rows.start, rows.stop)[:, None] - y)
        inside = np.clip(radius + 0.5 - distance, 0, 1)[..., None]
        covered = np.clip(radius + rim + 0.5 - distance, 0, 1)[..., None]
        dot = inside * color + (1 - inside) * _RIM
        image[rows, columns] = (covered * dot + (1 - covered) * image[rows, columns]).round()


def beside(pictures: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """Titled pictures of one height in a row, on white. -> uint8 [H', W', 3]."""
    return contact_sheet([[picture for _, picture in pictures]], [""], titles=[title for title, _ in pictures])


def contact_sheet(
    rows: Sequence[Sequence[np.ndarray]], labels: Sequence[str], titles: Sequence[str] = ()
) -> np.ndarray:
    """Rows of pictures on white, each row under its label, each column under its title ("" takes no room).

    rows: uint8 [H, W, 3] pictures, of any sizes. -> uint8 [H', W', 3].
    """
    from PIL import Image, ImageDraw, ImageFont

    heights = [max(p.shape[0] for p in row) for row in rows]
    bars = [_LABEL if label else 0 for label in labels]
    top = _LABEL if any(titles) else 0
    width = max(sum(p.shape[1] + _GAP for p in row) for row in rows) + _GAP
    height = top + sum(heights) + sum(bars) + _GAP * (len(rows) + 1)
    sheet = Image.new("RGB", (width, height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    y = top + _GAP
    for number, (row, label) in enumerate(zip(rows, labels, strict=True)):
        pen.text((_GAP, y + 2), label, fill="black", font=font)
        x, y = _GAP, y + bars[number]
        for column, picture in enumerate(row):
            sheet.paste(Image.fromarray(picture), (x, y))
            if number == 0 and column < len(titles):
                pen.text((x, 4), titles[column], fill="black", font=font)
            x += picture.shape[1] + _GAP
        y += heights[number] + _GAP
    return np.asarray(sheet)


def write_image(path: PathLike, image: np.ndarray) -> None:
    """Writes uint8 [H, W, 3] as PNG."""
    write_bytes(path, encode_image(image))


def encode_image(image: np.ndarray) -> bytes:
    """uint8 [H, W, 3] -> PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def write_video(path: PathLike, frames: np.ndarray, fps: float) -> None:
    """Writes uint8 [T, H, W, 3] as MP4; see `encode_video`."""
    write_bytes(path, encode_video(frames, fps))


def encode_video(frames: np.ndarray, fps: float) -> bytes:
    """uint8 [T, H, W, 3] -> MP4 (H.264, yuv420p: plays in browsers). Odd sides get their last row or column twice,
    since the format has even sides only."""
    import av

    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise ValueError(f"expected uint8 frames [T, H, W, 3], got {frames.dtype} {list(frames.shape)}")
    h, w = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), mode="edge")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=_rate(fps), options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def _rate(fps: float):
    """Frames per second as a fraction that containers can hold."""
    from fractions import Fraction

    if not (np.isfinite(fps) and fps > 0):
        raise ValueError(f"fps is {fps}; expected a positive number")
    return Fraction(fps).limit_denominator(1001)
