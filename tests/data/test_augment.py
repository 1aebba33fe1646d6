"""Colour jitter against independent arithmetic; pictures and tracks that move together."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from t2p.data.augment import Augment, jitter, shift_images, shift_points
from t2p.io import UserError

COLORS = ("brightness", "contrast", "saturation", "hue")


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)


def luma(x: np.ndarray) -> np.ndarray:
    return 0.2989 * x[..., 0] + 0.587 * x[..., 1] + 0.114 * x[..., 2]


def expected(x: np.ndarray, name: str, factor: float) -> np.ndarray:
    """torchvision's adjust_<name> on float pictures in [0, 1], pixel by pixel."""
    if name == "brightness":
        return np.clip(factor * x, 0, 1)
    if name == "contrast":
        return np.clip(factor * x + (1 - factor) * luma(x).mean(), 0, 1)
    if name == "saturation":
        return np.clip(factor * x + (1 - factor) * luma(x)[..., None], 0, 1)
    pixels = [colorsys.rgb_to_hsv(*p) for p in x.reshape(-1, 3)]
    return np.array([colorsys.hsv_to_rgb((h + factor) % 1, s, v) for h, s, v in pixels]).reshape(x.shape)


@pytest.mark.parametrize("name, factor", [("brightness", 1.3), ("brightness", 0.7), ("contrast", 0.7),
                                          ("contrast", 1.3), ("saturation", 1.3), ("saturation", 0.0),
                                          ("hue", 0.3), ("hue", -0.3), ("hue", 0.5), ("hue", -0.01)])  # fmt: skip
def test_each_operation_agrees_with_its_definition(image, name, factor):
    exact = 255 * expected(image / 255, name, factor)
    assert np.abs(jitter(image, [(name, factor)]) - exact).max() <= 0.51  # rounding alone


def test_a_chain_is_clipped_between_operations_and_rounded_once(image):
    ops = [("saturation", 1.3), ("hue", 0.21), ("brightness", 1.25), ("contrast", 1.3)]
    exact = image / 255
    for op in ops:
        exact = expected(exact, *op)
    assert np.abs(jitter(image, ops) - 255 * exact).max() <= 0.52
    assert np.abs(jitter(image, ops).astype(int) - jitter(image, ops[::-1])).max() > 5  # the order matters


def test_brightness_and_contrast_agree_with_pillow(image):
    picture = Image.fromarray(image)
    bright = np.asarray(ImageEnhance.Brightness(picture).enhance(0.8)).astype(int)
    contrast = np.asarray(ImageEnhance.Contrast(picture).enhance(1.2)).astype(int)
    assert np.abs(jitter(image, [("brightness", 0.8)]) - bright).max() <= 1
    assert np.abs(jitter(image, [("contrast", 1.2)]) - contrast).max() <= 1  # Pillow rounds the mean


def blurred(x: np.ndarray, size: int, sigma: float) -> np.ndarray:
    """The definition: at each pixel the Gaussian-weighted mean of size x size neighbours, mirrored at the edges."""
    steps = np.arange(size) - size // 2
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    weights /= weights.sum()
    out = np.zeros_like(x)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            rows, columns = (n - 1 - np.abs(n - 1 - np.abs(k + steps)) for n, k in zip(x.shape, (i, j), strict=False))
            out[i, j] = np.einsum("i,j,ijc->c", weights, weights, x[np.ix_(rows, columns)])
    return out


@pytest.mark.parametrize("kernel", [(3, 0.1), (3, 2.0), (5, 0.7), (7, 1.3)])
def test_blur_agrees_with_its_definition(image, kernel):
    exact = 255 * blurred(image / 255, *kernel)
    assert np.abs(jitter(image, [("blur", kernel)]) - exact).max() <= 0.51  # rounding alone
    both = blurred(expected(image / 255, "hue", 0.2), *kernel)
    assert np.abs(jitter(image, [("hue", 0.2), ("blur", kernel)]) - 255 * both).max() <= 0.52


def test_blur_is_drawn_among_augmented_examples():
    augment = Augment(probability=1, blur=0.5, blur_sizes=(3, 7), blur_sigma=(0.5, 1.5))
    draws = [augment.draw_blur(np.random.default_rng(s)) for s in range(400)]
    kernels = [ops[0][1] for ops in draws if ops]
    assert 160 < len(kernels) < 240 and {size for size, _ in kernels} == {3, 7}
    sigmas = [sigma for _, sigma in kernels]
    assert 0.5 <= min(sigmas) < 0.6 and 1.4 < max(sigmas) <= 1.5
    out = Augment(probability=1, blur=1, blur_sigma=(1.0, 1.0))(example(), np.random.default_rng(0))
    assert (out["images"]["a"] == out["images"]["b"]).all() and (out["images"]["a"] != example()["images"]["a"]).any()


def test_what_blur_adds_changes_no_other_draw():
    """Off, it draws nothing: a seed's colours and shifts stay what they were."""
    plain, off = (Augment(probability=1, hue=0.3, shift=4, **more) for more in ({}, {"blur": 0.0, "blur_sizes": (9,)}))
    a, b = (augment(example(), np.random.default_rng(5)) for augment in (plain, off))
    assert (a["images"]["a"] == b["images"]["a"]).all()
    assert (a["tracks"]["a"]["points"] == b["tracks"]["a"]["points"]).all()


@pytest.mark.parametrize("name", COLORS)
def test_unit_factors_change_nothing(name):
    every = np.stack(np.meshgrid(*[np.arange(0, 256, 5)] * 3), -1).astype(np.uint8).reshape(-1, 52, 3)
    assert (jitter(every, [(name, 0.0 if name == "hue" else 1.0)]) == every).all()


def test_contrast_is_about_each_frames_own_mean():
    frames = np.stack([np.full((4, 4, 3), 50, np.uint8), np.full((4, 4, 3), 200, np.uint8)])
    assert (jitter(frames, [("contrast", 1.3)]) == frames).all()


def square(x: int, y: int) -> np.ndarray:
    """A 3 x 3 white square with its top left pixel at (x, y)."""
    image = np.zeros((1, 32, 48, 3), np.uint8)
    image[:, y : y + 3, x : x + 3] = 255
    return image


def centre(image: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(image[0, :, :, 0])
    return np.array([(columns.mean() + 0.5) / 48, (rows.mean() + 0.5) / 32])


@pytest.mark.parametrize("move", [(3, 0), (0, -4), (-2, 1), (4, 4)])
def test_the_square_and_its_track_stay_together(move):
    image = square(20, 10)
    points = centre(image).astype(np.float32)[None, None]
    moved = shift_images(image, move)
    np.testing.assert_allclose(shift_points(points, move, (32, 48))[0, 0], centre(moved), atol=1e-6)
    np.testing.assert_allclose((centre(moved) - centre(image)) * [48, 32], move, atol=1e-5)


def test_shift_replicates_edges():
    image = np.arange(12, dtype=np.uint8).reshape(1, 3, 4, 1).repeat(3, -1)
    assert shift_images(image, (1, -2))[0, ..., 0].tolist() == [[8, 8, 9, 10]] * 3
    assert shift_images(image, (-9, 9))[0, ..., 0].tolist() == [[3] * 4] * 3
    assert shift_images(image, (0, 0)) is image


def example() -> dict:
    tracks = lambda: {"points": centre(square(20, 10)).astype(np.float32).reshape(1, 1, 2).repeat(2, 0)}  # noqa: E731
    return {
        "images": {v: square(20, 10).repeat(2, 0) for v in ("a", "b")},
        "goal": {v: square(20, 10)[0] for v in ("a", "b")},
        "tracks": {v: tracks() for v in ("a", "b", "no picture")},
        "actions": np.ones((2, 3)),
    }


def test_an_example_moves_as_a_whole_view_by_view():
    moves = set()
    for seed in range(20):
        before, out = example(), None
        out = Augment(probability=1, shift=4)(before, np.random.default_rng(seed))
        for view in ("a", "b"):
            frames, goal = out["images"][view], out["goal"][view]
            assert (frames[0] == frames[1]).all() and (frames[0] == goal).all()
            np.testing.assert_allclose(out["tracks"][view]["points"][0, 0], centre(frames), atol=1e-6)
        moves |= {tuple(np.round((centre(out["images"][v]) - centre(square(20, 10))) * [48, 32])) for v in "ab"}
        assert (before["images"]["a"] == example()["images"]["a"]).all()  # the input is left alone
        assert (before["tracks"]["a"]["points"] == example()["tracks"]["a"]["points"]).all()
        assert (out["tracks"]["no picture"]["points"] == example()["tracks"]["no picture"]["points"]).all()
    assert len(moves) > 20  # views move independently
    values = np.array(sorted(moves))
    assert values.min() == -4 and values.max() == 4


def test_one_colour_draw_for_all_views_and_frames():
    out = Augment(probability=1, brightness=0.5, hue=0.2)(example(), np.random.default_rng(3))
    assert (out["images"]["a"] == out["images"]["b"]).all() and (out["images"]["a"][0] == out["goal"]["b"]).all()
    assert out["images"]["a"].dtype == np.uint8


def test_probability_and_ranges():
    augment = Augment(probability=0.25, brightness=0.3, contrast=0.2, saturation=0.1, hue=0.05)
    unchanged = sum(augment(before := example(), np.random.default_rng(s)) is before for s in range(400))
    assert 270 < unchanged < 330
    draws = [augment.draw_colors(np.random.default_rng(s)) for s in range(300)]
    assert len({tuple(name for name, _ in ops) for ops in draws}) == 24  # every order
    for name, low, high in (("brightness", 0.7, 1.3), ("contrast", 0.8, 1.2), ("hue", -0.05, 0.05)):
        values = [dict(ops)[name] for ops in draws]
        assert low <= min(values) < low + 0.1 * (high - low) and high - 0.1 * (high - low) < max(values) <= high
    assert Augment(probability=1).draw_colors(np.random.default_rng(0)) == []


BLURS = [{"blur": 2}, {"blur_sizes": (3, 4)}, {"blur_sizes": ()}, {"blur_sigma": (0, 2)}, {"blur_sigma": (2.0, 1.0)}]


@pytest.mark.parametrize("wrong", [{"probability": 1.5}, {"hue": 0.6}, {"shift": -1}, *BLURS])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(UserError, match=r"data\.augment"):
        Augment(**wrong)
