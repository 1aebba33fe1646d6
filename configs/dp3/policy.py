"""DP3 (Ze et al. 2024) as 3PoinTr's baseline: a chunk of setpoints by diffusion from one cloud, played open loop.

From the same demonstrations at setpoints as configs/threepointr/policy.py:

    t2p train --config configs/dp3/policy.py:cpu --workdir DP3 \
        --config.data.sources.demos.path=DEMOS9 --config.data.validation.held_out.path=HELD_OUT9
    t2p rollout --task tabletop/block_stack --checkpoint DP3 --episodes 1000

variant     hardware             time         number to expect
debug       2 CPU cores          seconds      none: it shows that everything runs
cpu         2 CPU cores          2-3 minutes  Block Stack, 20 demonstrations: 90.5 % of 200 rollouts (docs/results.md)
cpu_sample  2 CPU cores          2 minutes    Block Stack, 20 demonstrations: 99 % of 200 rollouts (docs/results.md)
gpu20       one GPU              8 minutes    not run
paper       one GPU              not run      Block Stack, 20 demonstrations: 44.4 % of 1000 rollouts (3PoinTr's
                                              paper, Table II)

`paper` has DP3's released values, with one observation step and a horizon of T = 9 setpoints, filled up to 16 (3PoinTr
does not say what it used); an episode is one example, so that an epoch of up to 128 demonstrations is one step, and
3000 epochs are 3000 steps. `cpu` and `gpu20` share denoiser, optimiser, averaging, sampler and length of training with
the variants of the same name of configs/threepointr/policy.py (t2p/methods/budgets.py), the clean action being
predicted in both. `cpu_sample` is the control of that comparison: DP3's network with 3PoinTr's coordinates, points and
noise on them.
"""

from __future__ import annotations

import ml_collections

from t2p.io import UserError
from t2p.methods import budgets, dp3
from t2p.train.defaults import base_config, source_config

VARIANTS = ("debug", "cpu", "cpu_sample", "gpu20", "paper")


def get_config(variant: str = "paper") -> ml_collections.ConfigDict:
    """The config of a variant; UserError names the variants for any other."""
    if variant not in VARIANTS:
        raise UserError(f"unknown variant {variant!r}; expected one of {', '.join(VARIANTS)}")
    c = dp3.configure(base_config())
    c.data.sources.demos = source_config()
    c.data.validation.held_out = source_config()
    makers = {"debug": _debug, "cpu": _cpu, "cpu_sample": _cpu_sample, "gpu20": budgets.gpu20, "paper": _paper}
    return makers[variant](c)


def _paper(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    c.batch_size, c.steps = 128, 3000
    return budgets.published(c)


def _cpu(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """More points are drawn than are kept, so that furthest point sampling has a choice."""
    c.window.update({"track_set": "exact/objects", "points": 1024, "floor": False})
    return budgets.cpu(c)


def _cpu_sample(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    c = _cpu(c)
    c.window.points = 256
    c.model.coordinates = "sample"
    c.loss.noise = 0.01
    c.departures += (
        "points, actions and tool pose in 3PoinTr's coordinates; 256 random points instead of furthest point sampling",
        "noise of 0.01 on the points, as 3PoinTr has it",
    )
    return c


def _debug(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    c = _cpu(c)
    c.window.points, c.model.cloud_points = 48, 32
    return budgets.debug(c)
