"""3PoinTr's stages: what the losses count, coordinates of actions, the paper's switches."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from scenes import CAMERA, STEPS, scene

from t2p.geometry.cameras import invert_transform, transform_points
from t2p.geometry.rotations import matrix_from_6d
from t2p.io import UserError
from t2p.methods.clouds import fill_by_repetition
from t2p.methods.registry import make_stage
from t2p.methods.threepointr import policy, tracks
from t2p.methods.threepointr.actions import from_threepointr_actions, move_setpoints, to_threepointr_actions
from t2p.train.defaults import base_config
from t2p.types import Batch, Tracks

RNG = np.random.default_rng(0)
POINTS = 24


def small(module, **model) -> ml_collections.ConfigDict:
    c = module.configure(base_config(), "cpu")
    c.window.update({"track_set": "exact/objects", "points": POINTS})
    net = {"width": 16, "depth": 1, "heads": 2}
    if module is tracks:
        c.model.update({**net, **model})
    else:
        c.model.tracks.update(net)
        c.model.readout.update({"width": 8, "condition": 8})
        c.model.unet.update({"step_dim": 8, "down_dims": (8,)})
        c.model.diffusion.update({"prediction": "sample", "method": "ddim", "inference_steps": 2})
        c.model.update(model)
    return c


def batch(count: int = 3) -> Batch:
    episodes = [scene(i, points=POINTS) for i in range(count)]
    sets = [e.tracks["exact/objects"]["front"] for e in episodes]
    one = Tracks(
        np.stack([s.points for s in sets]),
        np.stack([s.visible for s in sets]),
        valid=np.ones((count, STEPS + 1), bool),
        space="camera",
    )
    K, pose = (np.stack([np.asarray(x, np.float32)] * count) for x in (CAMERA.K, CAMERA.T_base_cam))
    return Batch(
        tracks={"exact/objects": {"front": one}},
        actions=np.stack([e.columns["actions"][:STEPS] for e in episodes]),
        action_valid=np.ones((count, STEPS), bool),
        cameras={"front": (K, pose)},
    )


def change(b: Batch, **fields) -> Batch:
    one = b.tracks["exact/objects"]["front"].replace(**fields)
    return b.replace(tracks={"exact/objects": {"front": one}})


def loss(stage, variables, b: Batch, train: bool = False):
    value, extra = jax.jit(stage.loss, static_argnums=3)(variables, b, jax.random.key(1), train)
    return float(value), {k: float(v) for k, v in extra["metrics"].items()}


@pytest.fixture(scope="module")
def track_stage():
    stage = make_stage(small(tracks))
    return stage, jax.jit(stage.init)(jax.random.key(0), batch())


def test_hidden_and_padded_steps_and_filling_rows_do_not_count(track_stage):
    stage, variables = track_stage
    b = batch()
    one = b.tracks["exact/objects"]["front"]
    visible, valid, points = one.visible.copy(), one.valid.copy(), one.points.copy()
    visible[0, 3, 5], valid[1, 7:] = False, False
    hidden = change(b, visible=visible, valid=valid)
    points[0, 3, 5] += 9.0
    points[1, 7:] -= 9.0
    assert loss(stage, variables, change(hidden, points=points)) == loss(stage, variables, hidden)
    assert loss(stage, variables, change(b, points=points)) != loss(stage, variables, b)
    masked = b.replace(mask=np.array([True, False, True]))
    points = one.points.copy()
    points[1] *= 3.0
    assert loss(stage, variables, change(masked, points=points)) == loss(stage, variables, masked)


def test_predictions_move_and_grow_with_the_scene(track_stage):
    """Centre and radius of each sample are taken out: in metres, the network commutes with moving and scaling."""
    stage, variables = track_stage
    b = batch()
    here = stage.predict(variables, b, jax.random.key(0)).tracks.points
    one = b.tracks["exact/objects"]["front"]
    there = stage.predict(variables, change(b, points=2.0 * one.points + 0.5), jax.random.key(0)).tracks.points
    np.testing.assert_allclose(there, 2.0 * here + 0.5, atol=2e-4)
    np.testing.assert_allclose(here[:, 0], one.points[:, 0])


def test_the_error_in_millimetres_is_that_of_the_prediction(track_stage):
    stage, variables = track_stage
    b = batch()
    found = stage.predict(variables, b, jax.random.key(0)).tracks.points[:, 1:]
    true = b.tracks["exact/objects"]["front"].points[:, 1:]
    expected = 1000 * np.linalg.norm(np.asarray(found) - true, axis=-1).mean((1, 2)).mean()
    assert loss(stage, variables, b)[1]["ade_mm"] == pytest.approx(expected, rel=1e-4)


def test_noise_is_added_in_training_alone(track_stage):
    stage, variables = track_stage
    assert loss(stage, variables, batch(), train=True)[0] != loss(stage, variables, batch())[0]
    quiet = small(tracks)
    quiet.loss.noise = 0.0
    stage = make_stage(quiet)
    assert loss(stage, variables, batch(), train=True) == loss(stage, variables, batch())


def test_dropping_occluded_tracks_leaves_them_out_of_cloud_and_loss():
    c = small(tracks)
    c.loss.drop_occluded = True
    stage, b = make_stage(c), batch()
    variables = jax.jit(stage.init)(jax.random.key(0), b)
    one = b.tracks["exact/objects"]["front"]
    visible = one.visible.copy()
    visible[:, 4, :6] = False
    hidden = change(b, visible=visible)
    points = one.points.copy()
    points[:, :, :6] += 5.0
    assert loss(stage, variables, change(hidden, points=points)) == loss(stage, variables, hidden)
    masking = make_stage(small(tracks))
    assert loss(masking, variables, change(hidden, points=points)) != loss(masking, variables, hidden)


def test_clouds_are_filled_with_copies_of_what_counts():
    points = jnp.arange(12.0).reshape(1, 6, 2)
    kept = jnp.array([[False, True, False, True, False, False]])
    assert fill_by_repetition(points, kept)[0, :, 0].tolist() == [2, 6, 2, 6, 2, 6]
    np.testing.assert_array_equal(fill_by_repetition(points, jnp.zeros((1, 6), bool)), points)


def test_actions_there_and_back():
    b = batch()
    pose, actions = b.cameras["front"][1], b.actions
    centre, radius = RNG.normal(size=(3, 3)).astype(np.float32), np.array([0.3, 0.5, 2.0], np.float32)
    there = to_threepointr_actions(actions, pose, centre, radius)
    np.testing.assert_allclose(from_threepointr_actions(there, pose, centre, radius), actions, atol=2e-6)
    world_from_camera = pose[0].astype(float)
    seen = transform_points(invert_transform(world_from_camera), actions[0, :, :3])
    np.testing.assert_allclose(there[0, :, :3], (seen - centre[0]) / radius[0], atol=1e-5)
    rotation = matrix_from_6d(there[0, 0, 3:9].astype(float))
    np.testing.assert_allclose(
        rotation, world_from_camera[:3, :3].T @ matrix_from_6d(actions[0, 0, 3:9].astype(float)), atol=1e-6
    )
    np.testing.assert_array_equal(there[..., 9], actions[..., 9])
    np.testing.assert_allclose(move_setpoints(actions, np.stack([np.eye(4)] * 3)), actions, atol=1e-6)


@pytest.fixture(scope="module")
def policy_variables():
    return jax.jit(make_stage(small(policy)).init)(jax.random.key(0), batch())


def test_the_policy_plans_in_metres_of_the_base(policy_variables):
    """Moving camera and scene together changes nothing in the base frame."""
    b, keys = batch(), jax.random.split(jax.random.key(2), 3)
    make = jax.jit(make_stage(small(policy)).plan)
    plan, aux = make(policy_variables, b, keys)
    assert plan.shape == (3, STEPS, 10) and aux["tracks"].shape == (3, STEPS + 1, POINTS, 3)
    np.testing.assert_allclose(aux["tracks"][:, 0], b.tracks["exact/objects"]["front"].points[:, 0], atol=1e-5)
    shift = np.eye(4, dtype=np.float32)
    shift[:3, 3] = [0.4, -0.2, 0.1]
    moved = b.replace(cameras={"front": (b.cameras["front"][0], shift @ b.cameras["front"][1])})
    expected = np.asarray(plan) + np.array([0.4, -0.2, 0.1] + [0] * 7)
    np.testing.assert_allclose(make(policy_variables, moved, keys)[0], expected, atol=1e-5)


def test_the_frozen_network_gets_no_gradient(policy_variables):
    stage = make_stage(small(policy))
    grads = jax.jit(jax.grad(lambda v, b: stage.loss(v, b, jax.random.key(1), True)[0]))(policy_variables, batch())
    assert all(not g.any() for g in jax.tree.leaves(grads["frozen"]))
    assert any(g.any() for g in jax.tree.leaves(grads["params"]["readout"]))


def test_the_2d_ablation_sees_where_points_are_in_the_picture_alone():
    """Points pushed away along their rays look the same, but for what centre and radius of the cloud still say."""
    stage, b = make_stage(small(policy, projected=True)), batch()
    points = b.tracks["exact/objects"]["front"].points[:, 0]
    shown = stage._project(points[:, None], b, np.zeros((3, 3), np.float32), np.ones(3, np.float32))
    far = stage._project(1.5 * points[:, None], b, np.zeros((3, 3), np.float32), np.ones(3, np.float32))
    assert shown.shape == (3, 1, POINTS, 2) and np.abs(shown).max() < 1
    np.testing.assert_allclose(shown, far, atol=1e-5)
    shapes = jax.eval_shape(stage.init, jax.random.key(0), b)
    assert shapes["params"]["readout"]["track"]["kernel"].shape[0] == 2 * STEPS


def test_tracks_that_stand_still_say_nothing_of_the_network(policy_variables):
    variables, b = policy_variables, batch()
    other = {**variables, "frozen": jax.tree.map(lambda x: x + 1.0, variables["frozen"])}
    keys = jax.random.split(jax.random.key(2), 3)
    for conditioning, same in (("still", True), ("predicted", False)):
        plan = jax.jit(make_stage(small(policy, conditioning=conditioning)).plan)
        assert np.array_equal(plan(variables, b, keys)[0], plan(other, b, keys)[0]) == same


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.conditioning", "guessed", "expected one of predicted, still"),
        ("model.diffusion.inference_steps", 101, "expected 1 to 100"),
        ("model.diffusion.method", "euler", "ddpm, ddim"),
        ("window.points", 0, "window.points is 0"),
        ("model.tracks.radius_quantile", 1.5, "radius_quantile"),
    ],
)
def test_wrong_settings_are_named(key, value, message):
    c = small(policy)
    part = c
    for name in key.split(".")[:-1]:
        part = part[name]
    part[key.split(".")[-1]] = value
    with pytest.raises(UserError, match=message):
        make_stage(c)
