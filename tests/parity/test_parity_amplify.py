"""AMPLIFY's measures and input preparation against the release's own numbers."""

import numpy as np
import pytest

from t2p.geometry.conventions import from_pixel_centers
from t2p.parity import amplify
from t2p.parity.harness import check
from t2p.types import Episode, TrackSet

FIXTURES = ["metrics", "libero_dataset", "fsq", "motion_tokenizer", "motion_tokenizer_full_attn_1view"]
FIXTURES += ["policy_end_to_end", "motion_tokenizer_per_view", "forward_dynamics", "forward_dynamics_resnet18"]


@pytest.mark.parametrize("fixture", FIXTURES)
def test_golden(shared, fixture):
    report = check(shared / "golden" / "amplify" / fixture)
    assert report.status == "ok", report


def episode(length: int = 6, size: tuple[int, int] = (8, 16)) -> Episode:
    rng = np.random.default_rng(0)
    pixels = rng.uniform(0, 8, (length, 4, 3, 2)).astype(np.float32)
    points = from_pixel_centers(pixels, size)
    tracks = TrackSet("window", points, np.ones(points.shape[:-1], bool), np.zeros((3, 3)), "cotracker2", "")
    return Episode(
        id="a",
        fps=20.0,
        frames={"top": rng.integers(0, 256, (length, *size, 3), dtype=np.uint8)},
        columns={
            "actions": np.arange(length * 7.0).reshape(length, 7),
            "proprio/joint_states": np.ones((length, 7)),
            "proprio/gripper_states": np.zeros((length, 2)),
        },
        tracks={"cotracker2/amplify": {"top": tracks}},
    )


def config(**changes: object) -> dict:
    return {
        "views": ["top"],
        "img_shape": [8, 16],
        "true_horizon": 4,
        "track_pred_horizon": 4,
        "interp_method": "linear",
    } | changes


def test_other_configurations():
    e = episode()
    full = amplify.network_input(e, config(), 1)
    assert full["traj"].shape == (1, 4, 3, 2) and full["images"].shape == (1, 8, 16, 3)
    short = amplify.network_input(e, config(true_horizon=3, track_pred_horizon=3), 1)
    np.testing.assert_array_equal(short["traj"], full["traj"][:, :3])
    stretched = amplify.network_input(e, config(true_horizon=3, track_pred_horizon=5), 1)
    np.testing.assert_allclose(stretched["traj"][:, ::2], short["traj"], atol=1e-6)
    np.testing.assert_allclose(stretched["traj"][:, 1], short["traj"][:, :2].mean(1), atol=1e-6)
    small = amplify.network_input(e, config(img_shape=[4, 8]), 1)
    np.testing.assert_allclose(small["images"][0, 0, 0], full["images"][0, :2, :2].mean((0, 1)), atol=1e-6)
    np.testing.assert_array_equal(small["traj"], full["traj"])  # normalised by the size in which they were tracked


def test_actions_end_in_zeros():
    actions = amplify.network_input(episode(), config(), 4)["actions"]
    np.testing.assert_array_equal(actions[:2], np.arange(28, 42).reshape(2, 7))
    assert not actions[2:].any()
