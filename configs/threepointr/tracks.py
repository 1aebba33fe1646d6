"""3PoinTr's track network: where will each point of the first cloud be at T setpoints (Hung et al. 2026).

Data first (docs/simulation.md): action-free episodes and demonstrations, brought to setpoints:

    t2p collect tabletop/block_stack --episodes 100 --action_free --out FREE
    t2p data import --source setpoints --input FREE --out FREE9 --source.steps=9
    t2p train --config configs/threepointr/tracks.py:cpu --workdir RUN \
        --config.data.sources.free.path=FREE9 --config.data.sources.demos.path=DEMOS9 \
        --config.data.validation.held_out.path=HELD_OUT9

variant  hardware                time             number to expect
debug    2 CPU cores             seconds          none: it shows that everything runs
cpu      2 CPU cores             2-3 minutes      Block Stack: ADE 2.9 mm, 5 % ADE 6.8 mm (docs/results.md)
gpu20    one GPU                 8 minutes        not run
paper    one GPU (release)       not run          Block Stack: ADE 0.20 mm, 5 % ADE 1.60 mm (paper, Table I)

`paper` has the released code's values. `gpu20` differs in: AdamW with 500 warm-up steps, 20,000 steps. `cpu` departs as
a trial at this size found it must: points of objects only (track set exact/objects: the floor is cut off), a head of
displacements, width 128 with 2 heads, 256 points, batch 4.
"""

from __future__ import annotations

import ml_collections

from t2p.io import UserError
from t2p.methods.threepointr import tracks
from t2p.train.defaults import base_config, source_config

VARIANTS = ("debug", "cpu", "gpu20", "paper")


def get_config(variant: str = "paper") -> ml_collections.ConfigDict:
    """The config of a variant; UserError names the variants for any other."""
    if variant not in VARIANTS:
        raise UserError(f"unknown variant {variant!r}; expected one of {', '.join(VARIANTS)}")
    c = tracks.configure(base_config(), "cpu" if variant in ("debug", "cpu") else "paper")
    c.data.sources.free = source_config()
    c.data.sources.demos = source_config()
    c.data.validation.held_out = source_config()
    return {"debug": _debug, "cpu": _cpu, "gpu20": _gpu20, "paper": _paper}[variant](c)


def _paper(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The released code: Adam with L2, cosine to 0, 500 k steps of 20 samples, the best by validation error."""
    c.batch_size, c.steps = 20, 500_000
    c.optimizer.update({"name": "adam", "learning_rate": 1e-4, "weight_decay": 1e-4})
    c.eval.every = c.checkpoint.every = 500
    return c


def _gpu20(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    c = _paper(c)
    c.steps, c.dispatch = 20_000, 10
    c.optimizer.update({"name": "adamw", "warmup_steps": 500})
    c.eval.every = c.checkpoint.every = 2000
    return c


def _cpu(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    c.window.update({"track_set": "exact/objects", "points": 256})
    c.batch_size, c.steps = 4, 900
    c.optimizer.update({"name": "adamw", "learning_rate": 1e-3, "weight_decay": 1e-4, "warmup_steps": 50})
    c.eval.every = c.checkpoint.every = 300
    c.departures = (
        "points of objects only: the floor is cut off",
        "the head gives displacements instead of places",
        "width 128 with 2 heads, 256 points",
        "900 steps of 4 episodes; AdamW at 1e-3 with 50 warm-up steps",
    )
    return c


def _debug(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    c = _cpu(c)
    c.model.update({"width": 32, "depth": 1})
    c.window.points = 32
    c.batch_size, c.steps = 4, 20
    c.optimizer.warmup_steps = 5
    c.eval.every = c.checkpoint.every = c.log.every = 10
    return c
