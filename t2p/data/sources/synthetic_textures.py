"""Textures of the synthetic clips: smooth enough to be drawn without aliasing, rough enough to be tracked."""

from __future__ import annotations

import numpy as np

TEXTURES = ("stripes", "checks", "dots", "rings", "speckle", "patches")
BACKGROUNDS = ("wood", "cloth", "clouds", "tiles", "gravel")

# Muted, so that the coloured shapes stand out.
_TINTS = ((150, 132, 108), (128, 134, 140), (168, 162, 148), (112, 120, 112), (140, 126, 134))


def _noise(shape: tuple[int, int], cells: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Band-limited noise in about [-1, 1]: random values on a coarse grid of `cells` (down, across), resampled."""
    import cv2

    coarse = tuple(max(round(float(n)), 2) for n in cells)
    fine = cv2.resize(rng.uniform(-1, 1, coarse).astype(np.float32), shape[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(fine, -1.2, 1.2)


def _coordinates(pixels: int) -> tuple[np.ndarray, np.ndarray]:
    ticks = (np.arange(pixels, dtype=np.float32) + 0.5) / pixels * 2 - 1
    return np.meshgrid(ticks, ticks)


def _pattern(name: str, pixels: int, rng: np.random.Generator) -> np.ndarray:
    """[P, P] in about [-1, 1]."""
    x, y = _coordinates(pixels)
    turn, phase = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    k = rng.uniform(8, 11)  # about three periods across
    if name == "stripes":
        return np.sin(k * u + phase)
    if name == "checks":
        return np.tanh(3 * np.sin(0.8 * k * u + phase) * np.sin(0.8 * k * v))
    if name == "dots":
        return np.tanh(4 * (np.cos(k * u) + np.cos(k * v + phase)) - 3)
    if name == "rings":
        return np.sin(1.2 * k * np.hypot(u - 0.3, v) + phase)
    if name == "speckle":
        return _noise((pixels, pixels), (9, 9), rng) * 1.3
    return np.tanh(6 * _noise((pixels, pixels), (5, 5), rng))


def shape_texture(name: str, color: tuple[int, int, int], pixels: int, rng: np.random.Generator) -> np.ndarray:
    """The colours of a shape: [P, P, 3] float32 in 0..255. The pattern shades the colour, fine noise breaks ties."""
    shade = 0.26 * _pattern(name, pixels, rng) + 0.16 * _noise((pixels, pixels), (14, 14), rng)
    base = np.array(color, np.float32) + rng.uniform(-14, 14, 3).astype(np.float32)
    light, dark = np.clip(shade, 0, 1)[..., None], np.clip(-shade, 0, 1)[..., None]
    mixed = base + (255 - base) * 1.3 * light - base * 1.5 * dark
    return np.clip(mixed, 0, 255).astype(np.float32)


def bar_texture(pixels: int, rng: np.random.Generator) -> np.ndarray:
    """The colours of a static occluder: dark, grainy. [P, P, 3] float32."""
    grain = _noise((pixels, pixels), (30, 30), rng)[..., None]
    return (np.array((58, 54, 60), np.float32) * (1 + 0.35 * grain)).astype(np.float32)


def background(name: str, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A static background: [H, W, 3] float32 in 0..255; shape in drawing pixels."""
    tint = np.array(_TINTS[rng.integers(len(_TINTS))], np.float32)
    per = np.array(shape) / min(shape)  # cells are square whatever the shape
    fine = _noise(shape, tuple(40 * per), rng)
    if name == "wood":
        shade = _noise(shape, (3 * per[0], 26 * per[1]), rng) + 0.4 * fine
    elif name == "cloth":
        shade = 0.7 * _noise(shape, (40 * per[0], 6 * per[1]), rng) + 0.7 * _noise(
            shape, (6 * per[0], 40 * per[1]), rng
        )
    elif name == "clouds":
        shade = _noise(shape, tuple(5 * per), rng) + 0.4 * fine
    elif name == "tiles":
        shade = 0.8 * _tiles(shape) + 0.5 * fine
    else:
        shade = 1.1 * fine
    return np.clip(tint * (1 + 0.2 * shade[..., None]), 0, 255).astype(np.float32)


def _tiles(shape: tuple[int, int]) -> np.ndarray:
    """A smooth chequer of five tiles along the shorter side."""
    y, x = np.meshgrid(*[(np.arange(n) + 0.5) / min(shape) for n in shape], indexing="ij")
    return np.tanh(8 * np.sin(5 * np.pi * x) * np.sin(5 * np.pi * y)).astype(np.float32)
