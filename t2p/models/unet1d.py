"""Diffusion Policy's denoiser of action sequences (Chi et al. 2023, "Diffusion Policy", section III and appendix):
a U-Net over time whose residual blocks are modulated by the diffusion step and the observation (FiLM).

Letters: b batch, t time steps, c channels; channels last.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from t2p.io import UserError
from t2p.models.layers import Array, Dtype, Linear, step_sinusoids, uniform_by_fan_in

EPSILON = 1e-5
FINAL_GROUPS = 8  # of the last block's norm, whatever `groups` is (as in the released code)


def slide(x: Array, kernel: Array, stride: int = 1) -> Array:
    """Convolution over time, no padding, as a matrix product: [b, t, c], [k, c, d] -> [b, (t - k) / stride + 1, d].

    XLA's own convolution takes 50 times as long on a CPU where sequences are as short as here (4 steps, 256 channels:
    1.7 s against 0.03 s, forward and backward)."""
    taps, steps = kernel.shape[0], (x.shape[1] - kernel.shape[0]) // stride + 1
    windows = [x[:, i : i + stride * (steps - 1) + 1 : stride] for i in range(taps)]
    return jnp.concatenate(windows, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


class Conv1d(nn.Module):
    """Convolution over time with PyTorch's default initialisation, padded by kernel_size // 2 on both sides.
    [b, t, c] -> [b, t / stride, features]."""

    features: int
    kernel_size: int
    stride: int = 1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = uniform_by_fan_in(self.kernel_size * x.shape[-1])
        kernel = self.param("kernel", init, (self.kernel_size, x.shape[-1], self.features)).astype(self.dtype)
        bias = self.param("bias", init, (self.features,)).astype(self.dtype)
        pad = self.kernel_size // 2
        return slide(jnp.pad(x.astype(self.dtype), ((0, 0), (pad, pad), (0, 0))), kernel, self.stride) + bias


class Upsample(nn.Module):
    """Transposed convolution that doubles the time steps: kernel 4, stride 2, padding 1. [b, t, c] -> [b, 2t, c]."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        c = x.shape[-1]
        init = uniform_by_fan_in(4 * c)
        kernel = self.param("kernel", init, (4, c, c)).astype(self.dtype)
        bias = self.param("bias", init, (c,)).astype(self.dtype)
        x = jnp.pad(x.astype(self.dtype), ((0, 0), (1, 1), (0, 0)))
        # Between the steps of x lie zeros, so even steps meet taps 0 and 2 of the kernel, odd ones taps 1 and 3.
        even, odd = slide(x[:, :-1], kernel[0::2]), slide(x[:, 1:], kernel[1::2])
        return jnp.stack([even, odd], axis=2).reshape(x.shape[0], -1, c) + bias


class ConvBlock(nn.Module):
    """Convolution, group norm, Mish. [b, t, c] -> [b, t, features]."""

    features: int
    kernel_size: int
    groups: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = Conv1d(self.features, self.kernel_size, dtype=self.dtype, name="conv")(x)
        norm = nn.GroupNorm(self.groups, epsilon=EPSILON, use_fast_variance=False, dtype=self.dtype, name="norm")
        return jax.nn.mish(norm(x))


class ResidualBlock(nn.Module):
    """Two convolution blocks with FiLM in between. x: [b, t, c], condition: [b, g] -> [b, t, features]."""

    features: int
    kernel_size: int
    groups: int
    film_scale: bool
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Array, condition: Array) -> Array:
        settings = (self.features, self.kernel_size, self.groups, self.dtype)
        y = ConvBlock(*settings, name="block_0")(x)
        width = 2 * self.features if self.film_scale else self.features
        film = Linear(width, dtype=self.dtype, name="film")(jax.nn.mish(condition))[:, None]
        if self.film_scale:
            scale, film = jnp.split(film, 2, axis=-1)
            y = scale * y  # scale, not 1 + scale
        y = ConvBlock(*settings, name="block_1")(y + film)
        if x.shape[-1] != self.features:
            x = Conv1d(self.features, 1, dtype=self.dtype, name="shortcut")(x)
        return y + x


class ConditionalUnet1D(nn.Module):
    """See `__call__`. The published configurations are in `VARIANTS`."""

    input_dim: int  # channels of the sequence, e.g. of an action
    global_dim: int = 0  # of the condition that holds for all time steps; 0: none
    local_dim: int = 0  # of the condition at each time step; 0: none
    step_dim: int = 256
    down_dims: tuple[int, ...] = (256, 512, 1024)
    kernel_size: int = 5
    groups: int = 8
    film_scale: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, step: Array, global_cond: Array | None = None, local_cond: Array | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """x: [b, t, input_dim], t a multiple of 2^(levels - 1); step: [b] or a scalar, of the diffusion;
        global_cond: [b, global_dim]; local_cond: [b, t, local_dim]. Returns the network's prediction
        [b, t, input_dim], float32, and named intermediates. UserError if shapes are not the model's."""
        self._check(x, global_cond, local_cond)
        aux: dict[str, Any] = {"sinusoids": step_sinusoids(jnp.broadcast_to(step, x.shape[:1]), self.step_dim)}
        aux["step"] = self._embed_step(aux["sinusoids"])
        parts = [aux["step"]] if global_cond is None else [aux["step"], global_cond.astype(jnp.float32)]
        condition = aux["condition"] = jnp.concatenate(parts, axis=-1)
        if local_cond is not None:
            # The second is in the released weights, but an index test that cannot hold keeps it from the up path.
            aux["local"] = [self._block(self.down_dims[0], f"local_{i}")(local_cond, condition) for i in range(2)]

        y, skips = x, []
        for i, width in enumerate(self.down_dims):
            y = self._block(width, f"down_{i}_block_0")(y, condition)
            y = y + aux["local"][0] if i == 0 and local_cond is not None else y
            y = self._block(width, f"down_{i}_block_1")(y, condition)
            skips.append(y)
            if i < len(self.down_dims) - 1:
                y = Conv1d(width, 3, stride=2, dtype=self.dtype, name=f"down_{i}_downsample")(y)
        for i in range(2):
            y = self._block(self.down_dims[-1], f"mid_{i}")(y, condition)
        aux["down"], aux["mid"], aux["up"] = skips, y, []
        for i, width in enumerate(self.down_dims[-2::-1]):
            y = jnp.concatenate([y, skips[-1 - i]], axis=-1)  # the first level's skip stays unused
            for j in range(2):
                y = self._block(width, f"up_{i}_block_{j}")(y, condition)
            y = Upsample(self.dtype, name=f"up_{i}_upsample")(y)
            aux["up"].append(y)
        y = ConvBlock(self.down_dims[0], self.kernel_size, FINAL_GROUPS, self.dtype, name="final_block")(y)
        return Conv1d(self.input_dim, 1, name="final_conv")(y), aux

    def _embed_step(self, sinusoids: Array) -> Array:
        y = jax.nn.mish(Linear(4 * self.step_dim, name="step_fc1")(sinusoids))
        return Linear(self.step_dim, name="step_fc2")(y)

    def _block(self, features: int, name: str) -> ResidualBlock:
        return ResidualBlock(features, self.kernel_size, self.groups, self.film_scale, self.dtype, name=name)

    def _check(self, x: Array, global_cond: Array | None, local_cond: Array | None) -> None:
        fold, groups = 2 ** (len(self.down_dims) - 1), self.groups
        if any(width % groups for width in self.down_dims) or self.down_dims[0] % FINAL_GROUPS:
            raise UserError(
                f"down_dims is {self.down_dims}; expected multiples of groups = {groups}, the first of {FINAL_GROUPS}"
            )
        if self.step_dim < 4 or self.step_dim % 2 or not self.kernel_size % 2:
            raise UserError(
                f"step_dim is {self.step_dim} and kernel_size {self.kernel_size}; expected an even number from 4 on "
                "and an odd number"
            )
        if x.ndim != 3 or x.shape[2] != self.input_dim or x.shape[1] % fold:
            raise UserError(
                f"the sequence has shape {tuple(x.shape)}; expected [batch, a multiple of {fold}, {self.input_dim}]. "
                "Pad it in time."
            )
        self._check_condition("global_cond", global_cond, x.shape[:1], self.global_dim)
        self._check_condition("local_cond", local_cond, x.shape[:2], self.local_dim)

    def _check_condition(self, name: str, given: Array | None, leading: tuple[int, ...], width: int) -> None:
        wanted = (*leading, width) if width else None
        found = None if given is None else tuple(given.shape)
        if found != wanted:
            raise UserError(f"{name} has shape {found}; this model expects {wanted or 'none'}")


# The table of variants: settings of ConditionalUnet1D by name, without the dimensions of data and conditions.
# "low_dim" (also 3PoinTr's) has 68.9 million parameters with input_dim 10 and global_dim 256.
VARIANTS: dict[str, dict[str, Any]] = {
    "low_dim": {"step_dim": 256, "down_dims": (256, 512, 1024), "kernel_size": 5, "groups": 8, "film_scale": True},
    "image": {"step_dim": 128, "down_dims": (512, 1024, 2048), "kernel_size": 5, "groups": 8, "film_scale": True},
}
