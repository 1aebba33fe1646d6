"""Behaviour cloning, ATM's baseline: the same policy without tracks, told what to do in words (Wen et al. 2024).

    t2p train --config configs/bc/policy.py:released --workdir POLICY --config.text.path=BERT \
        --config.data.sources.libero.path=DATA --config.data.validation.libero.path=DATA
    t2p rollout --suite libero_spatial --protocol atm --checkpoint POLICY --which latest --out success

variant         hardware         time         number to expect
debug           2 CPU cores      seconds      none: it shows that everything runs
cpu_libero      1 CPU core       17 minutes   no success on two tasks of LIBERO-Object (docs/results.md)
cpu_tabletop    2 CPU cores      not run      3PoinTr's tasks; none published at this size
gpu20           one GPU          not run      LIBERO; none published at this size
gpu20_tabletop  one GPU          not run      3PoinTr's tasks; none published at this size
paper           4 x A100 (paper) not run      Spatial 39.0, Object 51.8, Goal 42.5, Long 16.7 (% success, Figure 4)
released        4 x A100 (paper) not run      the same

`released` keeps the places of the tracks and fills them with zeros, as the released code does; every other variant has
no tracks at all (--config.model.tracks=zero puts the zeros back). Sentences are BERT's in `paper` and `released`; the
other variants hash words. What else differs between the variants: configs/atm/policy.py. Commands of all of them:
docs/libero.md.
"""

from __future__ import annotations

import ml_collections

from t2p.io import UserError
from t2p.methods import atm_policy
from t2p.methods.atm_presets import PRESETS
from t2p.train.defaults import base_config, source_config

VARIANTS = tuple(PRESETS)


def get_config(variant: str = "released") -> ml_collections.ConfigDict:
    """The config of a variant; UserError names the variants for any other."""
    if variant not in VARIANTS:
        raise UserError(f"unknown variant {variant!r}; expected one of {', '.join(VARIANTS)}")
    config = PRESETS[variant](atm_policy.configure(base_config()), source_config)
    return atm_policy.clone_behaviour(config, "zero" if variant == "released" else "none")
