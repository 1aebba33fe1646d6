"""Fine-tuning: a checkpoint, own or converted, goes on learning from a few own demonstrations (docs/finetuning.md).

The variant is the checkpoint's directory. One command:

    t2p train --config configs/finetune.py:CHECKPOINT --workdir RUN --config.data.sources.demos.path=DEMOS \
        --config.init_from.pretrained.rules="(('encoder/.*', 'freeze'), ('.*', 'load'))"

Any stage, any hardware that it fits on; 500 steps of at most 8 examples at a tenth of the learning rate that the
checkpoint was trained with. No number to expect: it depends on the demonstrations. DEMOS are episodes with what the
stage reads (track sets of the same names, cameras, columns); its split val validates.
"""

from __future__ import annotations

import ml_collections

from t2p.io import UserError
from t2p.train.finetune import finetune_config


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """variant: the directory of a checkpoint; UserError where there is none."""
    if not variant:
        raise UserError("which checkpoint? --config configs/finetune.py:DIR")
    return finetune_config(variant)
