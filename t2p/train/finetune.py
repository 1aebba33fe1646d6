"""The config that goes on from a checkpoint, on other demonstrations: its model, our data, a short schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_collections

from t2p import checkpoint
from t2p.io import PathLike, UserError
from t2p.train.defaults import STAGE_KEYS, base_config, source_config

NAME = "pretrained"  # of the entry in init_from
KEPT = ("stage", "departures", "dtype", "remat", "scan_layers", "attention", "text")
STEPS, BATCH, EVERY = 500, 8, 50
SLOWER = 0.1  # learning rate, relative to that of the checkpoint's training
LONGEST_EMA = 0.98  # averages over 50 steps: longer ones would hardly leave the checkpoint in so few


def finetune_config(directory: PathLike) -> ml_collections.ConfigDict:
    """A config that trains the stage of the checkpoint in `directory`, which may be a converted one, from its arrays.

    Model, window, loss, text encoder, optimiser and what names the best checkpoint are the checkpoint's; the limits
    that actions and proprioception are normalised by are filled from the new data (init_from.pretrained.statistics
    keeps the checkpoint's). Data are data.sources.demos, validation its split "val". UserError for what is no
    checkpoint of a stage."""
    theirs = _tuples(checkpoint.load_meta(directory)["config"])
    if not theirs.get("stage"):
        raise UserError(f"the checkpoint in {directory} names no stage: it cannot be trained")
    c = base_config()
    for key in KEPT:
        c[key] = ml_collections.ConfigDict(theirs[key]) if isinstance(theirs[key], dict) else theirs[key]
    for key in STAGE_KEYS:
        if key in theirs:
            c[key] = ml_collections.ConfigDict(theirs[key])
    for limits in c.get("statistics", {}).values():
        limits.update({"min": (), "max": ()})
    c.departures += (f"fine-tuned from {directory}",)
    c.checkpoint.update({k: theirs["checkpoint"][k] for k in ("best", "mode")})
    _schedule(c, theirs)
    _data(c)
    entry = {"path": str(directory), "rules": ((".*", "load"),), "statistics": False}
    c.init_from[NAME] = ml_collections.ConfigDict(entry)
    return c


def _schedule(c: ml_collections.ConfigDict, theirs: Mapping[str, Any]) -> None:
    c.optimizer.update(theirs["optimizer"])
    c.optimizer.update({"learning_rate": SLOWER * c.optimizer.learning_rate, "warmup_steps": 0, "final": 0.0})
    c.optimizer.update({"ema": min(c.optimizer.ema, LONGEST_EMA), "ema_power": 0.0})
    c.steps, c.batch_size = STEPS, min(theirs["batch_size"], BATCH)
    c.eval.every = c.checkpoint.every = EVERY


def _data(c: ml_collections.ConfigDict) -> None:
    """One source; its split "val" validates, as `t2p data import --held_out` makes it, unless told otherwise."""
    c.data.sources.demos = source_config()
    c.data.validation.held_out = source_config(split="val")
    c.data.validation.held_out.path = c.data.sources.demos.get_oneway_ref("path")


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that they were."""
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
