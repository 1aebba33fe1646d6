"""The optimiser that a config describes: schedule, clipping, Adam or AdamW."""

from __future__ import annotations

import ml_collections
import optax

from t2p.io import UserError

OPTIMIZERS = ("adam", "adamw")
SCHEDULES = ("cosine", "constant")


def make_schedule(config: ml_collections.ConfigDict) -> optax.Schedule:
    """Learning rate by step: linear from warmup_init over warmup_steps, then half a cosine from learning_rate to
    final at config.steps, or constant."""
    c = config.optimizer
    if c.schedule not in SCHEDULES:
        raise UserError(f"optimizer.schedule is {c.schedule!r}; expected one of {', '.join(SCHEDULES)}")
    if c.schedule == "cosine" and c.warmup_steps >= config.steps:
        raise UserError(f"optimizer.warmup_steps {c.warmup_steps} leaves nothing of steps {config.steps}")
    parts = [optax.constant_schedule(c.learning_rate)]
    if c.schedule == "cosine":
        alpha = c.final / c.learning_rate
        parts = [optax.cosine_decay_schedule(c.learning_rate, config.steps - c.warmup_steps, alpha)]
    if c.warmup_steps:
        warmup = optax.linear_schedule(c.warmup_init, c.learning_rate, c.warmup_steps)
        return optax.join_schedules([warmup, *parts], [c.warmup_steps])
    return parts[0]


def make_optimizer(config: ml_collections.ConfigDict) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """-> (clipping by the global norm, then the optimiser; its schedule). Weight decay applies to all that is
    trained, and for "adam" is added to the gradient (L2), as in PyTorch's Adam."""
    c = config.optimizer
    if c.name not in OPTIMIZERS:
        raise UserError(f"optimizer.name is {c.name!r}; expected one of {', '.join(OPTIMIZERS)}")
    schedule = make_schedule(config)
    moments = {"b1": c.b1, "b2": c.b2, "eps": c.eps}
    clip = [optax.clip_by_global_norm(c.clip_norm)] if c.clip_norm else []
    if c.name == "adamw":
        return optax.chain(*clip, optax.adamw(schedule, weight_decay=c.weight_decay, **moments)), schedule
    decay = [optax.add_decayed_weights(c.weight_decay)] if c.weight_decay else []
    return optax.chain(*clip, *decay, optax.adam(schedule, **moments)), schedule
