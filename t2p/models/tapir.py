"""TAPIR and BootsTAPIR: tracking any point by matching and refinement, offline and online. Inference only.

Doersch et al., TAPIR: Tracking Any Point with per-frame Initialization and temporal Refinement, ICCV 2023;
BootsTAP: Bootstrapped Training for Tracking-Any-Point, 2024. Numbers equal those of google-deepmind/tapnet.

A video becomes `Features` once (`extract`), query points become `Queries` (`query_features`), and any number of
queries is tracked against them in chunks (`track`), or, with a causal model, frame by frame (`initial_state`, `step`).
Points are (x, y) in units of the image's width and height throughout.

Axes: T frames, N query points, h w rows and columns of a feature map, c channels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Size = tuple[int, int]  # (height, width) in pixels
State = tuple[tuple[tuple[Array, Array], ...], ...]  # per refinement, per mixer block: the last two inputs of each conv

HIRES, LOWRES = 128, 256  # channels of the maps at 1/4 and 1/8 of the image's size
PATCH = 7  # side of the patch of correlations around a point
RADIUS = 5.0  # of the soft argmax, in cells, exclusive
TAPS = 3  # length of the temporal convolutions
EPS = 1e-5
PAIRS = 4096  # queries x frames that are tracked at once, unless told otherwise: some 0.3 GB for images of 256 x 256


class Level(NamedTuple):
    """Feature maps at one resolution, of frames or sampled at queries; unit length over channels (maps).

    size: [2] int32, (height, width) of the resized image. lowres: [T, h/8, w/8, 256], or [N, 256] of queries.
    hires: [T, h/4, w/4, 128], or [N, 128].
    """

    size: Array
    lowres: Array
    hires: Array


Features = tuple[Level, ...]  # the first at the training size, the last at the image's own
Queries = tuple[Level, ...]


class Estimate(NamedTuple):
    """points: [N, T, 2] (x, y) in [0, 1] of the image; occlusion, uncertainty: [N, T] logits."""

    points: Array
    occlusion: Array
    uncertainty: Array


class ResidualBlock(nn.Module):
    """Pre-activation residual block with instance norm; the first of a group projects its shortcut."""

    channels: int
    stride: int
    project: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        conv = functools.partial(nn.Conv, self.channels, use_bias=False)
        norm = functools.partial(nn.InstanceNorm, epsilon=EPS, use_fast_variance=False)
        y = nn.relu(norm(name="norm0")(x))
        shortcut = conv((1, 1), self.stride, name="shortcut")(y) if self.project else x
        y = conv((3, 3), self.stride, name="conv0")(y)
        y = nn.relu(norm(name="norm1")(y))
        return shortcut + conv((3, 3), name="conv1")(y)


class ResNet(nn.Module):
    """[F, H, W, 3] -> (groups' output at stride 4 [F, H/4, W/4, 128], at stride 8 [F, H/8, W/8, 256])."""

    blocks: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        x = nn.Conv(64, (7, 7), 2, use_bias=False, name="stem")(x)
        taps = []
        for g, (channels, stride) in enumerate(((64, 1), (HIRES, 2), (256, 2), (LOWRES, 1))):
            for b in range(self.blocks[g]):
                x = ResidualBlock(channels, 1 if b else stride, project=b == 0, name=f"group{g}_block{b}")(x)
            taps.append(x)
        return taps[1], taps[3]


class ExtraConvs(nn.Module):
    """BootsTAPIR's additional residual layers on the low-resolution map. The norm's output is also the residual."""

    layers: int
    multiplier: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        c = x.shape[-1]
        for i in range(self.layers):
            x = nn.LayerNorm(epsilon=EPS, use_fast_variance=False, name=f"norm{i}")(x)
            y = nn.gelu(nn.Conv(c * self.multiplier, (3, 3), name=f"up{i}")(x))
            x = x + nn.Conv(c, (3, 3), name=f"down{i}")(y)
        return x


class CostVolume(nn.Module):
    """Correlations of queries with whole frames -> (heat map logits, occlusion and uncertainty logits)."""

    @nn.compact
    def __call__(self, cost: Array) -> tuple[Array, Array]:
        """cost: [..., h, w] -> ([..., h, w], [..., 2])"""
        x = nn.relu(nn.Conv(16, (3, 3), name="hidden")(cost[..., None]))
        heat = nn.Conv(1, (3, 3), name="heat")(x)[..., 0]
        y = nn.relu(nn.Conv(32, (3, 3), 2, name="occlusion0")(x)).mean((-3, -2))
        return heat, nn.Dense(2, name="out")(nn.relu(nn.Dense(16, name="occlusion1")(y)))


class TemporalConv(nn.Module):
    """Depthwise convolution over time: each input channel feeds `multiplier` neighbouring output channels."""

    multiplier: int
    causal: bool

    @nn.compact
    def __call__(self, x: Array, past: Array | None) -> tuple[Array, Array]:
        """x: [N, T, c], past: the [N, 2, c] inputs before x, or None (zeros) -> ([N, T, c * multiplier], past)"""
        channels, frames = x.shape[-1] * self.multiplier, x.shape[1]
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (TAPS, 1, channels))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        before, after = (TAPS - 1, 0) if self.causal else (TAPS // 2, TAPS // 2)
        if past is None:
            past = jnp.zeros((len(x), before, x.shape[-1]), x.dtype)
        x = jnp.concatenate([past, x], axis=1)
        past = x[:, -(TAPS - 1) :]
        x = jnp.repeat(jnp.pad(x, ((0, 0), (0, after), (0, 0))), self.multiplier, axis=-1)
        # Three shifted products: grouped convolutions are slow on CPUs.
        return sum(x[:, k : k + frames] * kernel[k] for k in range(TAPS)) + bias, past


class MixerBlock(nn.Module):
    """Mixes over time, then over channels (the paper's depthwise version of the PIPs mixer)."""

    causal: bool

    @nn.compact
    def __call__(self, x: Array, past: tuple[Array, Array] | tuple[None, None]) -> tuple[Array, tuple[Array, Array]]:
        n, t, c = x.shape
        norm = functools.partial(nn.LayerNorm, epsilon=EPS, use_bias=False, use_fast_variance=False)
        y, past1 = TemporalConv(4, self.causal, name="time0")(norm(name="norm0")(x), past[0])
        y, past2 = TemporalConv(1, self.causal, name="time1")(nn.gelu(y), past[1])
        x = x + y.reshape(n, t, c, 4).sum(-1)
        y = nn.gelu(nn.Dense(4 * c, name="up")(norm(name="norm1")(x)))
        return x + nn.Dense(c, name="down")(y), (past1, past2)


class Mixer(nn.Module):
    """Refinement network over time: [N, T, inputs] -> [N, T, 4 + 128 + 256] updates."""

    width: int
    blocks: int
    causal: bool

    @nn.compact
    def __call__(self, x: Array, past: tuple | None) -> tuple[Array, tuple]:
        x = nn.Dense(self.width, name="in")(x)
        new: list[tuple[Array, Array]] = []
        for i in range(self.blocks):
            x, kept = MixerBlock(self.causal, name=f"block{i}")(x, past[i] if past else (None, None))
            new.append(kept)
        x = nn.LayerNorm(epsilon=EPS, use_bias=False, use_fast_variance=False, name="norm")(x)
        return nn.Dense(4 + HIRES + LOWRES, name="out")(x), tuple(new)


class Tapir(nn.Module):
    """The networks and their settings; the defaults are TAPIR's. VARIANTS has the published models.

    causal: temporal convolutions see no later frame, as `step` needs. pyramid: number of further halvings of the
    low-resolution map that are correlated. extra_layers, extra_multiplier: ExtraConvs. temperature: of the soft
    argmax. blocks: residual blocks per group. iterations: refinements per resolution. train_size: resolution of
    the initialisation and of the first refinements.
    """

    causal: bool = False
    pyramid: int = 0
    extra_layers: int = 0
    extra_multiplier: int = 4
    temperature: float = 20.0
    width: int = 512
    mixer_blocks: int = 12
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    iterations: int = 4
    train_size: Size = (256, 256)

    def setup(self) -> None:
        self.resnet = ResNet(self.blocks)
        self.cost = CostVolume()
        self.mixer = Mixer(self.width, self.mixer_blocks, self.causal)
        if self.extra_layers:
            self.extra = ExtraConvs(self.extra_layers, self.extra_multiplier)

    def encode(self, frames: Array) -> tuple[Array, Array]:
        """[F, H, W, 3] in [-1, 1] -> (lowres [F, H/8, W/8, 256], hires [F, H/4, W/4, 128]), unit vectors."""
        hires, lowres = self.resnet(frames)
        if self.extra_layers:
            lowres = self.extra(lowres)
        return _unit(lowres), _unit(hires)

    def initialise(self, queries: Array, maps: Array, pins: Array | None) -> Estimate:
        """Each frame alone: correlate, soft argmax. queries: [N, c], maps: [T, h, w, c], pins: [N, 3] as in `track`."""
        cost = jnp.einsum("nc,thwc->nthw", queries, maps)
        heat, logits = self.cost(cost)
        points = soft_argmax(heat * self.temperature)
        if pins is not None:  # the query's own frame is known
            own = jnp.round(pins[:, :1]) == jnp.arange(maps.shape[0])
            points = jnp.where(own[..., None], pins[:, None, 1:], points)
        return Estimate(points, logits[..., 0], logits[..., 1])

    def refine(
        self, start: Estimate, features: Array | None, queries: Level, frames: Level, past: tuple | None
    ) -> tuple[Estimate, Array, tuple]:
        """One refinement from correlations around the present points.

        features: [N, T, 384] of the refinement before, or None: the queries' own. -> (estimate, features, past)"""
        own = jnp.concatenate([queries.hires, queries.lowres], axis=-1)[:, None]
        if features is None:
            features = jnp.broadcast_to(own, (len(own), frames.lowres.shape[0], own.shape[-1]))
        maps = [frames.hires, frames.lowres]
        for _ in range(self.pyramid):
            maps.append(nn.avg_pool(maps[-1], (2, 2), (2, 2)))
        correlations = [
            patches(features[..., :HIRES] if i == 0 else features[..., HIRES:], m, start.points)
            for i, m in enumerate(maps)
        ]
        logits = jnp.stack([start.occlusion, start.uncertainty], axis=-1)
        # The first two inputs were the position; upstream feeds zeros.
        x = jnp.concatenate([jnp.zeros_like(logits), logits, features, *correlations], axis=-1)
        y, past = self.mixer(x, past)
        points = start.points + y[..., :2] / frames.size[::-1]
        estimate = Estimate(points, start.occlusion + y[..., 2], start.uncertainty + y[..., 3])
        return estimate, features + y[..., 4:], past

    def __call__(
        self, frames: Features, queries: Queries, pins: Array | None = None, state: State | None = None
    ) -> tuple[list[Estimate], State]:
        """Tracks queries through frames.

        pins: [N, 3] (t in frames, x, y in [0, 1]), the query points where these frames hold them. state: what an
        online model keeps of the frames before, or None. -> (the estimates, first the initialisation's, then
        `iterations` per resolution; new state)"""
        first = self.initialise(queries[0].lowres, frames[0].lowres, pins)
        estimates = [first]
        new: list[tuple] = []
        points = first.points
        for level, query in zip(frames, queries, strict=True):
            now, features = Estimate(points, first.occlusion, first.uncertainty), None
            for _ in range(self.iterations):
                now, features, kept = self.refine(now, features, query, level, state[len(new)] if state else None)
                estimates.append(now)
                new.append(kept)
            points = now.points  # carried to the next resolution; the logits start afresh
        return estimates, tuple(new)


def _unit(x: Array) -> Array:
    return x / jnp.sqrt(jnp.maximum((x * x).sum(-1, keepdims=True), 1e-12))


def soft_argmax(logits: Array) -> Array:
    """Heat map logits [..., h, w] -> mean position (x, y) in [0, 1] of the cells around the largest, [..., 2]."""
    *lead, h, w = logits.shape
    p = nn.softmax(logits.reshape(*lead, h * w))
    rows, columns = jnp.divmod(jnp.arange(h * w), w)
    cells = jnp.stack([columns, rows], axis=-1) + 0.5
    near = ((cells - cells[p.argmax(-1)][..., None, :]) ** 2).sum(-1) < RADIUS**2
    p = p * near
    mean = (p[..., None] * cells).sum(-2) / jnp.maximum(p.sum(-1, keepdims=True), 1e-12)
    return mean / jnp.array([w, h])


def patches(features: Array, maps: Array, points: Array) -> Array:
    """Correlations with the 7 x 7 cells around each point, bilinear, zero outside the map.

    features: [N, T, c], maps: [T, h, w, c], points: [N, T, 2] in [0, 1] -> [N, T, 49], rows first. All correlations
    are formed and then sampled by two small products with triangle kernels: no gather, fast on every platform."""
    n, t, _ = features.shape
    h, w = maps.shape[1:3]
    near = jnp.arange(PATCH) - PATCH // 2

    def triangle(position: Array, size: int) -> Array:  # [N, T] -> [N, T, 7, size]
        return jnp.maximum(0, 1 - jnp.abs(jnp.arange(size) - (position[..., None] + near)[..., None]))

    correlation = jnp.einsum("ntc,thwc->nthw", features, maps)
    x, y = points[..., 0] * w - 0.5, points[..., 1] * h - 0.5
    rows = jnp.einsum("ntih,nthw->ntiw", triangle(y, h), correlation)
    return jnp.einsum("ntiw,ntjw->ntij", rows, triangle(x, w)).reshape(n, t, PATCH * PATCH)


def sample(maps: Array, points: Array) -> Array:
    """Trilinear samples of maps [T, h, w, c] at points [N, 3] (t in frames, x, y in [0, 1]), clamped -> [N, c]."""
    t, h, w, _ = maps.shape
    position = jnp.stack([points[:, 0], points[:, 2] * h - 0.5, points[:, 1] * w - 0.5], axis=-1)
    position = jnp.clip(position, 0, jnp.array([t - 1, h - 1, w - 1]))
    low = jnp.floor(position).astype(jnp.int32)
    part = position - low
    total = jnp.zeros((len(points), maps.shape[-1]), maps.dtype)
    for corner in np.ndindex(2, 2, 2):
        i = jnp.minimum(low + jnp.array(corner), jnp.array([t - 1, h - 1, w - 1]))
        weight = jnp.where(jnp.array(corner, bool), part, 1 - part).prod(-1)
        total += weight[:, None] * maps[i[:, 0], i[:, 1], i[:, 2]]
    return total


def visible(estimate: Estimate) -> Array:
    """[N, T] bool: probably neither occluded nor far from the estimate."""
    return (1 - nn.sigmoid(estimate.occlusion)) * (1 - nn.sigmoid(estimate.uncertainty)) > 0.5


def resolutions(size: Size, train_size: Size = (256, 256)) -> list[Size]:
    """The resolutions at which an image of `size` is refined: from the training size to its own, evenly in the
    logarithm, at most a factor 2 apart, each rounded down to multiples of 8."""
    if tuple(size) == tuple(train_size):
        return [train_size]
    steps = math.ceil(max(math.log2(a / b) for a, b in zip(size, train_size, strict=True)))
    if steps <= 0:
        return [train_size]

    def side(full: int, train: int, i: int) -> int:
        return round(train * (full / train) ** (i / steps) // 8) * 8

    return [(side(size[0], train_size[0], i), side(size[1], train_size[1], i)) for i in range(steps + 1)]


@functools.partial(jax.jit, static_argnames=("model", "size"))
def _encode(model: Tapir, params: Any, frames: Array, size: Size) -> tuple[Array, Array]:
    frames = frames.astype(jnp.float32) / 255 * 2 - 1
    frames = jax.image.resize(frames, (len(frames), *size, 3), "bilinear")
    maps: Any = model.apply({"params": params}, frames, method=model.encode)
    return maps


def extract(model: Tapir, params: Mapping[str, Any], video: np.ndarray, chunk: int = 8) -> Features:
    """Feature maps of a video, once for all its queries, `chunk` frames at a time.

    video: [T, H, W, 3] uint8 of any size; sides that are multiples of 8 lose nothing to rounding. -> one Level per
    entry of `resolutions(size)`."""
    t = len(video)
    chunk = min(chunk, t)
    levels = []
    for size in resolutions(video.shape[1:3], model.train_size):
        parts = []
        for start in range(0, t, chunk):
            part = video[np.minimum(np.arange(start, start + chunk), t - 1)]  # one shape, one compilation
            parts.append(_encode(model, params, part, size))
        lowres, hires = (jnp.concatenate(maps)[:t] for maps in zip(*parts, strict=True))
        levels.append(Level(jnp.array(size), lowres, hires))
    return tuple(levels)


@jax.jit
def query_features(frames: Features, queries: Array) -> Queries:
    """Features of query points [N, 3] (t in frames, x, y in [0, 1])."""
    return tuple(Level(f.size, sample(f.lowres, queries), sample(f.hires, queries)) for f in frames)


@functools.partial(jax.jit, static_argnames="model")
def _apply(model: Tapir, params: Any, frames: Features, queries: Queries, pins: Array | None, state: State | None):
    return model.apply({"params": params}, frames, queries, pins, state)


def combine(model: Tapir, estimates: list[Estimate]) -> Estimate:
    """The answer: the mean over resolutions of the last refinement at each."""
    last = estimates[model.iterations :: model.iterations]
    return jax.tree.map(lambda *x: jnp.stack(x).mean(0), *last)


def track_all(
    model: Tapir, params: Mapping[str, Any], frames: Features, queries: np.ndarray, chunk: int | None = None
) -> list[Estimate]:
    """Every estimate on the way, as NumPy arrays: initialisation, then each refinement; see `track`."""
    queries = np.asarray(queries, np.float32)
    n, t = len(queries), frames[0].lowres.shape[0]
    chunk = min(chunk or max(1, PAIRS // t), n)
    parts = []
    for start in range(0, n, chunk):
        pins = queries[np.minimum(np.arange(start, start + chunk), n - 1)]  # the last chunk repeats its last query
        parts.append(jax.device_get(_apply(model, params, frames, query_features(frames, pins), pins, None)[0]))
    return jax.tree.map(lambda *x: np.concatenate(x)[:n], *parts)


def track(
    model: Tapir, params: Mapping[str, Any], frames: Features, queries: np.ndarray, chunk: int | None = None
) -> Estimate:
    """Tracks queries [N, 3] (t in frames, x, y in [0, 1]; N >= 1) through all frames, `chunk` queries at a time
    (they do not influence each other). Default: as many as keep queries x frames at 4096."""
    return jax.device_get(combine(model, track_all(model, params, frames, queries, chunk)))


@functools.lru_cache
def parameter_shapes(model: Tapir) -> dict[str, Any]:
    """The shapes of all parameters, nested as they are; nothing is computed."""
    level = Level(jnp.array([8, 8]), jnp.zeros((1, 4, 4, LOWRES)), jnp.zeros((1, 8, 8, HIRES)))
    query = Level(level.size, jnp.zeros((1, LOWRES)), jnp.zeros((1, HIRES)))

    def everything(model: Tapir) -> None:
        model.encode(jnp.zeros((1, 32, 32, 3)))
        model((level,), (query,))

    once = model.clone(iterations=1)  # all refinements share their parameters
    variables = jax.eval_shape(functools.partial(once.init, method=everything), jax.random.key(0))
    return jax.tree.map(lambda leaf: leaf.shape, variables["params"])


def initial_state(model: Tapir, points: int, levels: int = 1) -> State:
    """What an online tracker of `points` points knows before the first frame. levels: len(Features)."""
    block = (jnp.zeros((points, TAPS - 1, model.width)), jnp.zeros((points, TAPS - 1, 4 * model.width)))
    return tuple((block,) * model.mixer_blocks for _ in range(levels * model.iterations))


def step(
    model: Tapir, params: Mapping[str, Any], frame: np.ndarray, queries: Queries, state: State
) -> tuple[Estimate, State]:
    """The next frame of an online track. frame: [H, W, 3] uint8; queries: from any frame's `query_features`.

    -> (estimate with T = 1, state). The model must be causal."""
    if not model.causal:
        raise ValueError("step needs a causal model: Tapir(causal=True, ...) with weights trained as such")
    estimates, state = _apply(model, params, extract(model, params, frame[None]), queries, None, state)
    return combine(model, estimates), state


# The published models: their settings without `causal`, which each is published with and without.
VARIANTS: dict[str, dict[str, Any]] = {
    "tapir": {"pyramid": 0, "temperature": 20.0},
    "bootstapir": {"pyramid": 1, "temperature": 10.0, "extra_layers": 5},
}
