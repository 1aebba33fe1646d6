"""DP3 (Ze et al. 2024, "3D Diffusion Policy") as 3PoinTr's baseline: one cloud, one chunk of setpoints, open loop.

3PoinTr's comparison gives no settings of it: these are DP3's own, with one observation step, and a horizon of T
setpoints (released code of DP3; T and the open loop: Hung et al. 2026, section IV).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from t2p import pytrees  # noqa: F401
from t2p.geometry.cameras import transform_points
from t2p.geometry.clouds import furthest_points, gather_points, inside_box
from t2p.io import UserError
from t2p.methods import heads
from t2p.methods.base import Variables
from t2p.methods.bounds import COUNT, NUMBER, Bound, check_bounds
from t2p.methods.clouds import fill_by_repetition
from t2p.methods.normalise import Limits, empty_statistics
from t2p.methods.open_loop import SETPOINT, SETPOINT_WIDTHS, ChunkStage, first_cloud, state_of, undo_limits
from t2p.methods.threepointr.actions import from_threepointr_actions, to_threepointr_actions
from t2p.methods.threepointr.scaling import centre_and_radius, to_threepointr
from t2p.models.dp3 import WIDTHS, Dp3Encoder
from t2p.types import Array, Batch, FieldWindow, Observe, WindowSpec

STAGE = "dp3.policy"
COORDINATES = ("workspace", "sample")
STATE = ("tool", "gripper")  # proprioception, [9] and [1]: laid out like a setpoint
COLUMNS = (*(f"proprio/{name}" for name in STATE), "actions")
BOUNDS = {
    **dict.fromkeys(("model.steps", "model.cloud_points", "model.encoder.features", "window.points"), COUNT),
    "model.radius_quantile": Bound(0, above=True, most=1),
    **heads.BOUNDS,
    "loss.noise": NUMBER,
}


def configure(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Adds the keys that this stage reads to a base config, at DP3's released values, and returns it."""
    config.stage = STAGE
    config.model = ml_collections.ConfigDict(
        {
            "steps": 9,  # T: setpoints of an episode
            "encoder": {
                "features": 64,
                "state_widths": (64, 64),
                "layer_norm": True,
                "final_norm": "layernorm",
                "projection": True,
            },
            "coordinates": "workspace",  # or "sample": 3PoinTr's, the control
            # Of "workspace". The box: low and high corner, metres, base frame; our robots' base is 0.12 m above the
            # floor, so that this one holds the objects of all tabletop tasks and leaves out the floor.
            "workspace": {"low": (0.0, -0.6, -0.11), "high": (1.2, 0.6, 0.7)},
            "cloud_points": 512,
            "scale_points": True,  # the box's limits to [-1, 1]; False: metres, as for DexArt
            "radius_quantile": 0.9,  # of "sample"
        }
    )
    heads.configure(config.model, unet="image")
    config.model.diffusion.update(
        {"prediction": "sample", "method": "ddim", "inference_steps": 10, "reduction": "mean"}
    )
    config.loss = ml_collections.ConfigDict({"noise": 0.0})
    window = {"view": "front", "track_set": "exact/grid", "points": 2048, "floor": True}
    config.window = ml_collections.ConfigDict(window)
    config.statistics = empty_statistics(*COLUMNS)
    config.checkpoint.best = "val/position_mm"
    return config


@dataclass(frozen=True)
class Workspace:
    """DP3's coordinates: the robot's base frame, a box in it, and limits of the training demonstrations.

    box: what of the cloud is kept; scale_points: and normalised by. points: of the cloud, after sampling."""

    box: Limits
    scale_points: bool
    points: int
    actions: Limits
    state: tuple[Limits, Limits]  # of tool and gripper

    def encode(self, cloud: Array, valid: Array, state: Array, T_base_cam: Array) -> tuple[Array, Array, Any]:
        """cloud [B, N, 3] in the camera's frame, valid [B, N], state [B, 10] -> what the network sees of both, and
        nothing that is needed to undo it. Fewer than `points` points are filled up with the base's origin (released
        code)."""
        seen = transform_points(T_base_cam[:, None], cloud)
        low, high = jnp.asarray(self.box.low), jnp.asarray(self.box.high)
        sampled = crop_and_sample(seen, valid & inside_box(seen, low, high), self.points)
        parts = zip(self.state, (state[:, :-1], state[:, -1:]))
        state = jnp.concatenate([limits.normalise(x) for limits, x in parts], axis=-1)
        return self.box.normalise(sampled) if self.scale_points else sampled, state, ()

    def normalise(self, setpoints: Array, T_base_cam: Array, frame: Any) -> Array:
        return self.actions.normalise(setpoints)

    def undo(self, actions: Array, T_base_cam: Array, frame: Any) -> Array:
        return undo_limits(self.actions, actions)


@dataclass(frozen=True)
class Sample:
    """3PoinTr's coordinates for DP3: the camera's frame, centred on the sample's own cloud in units of its radius, for
    points, tool pose and actions alike; all points, however many were drawn."""

    radius_quantile: float

    def encode(self, cloud: Array, valid: Array, state: Array, T_base_cam: Array) -> tuple[Array, Array, Any]:
        """As Workspace.encode; the third is (centre, radius)."""
        cloud = fill_by_repetition(cloud, valid)
        frame = centre_and_radius(cloud, self.radius_quantile)
        return to_threepointr(cloud, *frame), self.normalise(state[:, None], T_base_cam, frame)[:, 0], frame

    def normalise(self, setpoints: Array, T_base_cam: Array, frame: Any) -> Array:
        return to_threepointr_actions(setpoints, T_base_cam, *frame)

    def undo(self, actions: Array, T_base_cam: Array, frame: Any) -> Array:
        return from_threepointr_actions(actions, T_base_cam, *frame)


def crop_and_sample(points: Array, kept: Array, count: int) -> Array:
    """The kept points, furthest ones first, [B, N, D] and [B, N] bool -> [B, count, D]; zeros where there are fewer."""
    order = jnp.argsort(~kept, axis=-1, stable=True)
    first = jnp.take_along_axis(points, order[..., None], axis=-2)
    chosen = furthest_points(first, count, kept.sum(-1), loop=jax.lax.fori_loop)
    return gather_points(first, chosen)


@dataclass(frozen=True)
class Dp3Stage(ChunkStage):
    """steps: T. noise: standard deviation added in training to the points as the encoder sees them (DP3: none;
    3PoinTr: 0.01). floor: whether the cloud keeps the floor's points when the policy acts."""

    needs: ClassVar[tuple[str, ...]] = ("tracks", "actions", "cameras", "proprio")

    encoder: Dp3Encoder
    head: heads.DiffusionHead
    coordinates: Workspace | Sample
    steps: int
    noise: float
    view: str
    track_set: str
    points: int
    floor: bool

    @classmethod
    def from_config(cls, config: ml_collections.ConfigDict) -> Dp3Stage:
        check_bounds(config, BOUNDS)
        m, w, dtype = config.model, config.window, jnp.dtype(config.dtype)
        settings = {**m.encoder, "state_widths": tuple(m.encoder.state_widths)}
        encoder = Dp3Encoder(**settings, dtype=dtype)
        head = heads.DiffusionHead.from_config(m, (m.steps, SETPOINT), condition_width(encoder), dtype)
        coordinates = _coordinates(config)
        return cls(encoder, head, coordinates, m.steps, config.loss.noise, w.view, w.track_set, w.points, w.floor)

    @property
    def observe(self) -> Observe:
        return Observe(cloud=self.points, floor=self.floor, every_step=False)

    @property
    def window(self) -> WindowSpec:
        return WindowSpec(
            views=(self.view,),
            whole=True,
            track_set=self.track_set,
            tracks=FieldWindow((0,)),
            num_points=self.points,
            replacement=False,
            actions=FieldWindow(tuple(range(self.steps))),
            proprio=FieldWindow((0,)),
            proprio_keys=STATE,
            cameras=True,
            space="camera",
            widths=SETPOINT_WIDTHS,
        )

    def init(self, rng: jax.Array, batch: Batch) -> Variables:
        encoder_rng, head_rng = jax.random.split(rng)
        size = len(first_cloud(batch, self.track_set, self.view))
        cloud, state = jnp.zeros((size, 1, 3)), jnp.zeros((size, SETPOINT))
        encoder = self.encoder.init({"params": encoder_rng}, cloud, state)["params"]
        head = self.head.init(head_rng, jnp.zeros((size, condition_width(self.encoder))))
        return {"params": {"encoder": encoder, "head": head}, "batch_stats": {}, "frozen": {}}

    def flops_per_example(self, batch: Batch) -> float:
        points = self.coordinates.points if isinstance(self.coordinates, Workspace) else self.points
        sizes = (3, *WIDTHS)
        per_point = sum(a * b for a, b in pairwise(sizes))
        return 3 * 2.0 * points * per_point + self.head.train_flops(condition_width(self.encoder))

    def encode(self, variables: Variables, batch: Batch, rng: jax.Array | None) -> tuple[Array, Any]:
        cloud = first_cloud(batch, self.track_set, self.view)
        valid = jnp.ones(cloud.shape[:2], bool) if batch.cloud is None else jnp.asarray(batch.cloud.valid)
        state = jnp.concatenate([state_of(batch, key) for key in STATE], axis=-1)
        points, state, frame = self.coordinates.encode(cloud, valid, state, self._pose(batch))
        if rng is not None and self.noise:
            points = points + self.noise * jax.random.normal(rng, points.shape)
        condition, _ = self.encoder.apply({"params": variables["params"]["encoder"]}, points, state)
        return condition, frame

    def normalise(self, setpoints: Array, batch: Batch, frame: Any) -> Array:
        return self.coordinates.normalise(setpoints, self._pose(batch), frame)

    def undo(self, actions: Array, batch: Batch, frame: Any) -> Array:
        return self.coordinates.undo(actions, self._pose(batch), frame)

    def _pose(self, batch: Batch) -> Array:
        return jnp.asarray(batch.cameras[self.view][1], jnp.float32)


def condition_width(encoder: Dp3Encoder) -> int:
    """Numbers of the encoder's output."""
    return (encoder.features if encoder.projection else WIDTHS[-1]) + encoder.state_widths[-1]


def _coordinates(config: ml_collections.ConfigDict) -> Workspace | Sample:
    m, statistics = config.model, config.statistics
    if m.coordinates not in COORDINATES:
        raise UserError(f"model.coordinates is {m.coordinates!r}; expected one of {', '.join(COORDINATES)}")
    if m.coordinates == "sample":
        return Sample(float(m.radius_quantile))
    box = Limits.of(m.workspace.low, m.workspace.high)
    if len(box.low) != 3 or not np.all(np.subtract(box.high, box.low) > 0):
        raise UserError(f"model.workspace is {box.low} to {box.high}; expected two corners of a box, low before high")
    tool, gripper, actions = (Limits.from_config(statistics, name) for name in COLUMNS)
    return Workspace(box, m.scale_points, m.cloud_points, actions, (tool, gripper))
