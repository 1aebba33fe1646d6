"""A tiny policy for tests of rollouts, which pushes in some episodes, waits in others and breaks a few."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from t2p.types import ActionKind, Observe

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sim"))
from pusher import BREAK, Push

__all__ = ["BREAK", "EAGER", "Nudge", "Push", "variables"]

EAGER, WAITING, BREAKING = 0.5, 0.8, 1.0  # upper ends of what an episode's draw makes it do
FORESEEN = 16  # steps of the tracks that it predicts


def variables(speed: float = 1.0) -> dict:
    return {"params": {"speed": np.float32(speed)}}


@dataclass(frozen=True)
class Nudge:
    """Draws once an episode what it does, and a little sideways motion every step. It foresees that all points go 1 cm
    to the right a step. cloud: points that it looks at; without, it foresees nothing. floor: also the floor's."""

    cloud: int = 0
    floor: bool = True
    action: ActionKind = "osc_delta"
    steps: int | None = None
    text: bool = False

    @property
    def observe(self) -> Observe:
        return Observe(cloud=self.cloud, floor=self.floor, size=(48, 64), every_step=False)

    def reset(self, variables, obs, rng):
        state = {"draw": jax.vmap(jax.random.uniform)(rng), "step": jnp.zeros(len(rng), jnp.int32)}
        if not self.cloud:
            return state
        steps = jnp.arange(FORESEEN + 1)[None, :, None, None] * jnp.array([0.01, 0, 0])
        return state | {"tracks": jnp.asarray(obs.cloud.points)[:, None] + steps}

    def act(self, variables, state, obs, rng):
        draw, step = state["draw"], state["step"]
        sideways = 0.2 * jax.vmap(jax.random.normal)(rng)
        action = jnp.zeros((len(draw), 7)).at[:, 0].set(sideways)
        action = action.at[:, 1].set(jnp.where(draw < EAGER, -variables["params"]["speed"], 0))
        action = action.at[:, 6].set(jnp.where((draw > WAITING) & (step == 7), BREAK, 0))
        return action, {**state, "step": step + 1}, {k: v for k, v in state.items() if k == "tracks"}
