"""DP3's encoder of a point cloud and the robot's state (Ze et al. 2024, "3D Diffusion Policy"), as released.

Letters: b batch, n points, m imagined robot points, c channels of a point.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from t2p.io import UserError
from t2p.models.layers import Array, Dtype, LayerNorm, Linear

EPSILON = 1e-5
WIDTHS = (64, 128, 256)
COLOR_WIDTH = 512
FINAL_NORMS = ("layernorm", "none")


class PointEncoder(nn.Module):
    """A network of each point alone, the maximum over points, a projection. [b, n, c] -> [b, features].

    colors: points are (x, y, z, r, g, b), and one more linear layer, with nothing after it, comes before the
    maximum. layer_norm: before each ReLU. final_norm: "layernorm" or "none", after the projection. projection:
    without it the maximum itself is returned (and `features` is not read)."""

    features: int = 64
    colors: bool = False
    layer_norm: bool = True
    final_norm: str = "layernorm"
    projection: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, cloud: Array) -> Array:
        self._check(cloud)
        x = cloud.astype(jnp.float32)
        for i, width in enumerate(WIDTHS):
            # Coordinates enter in float32: bfloat16 would round them to millimetres.
            x = Linear(width, dtype=self.dtype if i else jnp.float32, name=f"layer_{i}")(x)
            x = nn.relu(LayerNorm(EPSILON, name=f"norm_{i}")(x) if self.layer_norm else x)
        if self.colors:
            x = Linear(COLOR_WIDTH, dtype=self.dtype, name=f"layer_{len(WIDTHS)}")(x)
        x = x.max(-2)
        if not self.projection:
            return x
        x = Linear(self.features, dtype=self.dtype, name="projection")(x)
        return LayerNorm(EPSILON, name="final_norm")(x) if self.final_norm == "layernorm" else x

    def _check(self, cloud: Array) -> None:
        channels = 6 if self.colors else 3
        if cloud.shape[-1] != channels:
            raise UserError(
                f"DP3's encoder {'with' if self.colors else 'without'} colors takes points of {channels} numbers; "
                f"got {cloud.shape[-1]}"
            )
        _check_final_norm(self.final_norm)


def _check_final_norm(final_norm: str) -> None:
    if final_norm not in FINAL_NORMS:
        raise UserError(f"final_norm is {final_norm!r}; expected one of {', '.join(FINAL_NORMS)}")


class StateMlp(nn.Module):
    """Linear (ReLU Linear)*: [b, s] -> [b, widths[-1]]."""

    widths: Sequence[int]
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i, width in enumerate(self.widths):
            x = Linear(width, dtype=self.dtype, name=f"layer_{i}")(nn.relu(x) if i else x)
        return x


class Dp3Encoder(nn.Module):
    """Features of one observation step: of the cloud, then of the state. Released widths are the defaults."""

    features: int = 64
    state_widths: tuple[int, ...] = (64, 64)
    colors: bool = False
    layer_norm: bool = True
    final_norm: str = "layernorm"
    projection: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, cloud: Array, state: Array, imagined: Array | None = None) -> tuple[Array, dict[str, Array]]:
        """cloud: [b, n, 3], or [b, n, 6] with colors in the last three; state: [b, s]; imagined: [b, m, >= c], points
        on the robot as its state says, appended to the cloud by their first c channels (DexArt's tasks).

        Returns [b, features + state_widths[-1]] and {"cloud", "state"}, the two parts."""
        if imagined is not None:
            cloud = jnp.concatenate([cloud, imagined[..., : cloud.shape[-1]]], axis=-2)
        settings = (self.features, self.colors, self.layer_norm, self.final_norm, self.projection, self.dtype)
        points = PointEncoder(*settings, name="cloud")(cloud)
        proprio = StateMlp(self.state_widths, self.dtype, name="state")(state)
        return jnp.concatenate([points, proprio], axis=-1), {"cloud": points, "state": proprio}
