"""ATM's track transformer: where do points go, given an image and a sentence (Wen et al. 2024).

Data first (any videos: see docs/tracking.md); a variant's sources are named on the command line:

    t2p data import --source synthetic --out DATA --split train --source.count=400
    t2p train --config configs/atm/track_transformer.py:cpu --workdir RUN \
        --config.data.sources.clips.path=DATA --config.data.validation.clips.path=HELD_OUT

variant    command's data                    hardware         time           number to expect
debug      clips, from the synthetic source  2 CPU cores      seconds        none: it shows that everything runs
cpu        clips, from the synthetic source  2 CPU cores      4-5 minutes    `t2p demo tracks`: 0.33 of no-motion's
cpu_videos the same, and videos              2 CPU cores      4-5 minutes    depends on the videos
paper      libero, 450 demos of a suite      4 x A100 (paper) not run        none published for the tracks alone
released   libero, 450 demos of a suite      4 x A100 (paper) not run        none published for the tracks alone

`paper` follows the paper's Table 5, `released` the authors' code where the two differ. Epochs are counted in steps
for a suite of LIBERO with about 112,000 training windows (frames x views: LIBERO-Spatial); for other data set
steps and optimizer.warmup_steps to epochs x windows / batch size.
"""

from __future__ import annotations

import ml_collections

from t2p.io import UserError
from t2p.methods import atm
from t2p.train.defaults import base_config, source_config

VARIANTS = ("debug", "cpu", "cpu_videos", "paper", "released")
WINDOWS = 112_000


def get_config(variant: str = "paper") -> ml_collections.ConfigDict:
    """The config of a variant; UserError names the variants for any other."""
    if variant not in VARIANTS:
        raise UserError(f"unknown variant {variant!r}; expected one of {', '.join(VARIANTS)}")
    c = atm.configure(base_config())
    if variant in ("paper", "released"):
        return _released(c) if variant == "released" else _paper(c)
    return _debug(c) if variant == "debug" else _cpu(c, videos=variant == "cpu_videos")


def _paper(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Table 5. Where it is silent (loss weights, dropout, strength of augmentation): the released code."""
    _epochs(c, epochs=100, warmup=5, batch_size=1024)
    c.dtype = "bfloat16"
    c.optimizer.update({"name": "adamw", "learning_rate": 1e-4, "weight_decay": 1e-4, "clip_norm": 10.0})
    c.optimizer.warmup_init = 1e-5
    c.text.update({"encoder": "bert", "width": 768})
    c.data.sources.libero = source_config()
    c.data.validation.libero = source_config(split="val")
    c.data.workers = 8
    c.data.augment.update(
        {"probability": 0.9, "brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.3, "shift": 4}
    )
    return c


def _released(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The code's values: Adam, 1001 epochs, 512 a GPU on four GPUs, padded steps learned like any other."""
    c = _paper(c)
    _epochs(c, epochs=1001, warmup=5, batch_size=2048)
    c.optimizer.update({"name": "adam", "weight_decay": 0.0})
    c.loss.mask_padding = False
    return c


def _epochs(c: ml_collections.ConfigDict, epochs: int, warmup: int, batch_size: int) -> None:
    """Lengths in epochs of WINDOWS examples; validation every 5 epochs, as in the code."""
    epoch = round(WINDOWS / batch_size)
    c.batch_size, c.steps = batch_size, epochs * epoch
    c.optimizer.warmup_steps = warmup * epoch
    c.eval.every = c.checkpoint.every = 5 * epoch


def _small(c: ml_collections.ConfigDict) -> None:
    """Pictures of 64 x 64 from one camera, sentences without weights, the synthetic clips as sources."""
    c.model.update({"image_size": (64, 64), "patch": 8, "attention_dropout": 0.0, "mlp_dropout": 0.0})
    c.window.views = ("front",)
    c.text.update({"encoder": "hashed", "width": 256})
    c.data.sources.clips = source_config()
    c.data.validation.clips = source_config(split="val", tracks="exact/atm")


def _debug(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    _small(c)
    c.model.update({"dim": 32, "depth": 2, "heads": 2, "head_dim": 16, "patch": 16})
    c.window.update({"track_set": "exact/atm", "points": 8})
    c.batch_size, c.steps = 8, 20
    c.optimizer.update({"learning_rate": 1e-3, "warmup_steps": 5})
    c.eval.update({"every": 10, "batches": 2})
    c.checkpoint.every = c.log.every = 10
    return c


def _cpu(c: ml_collections.ConfigDict, videos: bool) -> ml_collections.ConfigDict:
    """Learns the synthetic programs in a few thousand examples: one token a point (track_patch = track_steps) halves
    the sequence, and no patch is hidden, since with so few steps the model would otherwise hardly use the image."""
    _small(c)
    c.model.update({"dim": 96, "depth": 4, "heads": 4, "head_dim": 24, "patch": 16, "track_patch": 16})
    c.batch_size, c.steps = 32, 2000
    c.optimizer.update({"learning_rate": 2e-3, "warmup_steps": 200, "final": 1e-5, "weight_decay": 1e-4})
    c.optimizer.clip_norm = 10.0
    c.loss.update({"image": 0.1, "patch_mask": 0.0, "invisible": 0.0})
    c.eval.update({"every": 400, "batches": 4})
    c.checkpoint.every = 400
    if videos:
        c.data.sources.videos = source_config(weight=0.1)
    return c
