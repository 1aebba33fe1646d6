"""ATM's policy: actions from pictures, state and the tracks that a frozen track transformer predicts (Wen et al. 2024).

The track transformer first (configs/atm/track_transformer.py), then, on demonstrations:

    t2p train --config configs/atm/policy.py:released --workdir POLICY \
        --config.init_from.track_transformer.path=TRACKER --config.text.path=BERT \
        --config.data.sources.libero.path=DATA --config.data.validation.libero.path=DATA
    t2p rollout --suite libero_spatial --protocol atm --checkpoint POLICY --which latest --out success

Predicted tracks depend on the frame and the sentence alone. They are most of the work of a training step and need be
predicted once only:

    t2p cache-features --config configs/atm/policy.py:released --data DATA --name tracks --dtype float32 \
        --config.init_from.track_transformer.path=TRACKER --config.text.path=BERT
    t2p train ... --config.data.features=tracks

variant         hardware         time         number to expect
debug           2 CPU cores      seconds      none: it shows that everything runs
cpu_libero      1 CPU core       17 minutes   no success on two tasks of LIBERO-Object (docs/results.md)
cpu_tabletop    2 CPU cores      not run      3PoinTr's tasks; none published at this size
gpu20           one GPU          not run      LIBERO; none published at this size
gpu20_tabletop  one GPU          not run      3PoinTr's tasks; none published at this size
paper           4 x A100 (paper) not run      Spatial 68.5, Object 68.0, Goal 77.8, Long 39.3 (% success, Figure 4)
released        4 x A100 (paper) not run      the same

Sentences are BERT's in `paper` and `released`; the other variants hash words and need no --config.text.path.
Commands of all variants, the tabletop tasks' too, are in docs/libero.md.

`released` has the released code's values, `paper` follows Table 6 and the text: modality embeddings belong to their own
views, actions past an episode's end do not count. Both learn from 10 demonstrations of each task (data.sources.libero.
fraction), and both report the last checkpoint. Lengths are counted for LIBERO-Spatial; for other data set steps to
epochs x windows / batch size.

Table 2:  --config.model.net.early=False    or  --config.model.net.late=False
Figure 6: --config.model.net.track_steps=8 --config.model.net.track_patch=8    or 4 and 4
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
    return PRESETS[variant](atm_policy.configure(base_config()), source_config)
