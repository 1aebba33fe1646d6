"""Rotations in single precision, as robosuite has them (1.4.1, utils/transform_utils; released code): resets, the
controller's goals and observations show the rounding."""

from __future__ import annotations

import numpy as np


def quaternion_to_matrix(quaternions: np.ndarray) -> np.ndarray:
    """[n, 4] (w, x, y, z) -> [n, 3, 3] float64 (quat2mat): products in single precision, the diagonal's sums in
    double."""
    q = quaternions.astype(np.float32)
    square = (q**2).sum(1, keepdims=True, dtype=float).astype(np.float32).astype(float)
    q = (q * np.sqrt(2.0 / square)).astype(np.float32)
    p = q[:, :, None] * q[:, None]
    x, y, z = (p[:, i] for i in (1, 2, 3))  # [n, 4]: each times w, x, y, z
    xx, yy, zz = (one[:, i].astype(float) for i, one in ((1, x), (2, y), (3, z)))
    rows = (
        *(1.0 - yy - zz, x[:, 2] - z[:, 0], x[:, 3] + y[:, 0]),
        *(x[:, 2] + z[:, 0], 1.0 - xx - zz, y[:, 3] - x[:, 0]),
        *(x[:, 3] - y[:, 0], y[:, 3] + x[:, 0], 1.0 - xx - yy),
    )
    return np.stack(rows, axis=1).reshape(-1, 3, 3).astype(float)
