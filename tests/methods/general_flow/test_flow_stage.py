"""General Flow's training stage on small scenes."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from t2p.io import UserError
from t2p.methods.general_flow import stage as flow
from t2p.methods.registry import make_stage
from t2p.models.general_flow import point_net
from t2p.models.pointnext import multiply_adds
from t2p.train.defaults import base_config
from t2p.types import Batch, Tracks

SET, VIEW, N, STEPS = "exact/cloud", "front", 40, 3


def config(**model):
    c = flow.configure(base_config(), "S")
    c.model.update({"width": 8, "blocks": (1, 1, 1), "strides": (1, 2, 4), "layers": 1, "hidden": 24, "latent": 4})
    c.model.update({"steps": STEPS, "radius": 0.2, "neighbours": 8, "text_hidden": (8,)} | model)
    c.window.update({"track_set": SET, "view": VIEW, "points": N, "queries": 12, "test_queries": 16, "samples": 3})
    return c


def batch(rows=3, dims=3, seed=0):
    """Half of the points move by 10 cm a step along x, the others stay."""
    rng = np.random.default_rng(seed)
    start = rng.random((rows, 1, N, dims), np.float32) * 0.4 + 0.5
    moving = (start[..., :1] > 0.7) * np.arange(STEPS + 1)[:, None, None] * 0.1
    points = (start + moving * np.eye(dims)[0]).astype(np.float32)
    return Batch(tracks={SET: {VIEW: Tracks(points, np.ones(points.shape[:-1], bool), space="camera")}})


def with_tracks(b, **changes):
    return b.replace(tracks={SET: {VIEW: replace(b.tracks[SET][VIEW], **changes)}})


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


def test_stage_is_made_from_its_config(stage):
    assert stage == make_stage(config()) and hash(stage) == hash(make_stage(config()))
    assert stage != make_stage(config(scale_method="SDN"))
    assert (stage.weights.scale, stage.weights.divergence, stage.weights.places) == (25.0, 1.0, 1.0)
    np.testing.assert_allclose(stage.augment.turn, np.pi * np.array([0.3, 0.3, 0.1]), rtol=1e-6)
    w = stage.window
    assert (w.views, w.track_set, w.num_points, w.one_view) == ((VIEW,), SET, N, False)
    assert w.tracks.offsets == (0, 1, 2, 3) and w.images is None and not w.text


@pytest.mark.long
def test_training_fits_the_motion(stage, variables):
    """150 steps of Adam on one batch, without augmentation and with the frozen layers held: paths of new latents come
    much closer than staying does, and the running statistics serve prediction."""
    assert config().optimizer.freeze == ("text/layer_.*",)
    still = replace(stage, augment=flow.Augment((0.0, 0.0, 0.0), (1.0, 1.0), 0.0))
    b, optimizer = batch(), optax.adam(3e-3)

    def step(carry, i):
        v, state = carry

        def value(params):
            return still.loss({**v, "params": params}, b, jax.random.fold_in(jax.random.key(3), i), True)

        grads, extra = jax.grad(value, has_aux=True)(v["params"])
        updates, state = optimizer.update(grads, state)
        updates["text"] = {**jax.tree.map(jnp.zeros_like, updates["text"]), "norm": updates["text"]["norm"]}
        v = {**v, "params": optax.apply_updates(v["params"], updates), "batch_stats": extra["batch_stats"]}
        return (v, state), extra["metrics"]

    start = (dict(variables), optimizer.init(variables["params"]))
    (trained, _), metrics = jax.jit(lambda s: jax.lax.scan(step, s, jnp.arange(150)))(start)
    assert metrics["loss"][-10:].mean() < 0.3 * metrics["loss"][:10].mean()
    truth = b.tracks[SET][VIEW].points
    tracks = predict(stage, trained, b, jax.random.key(5)).tracks
    error, stay = (np.linalg.norm(p - truth, axis=-1)[:, 1:].mean() for p in (tracks.points, truth[:, :1]))
    assert error < 0.5 * stay, (error, stay)


def test_losses_and_statistics(stage, variables):
    for train in (True, False):
        value, extra = losses(stage, variables, batch(), jax.random.key(1), train)
        m = extra["metrics"]
        total = m["step_loss"] + 25 * m["scale_loss"] + m["kl_loss"] + m["place_loss"]
        np.testing.assert_allclose([value, m["loss"]], total, rtol=1e-5)
        assert m["ade_mm"] > 0 and bool(extra["batch_stats"]) == train
    _, extra = losses(stage, variables, batch(), jax.random.key(1), True)
    assert jax.tree.structure(extra["batch_stats"]) == jax.tree.structure(variables["batch_stats"])


def test_tracks_with_an_unseen_step_do_not_count(stage, variables):
    b, key = batch(), jax.random.key(2)
    visible = np.ones((3, STEPS + 1, N), bool)
    visible[0, 2, 5:] = visible[1, 1, ::2] = False  # row 0 has fewer than the 12 queries
    visible[2] = False
    b = with_tracks(b, visible=visible)
    points = b.tracks[SET][VIEW].points.copy()
    points[0, 1:, 5:] += 0.3
    points[1, 1:, ::2] += 0.3
    moved = with_tracks(b, points=points)
    for train in (True, False):
        want, got = (losses(stage, variables, x, key, train) for x in (b, moved))
        np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
        np.testing.assert_allclose(got[1]["metrics"]["ade_mm"], want[1]["metrics"]["ade_mm"], rtol=1e-5)
    points[1, 1:, 1::2] += 0.3
    assert losses(stage, variables, with_tracks(b, points=points), key, False)[0] > want[0] + 0.01


def test_rows_that_do_not_count(stage, variables):
    b, key = batch(), jax.random.key(2)
    points = b.tracks[SET][VIEW].points.copy()
    points[1] *= 1.5
    rows = np.array([True, False, True])
    for some in (b.replace(mask=rows), b.replace(has={"tracks": rows})):
        want, got = (losses(stage, variables, x, key, False) for x in (some, with_tracks(some, points=points)))
        np.testing.assert_allclose(got[0], want[0], rtol=1e-5)


def test_prediction_reads_the_first_step_only_and_moves_with_the_scene(stage, variables):
    b, key = batch(), jax.random.key(4)
    truth = b.tracks[SET][VIEW].points
    want = predict(stage, variables, b, key)
    tracks, samples = want.tracks, want.aux["samples"]
    assert tracks.points.shape == truth.shape and tracks.space == "camera" and tracks.visible.all()
    assert samples.shape == (3, 3, STEPS, N, 3)
    np.testing.assert_array_equal(tracks.points[:, 0], truth[:, 0])
    np.testing.assert_allclose(tracks.points[:, 1:], samples.mean(1), atol=1e-6)
    assert np.abs(samples[:, 0] - samples[:, 1]).max() > 1e-4
    other = truth.copy()
    other[:, 1:] = 0
    again = predict(stage, variables, with_tracks(b, points=other, visible=np.zeros(truth.shape[:-1], bool)), key)
    np.testing.assert_array_equal(again.tracks.points, tracks.points)
    grid = np.round(truth * 1024) / 1024
    here, there = (predict(stage, variables, with_tracks(b, points=grid + d), key).tracks.points for d in (0.0, 1.0))
    np.testing.assert_allclose(there, here + 1.0, atol=1e-3)


def test_flops_count_every_kernel(stage, variables):
    kernels = {k: v for k, v in flatten_dict(variables["params"], sep="/").items() if k.endswith("kernel")}
    once = sum(v.size for k, v in kernels.items() if k.startswith("text"))
    each = sum(v.size for k, v in kernels.items() if not k.startswith(("text", "points")))
    points = multiply_adds(point_net(stage.model), N + 12, 12)
    assert stage.flops_per_example(batch()) == 6 * (points + once + 12 * each)


def test_bad_input(stage):
    with pytest.raises(UserError, match="points of 2 numbers; General Flow needs 3D tracks"):
        stage.init(jax.random.key(0), batch(dims=2))
    c = config()
    c.window.points = 9
    with pytest.raises(UserError, match=r"window\.points 9 .* leave 2 points at the coarsest"):
        make_stage(c)
    for key, value, message in (
        ("window.samples", 0, r"window\.samples is 0; expected at least 1"),
        ("model.radius", 0.0, r"model\.radius is 0\.0; expected a number above 0"),
        ("loss.stretch", (0.0, 1.0), r"loss\.stretch \(0\.0, 1\.0\); expected three angles"),
        ("model.scale_method", "TLX", "'TLX'; expected one of TLN"),
    ):
        c = config()
        c.update_from_flattened_dict({key: value})
        with pytest.raises(UserError, match=message):
            make_stage(c).init(jax.random.key(0), batch())
