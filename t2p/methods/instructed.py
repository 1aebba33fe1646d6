"""A policy that follows a sentence, on a task that has one: the simulator shows pictures, not words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from t2p import pytrees  # noqa: F401
from t2p.methods import language
from t2p.methods.base import Policy, Variables
from t2p.types import ActionKind, Array, Observation, Observe

TEXT = "text"  # in the variables: the sentence's vector


def instruct(policy: Policy, variables: Variables, text: Mapping[str, Any], sentence: str) -> tuple[Policy, Variables]:
    """The same policy, told `sentence` in every environment where it follows one. text: a config's (see
    t2p.methods.language.embed)."""
    if not policy.text:
        return policy, variables
    vector = language.embed(text, [sentence])[sentence]
    return Instructed(policy), {**variables, TEXT: jnp.asarray(vector)}


@dataclass(frozen=True)
class Instructed:
    """Adds variables["text"] [d] to every observation."""

    policy: Policy

    @property
    def observe(self) -> Observe:
        return self.policy.observe

    @property
    def action(self) -> ActionKind:
        return self.policy.action

    @property
    def steps(self) -> int | None:
        return self.policy.steps

    @property
    def text(self) -> bool:
        return False

    def reset(self, variables: Variables, obs: Observation, rng: jax.Array) -> Any:
        return self.policy.reset(variables, self._told(variables, obs, rng), rng)

    def act(
        self, variables: Variables, state: Any, obs: Observation, rng: jax.Array
    ) -> tuple[Array, Any, Mapping[str, Array]]:
        return self.policy.act(variables, state, self._told(variables, obs, rng), rng)

    def _told(self, variables: Variables, obs: Observation, rng: jax.Array) -> Observation:
        vector = variables[TEXT]
        return obs.replace(text=jnp.broadcast_to(vector, (len(rng), *vector.shape)))
