"""AMPLIFY's inverse dynamics: chunks of actions from pictures, state and predicted motion (Collins et al. 2025).

Forward dynamics first (configs/amplify/forward_dynamics.py), then, on demonstrations:

    t2p train --config configs/amplify/inverse_dynamics.py:cpu --workdir POLICY \
        --config.init_from.forward_dynamics.path=DYNAMICS \
        --config.data.sources.demos.path=DEMOS50 --config.data.validation.held_out.path=HELD_OUT50
    t2p rollout --task tabletop/block_stack --checkpoint POLICY --episodes 200

variant     hardware            time      number to expect
debug       2 CPU cores         seconds   none: it shows that everything runs
cpu         2 CPU cores         minutes   docs/results.md
cpu_alone   2 CPU cores         minutes   docs/results.md: "inverse only", the same without motion
cpu_libero  1 CPU core          5 min     4 of 8 episodes (docs/results.md), after the other stages' cpu_libero
paper       one GPU (release)   not run   LIBERO, in distribution: the paper's Table 3
released    one GPU (release)   not run   the same

`released` has the released code's values: a Gaussian of fixed width cut off at -1 and 1, learned from codes that
forward dynamics predicts with its dropout on, actions past an episode's end learned as zeros. `paper` predicts the
logarithm of the deviation, sums over the chunk, switches dropout off and leaves padded actions out. `cpu` acts by
setpoints, 50 an episode, scaled by the demonstrations' limits, in chunks of eight, and trains an image encoder of its
own.

Data mixtures of the paper's Table 1 stand behind the variant: `released,few_shot_10` learns from the first tenth of
each task's demonstrations (t2p/methods/amplify/mixtures.py; docs/amplify.md).
"""

from __future__ import annotations

import ml_collections

from t2p.methods.amplify import inverse, mixtures
from t2p.methods.amplify.presets import (
    CPU_DYNAMICS,
    CPU_IMAGES,
    CPU_INVERSE,
    CPU_TOKENIZER,
    PAPER_TOKENIZER,
    debug,
    libero,
    on_libero,
    short_run,
    small_window,
)
from t2p.methods.columns import scale_by_limits
from t2p.train.defaults import base_config, source_config

VARIANTS = ("debug", "cpu", "cpu_alone", "cpu_libero", "paper", "released")


def get_config(variant: str = "released") -> ml_collections.ConfigDict:
    """The config of a variant, perhaps with a data mixture behind a comma; UserError names those that there are."""
    variant, mixture = mixtures.parse(variant, VARIANTS)
    c = inverse.configure(base_config())
    variants = {
        "debug": _debug,
        "cpu": _cpu,
        "cpu_alone": _cpu_alone,
        "cpu_libero": _cpu_libero,
        "paper": _paper,
        "released": _released,
    }
    return mixtures.mix(variants[variant](c), mixture, source_config)


def _released(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    libero(c, source_config(), source_config(split="val"), every=1000)
    c.steps = 75_000
    return c


def _paper(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    c = _released(c)
    c.model.tokenizer.update(PAPER_TOKENIZER)
    c.model.dynamics.classes = "codes"
    c.model.inverse.reading = "paper"
    c.model.codes.dropout = False
    c.loss.mask_padding = True
    return c


def _small(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The networks and the budget."""
    small_window(c)
    c.model.tokenizer.update(CPU_TOKENIZER)
    c.model.dynamics.update(CPU_DYNAMICS)
    c.model.images.update(CPU_IMAGES)
    c.model.own_images.update(CPU_IMAGES)
    c.model.inverse.update(CPU_INVERSE)
    c.model.seen, c.model.codes.dropout = "own", False
    c.text.update({"encoder": "hashed", "width": 64})
    c.data.sources.demos = source_config()
    c.data.validation.held_out = source_config()
    short_run(c, steps=600, learning_rate=5e-4, batches=4)
    c.checkpoint.best = "val/l1"
    c.departures = (
        "width 128, 2 layers, chunks of 8 actions",
        "an image encoder of its own, trained from scratch at 64 x 64",
        "forward dynamics' dropout is off",
    )
    return c


def _cpu(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Setpoints of our own tasks, of which a demonstration has 50."""
    c = _small(c)
    c.model.policy.update({"action": "setpoint_pose", "steps": 60})
    c.window.update({"proprio": ("tool", "gripper"), "proprio_widths": (9, 1), "padding": "repeat"})
    scale_by_limits(c)
    c.departures += ("actions and state scaled to [-1, 1] by the demonstrations' limits",)
    return c


def _cpu_alone(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """No motion: nothing of the earlier stages is used."""
    c = _cpu(c)
    c.model.inverse.parts = ("image", "proprio")
    del c.init_from.forward_dynamics
    return c


def _cpu_libero(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """LIBERO's relative actions, which lie in [-1, 1] as they are."""
    c = on_libero(_small(c), source_config(), source_config(split="val"))
    c.model.inverse.action_dim, c.loss.mask_padding = 7, True
    return c


def _debug(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    return debug(_cpu(c))
