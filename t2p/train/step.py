"""One optimiser step: micro-batches, gradients, update, average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from t2p.methods.base import Stage
from t2p.train.state import TrainState, Tree, merge, split
from t2p.types import Batch

Metrics = dict[str, jax.Array]


def step_key(seed: int, step: jax.Array | int, microbatch: jax.Array | int = 0) -> jax.Array:
    """The key of all of a step's randomness, the same on every process."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), microbatch)


def microbatches(batch: Batch, count: int) -> Batch:
    """[B, ...] -> [count, B / count, ...]: micro-batch i holds rows i, i + count, ...: no row leaves its device."""

    def cut(x: jax.Array) -> jax.Array:
        x = x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1)
        return jax.lax.with_sharding_constraint(x, PartitionSpec(None, ("data", "fsdp")))

    return jax.tree.map(cut, batch)


def several(step: TrainStep, state: TrainState, batches: Batch) -> tuple[TrainState, Metrics]:
    """`step` on each of batches [k, B, ...] in turn -> (state, metrics [k])."""
    return jax.lax.scan(step, state, batches)


@dataclass(frozen=True)
class TrainStep:
    """step(state, batch) -> (state, metrics): loss, the stage's metrics, grad_norm (before clipping), learning_rate.

    Gradients and metrics are means over `accumulation` micro-batches; BatchNorm statistics pass through them in
    turn. Parameters in `held` are neither differentiated nor changed. ema: decay of the averaged parameters, towards
    which it grows with `ema_power` (0: constant). Pure; to be jitted with a donated state."""

    stage: Stage
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    held: frozenset[str]
    seed: int
    accumulation: int = 1
    ema: float = 0.0
    ema_power: float = 0.0

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        trained, rest = split(state.params, self.held)
        run = self._gradients if self.accumulation == 1 else self._accumulated
        grads, stats, metrics = run(state, trained, state.batch_stats, batch)
        updates, opt_state = self.optimizer.update(grads, state.opt_state, trained)
        params = merge(optax.apply_updates(trained, updates), rest)
        metrics |= {"grad_norm": optax.tree.norm(grads), "learning_rate": self.schedule(state.step)}
        new = state.replace(step=state.step + 1, params=params, opt_state=opt_state, batch_stats=stats)
        return new.replace(ema=self._average(state.ema, params, state.step)), metrics

    def _gradients(
        self, state: TrainState, trained: Tree, stats: Tree, batch: Batch, microbatch: jax.Array | int = 0
    ) -> tuple[Tree, Tree, Metrics]:
        """-> (gradients of the trained parameters, BatchNorm statistics, metrics) of one micro-batch."""
        rest = split(state.params, self.held)[1]

        def loss(trained: Tree) -> tuple[jax.Array, dict[str, Any]]:
            variables = {**state.variables, "params": merge(trained, rest), "batch_stats": stats}
            return self.stage.loss(variables, batch, step_key(self.seed, state.step, microbatch), True)

        (value, extra), grads = jax.value_and_grad(loss, has_aux=True)(trained)
        return grads, extra["batch_stats"] or stats, {**extra["metrics"], "loss": value}

    def _accumulated(self, state: TrainState, trained: Tree, stats: Tree, batch: Batch) -> tuple[Tree, Tree, Metrics]:
        """Means of gradients and metrics over the micro-batches, and the last BatchNorm statistics."""

        def body(carry: Any, x: Any) -> Any:
            stats, total = carry
            grads, stats, metrics = self._gradients(state, trained, stats, *x)
            return (stats, jax.tree.map(jnp.add, total, (grads, metrics))), None

        parts = microbatches(batch, self.accumulation)
        one = jax.eval_shape(self._gradients, state, trained, stats, jax.tree.map(lambda x: x[0], parts))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (one[0], one[2]))
        (stats, total), _ = jax.lax.scan(body, (stats, zeros), (parts, jnp.arange(self.accumulation)))
        grads, metrics = jax.tree.map(lambda x: x / self.accumulation, total)
        return grads, stats, metrics

    def _average(self, ema: Tree, params: Tree, step: jax.Array) -> Tree:
        """ema <- ema + (1 - decay) (params - ema), which leaves held parameters as they are; {} stays {}."""
        if not ema:
            return {}
        decay = ema_decay(self.ema, self.ema_power, step) if self.ema_power else self.ema
        return jax.tree.map(lambda a, p: a + (1.0 - decay) * (p - a), ema, params)


def ema_decay(largest: float, power: float, step: jax.Array | int) -> jax.Array:
    """Diffusion Policy's growing decay at update `step` (from 0): 0 at the first two updates, which copy, then
    1 - step^-power up to `largest` (released code: power 0.75, 0.9999)."""
    s = jnp.maximum(0, jnp.asarray(step) - 1).astype(jnp.float32)
    return jnp.where(s > 0, jnp.clip(1.0 - (1.0 + s) ** -power, 0.0, largest), 0.0)
