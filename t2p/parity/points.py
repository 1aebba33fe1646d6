"""Rotations, furthest point sampling and DP3's encoders on recorded inputs, under their recorded names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from t2p.convert.base import Arrays, to_variables
from t2p.convert.dp3 import dp3_encoder_rows
from t2p.geometry import rotations as r
from t2p.geometry.clouds import furthest_points as sample
from t2p.geometry.clouds import gather_points
from t2p.models.dp3 import Dp3Encoder


def rotation_conversions(meta: Mapping[str, Any], inputs: Arrays, checkpoint: Arrays | None) -> dict[str, np.ndarray]:
    """Fixture baselines/rotations, in float64. inputs: axis_angle [n, 3], quaternion_wxyz [n, 4], rotation_6d [n, 6],
    which is no rotation until it is made orthogonal. The matrix converted to quaternions and to Euler angles is that
    of the quaternion, the one converted to the other notations that of axis_angle; the noisy 6D is the latter's plus
    a tenth of rotation_6d."""
    names = ("axis_angle", "quaternion_wxyz", "rotation_6d")
    axis_angle, quaternion, six = (inputs[name].astype(np.float64) for name in names)
    matrix, other = r.axis_angle_to_matrix(axis_angle), r.quaternion_to_matrix(quaternion)
    rows = r.matrix_to_6d(matrix, "rows")
    canonical = r.canonical_quaternion(r.axis_angle_to_quaternion(axis_angle))
    return {
        "axis_angle_to_matrix": matrix,
        "quaternion_to_matrix": other,
        "rotation_6d_rows_to_matrix": r.matrix_from_6d(six, "rows"),
        "matrix_to_rotation_6d_rows": rows,
        "rotation_6d_cols_to_matrix": r.matrix_from_6d(six, "columns"),
        "matrix_to_rotation_6d_cols": r.matrix_to_6d(matrix, "columns"),
        "matrix_to_quaternion_wxyz_canonical": r.matrix_to_quaternion(other),
        "matrix_to_axis_angle": r.matrix_to_axis_angle(matrix),
        "axis_angle_to_quaternion_wxyz_canonical": canonical,
        "quaternion_to_axis_angle": r.quaternion_to_axis_angle(quaternion),
        "axis_angle_to_rotation_6d_rows": rows,
        "matrix_to_euler_xyz_intrinsic_XYZ": r.matrix_to_euler_xyz(other),
        "euler_XYZ_to_matrix": r.euler_xyz_to_matrix(axis_angle),
        "matrix_from_noisy_6d_rows": r.matrix_from_6d(rows + 0.1 * six, "rows"),
    }


def furthest_points(meta: Mapping[str, Any], inputs: Arrays, checkpoint: Arrays | None) -> dict[str, np.ndarray]:
    """Fixture baselines/fps. meta["config"]: K; inputs: points [B, P, D], lengths [B]."""
    indices = sample(inputs["points"], meta["config"]["K"], inputs["lengths"])
    return {"indices": indices, "points": gather_points(inputs["points"], indices)}


def dp3_encoder(meta: Mapping[str, Any], inputs: Arrays, checkpoint: Arrays) -> dict[str, np.ndarray]:
    """Fixtures baselines/dp3_encoder*. meta["config"]: the official constructor's arguments; inputs: point_cloud
    [b, n, c], agent_pos [b, s], imagin_robot [b, m, >= c] where it is used."""
    settings = dp3_settings(meta["config"])
    params = to_variables(dp3_encoder_rows(settings), checkpoint)
    arguments = [jnp.asarray(inputs[name]) for name in ("point_cloud", "agent_pos", "imagin_robot") if name in inputs]
    features, parts = Dp3Encoder(**settings).apply({"params": params}, *arguments)
    return {"features": features, "pointnet_features": parts["cloud"], "state_features": parts["state"]}


def dp3_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The official constructor's arguments -> settings of models.dp3.Dp3Encoder."""
    cloud = config["pointcloud_encoder_cfg"]
    return {
        "features": cloud["out_channels"],
        "state_widths": tuple(config["state_mlp_size"]),
        "colors": config["use_pc_color"],
        "layer_norm": cloud["use_layernorm"],
        "final_norm": cloud["final_norm"],
        "projection": cloud.get("use_projection", True),
    }
