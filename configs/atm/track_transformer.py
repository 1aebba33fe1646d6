"""ATM's track transformer: where do points go, given an image and a sentence (Wen et al. 2024).

Data first (any videos: see docs/tracking.md); a variant's sources are named on the command line:

    t2p data import --source synthetic --out DATA --split train --source.count=400
    t2p train --config configs/atm/track_transformer.py:cpu --workdir RUN \
        --config.data.sources.clips.path=DATA --config.data.validation.clips.path=HELD_OUT

variant        command's data                   hardware         time        number to expect
debug          clips, from the synthetic source 2 CPU cores      seconds     none: it shows that everything runs
cpu            clips, from the synthetic source 2 CPU cores      4-5 minutes `t2p demo tracks`: 0.33 of no-motion's
cpu_videos     the same, and videos             2 CPU cores      4-5 minutes depends on the videos
cpu_libero     libero, our own demonstrations   2 CPU cores      25 minutes  0.12 of no-motion's (docs/results.md)
cpu_tabletop   demos, our own demonstrations    2 CPU cores      not run     none: for the policy's cpu_tabletop
gpu20          libero, our own demonstrations   one GPU          not run     none: for the policy's gpu20
gpu20_tabletop demos, our own demonstrations    one GPU          not run     none: for the policy's gpu20_tabletop
paper          libero, 450 demos of a suite     4 x A100 (paper) not run     none published for the tracks alone
released       libero, 450 demos of a suite     4 x A100 (paper) not run     none published for the tracks alone

`cpu_libero`, `cpu_tabletop`, `gpu20` and `gpu20_tabletop` learn from the simulator's exact tracks (t2p annotate
--tracker simulator --layout atm); others stand behind --config.window.track_set. All but `paper` and `released` hash
words instead of reading BERT (--config.text.path, of which only these two need the files).

`paper` follows the paper's Table 5, `released` the authors' code where the two differ. Epochs are counted in steps
for a suite of LIBERO with about 112,000 training windows (frames x views: LIBERO-Spatial); for other data set
steps and optimizer.warmup_steps to epochs x windows / batch size.
"""

from __future__ import annotations

import ml_collections

from t2p.io import UserError
from t2p.methods import atm
from t2p.methods.atm_presets import (
    AUGMENT,
    CPU_TRACKER,
    DEBUG_TRACKER,
    HASHED,
    LIBERO,
    SIMULATED,
    TABLETOP,
    hash_words,
)
from t2p.train.defaults import base_config, source_config

VARIANTS = (
    *("debug", "cpu", "cpu_videos", "cpu_libero", "cpu_tabletop"),
    *("gpu20", "gpu20_tabletop", "paper", "released"),
)
WINDOWS = 112_000


def get_config(variant: str = "paper") -> ml_collections.ConfigDict:
    """The config of a variant; UserError names the variants for any other."""
    if variant not in VARIANTS:
        raise UserError(f"unknown variant {variant!r}; expected one of {', '.join(VARIANTS)}")
    c = atm.configure(base_config())
    if variant in ("cpu", "cpu_videos"):
        return _cpu(c, videos=variant == "cpu_videos")
    makers = {"debug": _debug, "cpu_libero": _cpu_libero, "cpu_tabletop": _cpu_tabletop}
    makers |= {"gpu20": _gpu20, "gpu20_tabletop": _gpu20_tabletop}
    return {**makers, "paper": _paper, "released": _released}[variant](c)


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
    c.data.augment.update(AUGMENT)
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
    c.window.views = ("front",)
    hash_words(c)
    c.data.sources.clips = source_config()
    c.data.validation.clips = source_config(split="val", tracks="exact/atm")


def _debug(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    _small(c)
    c.model.update(DEBUG_TRACKER)
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
    c.model.update({**CPU_TRACKER, "image_size": (64, 64)})
    c.batch_size, c.steps = 32, 2000
    c.optimizer.update({"learning_rate": 2e-3, "warmup_steps": 200, "final": 1e-5, "weight_decay": 1e-4})
    c.optimizer.clip_norm = 10.0
    c.loss.update({"image": 0.1, "patch_mask": 0.0, "invisible": 0.0})
    c.eval.update({"every": 400, "batches": 4})
    c.checkpoint.every = 400
    if videos:
        c.data.sources.videos = source_config(weight=0.1)
    return c


def _cpu_libero(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    c = _on_demonstrations(_cpu(c, videos=False), LIBERO)
    c.model.update(CPU_TRACKER)
    c.data.sources.libero, c.data.validation.libero = source_config(), source_config(split="val")
    return c


def _cpu_tabletop(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    c = _on_demonstrations(_cpu(c, videos=False), TABLETOP)
    c.model.update(CPU_TRACKER)
    c.data.sources.demos, c.data.validation.held_out = source_config(), source_config()
    return c


def _gpu20(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """At most 8 minutes."""
    c = _on_demonstrations(_paper(c), LIBERO)
    hash_words(c)
    c.batch_size, c.steps, c.dispatch = 256, 4000, 10
    c.optimizer.update({"learning_rate": 3e-4, "warmup_steps": 200})
    c.eval.update({"every": 1000, "batches": 16})
    c.checkpoint.every = 1000
    c.data.workers = 12
    c.data.sources.libero, c.data.validation.libero = source_config(), source_config(split="val")
    c.departures = ("batches of 256 and 4000 steps", "learning rate 3e-4", HASHED)
    return c


def _gpu20_tabletop(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    c = _on_demonstrations(_gpu20(c), TABLETOP)
    c.data.sources.demos, c.data.validation.held_out = source_config(), source_config()
    return c


def _on_demonstrations(c: ml_collections.ConfigDict, views: tuple[str, ...]) -> ml_collections.ConfigDict:
    """Without sources; tracks are the simulator's."""
    c.data.sources, c.data.validation = ml_collections.ConfigDict(), ml_collections.ConfigDict()
    c.window.update({"views": views, "track_set": SIMULATED})
    return c
