"""3PoinTr's second stage: from predicted point tracks to one chunk of setpoints (Hung et al. 2026, section III)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import ml_collections

from t2p import pytrees  # noqa: F401
from t2p.io import UserError
from t2p.methods import heads
from t2p.methods.attention import chosen_attention
from t2p.methods.base import Variables
from t2p.methods.bounds import COUNT, NUMBER, Bound, check_bounds
from t2p.methods.clouds import fill_by_repetition
from t2p.methods.open_loop import SETPOINT, ChunkStage, first_cloud
from t2p.methods.threepointr.actions import from_threepointr_actions, to_threepointr_actions
from t2p.methods.threepointr.scaling import centre_and_radius, from_threepointr, to_threepointr, to_threepointr_image
from t2p.methods.threepointr.tracks import NET_BOUNDS, make_net, net_flops, net_settings
from t2p.models.threepointr import READOUT_VARIANTS, Readout, TrackNet
from t2p.types import Array, Batch, FieldWindow, Observation, Observe, Prediction, Tracks, WindowSpec

STAGE = "threepointr.policy"
TRACKS = ("predicted", "still")
BOUNDS = {
    **{f"model.tracks.{name}": bound for name, bound in NET_BOUNDS.items()},
    "model.tracks.radius_quantile": Bound(0, above=True, most=1),
    **dict.fromkeys((f"model.readout.{name}" for name in ("width", "condition", "heads")), COUNT),
    **heads.BOUNDS,
    "loss.noise": NUMBER,
    "window.points": COUNT,
}


def configure(config: ml_collections.ConfigDict, variant: str = "paper") -> ml_collections.ConfigDict:
    """Adds the keys that this stage reads to a base config, at the released code's values, and returns it."""
    config.stage = STAGE
    config.model = ml_collections.ConfigDict(
        {
            "tracks": net_settings(variant),
            "readout": READOUT_VARIANTS["paper"],
            "conditioning": "predicted",  # or "still": tracks that do not move, the control
            "projected": False,  # the paper's 2D ablation: tracks as image coordinates
            "image_size": (128, 128),  # of the camera that `projected` projects into
        }
    )
    heads.configure(config.model)
    config.loss = ml_collections.ConfigDict({"noise": 0.01})
    window = {"view": "front", "track_set": "exact/grid", "points": 2048, "floor": True}
    config.window = ml_collections.ConfigDict(window)
    config.init_from.tracks = ml_collections.ConfigDict({"path": "", "rules": ()})
    config.checkpoint.best = "val/position_mm"
    return config


@dataclass(frozen=True)
class PolicyStage(ChunkStage):
    """The frozen track network (variables["frozen"]["tracks"]), the readout of its tracks, the diffusion head.

    noise: standard deviation added to the cloud in training. floor: whether the cloud keeps the floor's points when the
    policy acts (in training the track set decides)."""

    needs: ClassVar[tuple[str, ...]] = ("tracks", "actions", "cameras")
    builds_on: ClassVar[Mapping[str, Mapping[str, str]]] = {"tracks": {"model.tracks": "model"}}

    net: TrackNet
    readout: Readout
    head: heads.DiffusionHead
    radius_quantile: float
    conditioning: str
    projected: bool
    image_size: tuple[int, int]
    noise: float
    view: str
    track_set: str
    points: int
    floor: bool

    @classmethod
    def from_config(cls, config: ml_collections.ConfigDict, platform: str) -> PolicyStage:
        check_bounds(config, BOUNDS)
        m, w = config.model, config.window
        if m.conditioning not in TRACKS:
            raise UserError(f"model.conditioning is {m.conditioning!r}; expected one of {', '.join(TRACKS)}")
        net, dtype = make_net(m.tracks, config, platform), jnp.dtype(config.dtype)
        width = m.readout.width // m.readout.heads
        attention = chosen_attention(config, platform, width, length=1)  # one query: no matrix to avoid
        readout = Readout(**m.readout, dtype=dtype, implementation=attention)
        head = heads.DiffusionHead.from_config(m, (net.steps, SETPOINT), m.readout.condition, dtype)
        settings = float(m.tracks.radius_quantile), m.conditioning, m.projected, tuple(m.image_size), config.loss.noise
        return cls(net, readout, head, *settings, w.view, w.track_set, w.points, w.floor)

    @property
    def model(self) -> TrackNet:
        return self.net

    @property
    def steps(self) -> int:
        return self.net.steps

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
            cameras=True,
            space="camera",
            widths={"actions": SETPOINT},
        )

    def init(self, rng: jax.Array, batch: Batch) -> Variables:
        net_rng, readout_rng, head_rng = jax.random.split(rng, 3)
        cloud = first_cloud(batch, self.track_set, self.view)
        net = self.net.init({"params": net_rng}, cloud)["params"]
        tracks = jnp.zeros((len(cloud), self.steps, self.points, 2 if self.projected else 3))
        readout = self.readout.init({"params": readout_rng}, tracks)["params"]
        head = self.head.init(head_rng, jnp.zeros((len(cloud), self.readout.condition)))
        return {"params": {"readout": readout, "head": head}, "batch_stats": {}, "frozen": {"tracks": {"params": net}}}

    def predict(self, variables: Variables, batch: Batch, rng: jax.Array) -> Prediction:
        """actions: [B, T, 10] setpoints in the base frame; tracks: [B, T + 1, N, 3] as the track network predicts."""
        size = len(first_cloud(batch, self.track_set, self.view))
        setpoints, aux = self.plan(variables, batch, jax.random.split(rng, size))
        visible = jnp.ones(aux["tracks"].shape[:-1], bool)
        return Prediction(tracks=Tracks(aux["tracks"], visible, space="camera"), actions=setpoints)

    def plan(self, variables: Variables, obs: Observation, rngs: jax.Array) -> tuple[Array, dict[str, Array]]:
        """-> setpoints [B, T, 10], {"tracks": [B, T + 1, N, 3] in the camera's frame, metres}. rngs: [B] keys."""
        condition, frame = self.encode(variables, obs, None)
        actions = self.head.sample(variables["params"]["head"], condition, rngs)
        centre, radius, tracks = frame
        return self.undo(actions, obs, frame), {"tracks": from_threepointr(tracks, centre, radius)}

    def flops_per_example(self, batch: Batch) -> float:
        c = 2 if self.projected else 3
        width, n = self.readout.width, self.points
        readout = 2.0 * n * (self.steps * c * width + 2 * width * width + 2 * width)
        frozen = net_flops(self.net, n) if self.conditioning == "predicted" else 0.0
        return frozen + 3 * readout + self.head.train_flops(self.readout.condition)

    def encode(self, variables: Variables, batch: Batch, rng: jax.Array | None) -> tuple[Array, Any]:
        """-> condition [B, c], (centre, radius, tracks [B, T + 1, N, 3] in 3PoinTr's coordinates, the cloud first)."""
        cloud = first_cloud(batch, self.track_set, self.view)
        if batch.cloud is not None:
            cloud = fill_by_repetition(cloud, batch.cloud.valid)
        centre, radius = centre_and_radius(cloud, self.radius_quantile)
        seen = to_threepointr(cloud, centre, radius)
        seen = seen if rng is None else seen + self.noise * jax.random.normal(rng, seen.shape)
        tracks = jnp.broadcast_to(seen[:, None], (len(seen), self.steps, *seen.shape[1:]))
        if self.conditioning == "predicted":
            frozen = jax.lax.stop_gradient(variables["frozen"]["tracks"]["params"])
            tracks, _ = self.net.apply({"params": frozen}, seen)
        shown = self._project(tracks, batch, centre, radius) if self.projected else tracks
        condition, _ = self.readout.apply({"params": variables["params"]["readout"]}, shown)
        return condition, (centre, radius, jnp.concatenate([seen[:, None], tracks], axis=1))

    def normalise(self, setpoints: Array, batch: Batch, frame: Any) -> Array:
        return to_threepointr_actions(setpoints, self._pose(batch), *frame[:2])

    def undo(self, actions: Array, batch: Batch, frame: Any) -> Array:
        return from_threepointr_actions(actions, self._pose(batch), *frame[:2])

    def _project(self, tracks: Array, batch: Batch, centre: Array, radius: Array) -> Array:
        points = from_threepointr(tracks, centre, radius)
        return to_threepointr_image(points, jnp.asarray(batch.cameras[self.view][0]), self.image_size)

    def _pose(self, batch: Batch) -> Array:
        return jnp.asarray(batch.cameras[self.view][1])
