"""The track transformer's training stage."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2p.geometry.conventions import to_atm
from t2p.io import UserError
from t2p.methods import atm
from t2p.methods.registry import make_stage
from t2p.models.atm import TrackTransformer
from t2p.train.defaults import base_config
from t2p.types import ANY_VIEW, Batch, Tracks

SET = "exact/atm"


def config(**model):
    c = atm.configure(base_config())
    c.model.update({"dim": 16, "depth": 1, "heads": 2, "head_dim": 0, "image_size": (16, 24), "patch": 8} | model)
    c.model.update({"attention_dropout": 0.0, "mlp_dropout": 0.0})
    c.window.update({"views": ("front", "wrist"), "track_set": SET, "points": 4})
    return c


def batch(rows=3, points=4, steps=16, seed=0):
    rng = np.random.default_rng(seed)
    place = rng.random((rows, steps, points, 2), np.float32)
    valid = np.arange(steps) < np.array([steps, 5, 1])[:rows, None]
    tracks = Tracks(place, rng.random(place.shape[:-1]) < 0.6, valid=valid)
    images = rng.integers(0, 256, (rows, 1, 16, 24, 3), np.uint8)
    text = rng.standard_normal((rows, 12)).astype(np.float32)
    return Batch(images={ANY_VIEW: images}, tracks={SET: {ANY_VIEW: tracks}}, text=text)


def with_tracks(b, **changes):
    return b.replace(tracks={SET: {ANY_VIEW: replace(b.tracks[SET][ANY_VIEW], **changes)}})


@pytest.fixture(scope="module")
def stage():
    return make_stage(config())


@pytest.fixture(scope="module")
def variables(stage):
    return jax.jit(stage.init)(jax.random.key(0), batch())


@partial(jax.jit, static_argnums=(0, 4))
def losses(stage, variables, b, key, train):
    return stage.loss(variables, b, key, train)


@partial(jax.jit, static_argnums=0)
def predict(stage, variables, b, key):
    return stage.predict(variables, b, key)


def run(stage, variables, b, train=True, key=1):
    value, extra = losses(stage, variables, b, jax.random.key(key), train)
    return {name: float(x) for name, x in extra["metrics"].items()} | {"value": float(value)}


def test_stage_is_hashable_and_made_from_its_config(stage):
    assert hash(stage) == hash(make_stage(config())) and stage == make_stage(config())
    assert stage != make_stage(config(depth=2))
    assert stage.model.head_dim == 8


def test_window(stage):
    w = stage.window
    assert (w.views, w.one_view, w.track_set, w.num_points, w.text) == (("front", "wrist"), True, SET, 4, True)
    assert w.images.offsets == (0,) and w.tracks.offsets == tuple(range(16)) and w.track_steps is None
    assert make_stage(config(frames=3)).window.images.offsets == (-2, -1, 0)
    assert make_stage(config(frames=3)).window.images.pad == "zero"
    short = config()
    short.window.horizon = 4
    w = make_stage(short).window
    assert w.tracks.offsets == (0, 1, 2, 3) and w.track_steps == 16


def test_loss_by_hand(stage, variables):
    """10 track + 1 image; step means over the real steps of each row; invisible points count 1 in training."""
    b = batch()
    got = run(stage, variables, b)
    mask_rng, _ = jax.random.split(jax.random.key(1))
    mask = jax.random.bernoulli(mask_rng, 0.5, (3, 6))
    t = b.tracks[SET][ANY_VIEW]
    place = to_atm(t.points, (16, 24))
    apply = jax.jit(stage.model.apply)
    tracks, patches, aux = apply({"params": variables["params"]}, b.images[ANY_VIEW], place[:, 0], b.text, mask)
    rows = [np.square(np.asarray(tracks) - place)[r, :n].mean() for r, n in enumerate((16, 5, 1))]
    pixels = (np.asarray(tracks) - place) * [24, 16]
    np.testing.assert_allclose(got["track_loss"], np.mean(rows), rtol=1e-5)
    np.testing.assert_allclose(got["image_loss"], np.square(patches - aux["target_patches"]).mean(), rtol=1e-5)
    np.testing.assert_allclose(got["value"], 10 * got["track_loss"] + got["image_loss"], rtol=1e-6)
    distance = [np.linalg.norm(pixels, axis=-1)[r, :n].mean() for r, n in enumerate((16, 5, 1))]
    np.testing.assert_allclose(got["distance_px"], np.mean(distance), rtol=1e-5)
    squared = [np.square(pixels)[r, :n].mean() for r, n in enumerate((16, 5, 1))]
    np.testing.assert_allclose(got["mse_px"], np.mean(squared), rtol=1e-5)


def test_padded_steps_do_not_count_unless_asked_for(stage, variables):
    b = batch()
    points = b.tracks[SET][ANY_VIEW].points.copy()
    points[1, 5:] += 1.0
    moved = with_tracks(b, points=points)
    assert run(stage, variables, b) == run(stage, variables, moved)
    released = replace(stage, settings=replace(stage.settings, mask_padding=False))
    assert run(released, variables, moved)["track_loss"] > run(released, variables, b)["track_loss"] + 0.1
    unpadded = with_tracks(b, valid=None)
    np.testing.assert_allclose(run(released, variables, b)["value"], run(stage, variables, unpadded)["value"])


def test_invisible_points_count_less_in_validation(stage, variables):
    b = batch()
    hidden = with_tracks(b, visible=np.zeros_like(b.tracks[SET][ANY_VIEW].visible))
    seen = with_tracks(b, visible=np.ones_like(b.tracks[SET][ANY_VIEW].visible))
    train, val = run(stage, variables, hidden), run(stage, variables, hidden, train=False)
    np.testing.assert_allclose(train["track_loss"], run(stage, variables, seen)["track_loss"])
    np.testing.assert_allclose(val["track_loss"], 0.1 * train["track_loss"], rtol=1e-5)
    np.testing.assert_allclose(val["mse_px"], train["mse_px"], rtol=1e-5)  # measures are not weighted


def test_filling_rows_and_absent_fields_do_not_count(stage, variables):
    b = batch()
    masked = b.replace(mask=np.array([True, False, False]))
    first = jax.tree.map(lambda x: np.repeat(x[:1], 3, 0), b)
    keep = replace(stage, settings=replace(stage.settings, patch_mask=0.0))
    np.testing.assert_allclose(run(keep, variables, masked)["value"], run(keep, variables, first)["value"], rtol=1e-5)
    no_tracks = b.replace(has={"tracks": np.zeros(3, bool), "images": np.ones(3, bool)})
    metrics = run(stage, variables, no_tracks)
    assert metrics["track_loss"] == 0.0 and metrics["value"] == metrics["image_loss"] > 0


def test_patches_are_hidden_at_random_in_training_and_validation_but_not_in_prediction(stage, variables):
    b = batch()
    for train in (True, False):
        assert run(stage, variables, b, train, key=1) == run(stage, variables, b, train, key=1)
        assert run(stage, variables, b, train, key=1) != run(stage, variables, b, train, key=2)
    a, c = (predict(stage, variables, b, jax.random.key(k)).tracks.points for k in (1, 2))
    np.testing.assert_array_equal(a, c)


def test_prediction_knows_the_first_step_only_and_speaks_our_coordinates(stage, variables):
    b = batch()
    t = b.tracks[SET][ANY_VIEW]
    got = predict(stage, variables, b, jax.random.key(0))
    points = np.broadcast_to(t.points[:, :1], t.points.shape)
    same = with_tracks(b, points=points, visible=np.zeros_like(t.visible), valid=np.zeros_like(t.valid))
    same = predict(stage, variables, same, jax.random.key(0))
    np.testing.assert_array_equal(got.tracks.points, same.tracks.points)
    assert got.tracks.visible.shape == t.visible.shape and bool(got.tracks.visible.all())
    place = to_atm(t.points, (16, 24))[:, 0]
    raw = jax.jit(stage.model.apply)({"params": variables["params"]}, b.images[ANY_VIEW], place, b.text)[0]
    np.testing.assert_allclose(got.tracks.points - raw, np.broadcast_to([0.5 / 24, 0.5 / 16], raw.shape), atol=1e-5)
    assert got.aux["image"].shape == (3, 1, 16, 24, 3)


def test_the_loss_falls(stage, variables):
    """A few steps of plain gradient descent."""
    b = batch()
    grad = jax.jit(jax.value_and_grad(lambda p: stage.loss({"params": p}, b, jax.random.key(0), True)[0]))
    params, values = variables["params"], []
    for _ in range(8):
        value, g = grad(params)
        values.append(float(value))
        params = jax.tree.map(lambda p, d: p - 0.02 * d, params, g)
    assert values[-1] < 0.9 * values[0]


@pytest.mark.parametrize(
    "model",
    [
        {"dim": 128, "heads": 4, "head_dim": 16, "depth": 2, "text_layers": 1},
        {"dim": 96, "heads": 3, "head_dim": 48, "depth": 1, "text_layers": 3, "frames": 2},
    ],
)
def test_flops_are_those_that_xla_counts(model):
    """Of the unrolled model, forward and backward. XLA also counts what is not a matrix product: a few percent."""
    stage = make_stage(config(image_size=(32, 32), **model))
    b = batch(rows=2, points=16)
    images = np.zeros((2, stage.model.frames, 32, 32, 3), np.uint8)
    b = b.replace(images={ANY_VIEW: images}, text=np.zeros((2, 64), np.float32))
    variables = jax.eval_shape(stage.init, jax.random.key(0), b)
    grad = jax.grad(lambda p: stage.loss({"params": p}, b, jax.random.key(0), True)[0])
    counted = jax.jit(grad).lower(variables["params"]).compile().cost_analysis()["flops"] / 2
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), b)
    assert 1.0 < counted / stage.flops_per_example(shapes) < 1.12


def test_flops_at_paper_size():
    stage = make_stage(atm.configure(base_config()))
    flops = atm.train_flops(stage.model, 32, 768)
    assert 15e9 < flops < 17e9  # about 6 x 12.1 M parameters x 193 tokens, and attention


@pytest.mark.parametrize(
    ("model", "word"),
    [({"image_size": (20, 24)}, "patch"), ({"track_patch": 3}, "track_patch"), ({"dim": 18}, "multiple of 4")],
)
def test_sizes_that_do_not_fit_are_refused(model, word):
    with pytest.raises(UserError, match=word):
        make_stage(config(**model))


@pytest.mark.parametrize(
    ("key", "value", "bound"),
    [
        *((f"model.{name}", 0, "at least 1") for name in ("dim", "depth", "heads", "patch", "frames", "track_steps")),
        *((f"model.{name}", -1, "at least 1") for name in ("track_patch", "text_hidden", "text_layers")),
        ("model.head_dim", -1, "at least 0"),
        ("model.mlp_dropout", 1.0, "0, or at least 0.00390625 and at most 0.996094"),
        ("model.mlp_dropout", 0.001, "0, or at least 0.00390625 and at most 0.996094"),
        ("window.points", 0, "at least 1"),
        ("window.horizon", 0, "at least 1"),
        ("loss.patch_mask", 1.5, "at least 0 and at most 1"),
    ],
)
def test_numbers_out_of_bounds_are_refused(key, value, bound):
    c = config()
    part, name = key.split(".")
    c[part][name] = value
    with pytest.raises(UserError, match=f"^{key} is {value}; expected {bound}$"):
        make_stage(c)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"image_size": (0, 24)}, r"model.image_size is \(0, 24\); expected \(height, width\)"),
        ({"image_size": (16, 24, 3)}, "expected .height, width."),
        ({"dim": 4, "heads": 8}, "model.dim 4 is less than model.heads 8"),
    ],
)
def test_sizes_without_meaning_are_refused(model, message):
    with pytest.raises(UserError, match=message):
        make_stage(config(**model))


def test_images_of_another_size_are_refused(stage, variables):
    b = batch()
    small = b.replace(images={ANY_VIEW: b.images[ANY_VIEW][:, :, :8]})
    with pytest.raises(UserError, match="16, 24"):
        stage.loss(variables, small, jax.random.key(0), False)


def test_bfloat16_loss_is_float32(variables):
    c = config()
    c.dtype = "bfloat16"
    stage = make_stage(c)
    assert isinstance(stage.model, TrackTransformer) and stage.model.dtype == jnp.bfloat16
    value, extra = jax.eval_shape(lambda v: stage.loss(v, batch(), jax.random.key(0), False), variables)
    assert {value.dtype, *(m.dtype for m in extra["metrics"].values())} == {jnp.dtype("float32")}
