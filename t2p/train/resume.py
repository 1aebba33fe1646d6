"""How a run begins: from its own last checkpoint, from another one, or afresh."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from t2p.checkpoint import Checkpoints, DamagedCheckpoint, mismatch
from t2p.io import UserError
from t2p.train import init_from
from t2p.train.features import check_features
from t2p.train.logging import say
from t2p.train.plan import Plan
from t2p.train.state import TrainState, flatten


def begin(plan: Plan, checkpoints: Checkpoints) -> tuple[TrainState, dict[str, Any]]:
    """-> (state, meta); meta["position"] says how many global batches were consumed.

    A damaged checkpoint is set aside with a warning and the one before it is taken; if none is whole, that is an
    error, never a silent start from nothing."""
    fresh = {**plan.meta(), "position": 0}
    steps = checkpoints.steps
    for step in reversed(steps):
        try:
            return _restore(plan, checkpoints, step, fresh)
        except DamagedCheckpoint as e:
            if step == steps[0]:
                raise
            say(f"WARNING: {e}\nWARNING: moved it to {checkpoints.set_aside(step)}; going back to the one before")
    state, origins, rows = init_from.initialise(plan.config, plan.init(), getattr(plan.stage, "builds_on", {}))
    if rows:
        say(init_from.table(rows))
    check_features(plan.config, plan.stage, state.frozen)
    checkpoints.save_frozen(state.frozen)
    return state, {**fresh, "init_from": origins}


def _restore(
    plan: Plan, checkpoints: Checkpoints, step: int, fresh: dict[str, Any]
) -> tuple[TrainState, dict[str, Any]]:
    error: DamagedCheckpoint | None = None
    try:
        state, saved = _read(plan, checkpoints, step)
    except DamagedCheckpoint as e:
        error = e
    if jax.process_count() > 1:
        whole = multihost_utils.process_allgather(np.array(error is None)).all()
        if not whole and error is None:
            error = DamagedCheckpoint(f"checkpoint {checkpoints.path(step)} is damaged for another process")
    if error is not None:
        raise error
    check_features(plan.config, plan.stage, state.frozen)
    _tell_changes(saved["config"], fresh["config"])
    say(f"resuming from {checkpoints.path(step)}")
    return state, {**fresh, "position": saved["position"], "init_from": saved.get("init_from", {})}


def _read(plan: Plan, checkpoints: Checkpoints, step: int) -> tuple[TrainState, dict[str, Any]]:
    meta, found, want = checkpoints.meta(step), checkpoints.shapes(step), plan.state
    if step % plan.config.dispatch:
        raise UserError(
            f"{checkpoints.path(step)} is at no multiple of dispatch ({plan.config.dispatch}); "
            f"take 1, or another divisor of {step}"
        )
    if "optimizer" not in found:
        raise UserError(f"{checkpoints.path(step)} holds weights only; start from it with init_from, in a new workdir")
    targets = {
        "variables": {"params": want.params, "batch_stats": want.batch_stats},
        "optimizer": want.opt_state,
        **({"ema": want.ema} if want.ema else {}),
    }
    different = mismatch(found["variables"], targets["variables"])
    if not different and (_sizes(found["optimizer"]) != _sizes(want.opt_state) or ("ema" in found) != bool(want.ema)):
        different = "the optimiser's state has other arrays (optimizer.*, frozen parameters)"
    if different:
        raise UserError(
            f"{checkpoints.path(step)} is of another config: {different}; use the same config, or another --workdir"
        )
    items = checkpoints.restore(step, targets)
    state = TrainState(
        step=jax.device_put(np.int32(step), want.step.sharding),
        params=items["variables"]["params"],
        batch_stats=items["variables"].get("batch_stats", {}),
        opt_state=items["optimizer"],
        ema=items.get("ema", {}),
        frozen=checkpoints.restore_frozen(want.frozen) if want.frozen else {},
    )
    return state, meta


def _sizes(tree: Any) -> list[tuple[int, ...]]:
    return sorted(tuple(x.shape) for x in jax.tree.leaves(tree))


def _tell_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    before, after = flatten(old), flatten(new)
    changed = [k for k in sorted({*before, *after}) if before.get(k) != after.get(k)]
    for key in changed:
        say(f"WARNING: resuming with config.{key.replace('/', '.')} changed: {before.get(key)} -> {after.get(key)}")
