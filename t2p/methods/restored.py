"""From what a checkpoint holds to something that predicts and acts; reading checkpoints is others' business."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import ml_collections

from t2p import pytrees  # noqa: F401
from t2p.io import UserError
from t2p.methods.base import Policy, Stage, Variables
from t2p.methods.registry import make_policy, make_stage
from t2p.types import Array, Batch, Observation, Prediction


@dataclass(frozen=True)
class Restored:
    """A trained stage with its variables. meta: what its checkpoint says of itself (config, statistics, shapes,
    versions). Normalisation is inside: all that goes in and comes out is in t2p's units.

    predict, reset and act are compiled at their first call."""

    stage: Stage
    variables: Variables
    config: ml_collections.ConfigDict
    meta: Mapping[str, Any]

    @cached_property
    def policy(self) -> Policy:
        """UserError where the stage does not act."""
        return make_policy(self.config)

    def predict(self, batch: Batch, rng: jax.Array) -> Prediction:
        """See Stage.predict."""
        return _predict(self.stage, self.variables, batch, rng)

    def reset(self, obs: Observation, rng: jax.Array) -> Any:
        """The policy's state at an episode's start, in E environments; rng: one key for each, [E]."""
        return _reset(self.policy, self.variables, obs, rng)

    def act(self, state: Any, obs: Observation, rng: jax.Array) -> tuple[Array, Any, Mapping[str, Array]]:
        """-> (actions [E, A] of the next policy step, the state after it, what reports draw)."""
        return _act(self.policy, self.variables, state, obs, rng)


@partial(jax.jit, static_argnums=0)
def _predict(stage: Stage, variables: Variables, batch: Batch, rng: jax.Array) -> Prediction:
    return stage.predict(variables, batch, rng)


@partial(jax.jit, static_argnums=0)
def _reset(policy: Policy, variables: Variables, obs: Observation, rng: jax.Array) -> Any:
    return policy.reset(variables, obs, rng)


@partial(jax.jit, static_argnums=0)
def _act(policy: Policy, variables: Variables, state: Any, obs: Observation, rng: jax.Array) -> Any:
    return policy.act(variables, state, obs, rng)


def rebuild(variables: Variables, meta: Mapping[str, Any], text_path: str = "") -> Restored:
    """Variables and meta, as t2p.checkpoint.load gives them -> the stage that they belong to.

    text_path: where the text encoder is on this machine, in place of the config's text.path. UserError where the
    config is not one of a stage, or where statistics that the stage normalises with are missing."""
    config = ml_collections.ConfigDict(meta["config"])
    if "data" in config:
        config.data.features = ""  # cached ones stand for pictures in training only
    if not config.get("stage"):
        raise UserError("its config names no stage; was it exported without one?")
    if text_path:
        if config.text.encoder == "hashed":
            raise UserError(f"--text_path {text_path}: this checkpoint's text.encoder 'hashed' reads no files")
        config.text.path = text_path
    return Restored(make_stage(config), variables, config, meta)
