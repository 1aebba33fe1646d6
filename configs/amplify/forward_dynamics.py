"""AMPLIFY's forward dynamics: the codes of the motion to come, from pictures and a sentence (Collins et al. 2025).

The tokenizer first (configs/amplify/motion_tokenizer.py), then, on the same data:

    t2p train --config configs/amplify/forward_dynamics.py:cpu --workdir DYNAMICS \
        --config.init_from.tokenizer.path=TOKENS \
        --config.data.sources.videos.path=FREE --config.data.validation.held_out.path=HELD_OUT

variant     hardware                   time      number to expect
debug       2 CPU cores                seconds   none: it shows that everything runs
cpu         2 CPU cores                minutes   docs/results.md
cpu_libero  1 CPU core                 4 min     docs/results.md
paper       one GPU (release)          not run   LIBERO: MSE 0.006, Delta_AUC 0.913, pixel accuracy 0.629 (Table 2)
released    one GPU (release)          not run   the same
bridge      one GPU (release)          not run   BridgeData v2: Delta_AUC 0.968 (Table 2)

`paper` and `released` need a T5's directory (--config.text.path) and a ResNet-18 with ImageNet's weights
(--config.init_from.images.path; docs/amplify.md). `released` has the released code's values: classes beyond the
codebook, and gradients of four parts summed before they are clipped at 1, which is clipping their mean at a quarter.
`paper` has a class for each code and clips the mean at 1. `bridge` is `released` for BridgeData: one view, 4 frames
stretched to 16, 175 k steps (docs/amplify.md, "Real video"). `cpu` has no published weights: its small image encoder is
trained with the network, and sentences are hashed.

Augmentation is off, as in the release; --config.data.augment.probability=1 switches on what the release has for this
stage alone: colours within 0.3 and, for half of the examples, a blur.

Data mixtures of the paper's Table 1 stand behind the variant: `cpu,cross_embodiment` adds
--config.data.sources.human.path=HUMAN, videos of people (t2p/methods/amplify/mixtures.py; docs/amplify.md).
"""

from __future__ import annotations

import ml_collections

from t2p.methods.amplify import dynamics, mixtures
from t2p.methods.amplify.presets import (
    CPU_DYNAMICS,
    CPU_IMAGES,
    CPU_TOKENIZER,
    PAPER_TOKENIZER,
    RELEASED_AUGMENT,
    bridge,
    debug,
    libero,
    on_libero,
    short_run,
    small_window,
)
from t2p.train.defaults import base_config, source_config

VARIANTS = ("debug", "cpu", "cpu_libero", "paper", "released", "bridge")


def get_config(variant: str = "released") -> ml_collections.ConfigDict:
    """The config of a variant, perhaps with a data mixture behind a comma; UserError names those that there are."""
    variant, mixture = mixtures.parse(variant, VARIANTS)
    c = dynamics.configure(base_config())
    c.data.augment.update(RELEASED_AUGMENT)
    variants = {
        "debug": _debug,
        "cpu": _cpu,
        "cpu_libero": _cpu_libero,
        "paper": _paper,
        "released": _released,
        "bridge": _bridge,
    }
    return mixtures.mix(variants[variant](c), mixture, source_config)


def _released(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    libero(c, source_config(), source_config(split="val"), every=500)
    c.accumulation, c.steps = 4, 25_000
    c.optimizer.clip_norm = 0.25  # of the mean: 1 of the sum of four
    return c


def _paper(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    c = _released(c)
    c.model.tokenizer.update(PAPER_TOKENIZER)
    c.model.dynamics.classes = "codes"
    c.optimizer.clip_norm = 1.0
    return c


def _bridge(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    c = _released(c)
    bridge(c, source_config(), source_config(split="val"))
    c.steps = 175_000
    return c


def _cpu(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    small_window(c)
    c.model.tokenizer.update(CPU_TOKENIZER)
    c.model.dynamics.update(CPU_DYNAMICS)
    c.model.images.update(CPU_IMAGES)
    del c.init_from.images
    c.text.update({"encoder": "hashed", "width": 64})
    c.data.sources.videos = source_config()
    c.data.validation.held_out = source_config()
    short_run(c, steps=600, learning_rate=1e-3, batches=8)
    c.departures = ("width 128, 3 layers, a small image encoder trained from scratch at 64 x 64, hashed sentences",)
    return c


def _cpu_libero(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    return on_libero(_cpu(c), source_config(), source_config(split="val"))


def _debug(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    return debug(_cpu(c))
