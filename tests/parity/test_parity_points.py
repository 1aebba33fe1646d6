"""Rotations, furthest point sampling and DP3's encoders against PyTorch3D's and DP3's own numbers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2p.geometry import rotations as r
from t2p.geometry.clouds import furthest_points
from t2p.parity import harness
from t2p.parity.points import dp3_settings


@pytest.mark.parametrize("name", ["rotations", "fps", "dp3_encoder", "dp3_encoder_rgb", "dp3_encoder_imagined"])
def test_golden(shared, name):
    report = harness.check(shared / "golden/baselines" / name)
    assert report.status == "ok", report
    assert max(line.error for line in report.lines) < 1e-5  # the fixtures allow 1e-4


def test_jax_in_single_precision_is_within_the_recorded_tolerances(shared):
    folder = shared / "golden/baselines"
    inputs = {k: jnp.asarray(v) for k, v in np.load(folder / "rotations/inputs.npz").items()}
    outputs = np.load(folder / "rotations/outputs.npz")
    matrix = jax.jit(r.axis_angle_to_matrix)(inputs["axis_angle"])
    np.testing.assert_allclose(matrix, outputs["axis_angle_to_matrix"], atol=1e-5)
    np.testing.assert_allclose(r.matrix_to_axis_angle(matrix), outputs["matrix_to_axis_angle"], atol=2e-3)
    other = r.quaternion_to_matrix(inputs["quaternion_wxyz"])
    np.testing.assert_allclose(r.matrix_to_quaternion(other), outputs["matrix_to_quaternion_wxyz_canonical"], atol=1e-5)
    np.testing.assert_allclose(r.matrix_to_euler_xyz(other), outputs["matrix_to_euler_xyz_intrinsic_XYZ"], atol=1e-5)
    points = np.load(folder / "fps/inputs.npz")
    count = np.load(folder / "fps/outputs.npz")["indices"].shape[1]
    found = furthest_points(jnp.asarray(points["points"]), count, jnp.asarray(points["lengths"]), jax.lax.fori_loop)
    np.testing.assert_array_equal(found, np.load(folder / "fps/outputs.npz")["indices"])


def test_settings_follow_the_constructor(shared):
    config = json.loads((shared / "golden/baselines/dp3_encoder_rgb/meta.json").read_text())["config"]
    expected = {"features": 32, "state_widths": (64, 64), "colors": True, "layer_norm": True}
    expected |= {"final_norm": "layernorm", "projection": True}
    assert dp3_settings(config) == expected
    config["pointcloud_encoder_cfg"]["use_projection"] = False
    assert not dp3_settings(config)["projection"]
