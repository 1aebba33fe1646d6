"""3PoinTr's policy: a chunk of setpoints by diffusion, conditioned on predicted tracks (Hung et al. 2026).

The track network first (configs/threepointr/tracks.py), then, from 20 demonstrations at setpoints:

    t2p train --config configs/threepointr/policy.py:cpu --workdir POLICY \
        --config.init_from.tracks.path=RUN --config.data.sources.demos.path=DEMOS9 \
        --config.data.validation.held_out.path=HELD_OUT9
    t2p rollout --task tabletop/block_stack --checkpoint POLICY --episodes 1000

variant  hardware             time         number to expect
debug    2 CPU cores          seconds      none: it shows that everything runs
cpu      2 CPU cores          2 minutes    Block Stack, 20 demonstrations: 99.5 % of 200 rollouts (docs/results.md)
gpu20    one GPU              8 minutes    not run
paper    one GPU (release)    not run      Block Stack, 20 demonstrations: 90.9 % of 1000 rollouts (paper, Table II)

`paper` has the released code's values (200 k steps for any number of demonstrations). `gpu20` differs in: AdamW with
500 warm-up steps, 20,000 steps (ten a dispatch), DDIM with 16 steps. `cpu` departs as a trial at this size found it
must: the clean action instead of the noise is predicted, a U-Net of (64, 128), four noise draws a step, averaged
weights, 200 steps, DDIM with 16 steps; and as configs/threepointr/tracks.py:cpu does.
"""

from __future__ import annotations

import ml_collections

from t2p.io import UserError
from t2p.methods import budgets
from t2p.methods.threepointr import policy
from t2p.train.defaults import base_config, source_config

VARIANTS = ("debug", "cpu", "gpu20", "paper")


def get_config(variant: str = "paper") -> ml_collections.ConfigDict:
    """The config of a variant; UserError names the variants for any other."""
    if variant not in VARIANTS:
        raise UserError(f"unknown variant {variant!r}; expected one of {', '.join(VARIANTS)}")
    c = policy.configure(base_config(), "cpu" if variant in ("debug", "cpu") else "paper")
    c.data.sources.demos = source_config()
    c.data.validation.held_out = source_config()
    return {"debug": _debug, "cpu": _cpu, "gpu20": _gpu20, "paper": _paper}[variant](c)


def _paper(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The released code: Adam with L2, cosine to 0, batches of 10, the best by validation position error."""
    c.batch_size, c.steps = 10, 200_000
    c.optimizer.update({"name": "adam", "learning_rate": 5e-5, "weight_decay": 1e-4})
    c.eval.every = c.checkpoint.every = 1000
    return c


def _gpu20(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    c = _paper(c)
    return budgets.gpu20(c)


def _cpu(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    c.window.update({"track_set": "exact/objects", "points": 256, "floor": False})
    c = budgets.cpu(c)
    c.departures += ("256 points",)
    return c


def _debug(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    c = _cpu(c)
    c.model.tracks.update({"width": 32, "depth": 1})
    c.model.readout.update({"width": 32, "condition": 32})
    c.window.points = 32
    return budgets.debug(c)
