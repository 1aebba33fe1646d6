"""Evaluations that the loop runs every so many steps, on all processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from t2p.methods.base import Stage, Variables
from t2p.train.distributed import over_processes
from t2p.types import Batch


@dataclass(frozen=True)
class Eval:
    """fn(variables, step, rng) -> {metric: number}, run every `every` steps and after the last one on all processes.
    Its metrics are logged as `name`/metric. variables hold the averaged parameters where training averages."""

    name: str
    every: int
    fn: Callable[[Variables, int, jax.Array], dict[str, float]]

    def due(self, step: int, last: int) -> bool:
        return step == last or (self.every > 0 and step % self.every == 0)


def masked_losses(stage: Stage) -> Callable[[Variables, Batch, jax.Array], tuple[dict[str, jax.Array], jax.Array]]:
    """-> a jitted function to ({"loss" and the stage's metrics} summed over the rows that count, their number)."""

    @jax.jit
    def losses(variables: Variables, batch: Batch, rng: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
        loss, extra = stage.loss(variables, batch, rng, False)
        rows = jnp.asarray(batch.mask).sum(dtype=jnp.float32)
        values = {**extra["metrics"], "loss": loss}
        return {k: jnp.where(rows > 0, v * rows, 0.0) for k, v in values.items()}, rows

    return losses


def validation(
    stage: Stage, batches: Callable[[], Any], place: Callable[[Batch], Batch], every: int, count_skipped: bool = False
) -> Eval:
    """The standard evaluation "val": the stage's loss and metrics over one pass of `batches()`, each batch's mean
    weighted by its rows that count. place: local rows to global arrays. The rng is the same for every pass, so
    that draws in a loss (masks, noise) do not make one checkpoint look better than another. count_skipped: also
    "skipped_examples", the damaged rows that `batches().skipped` counts, of all processes."""
    losses = masked_losses(stage)

    def run(variables: Variables, step: int, rng: jax.Array) -> dict[str, float]:
        totals: list[Any] = []
        passing = batches()
        for number, batch in enumerate(passing):
            totals.append(losses(variables, place(batch), jax.random.fold_in(rng, number)))
            jax.block_until_ready(totals[max(0, number - 1)])  # at most two batches wait on the devices
        if not totals:
            return {}
        fetched = jax.device_get(totals)
        rows = max(sum(float(r) for _, r in fetched), 1.0)
        means = {k: sum(float(v[k]) for v, _ in fetched) / rows for k in fetched[0][0]}
        return {**means, "skipped_examples": float(over_processes(passing.skipped))} if count_skipped else means

    return Eval("val", every, run)
