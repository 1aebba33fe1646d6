"""DP3's two coordinates: what they keep, what they undo, what they do not see."""

import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent / "threepointr"))
from scenes import CAMERA, scene

from t2p.geometry.cameras import invert_transform, transform_points
from t2p.io import UserError
from t2p.methods.dp3 import Sample, Workspace, configure, crop_and_sample
from t2p.methods.normalise import Limits
from t2p.methods.registry import make_stage
from t2p.train.defaults import base_config
from t2p.train.statistics import with_statistics

POSE = jnp.asarray(CAMERA.T_base_cam, jnp.float32)[None]
BOX = Limits.of((0.2, -0.4, -0.05), (0.6, 0.4, 0.35))


def demonstration(seed: int = 0):
    """-> cloud [1, N, 3] in the camera's frame, setpoints [1, 9, 10], state [1, 10]."""
    episode = scene(seed)
    actions = jnp.asarray(episode.columns["actions"], jnp.float32)
    return jnp.asarray(episode.tracks["exact/objects"]["front"].points[:1]), actions[None, :9], actions[None, 3]


def workspace(**changes) -> Workspace:
    actions = demonstration()[1][0]
    limits = Limits.of(actions.min(0).tolist(), actions.max(0).tolist())
    parts = Limits(limits.low[:9], limits.high[:9]), Limits(limits.low[9:], limits.high[9:])
    return Workspace(**{"box": BOX, "scale_points": True, "points": 24, "actions": limits, "state": parts, **changes})


def test_the_workspace_shows_points_of_the_base_frame_in_its_box():
    cloud, _, state = demonstration()
    base = transform_points(np.asarray(CAMERA.T_base_cam), np.asarray(cloud[0], np.float64))
    inside = np.all((base >= BOX.low) & (base <= BOX.high), axis=-1)
    assert inside.sum() >= 24
    points, _, _ = workspace().encode(cloud, jnp.ones(cloud.shape[:2], bool), state, POSE)
    assert points.shape == (1, 24, 3) and float(jnp.abs(points).max()) <= 1 + 1e-5
    metres, _, _ = workspace(scale_points=False).encode(cloud, jnp.ones(cloud.shape[:2], bool), state, POSE)
    np.testing.assert_allclose(BOX.undo(points), metres, atol=1e-6)
    nearest = np.linalg.norm(np.asarray(metres)[0, :, None] - base[inside], axis=-1).min(-1)
    assert nearest.max() < 1e-5  # each is one of the cloud's
    assert len(np.unique(np.round(np.asarray(metres)[0], 6), axis=0)) == 24


def test_what_lies_outside_the_box_or_is_not_valid_is_not_seen():
    cloud, _, state = demonstration()
    valid = jnp.arange(cloud.shape[1])[None] < 60
    far = transform_points(invert_transform(CAMERA.T_base_cam), np.array([2.0, 0, 0]))
    outside = cloud.at[:, 40:60].set(jnp.asarray(far, jnp.float32))
    run = lambda c, v: workspace().encode(c, v, state, POSE)[0]  # noqa: E731
    expected = run(cloud[:, :40], jnp.ones((1, 40), bool))
    np.testing.assert_allclose(run(outside, valid), expected, atol=1e-6)


def test_a_cloud_of_few_points_is_filled_up_with_the_origin():
    points = jnp.asarray(np.random.default_rng(0).uniform(1, 2, (2, 6, 3)), jnp.float32)
    kept = jnp.array([[False, True, True, False, True, False], [False] * 6])
    found = np.asarray(crop_and_sample(points, kept, 4))
    assert {tuple(p) for p in found[0, :3]} == {tuple(p) for p in np.asarray(points)[0, [1, 2, 4]]}
    assert not found[0, 3].any() and not found[1].any()


@pytest.mark.parametrize("coordinates", ["workspace", "sample"])
def test_actions_come_back(coordinates):
    cloud, actions, state = demonstration()
    space = workspace() if coordinates == "workspace" else Sample(0.9)
    _, _, frame = space.encode(cloud, jnp.ones(cloud.shape[:2], bool), state, POSE)
    seen = space.normalise(actions, POSE, frame)
    assert coordinates == "sample" or float(jnp.abs(seen).max()) <= 1 + 1e-5
    np.testing.assert_allclose(space.undo(seen, POSE, frame), actions, atol=1e-5)
    rotation = np.asarray(space.undo(seen + 0.1, POSE, frame))[..., 3:9].reshape(9, 2, 3)
    np.testing.assert_allclose(rotation @ rotation.swapaxes(-1, -2), np.broadcast_to(np.eye(2), (9, 2, 2)), atol=1e-5)


def test_the_state_is_normalised_by_its_own_limits():
    cloud, _, state = demonstration()
    space = workspace(state=(Limits.of([-1.0] * 9, [3.0] * 9), Limits.of([0.0], [1.0])))
    _, seen, _ = space.encode(cloud, jnp.ones(cloud.shape[:2], bool), state, POSE)
    np.testing.assert_allclose(seen[:, :9], state[:, :9] / 2 - 0.5, atol=1e-6)
    np.testing.assert_allclose(seen[:, 9], 2 * state[:, 9] - 1, atol=1e-6)


def test_the_sample_is_seen_the_same_wherever_the_scene_lies():
    """Moved with its camera frame's cloud, tool and actions: the network sees the same."""
    cloud, actions, state = demonstration()
    shift = jnp.array([0.1, -0.2, 0.05])
    moved = cloud + shift @ POSE[0, :3, :3]  # the shift in the camera's axes
    space, valid = Sample(0.9), jnp.ones(cloud.shape[:2], bool)
    points, tool, frame = space.encode(cloud, valid, state, POSE)
    again, same, other = space.encode(moved, valid, state.at[:, :3].add(shift), POSE)
    np.testing.assert_allclose(again, points, atol=1e-4)
    np.testing.assert_allclose(same, tool, atol=1e-4)
    later = space.normalise(actions.at[..., :3].add(shift), POSE, other)
    np.testing.assert_allclose(later, space.normalise(actions, POSE, frame), atol=1e-4)


def test_bad_settings_are_named():
    for change, message in (
        ({"coordinates": "robot"}, "model.coordinates is 'robot'"),
        ({"workspace": {"low": (0.0, 0.0, 0.0), "high": (1.0, 0.0, 1.0)}}, "model.workspace is"),
        ({"cloud_points": 0}, "model.cloud_points is 0"),
    ):
        config = with_statistics(configure(base_config()), blank=True)
        config.model.update(change)
        with pytest.raises(UserError, match=message):
            make_stage(config)
