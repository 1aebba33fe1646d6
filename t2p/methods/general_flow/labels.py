"""What General Flow's network learns of a path: its direction and its scale, apart; NumPy and JAX alike.

The released code computes both before it augments the scene, so that turned and stretched paths keep the labels of
the original; here they are those of the path that the network sees.
"""

from __future__ import annotations

from t2p.io import UserError
from t2p.models.general_flow import SCALE_METHODS
from t2p.types import Array

STILL = 1e-6  # metres: a path of less has no direction


def scale_labels(paths: Array, method: str) -> tuple[Array, Array]:
    """Paths [..., t + 1, 3] -> direction [..., t, 3] and scale [..., s], with steps = direction * scale.

    The scale is the path's length (TLN), the distance from its start to its end (TDN), or the length of each step
    (SDN: s = t; else s = 1). Where it is below 1e-6 the direction is 0 and the scale 1: so write the released
    labels, which reach the scale through a view."""
    if method not in SCALE_METHODS:
        raise UserError(f"the scale method is {method!r}; expected one of {', '.join(SCALE_METHODS)}")
    xp = paths.__array_namespace__()
    steps = paths[..., 1:, :] - paths[..., :-1, :]
    scale = _length(xp.sum(steps, axis=-2, keepdims=True) if method == "TDN" else steps)
    scale = xp.sum(scale, axis=-1, keepdims=True) if method == "TLN" else scale
    still = scale < STILL
    scale = xp.where(still, xp.ones_like(scale), scale)
    return xp.where(still[..., None], xp.zeros_like(steps), steps / scale[..., None]), scale


def _length(steps: Array) -> Array:
    """[..., t, 3] -> [..., t]."""
    xp = steps.__array_namespace__()
    return xp.sqrt(xp.sum(xp.square(steps), axis=-1))
