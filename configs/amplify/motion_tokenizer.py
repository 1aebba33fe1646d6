"""AMPLIFY's motion tokenizer: motion of points as a short sequence of codes (Collins et al. 2025).

Data first: windows of tracks from every frame (docs/tracking.md). For `cpu`, collected episodes with two cameras:

    t2p collect tabletop/block_stack --episodes 100 --action_free --views front wrist --out FREE
    t2p annotate --input FREE --out FREE --tracker simulator --layout amplify --side 6
    t2p train --config configs/amplify/motion_tokenizer.py:cpu --workdir TOKENS \
        --config.data.sources.videos.path=FREE --config.data.validation.held_out.path=HELD_OUT

variant     hardware                   time      number to expect
debug       2 CPU cores                seconds   none: it shows that everything runs
cpu         2 CPU cores                minutes   docs/results.md
cpu_libero  1 CPU core                 5 min     docs/results.md
paper       one GPU (release)          not run   none published for LIBERO's tokenizer alone
released    one GPU (release)          not run   none published for LIBERO's tokenizer alone
bridge      one GPU (release)          not run   none published for Bridge's tokenizer alone

`released` has the released code's values, `paper` the paper's where the two differ: 16 codes for 15 steps, a decoder
whose queries are the points, steps past an episode's end not learned. Epochs are counted in optimiser steps for LIBERO
as the paper's Appendix has them (50 k). `bridge` is `released` for BridgeData: one view, 4 frames stretched to 16, 20 k
steps (docs/amplify.md, "Real video").

Data mixtures of the paper's Table 1 stand behind the variant, the same for all three stages: `released,zero_shot`
(t2p/methods/amplify/mixtures.py; docs/amplify.md has the commands).
"""

from __future__ import annotations

import ml_collections

from t2p.methods.amplify import mixtures, tokenizer
from t2p.methods.amplify.presets import (
    CPU_TOKENIZER,
    PAPER_TOKENIZER,
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
    c = tokenizer.configure(base_config())
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
    c.accumulation, c.steps = 4, 50_000
    return c


def _paper(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    c = _released(c)
    c.model.update(PAPER_TOKENIZER)
    c.loss.mask_padding = True
    return c


def _bridge(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    c = _released(c)
    bridge(c, source_config(), source_config(split="val"))
    c.loss.weights, c.steps = (1.0,), 20_000
    return c


def _cpu(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    small_window(c)
    c.model.update(CPU_TOKENIZER)
    c.loss.weights = (0.5, 0.5)
    c.data.sources.videos = source_config()
    c.data.validation.held_out = source_config()
    short_run(c, steps=800, learning_rate=1e-3, batches=8)
    c.departures = ("width 128, 36 points a view, 512 codes, views of equal weight, velocities 16 times as large",)
    return c


def _cpu_libero(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    return on_libero(_cpu(c), source_config(), source_config(split="val"))


def _debug(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    return debug(_cpu(c))
