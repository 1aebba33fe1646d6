"""LIBERO for those who bring their own policy: many environments under the original's names, in the manner of
Gymnasium's vector environments (which is not needed).

    with LiberoVector("libero_object/0", num_envs=10, workers=2) as env:
        obs, info = env.reset(seed=0)
        while running:
            obs, reward, terminated, truncated, info = env.step(policy(obs, env.language))

Observations are those of robosuite (`agentview_image`, `robot0_eef_pos`, `object-state` ...), each [E, ...]; pictures
have row 0 at the bottom, as in the original and its demonstrations (Quirks.flipped_images).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from t2p.io import UserError
from t2p.sim.batch import BatchedSim
from t2p.sim.environment import Observe
from t2p.sim.libero.placement import Placement, find_placement
from t2p.sim.libero.task import LiberoTask
from t2p.types import InitialState, Observation

OPTIONS = ("reset_mask", "states")


@dataclass(frozen=True)
class Space:
    """Arrays of one kind, as gymnasium.spaces.Box tells of them: every number is from low to high."""

    shape: tuple[int, ...]
    dtype: np.dtype
    low: float
    high: float

    def batch(self, count: int) -> Space:
        """Of so many environments."""
        return replace(self, shape=(count, *self.shape))


class LiberoVector:
    """E environments of one task. To be closed: use `with`.

    There is no reset but the caller's (Gymnasium: AutoresetMode.DISABLED): an environment that is done goes on where it
    is stepped. language: the task's sentence. single_action_space: one environment's actions: translation, rotation,
    gripper (-1 opens, 1 closes); single_observation_space: {name: what one environment shows}; action_space and
    observation_space: of all, [E, ...]."""

    single_action_space = Space((7,), np.dtype(np.float64), -1.0, 1.0)

    def __init__(
        self,
        task: str | LiberoTask,
        num_envs: int,
        workers: int = 0,
        cameras: Sequence[str] = ("agentview", "robot0_eye_in_hand"),
        size: tuple[int, int] = (128, 128),
        renderer: str = "auto",
    ) -> None:
        """task: suite/task, suite/index, or a LiberoTask with its options (protocol, quirks ...). workers:
        processes, 0: all in this one. cameras: whose pictures are observed, as CAMERA_image [E, *size, 3]."""
        given = LiberoTask(task) if isinstance(task, str) else task
        self.task = replace(given, proprio="observables")
        views = {camera: view for view, camera in self.task.views.items()}
        unknown = [camera for camera in cameras if camera not in views]
        if unknown:
            raise UserError(f"{self.task.name} has no camera {', '.join(unknown)}; its cameras are {', '.join(views)}")
        self._views = {f"{camera}_image": views[camera] for camera in cameras}
        self._sim = BatchedSim(self.task, num_envs, workers, Observe(tuple(self._views.values()), size=size), renderer)
        self.num_envs, self.language = num_envs, self.task.instruction
        self.single_observation_space = self._spaces()
        self.action_space = self.single_action_space.batch(num_envs)
        self.observation_space = {name: one.batch(num_envs) for name, one in self.single_observation_space.items()}
        if self.task.note:
            warnings.warn(self.task.note, stacklevel=2)
        self._seeds, self._steps, self._next = np.zeros(num_envs, int), np.zeros(num_envs, int), 0

    def __enter__(self) -> LiberoVector:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Starts episodes. seed: [E], or that of the first environment, the others' following it; None: those that
        follow the highest so far. A seed is a rollout's number in the task's protocol.

        options: {"reset_mask": bool [E], the environments that start; "states": [E] numbers of published initial
        states, or [E, 1 + nq + nv] such states, instead of the protocol's; fixtures stand by the seed all the same}.
        -> (observations, {"seed": [E]})"""
        chosen = dict(options or {})
        if unknown := sorted(chosen.keys() - set(OPTIONS)):
            raise UserError(f"a reset has no option {', '.join(unknown)}; its options are {', '.join(OPTIONS)}")
        mask, states = chosen.get("reset_mask"), chosen.get("states")
        seeds = self._chosen_seeds(seed)
        if states is None:
            obs = self._sim.reset(seeds, mask)
        else:
            obs = self._sim.reset_to(self._starts(seeds, np.asarray(states)), mask)
        starting = np.ones(self.num_envs, bool) if mask is None else np.asarray(mask)
        self._seeds[starting], self._steps[starting] = seeds[starting], 0
        self._next = max(self._next, int(seeds[starting].max(initial=-1)) + 1)
        return self._observed(obs), {"seed": self._seeds.copy()}

    def step(
        self, actions: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One policy step. actions: [E, 7]. -> (observations, reward, terminated, truncated, info), [E] each.

        reward is 1 and terminated is True where the goal holds now, as in the original. truncated: the protocol's
        number of steps is over, or the physics came apart (then the environment rests, info["failures"] says why).
        info: {"success": [E], "steps": [E], "failures": {environment: reason}}"""
        result = self._sim.step(actions)
        self._steps += ~result.failed
        truncated = (self._steps >= self.task.limit) | result.failed
        info = {"success": result.success, "steps": self._steps.copy(), "failures": dict(self._sim.failures)}
        return self._observed(result.obs), result.success.astype(float), result.success.copy(), truncated, info

    def close(self) -> None:
        """Ends the workers; may be called again."""
        self._sim.close()

    def _spaces(self) -> dict[str, Space]:
        """By the observations' names."""
        shapes = {key: (shape, np.dtype(kind)) for key, (shape, kind) in self._sim.shapes.items()}
        found = {key[1]: Space(*one, -np.inf, np.inf) for key, one in shapes.items() if key[0] == "proprio"}
        return found | {name: Space(*shapes["images", view], 0, 255) for name, view in self._views.items()}

    @cached_property
    def _placement(self) -> Placement:
        return find_placement(self.task.physics(), self.task.problem, self.task.quirks)

    def _chosen_seeds(self, seed: int | Sequence[int] | None) -> np.ndarray:
        first = self._next if seed is None else seed
        seeds = first + np.arange(self.num_envs) if np.ndim(first) == 0 else np.asarray(first)
        if seeds.shape != (self.num_envs,) or seeds.dtype.kind not in "iu":
            raise UserError(f"expected one seed or {self.num_envs}, whole numbers; got {seed!r}")
        return seeds

    def _starts(self, seeds: np.ndarray, states: np.ndarray) -> list[InitialState]:
        if (
            states.ndim not in (1, 2)
            or len(states) != self.num_envs
            or (states.ndim == 1 and states.dtype.kind not in "iu")
        ):
            raise UserError(
                f"states must be {self.num_envs} numbers of initial states, or as many states; got an array of "
                f"{states.dtype} of shape {states.shape}"
            )
        return [self.task.start(self._placement, int(s), state) for s, state in zip(seeds, states, strict=True)]

    def _observed(self, obs: Observation) -> dict[str, np.ndarray]:
        found = {name: values[:, -1] for name, values in obs.proprio.items()}
        for name, view in self._views.items():
            pictures = obs.images[view][:, -1]
            found[name] = np.ascontiguousarray(pictures[:, ::-1]) if self.task.quirks.flipped_images else pictures
        return found
