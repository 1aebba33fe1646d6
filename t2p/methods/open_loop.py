"""Policies that decide once and then act with their eyes closed: a whole chunk of setpoints from the first view.

3PoinTr acts so (paper, section III), and its comparison lets DP3 and Diffusion Policy act so too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp

from t2p import pytrees  # noqa: F401
from t2p.geometry.rotations import matrix_from_6d, matrix_to_6d
from t2p.methods.base import Variables
from t2p.methods.heads import DiffusionHead
from t2p.methods.normalise import Limits
from t2p.methods.rows import counted_rows
from t2p.types import ActionKind, Array, Batch, Observation, Observe, Prediction

MILLIMETRES = 1000.0
SETPOINT = 10  # position, 6D rotation, gripper
SETPOINT_WIDTHS = {"actions": SETPOINT, "proprio/tool": SETPOINT - 1, "proprio/gripper": 1}  # numbers of each column


class Planner(Protocol):
    """A stage that plans whole episodes. steps: T."""

    @property
    def steps(self) -> int: ...

    @property
    def observe(self) -> Observe: ...

    def plan(self, variables: Variables, obs: Observation, rngs: jax.Array) -> tuple[Array, dict[str, Array]]:
        """-> setpoints [B, T, 10] in the robot's base frame, aux with the batch axis first. rngs: one key a row."""
        ...


@dataclass(frozen=True)
class OpenLoopPolicy:
    """Plays a planner's setpoints one after the other; the last one is repeated. state: {"plan" [E, T, 10], "step" [E],
    "aux": what the planner says beside it}."""

    planner: Planner
    action: ActionKind = "setpoint_pose"
    text: bool = False

    @property
    def observe(self) -> Observe:
        return self.planner.observe

    @property
    def steps(self) -> int:
        return self.planner.steps

    def reset(self, variables: Variables, obs: Observation, rng: jax.Array) -> Mapping[str, Any]:
        plan, aux = self.planner.plan(variables, obs, rng)
        return {"plan": plan, "step": jnp.zeros(len(plan), jnp.int32), "aux": aux}

    def act(
        self, variables: Variables, state: Mapping[str, Any], obs: Observation, rng: jax.Array
    ) -> tuple[Array, Mapping[str, Any], Mapping[str, Array]]:
        step = jnp.minimum(state["step"], state["plan"].shape[1] - 1)
        action = jnp.take_along_axis(state["plan"], step[:, None, None], axis=1)[:, 0]
        return action, {**state, "step": state["step"] + 1}, state["aux"]


class ChunkStage:
    """What stages have in common that encode one observation and plan a chunk of setpoints with a diffusion head
    (3PoinTr, DP3, Diffusion Policy). A subclass is a frozen dataclass with `head`; `needs` names the fields without
    which a row does not count, and the three methods at the end are its own."""

    head: DiffusionHead
    needs: ClassVar[tuple[str, ...]]

    def loss(self, variables: Variables, batch: Batch, rng: jax.Array, train: bool) -> tuple[jax.Array, dict[str, Any]]:
        """Metrics: "outside" (see chunk_losses); in validation also "position_mm" of sampled chunks."""
        encode_rng, head_rng, plan_rng = jax.random.split(rng, 3)
        condition, frame = self.encode(variables, batch, encode_rng if train else None)
        actions = self.normalise(batch.actions, batch, frame)
        assert batch.action_valid is not None, "the window asks for actions"
        valid = batch.action_valid & counted_rows(batch, len(condition), *self.needs)[:, None]
        loss, metrics = chunk_losses(self.head, variables["params"]["head"], condition, actions, valid, head_rng)
        if not train:
            planned, _ = self.plan(variables, batch, jax.random.split(plan_rng, len(condition)))
            metrics["position_mm"] = position_error_mm(planned, batch.actions, valid)
        return loss, {"metrics": metrics, "batch_stats": {}}

    def predict(self, variables: Variables, batch: Batch, rng: jax.Array) -> Prediction:
        """actions: [B, T, 10] setpoints in the base frame."""
        rngs = jax.random.split(rng, len(next(iter(batch.proprio.values()))))
        return Prediction(actions=self.plan(variables, batch, rngs)[0])

    def plan(self, variables: Variables, obs: Observation, rngs: jax.Array) -> tuple[Array, dict[str, Array]]:
        """-> setpoints [B, T, 10], {}. rngs: [B] keys."""
        condition, frame = self.encode(variables, obs, None)
        actions = self.head.sample(variables["params"]["head"], condition, rngs)
        return self.undo(actions, obs, frame), {}

    def encode(self, variables: Variables, batch: Batch, rng: jax.Array | None) -> tuple[Array, Any]:
        """-> condition [B, c], and what of the sample its actions are normalised with. rng: given in training."""
        raise NotImplementedError

    def normalise(self, setpoints: Array, batch: Batch, frame: Any) -> Array:
        """Setpoints [B, T, 10] in the base frame -> what the head plans."""
        raise NotImplementedError

    def undo(self, actions: Array, batch: Batch, frame: Any) -> Array:
        """The inverse of `normalise`; rotations are made orthonormal (Gram-Schmidt)."""
        raise NotImplementedError


def undo_limits(limits: Limits, actions: Array) -> Array:
    """Setpoints [..., 10] that were normalised by limits, with rotations made orthonormal (Gram-Schmidt)."""
    x = limits.undo(actions)
    rotation = matrix_to_6d(matrix_from_6d(x[..., 3:9]))
    return jnp.concatenate([x[..., :3], rotation, x[..., 9:]], axis=-1)


def state_of(batch: Batch, key: str) -> Array:
    """[B, d] float32: one proprioception of the first observed step."""
    return jnp.asarray(batch.proprio[key], jnp.float32)[:, 0]


def position_error_mm(setpoints: Array, true: Array, valid: Array) -> Array:
    """Distance of planned and true tool positions, the mean over the valid steps of all rows: what the best checkpoint
    is chosen by (3PoinTr's released code). setpoints, true: [B, T, 10] metres; valid: [B, T]."""
    distance = jnp.linalg.norm(setpoints[..., :3] - true[..., :3], axis=-1)
    return MILLIMETRES * jnp.sum(distance * valid) / jnp.maximum(jnp.sum(valid), 1)


def chunk_losses(
    head: DiffusionHead, params: Any, condition: Array, actions: Array, valid: Array, rng: jax.Array
) -> tuple[Array, dict[str, Array]]:
    """-> (the head's loss, {"loss", "outside": the share of action targets beyond [-1, 1], where sampling clips}).

    actions: [B, T, A], normalised; valid: [B, T]."""
    loss = head.loss(params, condition, actions, valid, rng)
    beyond = (jnp.abs(actions) > 1).mean(-1)
    return loss, {"loss": loss, "outside": jnp.sum(beyond * valid) / jnp.maximum(valid.sum(), 1)}


def first_cloud(batch: Batch, track_set: str, view: str) -> Array:
    """[B, N, 3] metres in the camera's frame: the observed cloud, or in training the tracks' first points."""
    if batch.cloud is not None:
        return jnp.asarray(batch.cloud.points, jnp.float32)
    return jnp.asarray(batch.tracks[track_set][view].points[:, 0], jnp.float32)
