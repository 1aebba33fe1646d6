"""What the configs of ATM's two stages and of behaviour cloning share: sizes for a few CPU cores, data, budgets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_collections

from t2p.methods.columns import scale_by_limits

Source = Callable[..., Any]  # t2p.train.defaults.source_config
TABLETOP, LIBERO = ("front", "wrist"), ("agentview", "eye_in_hand")
SIMULATED = "simulator/atm"  # exact tracks: t2p annotate --tracker simulator --layout atm
# Colours and shift of both stages' pictures (released code; the paper names them without strengths).
AUGMENT = {"probability": 0.9, "brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.3, "shift": 4}
DEMONSTRATIONS = 10 / 45  # of the 45 of a task that are not held out
HASHED = "hashed words instead of BERT"
SCALED = "setpoints and state scaled to [-1, 1] by the demonstrations' limits"
WINDOWS = 12_400  # of 10 demonstrations of each task of LIBERO-Spatial

# Track transformers. On a CPU one token a point (track_patch = track_steps) halves the sequence.
CPU_TRACKER = {"image_size": (128, 128), "patch": 16, "dim": 96, "depth": 4, "heads": 4, "head_dim": 24}
CPU_TRACKER |= {"track_patch": 16, "attention_dropout": 0.0, "mlp_dropout": 0.0}
DEBUG_TRACKER = {"image_size": (64, 64), "patch": 16, "dim": 32, "depth": 2, "heads": 2, "head_dim": 16}
DEBUG_TRACKER |= {"attention_dropout": 0.0, "mlp_dropout": 0.0}

_CPU_SPATIAL, _CPU_TEMPORAL = ({"depth": 2, "heads": 4, "head_dim": d, "mlp": 4 * w} for d, w in ((24, 64), (16, 32)))
CPU_NET = {"dim": 64, "temporal_dim": 32, "spatial": _CPU_SPATIAL, "temporal": _CPU_TEMPORAL, "head_hidden": 256}
_DEBUG_LAYERS = {"depth": 1, "heads": 2, "head_dim": 8, "mlp": 16}
DEBUG_NET = {"dim": 24, "temporal_dim": 16, "spatial": _DEBUG_LAYERS, "temporal": _DEBUG_LAYERS, "head_hidden": 16}


def hash_words(c: ml_collections.ConfigDict) -> None:
    """Sentences without weights."""
    c.text.update({"encoder": "hashed", "width": 256})


def released(c: ml_collections.ConfigDict, source: Source) -> ml_collections.ConfigDict:
    """The policies' code: 10 demonstrations of each task, 101 epochs."""
    _on_libero(c, source)
    _epochs(c, epochs=101, batch_size=512)
    c.data.augment.update(AUGMENT)
    c.optimizer.update({"name": "adamw", "learning_rate": 5e-4, "weight_decay": 1e-4, "clip_norm": 100.0})
    return c


def paper(c: ml_collections.ConfigDict, source: Source) -> ml_collections.ConfigDict:
    """Table 6, and what the text says that the code does otherwise; where it is silent, the code."""
    c = released(c, source)
    _epochs(c, epochs=100, batch_size=512)
    c.model.net.modality_ids = "views"
    c.loss.mask_padding = True
    return c


def gpu20(c: ml_collections.ConfigDict, source: Source) -> ml_collections.ConfigDict:
    """One GPU, at most 8 minutes: the released network in half precision, fewer and smaller batches, no weights of
    BERT."""
    c = released(c, source)
    c.data.workers = 12
    c.dtype, c.batch_size, c.steps, c.dispatch = "bfloat16", 128, 2400, 10
    c.eval.update({"every": 800, "batches": 8})
    c.checkpoint.every = 800
    hash_words(c)
    c.loss.mask_padding = True
    lengths = "batches of 128 and 2400 steps instead of 512 and 2424"
    c.departures = (lengths, "half precision", "padding is not learned", HASHED)
    return c


def gpu20_tabletop(c: ml_collections.ConfigDict, source: Source) -> ml_collections.ConfigDict:
    """The same for 3PoinTr's tasks."""
    c = gpu20(c, source)
    _on_tabletop(c, source)
    c.departures = (*c.departures, SCALED)
    return c


def cpu_libero(c: ml_collections.ConfigDict, source: Source) -> ml_collections.ConfigDict:
    """Two CPU cores, LIBERO's cameras and actions."""
    _on_libero(c, source)
    _small(c)
    c.departures = ("width 64, two layers, 5 steps of history", "no augmentation", HASHED)
    return c


def cpu_tabletop(c: ml_collections.ConfigDict, source: Source) -> ml_collections.ConfigDict:
    """The same for 3PoinTr's tasks."""
    _on_tabletop(c, source)
    _small(c)
    c.departures = (
        *("width 64, two layers, 5 steps of history", "no augmentation", HASHED),
        SCALED,
    )
    return c


def debug(c: ml_collections.ConfigDict, source: Source) -> ml_collections.ConfigDict:
    """As small as it gets, on a track transformer of configs/atm/track_transformer.py:debug."""
    c = cpu_tabletop(c, source)
    c.model.net.update({**DEBUG_NET, "track_points": 8})
    c.model.track_transformer.update({**DEBUG_TRACKER, "track_patch": 4})
    c.window.update({"image_size": (64, 64), "steps": 3})
    c.batch_size, c.steps = 4, 20
    c.optimizer.warmup_steps = 5
    c.eval.update({"every": 10, "batches": 2})
    c.checkpoint.every = c.log.every = 10
    return c


def _on_libero(c: ml_collections.ConfigDict, source: Source) -> None:
    c.data.sources.libero = source()
    c.data.sources.libero.fraction = DEMONSTRATIONS
    c.data.validation.libero = source(split="val")
    c.data.workers = 8


def _on_tabletop(c: ml_collections.ConfigDict, source: Source) -> None:
    """Actions are setpoints, of which a demonstration has 50."""
    c.model.policy.update({"action": "setpoint_pose", "steps": 60})
    c.model.net.actions = 10
    c.window.update({"views": TABLETOP, "proprio": ("tool", "gripper"), "proprio_widths": (9, 1)})
    scale_by_limits(c)
    c.data.sources = ml_collections.ConfigDict({"demos": source()})
    c.data.validation = ml_collections.ConfigDict({"held_out": source()})


def _epochs(c: ml_collections.ConfigDict, epochs: int, batch_size: int) -> None:
    """Lengths in epochs of WINDOWS examples; validation every 5 epochs, checkpoints every 10, as in the code."""
    epoch = round(WINDOWS / batch_size)
    c.batch_size, c.steps = batch_size, epochs * epoch
    c.eval.every, c.checkpoint.every = 5 * epoch, 10 * epoch


def _small(c: ml_collections.ConfigDict) -> None:
    c.model.net.update({**CPU_NET, "modality_ids": "views"})
    c.model.track_transformer.update(CPU_TRACKER)
    c.window.steps = 5
    hash_words(c)
    c.loss.mask_padding = True
    c.data.workers = 0
    c.batch_size, c.steps = 8, 800
    c.optimizer.update({"learning_rate": 1e-3, "warmup_steps": 50, "weight_decay": 1e-4, "clip_norm": 100.0})
    c.eval.update({"every": 200, "batches": 4})
    c.checkpoint.update({"every": 200, "best": "val/l1"})


PRESETS = {make.__name__: make for make in (debug, cpu_libero, cpu_tabletop, gpu20, gpu20_tabletop, paper, released)}
