"""Synthetic clips: textured shapes that follow a sentence, each in its own way, with exact point tracks.

What moves, and how, follows from one frame and the sentence (see synthetic_motion); what a model must ignore
(texture, background, start position) is drawn at random, and the `val` split holds out combinations of the
three that the `train` split never shows. Shapes pass over each other and behind static bars. Drawing is at
twice the resolution with anti-aliased warps, textures fixed to their shapes, so that tracks are true to a
few hundredths of a pixel.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from t2p.data.sources.synthetic_motion import MANNERS, PROGRAMS, SHAPE_PACE, pace, roll_out, sentence
from t2p.data.sources.synthetic_textures import BACKGROUNDS, TEXTURES, background, bar_texture, shape_texture
from t2p.io import UserError
from t2p.types import Episode, TrackSet

VIEW = "front"
FPS = 12.0
COLORS = {"red": (208, 60, 52), "green": (62, 160, 78), "blue": (58, 98, 206)}
CELLS = 9  # start positions: a 3 x 3 grid of cells, uniform inside the cell
MOST_OBJECTS = 5  # more would not always find a start cell that the split allows
SUPERSAMPLING = 2
LEAST_SIDE = 16


def _star() -> np.ndarray:
    angles = np.arange(10) * np.pi / 5 - np.pi / 2
    return np.stack([np.cos(angles), np.sin(angles)], -1) * np.where(np.arange(10) % 2, 0.5, 1.15)[:, None]


def _regular(corners: int, radius: float) -> np.ndarray:
    angles = np.arange(corners) * 2 * np.pi / corners - np.pi / 2
    return np.stack([np.cos(angles), np.sin(angles)], -1) * radius


# Outlines as polygons around the origin, of roughly equal area; a shape's radius scales them.
OUTLINES = {
    "circle": _regular(32, 0.9),
    "star": _star(),
    "triangle": _regular(3, 1.2),
    "square": _regular(4, 1.15),
}


def held_out(texture: int, backdrop: int, cell: int) -> bool:
    """Whether a combination of texture, background and start cell belongs to the val split (one in five)."""
    return (texture + backdrop + cell) % 5 == 0


@dataclass(frozen=True)
class Layer:
    """Something opaque in front of the background: a polygon with a texture and a pose in each frame.

    outline: [E, 2] polygon, in units of the radius; poses: [T, 4] (x, y, angle, radius) in units of the shorter
    side; texture: [P, P, 3] float32 colours over the square [-reach, reach]^2 in units of the radius."""

    outline: np.ndarray
    poses: np.ndarray
    texture: np.ndarray

    @cached_property
    def reach(self) -> float:
        return float(np.linalg.norm(self.outline, axis=-1).max()) * 1.05

    def to_world(self, local: np.ndarray, time: np.ndarray | int) -> np.ndarray:
        """Points fixed to the layer [..., 2] -> their place in frame `time` (broadcasts against the leading axes)."""
        x, y, angle, radius = np.moveaxis(self.poses[time], -1, 0)
        cos, sin = np.cos(angle) * radius, np.sin(angle) * radius
        u, v = local[..., 0], local[..., 1]
        return np.stack([x + cos * u - sin * v, y + sin * u + cos * v], -1)

    def to_local(self, world: np.ndarray, time: np.ndarray | int) -> np.ndarray:
        """The inverse of to_world."""
        x, y, angle, radius = np.moveaxis(self.poses[time], -1, 0)
        cos, sin = np.cos(angle) / radius, np.sin(angle) / radius
        u, v = world[..., 0] - x, world[..., 1] - y
        return np.stack([cos * u + sin * v, cos * v - sin * u], -1)

    def covers(self, world: np.ndarray, time: np.ndarray | int) -> np.ndarray:
        """Which points [..., 2] lie inside the outline in frame `time`: [...] bool."""
        local = self.to_local(world, time)
        inside = np.zeros(local.shape[:-1], bool)
        near = (local**2).sum(-1) <= self.reach**2
        inside[near] = _inside(self.outline, local[near])
        return inside


def _inside(polygon: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Even-odd rule. polygon: [E, 2]; points: [N, 2] -> [N] bool."""
    x, y = points.T
    odd = np.zeros(len(points), bool)
    for (ax, ay), (bx, by) in zip(polygon, np.roll(polygon, -1, 0), strict=True):
        crosses = (ay > y) != (by > y)
        if ay != by:
            odd ^= crosses & (x < ax + (y - ay) * (bx - ax) / (by - ay))
    return odd


@dataclass(frozen=True)
class Scene:
    """All that is in a clip. layers: from back to front; backdrop: [H * s, W * s, 3] float32, s = SUPERSAMPLING."""

    size: tuple[int, int]
    backdrop: np.ndarray
    layers: tuple[Layer, ...]

    @property
    def length(self) -> int:
        return len(self.layers[0].poses)

    @property
    def extent(self) -> np.ndarray:
        """(width, height) of the frame in units of its shorter side."""
        return np.array(self.size[::-1]) / min(self.size)

    def track(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Exact tracks of whatever surface is in front at each query.

        queries: [N, 3] (t in frames, x, y in [0, 1]) -> points [T, N, 2] float32 in [0, 1] (not clipped to the
        frame), visible [T, N] bool: inside the frame and not covered."""
        times = queries[:, 0].astype(int)
        world = queries[:, 1:] * self.extent
        owner = np.full(len(queries), -1)
        for k, layer in enumerate(self.layers):
            owner[layer.covers(world, times)] = k
        points = np.repeat(world[None], self.length, 0)
        every = np.arange(self.length)[:, None]
        for k, layer in enumerate(self.layers):
            own = owner == k
            points[:, own] = layer.to_world(layer.to_local(world[own], times[own]), every)
        visible = self._in_frame(points) & ~self._covered(points, owner)
        return (points / self.extent).astype(np.float32), visible

    def _in_frame(self, points: np.ndarray) -> np.ndarray:
        return np.all((points >= 0) & (points < self.extent), axis=-1)

    def _covered(self, points: np.ndarray, owner: np.ndarray) -> np.ndarray:
        """Whether a layer in front of the owner lies over each point [T, N, 2]: [T, N] bool."""
        covered = np.zeros(points.shape[:-1], bool)
        every = np.arange(self.length)[:, None]
        for k, layer in enumerate(self.layers):
            behind = owner < k
            covered[:, behind] |= layer.covers(points[:, behind], every)
        return covered

    def draw(self) -> np.ndarray:
        """The clip: [T, H, W, 3] uint8."""
        patches = [_patch(layer) for layer in self.layers]
        return np.stack([self._frame(t, patches) for t in range(self.length)])

    def _frame(self, time: int, patches: list[np.ndarray]) -> np.ndarray:
        import cv2

        canvas = self.backdrop.copy()
        scale = SUPERSAMPLING * min(self.size)
        for layer, patch in zip(self.layers, patches, strict=True):
            _paste(canvas, patch, layer.poses[time], layer.reach, scale)
        small = cv2.resize(canvas, self.size[::-1], interpolation=cv2.INTER_AREA)
        return np.clip(small + 0.5, 0, 255).astype(np.uint8)


def _patch(layer: Layer) -> np.ndarray:
    """A layer's texture with its anti-aliased outline: [P, P, 4] float32, colours multiplied by the coverage."""
    import cv2

    side, fine = len(layer.texture), 8
    mask = np.zeros((side * fine, side * fine), np.uint8)
    corners = (layer.outline / layer.reach + 1) / 2 * side * fine - 0.5
    cv2.fillPoly(mask, [np.round(corners * 256).astype(np.int32)], 255, shift=8)
    coverage = cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)[..., None] / 255
    return np.concatenate([layer.texture * coverage, coverage], -1)


def _paste(canvas: np.ndarray, patch: np.ndarray, pose: np.ndarray, reach: float, scale: float) -> None:
    """Draws a patch into the canvas at a pose. Pixel i of an array has its centre at i + 0.5."""
    import cv2

    x, y, angle, radius = pose
    side = len(patch)
    step = 2 * reach / side * radius * scale  # canvas pixels per patch pixel
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * step
    center = np.array([x, y]) * scale
    half = reach * radius * scale * np.sqrt(2) + 1
    low = np.clip(np.floor(center - half), 0, canvas.shape[1::-1]).astype(int)
    high = np.clip(np.ceil(center + half), 0, canvas.shape[1::-1]).astype(int)
    if (high <= low).any():
        return
    offset = center - 0.5 - low - matrix @ np.full(2, (side - 1) / 2)
    affine = np.column_stack([matrix, offset])
    warped = cv2.warpAffine(patch, affine, tuple(int(n) for n in high - low), flags=cv2.INTER_LINEAR)
    region = canvas[low[1] : high[1], low[0] : high[0]]
    region *= 1 - warped[..., 3:]
    region += warped[..., :3]


@dataclass(frozen=True)
class SyntheticSource:
    """Clips drawn on demand; clip i of a seed is the same whatever else is drawn.

    count: clips; split: "train" or "val" (see held_out); size: (H, W); num_objects: shapes, whose
    radius is drawn from `radius`, in units of the shorter side; resting: probability
    that a shape after the first is of the colour that rests; tempo: factor on all speeds; bars: static occluders;
    grid: side of the first-frame grid of the track set "exact/grid"; num_points: size of the track set
    "exact/atm" (ATM's layout: random queries at random frames, chosen by how much they move)."""

    count: int
    seed: int = 0
    split: str = "train"
    size: tuple[int, int] = (64, 64)
    num_frames: int = 24
    num_objects: int = 3
    radius: tuple[float, float] = (0.125, 0.155)
    resting: float = 0.25
    tempo: float = 1.0
    bars: int = 1
    grid: int = 16
    num_points: int = 256

    def __post_init__(self) -> None:
        if self.split not in ("train", "val"):
            raise UserError(f'split must be "train" or "val"; got "{self.split}"')
        for name, least in (("count", 1), ("num_frames", 2), ("grid", 1), ("num_points", 1), ("bars", 0), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise UserError(f"{name} is {value!r}; expected a whole number from {least} on")
        if min(self.size) < LEAST_SIDE:
            raise UserError(f"size is {self.size}; expected (H, W) of at least {LEAST_SIDE} pixels")
        if not 1 <= self.num_objects <= MOST_OBJECTS:
            raise UserError(f"num_objects must be 1 to {MOST_OBJECTS}; got {self.num_objects}")

    @classmethod
    def benchmark(cls, seed: int, num_frames: int = 16) -> SyntheticSource:
        """One clip of 256 x 256 on which trackers are measured: four shapes, all moving, behind two bars."""
        return cls(1, seed, "train", (256, 256), num_frames, num_objects=4, resting=0.0, tempo=0.45, bars=2, grid=32)

    def keys(self) -> list[str]:
        return [f"{self.split}-{self.seed}-{i:06d}" for i in range(self.count)]

    def read(self, key: str) -> Episode:
        """The clip of a key of keys()."""
        plan, scene, rng = self._stage(key)
        text = sentence(plan["program"], plan["manner"])
        sets = {
            "exact/grid": _track_set(scene, grid_queries(self.grid)),
            "exact/atm": _track_set(scene, _atm_queries(scene, self.num_points, rng)),
        }
        return Episode(
            id=key,
            fps=FPS,
            frames={VIEW: scene.draw()},
            language=(text,),
            tracks={name: {VIEW: tracks} for name, tracks in sets.items()},
            source="synthetic",
            task=text,
            info=plan,
        )

    def scene(self, key: str) -> Scene:
        """What the clip of a key shows, to be drawn and tracked at will."""
        return self._stage(key)[1]

    def _stage(self, key: str) -> tuple[dict, Scene, np.random.Generator]:
        """The clip's plan and scene, and its generator as they leave it."""
        rng = np.random.default_rng([self.seed, int(key.rsplit("-", 1)[1]), int(self.split == "val")])
        plan = self._plan(rng)
        return plan, self._scene(plan, rng), rng

    def _plan(self, rng: np.random.Generator) -> dict:
        """What the clip shows: {"program", "manner", "background", "objects": [{shape, color, texture, cell}]}."""
        program, manner = _pick(PROGRAMS, rng), _pick(MANNERS, rng)
        backdrop = int(rng.integers(len(BACKGROUNDS)))
        lead, other = rng.permutation(["red", "blue"])
        objects, cells = [], set(range(CELLS))
        for i in range(self.num_objects):
            color = lead if i == 0 else rng.choice([lead, other, "green"], p=self._color_chances())
            texture, cell = self._texture_and_cell(backdrop, cells, rng)
            cells.remove(cell)
            shape = _pick(SHAPE_PACE, rng)
            objects.append({"shape": shape, "color": str(color), "texture": TEXTURES[texture], "cell": cell})
        return {"program": program, "manner": manner, "background": BACKGROUNDS[backdrop], "objects": objects}

    def _color_chances(self) -> list[float]:
        """Of the first shape's colour, of the other one that moves, of the one that rests."""
        return [(1 - self.resting) * 0.7, (1 - self.resting) * 0.3, self.resting]

    def _texture_and_cell(self, backdrop: int, cells: set[int], rng: np.random.Generator) -> tuple[int, int]:
        wanted = self.split == "val"
        pairs = [(k, c) for k in range(len(TEXTURES)) for c in sorted(cells) if held_out(k, backdrop, c) == wanted]
        return pairs[rng.integers(len(pairs))]

    def _scene(self, plan: dict, rng: np.random.Generator) -> Scene:
        side = min(self.size) * SUPERSAMPLING
        extent = tuple(n / min(self.size) for n in self.size[::-1])
        layers = [self._object(o, plan, extent, side, rng) for o in plan["objects"]]
        layers = [layers[i] for i in rng.permutation(len(layers))]
        layers += [self._bar(extent, side, rng) for _ in range(self.bars)]
        shape = (self.size[0] * SUPERSAMPLING, self.size[1] * SUPERSAMPLING)
        return Scene(self.size, background(plan["background"], shape, rng), tuple(layers))

    def _object(self, facts: dict, plan: dict, extent: tuple, side: int, rng: np.random.Generator) -> Layer:
        cell = np.array([facts["cell"] % 3, facts["cell"] // 3])
        x, y = ((cell + rng.uniform(0.1, 0.9, 2)) / 3 * 0.76 + 0.12) * extent
        radius = rng.uniform(*self.radius)
        pose = (float(x), float(y), float(rng.uniform(0, 2 * np.pi)), float(radius))
        rate = pace(facts["shape"], facts["color"], plan["manner"]) * self.tempo
        poses = roll_out(pose, plan["program"], rate, extent, self.num_frames)
        outline = OUTLINES[facts["shape"]]
        pixels = int(np.ceil(2 * 1.05 * np.linalg.norm(outline, axis=-1).max() * radius * side))
        texture = shape_texture(facts["texture"], COLORS[facts["color"]], pixels, rng)
        return Layer(outline, poses, texture)

    def _bar(self, extent: tuple, side: int, rng: np.random.Generator) -> Layer:
        """A static bar, upright or level, somewhere off the edges."""
        length, width = rng.uniform(0.22, 0.32), rng.uniform(0.035, 0.05)
        x, y = rng.uniform(0.2, 0.8, 2) * extent
        angle = rng.choice([0.0, np.pi / 2]) + rng.uniform(-0.15, 0.15)
        outline = np.array([[-1, -width / length], [1, -width / length], [1, width / length], [-1, width / length]])
        poses = np.repeat([[x, y, angle, length]], self.num_frames, 0)
        pixels = int(np.ceil(2 * 1.05 * np.linalg.norm(outline, axis=-1).max() * length * side))
        return Layer(outline, poses, bar_texture(pixels, rng))


def _pick(names: Iterable[str], rng: np.random.Generator) -> str:
    return str(rng.choice(list(names)))


def grid_queries(side: int) -> np.ndarray:
    """Centres of a side x side division of the first frame, rows first: [side^2, 3] (t = 0, x, y)."""
    ticks = (np.arange(side) + 0.5) / side
    y, x = np.meshgrid(ticks, ticks, indexing="ij")
    return np.stack([np.zeros(side * side), x.ravel(), y.ravel()], -1).astype(np.float32)


def _atm_queries(scene: Scene, count: int, rng: np.random.Generator) -> np.ndarray:
    """ATM's choice (its released preprocessing): random points at random frames; those whose position varies by
    more than 10 px^2 at 128 pixels are repeated up to `count` with noise of 0.05 of the side."""
    queries = _random_queries(scene, 4 * count, rng)
    points, _ = scene.track(queries)
    moving = queries[points.var(0, ddof=1).sum(-1) > 10 / 128**2]
    if not len(moving):
        return queries[:count]
    chosen = np.resize(moving, (count, 3))
    chosen[:, 1:] = np.clip(chosen[:, 1:] + rng.normal(0, 0.05, (count, 2)), 0, 0.999)
    return chosen


def _random_queries(scene: Scene, count: int, rng: np.random.Generator) -> np.ndarray:
    times = rng.integers(scene.length, size=(count, 1))
    return np.concatenate([times, rng.random((count, 2))], -1).astype(np.float32)


def _track_set(scene: Scene, queries: np.ndarray) -> TrackSet:
    points, visible = scene.track(queries)
    return TrackSet("global", points, visible, queries, tracker="exact", version="1")
