"""General Flow on 3D point tracks of one task, the comparison of 3PoinTr's Table I (Yuan et al. 2024).

Data as for 3PoinTr's track network (configs/threepointr/tracks.py):

    t2p train --config configs/general_flow/flow.py:cpu --workdir RUN \
        --config.data.sources.free.path=FREE9 --config.data.sources.demos.path=DEMOS9 \
        --config.data.validation.held_out.path=HELD_OUT9

variant  hardware       time       number to expect
debug    2 CPU cores    a minute   none: it shows that everything runs (most of it is compilation)
cpu      2 CPU cores    not run    none
gpu20    one GPU        not run    none
paper    one GPU        not run    Block Stack: ADE 0.47 mm, 5 % ADE 3.75 mm (3PoinTr's Table I)

`paper`: the released values (size B, 200 epochs of which 10 are warm-up) for 100 episodes; a batch holds all of them.
"""

from __future__ import annotations

import ml_collections

from t2p.io import UserError
from t2p.methods.general_flow import stage
from t2p.train.defaults import base_config, source_config

VARIANTS = ("debug", "cpu", "gpu20", "paper")


def get_config(variant: str = "paper") -> ml_collections.ConfigDict:
    """The config of a variant; UserError names the variants for any other."""
    if variant not in VARIANTS:
        raise UserError(f"unknown variant {variant!r}; expected one of {', '.join(VARIANTS)}")
    c = stage.configure(base_config(), "S" if variant in ("debug", "cpu") else "B")
    c.window.track_set = "exact/grid"
    c.checkpoint.best = "val/ade_mm"
    c.data.sources.free = source_config()
    c.data.sources.demos = source_config()
    c.data.validation.held_out = source_config()
    return {"debug": _debug, "cpu": _cpu, "gpu20": _gpu20, "paper": _paper}[variant](c)


def _paper(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """One epoch of 100 samples is less than a batch of 128: 200 epochs count as 200 steps x 100 / 128; 3PoinTr does not
    say how long it trained General Flow. Ten times as long as the released number of epochs is taken."""
    c.steps = 2000
    c.optimizer.warmup_steps = 100
    c.eval.every = c.checkpoint.every = 100
    return c


def _gpu20(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    c = _paper(c)
    c.batch_size = 32
    return c


def _cpu(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    c.window.update({"track_set": "exact/objects", "points": 768, "queries": 64, "test_queries": 128, "samples": 4})
    c.batch_size, c.steps = 8, 600
    c.optimizer.warmup_steps = 30
    c.eval.every = c.checkpoint.every = 200
    c.departures = (
        "points of objects only: the floor is cut off",
        "size S, 768 points, 64 queries; 4 samples",
        "600 steps of 8 episodes",
    )
    return c


def _debug(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    c = _cpu(c)
    c.model.update({"width": 8, "hidden": 16})
    c.batch_size, c.steps = 2, 4
    c.optimizer.warmup_steps = 1
    c.eval.every = c.checkpoint.every = c.log.every = 2
    return c
