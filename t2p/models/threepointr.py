"""3PoinTr's networks (Hung et al. 2026): point tracks from a cloud, and a policy's conditioning from tracks.

Both see 3PoinTr's coordinates, centre and radius of each sample taken out (t2p.methods.threepointr.scaling). What
the paper leaves open follows the released code. Letters: b batch, n points, t steps, c coordinates of a point,
d channels.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from t2p.io import UserError
from t2p.models.layers import Array, Dtype
from t2p.models.perceiver import DecoderBlock, XavierLinear

HEADS = ("absolute", "displacement")


class TrackNet(nn.Module):
    """Cloud -> where each of its points will be. Settings by name: `TRACK_VARIANTS`.

    cross_attend_tokens: blocks also attend to the tokeniser's output (released code; the paper's equations have
    self-attention only). head: the last layer gives places ("absolute": released code) or displacements, to which
    the input point is added."""

    width: int
    depth: int
    heads: int
    steps: int  # t
    cross_attend_tokens: bool = True
    head: str = "absolute"
    epsilon: float = 1e-5
    dtype: Dtype = jnp.float32
    implementation: str = "matmul"

    @nn.compact
    def __call__(self, cloud: Array) -> tuple[Array, dict[str, Array]]:
        """cloud: [b, n, 3], any n. Returns tracks [b, t, n, 3] of steps 1 .. t, float32, and {"tokens": [b, n, d]}.

        There is no position table: permuting the points permutes the tracks."""
        self._check()
        cloud = cloud.astype(jnp.float32)
        tokens = x = self._tokens(cloud)
        memory = tokens if self.cross_attend_tokens else None
        for i in range(self.depth):
            block = DecoderBlock(self.heads, self.epsilon, self.dtype, self.implementation, name=f"block_{i}")
            x = block(x, memory)
        y = XavierLinear(3 * self.steps, name="head")(x)  # float32, no norm before it; (step, xyz)
        tracks = y.reshape(*y.shape[:2], self.steps, 3).swapaxes(1, 2)
        if self.head == "displacement":
            tracks = tracks + cloud[:, None]
        return tracks, {"tokens": tokens}

    def _tokens(self, cloud: Array) -> Array:
        """Three linear layers, erf GELU between them: [b, n, 3] -> [b, n, d]. Coordinates enter in float32."""
        x = XavierLinear(self.width, name="token_0")(cloud).astype(self.dtype)
        for i in (1, 2):
            x = XavierLinear(self.width, dtype=self.dtype, name=f"token_{i}")(nn.gelu(x, approximate=False))
        return x

    def _check(self) -> None:
        if self.head not in HEADS:
            raise UserError(f"model.head is {self.head!r}; expected one of {', '.join(HEADS)}")
        if self.width % self.heads:
            raise UserError(f"model.width {self.width} is not a multiple of model.heads {self.heads}")


class Readout(nn.Module):
    """Tracks -> the vector that conditions the policy: one learned query reads one token per point.

    Settings by name: `READOUT_VARIANTS`."""

    width: int  # of a token
    condition: int  # of the result
    heads: int = 1
    epsilon: float = 1e-5
    dtype: Dtype = jnp.float32
    implementation: str = "matmul"

    @nn.compact
    def __call__(self, tracks: Array) -> tuple[Array, dict[str, Array]]:
        """tracks: [b, t, n, c]: c = 3, or c = 2 for the paper's 2D ablation. Returns [b, condition] float32 and
        {"track_tokens": [b, n, d]}."""
        b, t, n, c = tracks.shape
        points = tracks.astype(jnp.float32).swapaxes(1, 2).reshape(b, n, t * c)  # (step, coordinate)
        tokens = XavierLinear(self.width, name="track")(points).astype(self.dtype)
        query = self.param("query", nn.initializers.normal(1.0), (1, self.width)).astype(self.dtype)
        block = DecoderBlock(self.heads, self.epsilon, self.dtype, self.implementation, name="block")
        x = block(jnp.broadcast_to(query, (b, *query.shape)), tokens)
        return XavierLinear(self.condition, name="condition")(x[:, 0]), {"track_tokens": tokens}


# Settings of TrackNet by name; steps follows the task. "paper" has 2,244,379 parameters at 9 steps. "cpu" is
# for two cores, with displacements: in a short training they are learned far better than places.
TRACK_VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {"width": 256, "depth": 2, "heads": 4, "steps": 9},
    "cpu": {"width": 128, "depth": 2, "heads": 2, "steps": 9, "head": "displacement"},
}
READOUT_VARIANTS: dict[str, dict[str, Any]] = {"paper": {"width": 128, "condition": 256, "heads": 1}}
