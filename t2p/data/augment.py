"""Augmentation of examples: colour jitter, blur, and a random shift that moves tracks together with the picture.

ATM trains with jitter and shift (ATM, "Implementation details": probability 0.9, factors within 0.3, shift of 4
pixels); AMPLIFY's release has jitter and blur for forward dynamics, both off.
Images stay uint8; the arithmetic in between is float32 and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from t2p.io import UserError

# ITU-R 601 luma as torchvision rounds it, so that contrast and saturation agree with its ColorJitter.
_LUMA = np.array([[0.2989, 0.587, 0.114]], np.float32)

# ("brightness" | "contrast" | "saturation" | "hue", factor) or ("blur", (size, sigma))
PictureOp = tuple[str, Any]


@dataclass(frozen=True)
class Augment:
    """What is drawn for each example.

    probability: of augmenting an example at all. brightness, contrast, saturation: factors are uniform in
    [max(0, 1 - x), 1 + x]. hue: a turn of the colour circle uniform in [-x, x], x <= 0.5. blur: the probability, among
    augmented examples, of a Gaussian blur after the colours, its kernel one of `blur_sizes` pixels wide (odd), its
    deviation uniform in `blur_sigma` pixels. shift: pixels; the picture moves by whole pixels uniform in -shift ..
    shift on each axis, edges replicated.
    """

    probability: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    blur: float = 0.0
    blur_sizes: tuple[int, ...] = (3, 5, 7)
    blur_sigma: tuple[float, ...] = (0.1, 2.0)
    shift: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise UserError(f"data.augment.probability is {self.probability}; expected a number from 0 to 1")
        if not 0 <= self.hue <= 0.5:
            raise UserError(f"data.augment.hue is {self.hue}; expected a part of the colour circle from 0 to 0.5")
        if min(self.brightness, self.contrast, self.saturation, self.shift) < 0:
            raise UserError(f"data.augment has a negative strength: {self}")
        self._check_blur()

    def _check_blur(self) -> None:
        if not 0 <= self.blur <= 1:
            raise UserError(f"data.augment.blur is {self.blur}; expected a probability from 0 to 1")
        sizes, sigma = tuple(self.blur_sizes), tuple(self.blur_sigma)
        if not sizes or any(size < 1 or size % 2 != 1 for size in sizes):
            raise UserError(f"data.augment.blur_sizes is {sizes}; expected odd numbers of pixels, such as (3, 5, 7)")
        if len(sigma) != 2 or not 0 < sigma[0] <= sigma[1]:
            raise UserError(f"data.augment.blur_sigma is {sigma}; expected (least, greatest) in pixels, above 0")

    def draw_blur(self, rng: np.random.Generator) -> list[PictureOp]:
        """The blur of one example, or none; nothing is drawn where it is off."""
        if not self.blur or rng.random() >= self.blur:
            return []
        size = self.blur_sizes[rng.integers(len(self.blur_sizes))]
        least, greatest = self.blur_sigma
        return [("blur", (size, rng.uniform(least, greatest)))]

    def draw_colors(self, rng: np.random.Generator) -> list[PictureOp]:
        """The operations of one jitter in random order; those of strength 0 are left out."""
        ops: list[PictureOp] = []
        for name in ("brightness", "contrast", "saturation"):
            if strength := getattr(self, name):
                ops.append((name, rng.uniform(max(0.0, 1 - strength), 1 + strength)))
        if self.hue:
            ops.append(("hue", rng.uniform(-self.hue, self.hue)))
        return [ops[i] for i in rng.permutation(len(ops))]

    def draw_shift(self, rng: np.random.Generator) -> tuple[int, int]:
        """(dx, dy) pixels by which one view moves; nothing is drawn for a shift of 0."""
        if not self.shift:
            return 0, 0
        dx, dy = rng.integers(-self.shift, self.shift + 1, size=2)
        return int(dx), int(dy)

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Augments an example {"images": {view: [T, H, W, 3]}, "goal": {view: [H, W, 3]}, "tracks": {view: ...}}.

        One draw of colours and blur serves all views and frames. Each view has one shift for all its frames, its goal
        image and its tracks; a view without any picture in the example is not shifted. New arrays are returned.
        """
        if rng.random() >= self.probability:
            return example
        ops = self.draw_colors(rng) + self.draw_blur(rng)
        out = dict(example)
        pictures: dict[str, dict] = {key: dict(example[key]) for key in ("images", "goal") if key in example}
        tracks = dict(example.get("tracks", {}))
        for view in sorted({view for views in pictures.values() for view in views}):
            move = self.draw_shift(rng)
            for views in pictures.values():
                if view in views:
                    size = views[view].shape[-3:-1]
                    views[view] = shift_images(jitter(views[view], ops), move)
            if view in tracks and move != (0, 0):
                tracks[view] = {**tracks[view], "points": shift_points(tracks[view]["points"], move, size)}
        out.update(pictures)
        if tracks:
            out["tracks"] = tracks
        return out


def jitter(images: np.ndarray, ops: Sequence[PictureOp]) -> np.ndarray:
    """Applies operations in order to uint8 [..., H, W, 3], with the meaning of torchvision's ColorJitter and
    GaussianBlur: every operation is clipped to [0, 1], contrast is about each frame's own mean luma, a blur mirrors
    the picture at its edges."""
    if not ops:
        return images
    import cv2

    frames = images.reshape(-1, *images.shape[-3:])
    out = np.empty_like(frames)
    for i, frame in enumerate(frames):  # frame by frame: the working set stays in the cache
        x = np.multiply(frame, np.float32(1 / 255), dtype=np.float32)
        for name, factor in ops:
            x = _OPERATIONS[name](x, factor)
        out[i] = cv2.convertScaleAbs(x, alpha=255)
    return out.reshape(images.shape)


def shift_images(images: np.ndarray, move: tuple[int, int]) -> np.ndarray:
    """Moves the content of [..., H, W, 3] by (dx, dy) whole pixels, right and down; edges are replicated."""
    dx, dy = move
    if dx == 0 and dy == 0:
        return images
    import cv2

    height, width = images.shape[-3:-1]
    dx = max(1 - width, min(dx, width - 1))  # one column of the picture at least stays, to be replicated
    dy = max(1 - height, min(dy, height - 1))
    frames = images.reshape(-1, height, width, images.shape[-1])
    out = np.empty_like(frames)
    kept = frames[:, max(-dy, 0) : height - max(dy, 0), max(-dx, 0) : width - max(dx, 0)]
    border = (max(dy, 0), max(-dy, 0), max(dx, 0), max(-dx, 0))  # top, bottom, left, right
    for frame, target in zip(kept, out, strict=True):
        target[...] = cv2.copyMakeBorder(frame, *border, cv2.BORDER_REPLICATE)
    return out.reshape(images.shape)


def shift_points(points: np.ndarray, move: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Moves points [..., N, 2 or 3], (x, y) in units of the image, as `shift_images` moves the picture.

    size: (H, W). Points may leave the image. (ATM's own code swaps the axes and the sign here.)
    """
    height, width = size
    out = points.copy()
    out[..., 0] += np.float32(move[0] / width)
    out[..., 1] += np.float32(move[1] / height)
    return out


def _clip(x: np.ndarray) -> np.ndarray:
    return np.clip(x, 0, 1, out=x)


def _brightness(x: np.ndarray, factor: float) -> np.ndarray:
    return _clip(np.multiply(x, np.float32(factor), out=x))


def _contrast(x: np.ndarray, factor: float) -> np.ndarray:
    import cv2

    mean = float(_LUMA[0] @ np.array(cv2.mean(x)[:3]))
    x *= np.float32(factor)
    x += np.float32((1 - factor) * mean)
    return _clip(x)


def _saturation(x: np.ndarray, factor: float) -> np.ndarray:
    import cv2

    # factor * x + (1 - factor) * luma, as one 3x3 colour matrix
    matrix = factor * np.eye(3, dtype=np.float32) + (1 - factor) * np.repeat(_LUMA, 3, axis=0)
    return _clip(cv2.transform(x, matrix.astype(np.float32)))


def _hue(x: np.ndarray, turn: float) -> np.ndarray:
    import cv2

    hsv = cv2.cvtColor(x, cv2.COLOR_RGB2HSV)  # hue in degrees
    hsv = cv2.add(hsv, np.array([360 * (turn % 1), 0, 0, 0]))  # OpenCV takes angles past 360 back into the circle
    return _clip(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def _blur(x: np.ndarray, kernel: tuple[int, float]) -> np.ndarray:
    import cv2

    size, sigma = kernel
    return cv2.GaussianBlur(x, (size, size), sigma, borderType=cv2.BORDER_REFLECT_101)


_OPERATIONS: dict[str, Callable[[np.ndarray, Any], np.ndarray]] = {
    "brightness": _brightness,
    "contrast": _contrast,
    "saturation": _saturation,
    "hue": _hue,
    "blur": _blur,
}
