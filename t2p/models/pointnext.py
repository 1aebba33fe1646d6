"""PointNeXt: features of a point cloud, level by level to few points and back to all (Qian et al. 2022).

Which points meet is decided by squared distances, taken as sums of squared differences: expanded into products
they round so differently that neighbours change. Letters: b batch, n points, m points of the next level, k neighbours,
c channels of a point.
"""

from __future__ import annotations

from itertools import pairwise

import flax.linen as nn
import jax
import jax.numpy as jnp

from t2p.geometry.clouds import furthest_points, gather_points
from t2p.io import UserError
from t2p.models.layers import Array, Dtype, Linear

Level = tuple[Array, Array]  # points [b, n, 3] in metres, their features [b, n, c]

NEAREST = 3  # points that a finer level's point takes its features from
EPSILON = 1e-8


def squared_distances(x: Array, y: Array) -> Array:
    """[b, m, 3], [b, n, 3] -> [b, m, n]."""
    return jnp.square(x[:, :, None] - y[:, None]).sum(-1)


def ball_query(centres: Array, points: Array, radius: float, count: int) -> Array:
    """The first `count` points, in index order, closer than `radius` to each centre: [b, m, 3], [b, n, 3] -> [b, m, k].

    Where there are fewer the first one is repeated; a centre without any gets index 0."""
    hits = jnp.cumsum(squared_distances(centres, points) < radius**2, axis=-1)
    wanted = jnp.arange(1, count + 1)
    # The j-th hit is the first place where the count of hits reaches j; n where there is none.
    index = jax.vmap(jax.vmap(lambda row: jnp.searchsorted(row, wanted)))(hits)
    size = points.shape[1]
    first = jnp.where(index[..., :1] < size, index[..., :1], 0)
    return jnp.where(index < size, index, first)


def neighbours_of(x: Array, index: Array) -> Array:
    """x [b, n, c] at index [b, m, k] -> [b, m, k, c]."""
    return gather_points(x, index.reshape(index.shape[0], -1)).reshape(*index.shape, x.shape[-1])


def interpolate(fine: Array, coarse: Array, features: Array) -> Array:
    """Features [b, m, c] of coarse [b, m, 3], at fine [b, n, 3]: the mean of the three nearest points' features
    weighted by 1 / (distance + 1e-8), the distance itself and not its square. -> [b, n, c]."""
    if coarse.shape[1] < NEAREST:
        raise UserError(
            f"a level of the point network has {coarse.shape[1]} points; expected at least {NEAREST}. Give more points "
            f"(with four levels of stride 4: 768, queries included)"
        )
    squared, index = jax.lax.top_k(-squared_distances(fine, coarse), NEAREST)
    weight = 1.0 / (jnp.sqrt(-squared) + EPSILON)
    weight = weight / weight.sum(-1, keepdims=True)
    return (neighbours_of(features, index) * weight[..., None].astype(features.dtype)).sum(-2)


def batch_norm(train: bool, name: str, dtype: Dtype = jnp.float32) -> nn.BatchNorm:
    """BatchNorm over all axes but the last with PyTorch's settings (its momentum 0.1 is 0.9 here), statistics in
    float32.

    The running variance averages the batches' biased variances; PyTorch's averages unbiased ones, n / (n - 1) times
    larger for n values. Batches are normalised by the biased one in both."""
    return nn.BatchNorm(
        use_running_average=not train, momentum=0.9, epsilon=1e-5, use_fast_variance=False, dtype=dtype, name=name
    )


class ConvNorm(nn.Module):
    """A linear layer of each point without bias, BatchNorm, and ReLU with `act`. [..., c] -> [..., features]."""

    features: int
    train: bool
    act: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = Linear(self.features, use_bias=False, dtype=self.dtype, name="conv")(x)
        x = batch_norm(self.train, "norm", self.dtype)(x)
        return nn.relu(x) if self.act else x


class Aggregation(nn.Module):
    """Features of each centre: the maximum, over its neighbours, of a network of (offset / radius, features)."""

    widths: tuple[int, ...]
    radius: float
    train: bool
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, centres: Array, level: Level, index: Array) -> Array:
        """centres: [b, m, 3]; index: [b, m, k] of the level's points. -> [b, m, widths[-1]]."""
        points, features = level
        offsets = (neighbours_of(points, index) - centres[:, :, None]) / self.radius
        x = jnp.concatenate([offsets.astype(features.dtype), neighbours_of(features, index)], axis=-1)
        for i, width in enumerate(self.widths):
            x = ConvNorm(width, self.train, dtype=self.dtype, name=f"layer_{i}")(x)
        return x.max(-2)


class InvertedResidual(nn.Module):
    """PointNeXt's InvResMLP: aggregation within the level, two linear layers of each point, a residual, ReLU."""

    radius: float
    expansion: int
    train: bool
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, level: Level, index: Array) -> Array:
        """index: [b, n, k] neighbours in the level itself. -> its new features [b, n, c]."""
        points, features = level
        c = features.shape[-1]
        x = Aggregation((c,), self.radius, self.train, self.dtype, name="aggregation")(points, level, index)
        x = ConvNorm(self.expansion * c, self.train, dtype=self.dtype, name="expand")(x)
        x = ConvNorm(c, self.train, act=False, dtype=self.dtype, name="contract")(x)
        return nn.relu(x + features)


class Decoder(nn.Module):
    """Levels -> features of the first level's points [b, n, width]: coarse features are interpolated at the finer
    points, joined with theirs, and pass two linear layers; from the coarsest level on."""

    train: bool
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, levels: list[Level]) -> Array:
        coarse, x = levels[-1]
        for i, (fine, skip) in reversed(list(enumerate(levels[:-1]))):
            x = jnp.concatenate([skip, interpolate(fine, coarse, x)], axis=-1)
            for j in range(2):
                x = ConvNorm(skip.shape[-1], self.train, dtype=self.dtype, name=f"level_{i}_layer_{j}")(x)
            coarse = fine
        return x


class PointNext(nn.Module):
    """Features of all points from levels of n, n / strides[1] ... points with width, 2 width, 4 width ... channels.

    blocks: networks per level, the first of which leads to it; strides: strides[0] is 1; the radius doubles from
    level to level and is twice as large for a level's further blocks."""

    width: int
    blocks: tuple[int, ...]
    strides: tuple[int, ...]
    layers: int  # linear layers on the way to a level
    radius: float  # metres
    neighbours: int
    expansion: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, points: Array, features: Array, train: bool) -> tuple[Array, list[Level]]:
        """points: [b, n, 3] metres; features: [b, n, c]. Returns [b, n, width] and the encoder's levels."""
        self._check()
        points = jnp.asarray(points, jnp.float32)
        # Coordinates are among the features: they enter in float32.
        x = Linear(self.width, name="stem")(features).astype(self.dtype)
        levels = [(points, self._further(0, (points, x), self.radius, train))]
        for i in range(1, len(self.blocks)):
            radius = self.radius * 2 ** (i - 1)
            points, x = self._coarser(i, levels[-1], radius, train)
            levels.append((points, self._further(i, (points, x), 2 * radius, train)))
        return Decoder(train, self.dtype, name="decoder")(levels), levels

    def _coarser(self, i: int, level: Level, radius: float, train: bool) -> Level:
        """Every strides[i]-th as many points, spread by furthest point sampling from index 0."""
        points = level[0]
        chosen = furthest_points(points, points.shape[1] // self.strides[i], loop=jax.lax.fori_loop)
        centres = gather_points(points, chosen)
        index = ball_query(centres, points, radius, self.neighbours)
        out = self.width * 2**i
        widths = (out // 2,) * (self.layers - 1) + (out,)
        return centres, Aggregation(widths, radius, train, self.dtype, name=f"level_{i}")(centres, level, index)

    def _further(self, i: int, level: Level, radius: float, train: bool) -> Array:
        """The features after the level's further blocks, which share their neighbours."""
        points, x = level
        if self.blocks[i] > 1:
            index = ball_query(points, points, radius, self.neighbours)
        for j in range(1, self.blocks[i]):
            block = InvertedResidual(radius, self.expansion, train, self.dtype, name=f"level_{i}_block_{j}")
            x = block((points, x), index)
        return x

    def _check(self) -> None:
        if len(self.strides) != len(self.blocks) or self.strides[0] != 1 or min((*self.strides[1:], 2)) < 2:
            raise UserError(
                f"model.strides is {self.strides} for {len(self.blocks)} levels; expected 1, then numbers from 2 on"
            )
        if min(self.blocks) < 1 or self.layers < 1:
            raise UserError(f"model.blocks {self.blocks} and model.layers {self.layers} must each be at least 1")


def multiply_adds(net: PointNext, points: int, channels: int) -> float:
    """Multiply-adds of all linear layers, for one cloud of `points` with `channels` features."""
    sizes = [points]
    for stride in net.strides[1:]:
        sizes.append(sizes[-1] // stride)
    widths = [net.width * 2**i for i in range(len(sizes))]
    total = float(points * channels * net.width)
    for i, (n, c) in enumerate(zip(sizes, widths)):
        further = n * (net.neighbours * (c + 3) * c + 2 * net.expansion * c * c)
        total += (net.blocks[i] - 1) * further
        if i:
            path = (widths[i - 1] + 3, *(c // 2,) * (net.layers - 1), c)
            total += n * net.neighbours * sum(a * b for a, b in pairwise(path))
            total += sizes[i - 1] * widths[i - 1] * (c + 2 * widths[i - 1])
    return total
