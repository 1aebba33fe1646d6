"""AMPLIFY's policy in closed loop: at every step a whole new chunk of actions, and of all chunks that speak of this
step a weighted mean (Collins et al. 2025, section 2.5; released code: eval_libero.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from t2p import pytrees  # noqa: F401
from t2p.methods import ensemble
from t2p.methods.amplify.inverse import InverseDynamicsStage
from t2p.methods.base import Variables
from t2p.types import ActionKind, Array, Observation, Observe


@dataclass(frozen=True)
class AmplifyPolicy:
    """decay: of the temporal ensemble (see t2p.methods.ensemble), above 0: older chunks weigh more. None: the first
    action of each new chunk is taken. steps: of an episode, None: the task's. state: the chunks that were
    planned lately, one environment a row."""

    stage: InverseDynamicsStage
    action: ActionKind
    decay: float | None = 0.01
    steps: int | None = None

    @property
    def observe(self) -> Observe:
        return self.stage.observe

    @property
    def text(self) -> bool:
        return self.stage.window.text

    def reset(self, variables: Variables, obs: Observation, rng: jax.Array) -> Mapping[str, Array]:
        return ensemble.empty_chunks(len(rng), *self.stage.actions)

    def act(
        self, variables: Variables, state: Mapping[str, Array], obs: Observation, rng: jax.Array
    ) -> tuple[Array, Mapping[str, Array], Mapping[str, Array]]:
        chunk, aux = self.stage.plan(variables, obs, rng)
        if self.decay is None:
            return chunk[:, 0], state, aux
        action, state = ensemble.step(state, chunk, self.decay)
        return action, state, aux


def make_policy(stage: Any, settings: Mapping[str, Any]) -> AmplifyPolicy:
    """settings: config.model.policy."""
    decay = settings["decay"] if settings["ensemble"] else None
    return AmplifyPolicy(stage, settings["action"], decay, settings["steps"] or None)
