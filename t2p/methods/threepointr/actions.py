"""3PoinTr's actions: tool poses in the camera's frame, positions in the sample's own units (released code)."""

from __future__ import annotations

from t2p.geometry.cameras import invert_transform, transform_points
from t2p.geometry.rotations import matrix_from_6d, matrix_to_6d
from t2p.methods.threepointr.scaling import from_threepointr, to_threepointr
from t2p.types import Array


def move_setpoints(setpoints: Array, T_new_old: Array) -> Array:
    """Setpoints [B, T, 10] (position, 6D rotation, gripper) of one frame -> of another; T_new_old: [B, 4, 4]."""
    xp = setpoints.__array_namespace__()
    T = T_new_old[:, None]
    position = transform_points(T, setpoints[..., :3])
    rotation = matrix_to_6d(T[..., :3, :3] @ matrix_from_6d(setpoints[..., 3:9]))
    return xp.concat([position, rotation, setpoints[..., 9:]], axis=-1)


def to_threepointr_actions(setpoints: Array, T_base_cam: Array, centre: Array, radius: Array) -> Array:
    """Setpoints [B, T, 10] in the robot's base frame, metres -> what the policy predicts, the same shape.

    T_base_cam: [B, 4, 4]; centre [B, 3], radius [B]: of the sample's cloud in the camera's frame. The gripper is 0
    (open) to 1, as the released code's command over 255."""
    xp = setpoints.__array_namespace__()
    seen = move_setpoints(setpoints, invert_transform(T_base_cam))
    return xp.concat([to_threepointr(seen[..., :3], centre, radius), seen[..., 3:]], axis=-1)


def from_threepointr_actions(actions: Array, T_base_cam: Array, centre: Array, radius: Array) -> Array:
    """The inverse of `to_threepointr_actions`; rotations are made orthonormal (Gram-Schmidt)."""
    xp = actions.__array_namespace__()
    position = from_threepointr(actions[..., :3], centre, radius)
    return move_setpoints(xp.concat([position, actions[..., 3:]], axis=-1), T_base_cam)
