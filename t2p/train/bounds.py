"""What the numbers of every training config may be; a stage checks its own (t2p.methods)."""

from __future__ import annotations

import ml_collections

from t2p.data.augment import Augment
from t2p.io import UserError
from t2p.methods.bounds import COUNT, DECAY, NUMBER, POSITIVE, check_bounds

DTYPES = ("float32", "bfloat16", "float16")
BOUNDS = {
    "steps": COUNT,
    "batch_size": COUNT,
    "accumulation": COUNT,
    "dispatch": COUNT,
    "optimizer.learning_rate": POSITIVE,
    "optimizer.warmup_steps": NUMBER,
    "optimizer.warmup_init": NUMBER,
    "optimizer.final": NUMBER,
    "optimizer.weight_decay": NUMBER,
    "optimizer.b1": DECAY,
    "optimizer.b2": DECAY,
    "optimizer.eps": POSITIVE,
    "optimizer.clip_norm": NUMBER,
    "optimizer.ema": DECAY,
    "optimizer.ema_power": NUMBER,
    "text.width": COUNT,
    "data.workers": NUMBER,
    "eval.every": COUNT,
    "eval.batches": NUMBER,
    "checkpoint.every": COUNT,
    "checkpoint.keep": COUNT,
    "log.every": COUNT,
    "profile.first": NUMBER,
    "profile.last": NUMBER,
}


def check_values(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for a shared key whose value no training can use, naming key, value and bound."""
    check_bounds(config, BOUNDS)
    Augment(**config.data.augment)
    if config.dtype not in DTYPES:
        raise UserError(f"dtype is {config.dtype!r}; expected one of {', '.join(DTYPES)}")
    for key, value in {
        "steps": config.steps,
        **{f"{k}.every": config[k].every for k in ("eval", "checkpoint", "log")},
    }.items():
        if value % config.dispatch:
            raise UserError(
                f"{key} is {value}; expected a multiple of dispatch ({config.dispatch}), the steps done at once"
            )
    first, last = config.profile.first, config.profile.last
    if (first, last) != (0, 0) and not 1 <= first <= last:
        raise UserError(f"profile.first is {first} and profile.last {last}; expected steps with 1 <= first <= last")
