"""Diffusion Policy (Chi et al. 2023) as 3PoinTr's baseline: a chunk of setpoints from one picture, played open loop.

From the same demonstrations at setpoints as configs/threepointr/policy.py:

    t2p train --config configs/diffusion_policy/policy.py:cpu --workdir DIFFUSION \
        --config.data.sources.demos.path=DEMOS9 --config.data.validation.held_out.path=HELD_OUT9
    t2p rollout --task tabletop/block_stack --checkpoint DIFFUSION --episodes 1000

variant  hardware             time         number to expect
debug    2 CPU cores          seconds      none: it shows that everything runs
cpu      2 CPU cores          not run      not run
gpu20    one GPU              8 minutes    not run
paper    one GPU              not run      Block Stack, 20 demonstrations: 45.4 % of 1000 rollouts (3PoinTr's paper,
                                           Table II)

`paper` has Diffusion Policy's released values for real images, with one observation step and a horizon of T = 9
setpoints, filled up to 16 (3PoinTr does not say what it used), and 3000 steps as DP3's baseline: an episode is one
example here, so that the published 600 epochs of 20 demonstrations would end just after the 500 steps of warm-up.
`cpu` and `gpu20` share denoiser, optimiser, averaging, sampler and length of training with the variants of the same
name of configs/threepointr/policy.py (t2p/methods/budgets.py).
"""

from __future__ import annotations

import ml_collections

from t2p.io import UserError
from t2p.methods import budgets, diffusion_policy
from t2p.train.defaults import base_config, source_config

VARIANTS = ("debug", "cpu", "gpu20", "paper")


def get_config(variant: str = "paper") -> ml_collections.ConfigDict:
    """The config of a variant; UserError names the variants for any other."""
    if variant not in VARIANTS:
        raise UserError(f"unknown variant {variant!r}; expected one of {', '.join(VARIANTS)}")
    c = diffusion_policy.configure(base_config())
    c.data.sources.demos = source_config()
    c.data.validation.held_out = source_config()
    return {"debug": _debug, "cpu": budgets.cpu, "gpu20": budgets.gpu20, "paper": _paper}[variant](c)


def _paper(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    c.batch_size, c.steps = 64, 3000
    return budgets.published(c)


def _debug(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Pictures of 32 x 32: give --config.window.image_size and --config.model.crop for others."""
    c.window.image_size, c.model.crop = (32, 32), (28, 28)
    return budgets.debug(c)
