"""The settings that every training config shares; configs/<method>/<stage>.py start from these."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import ml_collections

from t2p.io import UserError

# Keys that a stage adds to the shared ones.
STAGE_KEYS = ("model", "loss", "window", "statistics")
# Parts whose keys are names that the user chooses.
_FREE = ("data.sources", "data.validation", "init_from")


def base_config() -> ml_collections.ConfigDict:
    """A new config with every shared key at its default; a config file overrides and adds `stage`, `model`, `loss`."""
    c = ml_collections.ConfigDict()
    c.stage = ""  # key of t2p.methods.registry.STAGES
    c.departures = ()  # where a variant departs from what was published, in words; reports tell them
    c.seed = 0
    c.steps = 1000
    c.batch_size = 64  # global, per optimiser step
    c.accumulation = 1  # micro-batches per optimiser step; gradients are averaged
    c.dispatch = 1  # optimiser steps that the host hands the devices at once; several where a step is short
    c.accelerator = ""  # "cpu", "gpu" or "tpu": required and refused if absent; "" takes what is there
    c.dtype = "float32"  # compute; parameters and coordinates stay float32
    c.remat = False
    c.scan_layers = False
    c.attention = "auto"  # auto, matmul, xla, cudnn or blockwise: see t2p.models.layers

    c.mesh = ml_collections.ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})  # -1: what is left
    # Ordered (regex on the parameter's path, partition per axis); first match wins, else by shape over fsdp.
    c.sharding = ()
    c.fsdp_min_bytes = 4 * 2**20  # smaller parameters are copied to every device instead of split over fsdp

    c.optimizer = ml_collections.ConfigDict(
        {
            "name": "adamw",  # adamw or adam
            "learning_rate": 1e-4,
            "schedule": "cosine",  # cosine or constant
            "warmup_steps": 0,
            "warmup_init": 0.0,  # learning rate at step 0 of the warm-up
            "final": 0.0,  # learning rate at the end of the cosine
            "weight_decay": 0.0,
            "b1": 0.9,
            "b2": 0.999,
            "eps": 1e-8,
            "clip_norm": 0.0,  # 0: none
            "ema": 0.0,  # decay of the averaged parameters; 0: none
            "ema_power": 0.0,  # the decay grows up to it: 1 - step^-power (Diffusion Policy: 0.75); 0: constant
            "freeze": (),  # regexes of parameter paths that are not trained
        }
    )
    c.text = ml_collections.ConfigDict({"encoder": "hashed", "path": "", "width": 768})

    c.data = ml_collections.ConfigDict()
    # name -> source_config(); a new name's path on the command line adds one.
    c.data.sources = ml_collections.ConfigDict()
    c.data.validation = ml_collections.ConfigDict()
    c.data.workers = 0  # loader processes; 0: a thread of this one
    c.data.skip_damaged = False
    c.data.features = ""  # name of cached features that are read instead of pictures: t2p cache-features
    c.data.augment = ml_collections.ConfigDict(
        {
            "probability": 0.0,  # of augmenting an example at all
            **dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0),
            "blur": 0.0,  # probability of it in an augmented example
            "blur_sizes": (3, 5, 7),  # pixels
            "blur_sigma": (0.1, 2.0),  # pixels, least and greatest
            "shift": 0,  # pixels
        }
    )

    c.eval = ml_collections.ConfigDict({"every": 500, "batches": 0})  # 0 batches: the whole validation split
    c.checkpoint = ml_collections.ConfigDict({"every": 500, "keep": 2, "best": "val/loss", "mode": "min"})
    c.compilation_cache = True  # keep compiled programs in the workdir, for restarts
    c.profile = ml_collections.ConfigDict({"first": 0, "last": 0})  # steps to trace into the workdir; 0: none
    c.log = ml_collections.ConfigDict({"every": 20, "tensorboard": True, "wandb": ""})  # wandb: project name
    c.init_from = ml_collections.ConfigDict()  # name -> {"path", "rules": ((regex, action), ...)}, perhaps "statistics"
    return c


def source_config(
    path: str = "", split: str = "train", tracks: str = "", weight: float = 1.0
) -> ml_collections.ConfigDict:
    """One source of a mixture. `tasks` and `fields` keep only those named; `fraction` the first part of each task.
    horizon: frames of its windows of tracks, resampled to as many as the stage has; 0: the stage's own."""
    return ml_collections.ConfigDict(
        {
            "path": path,
            "split": split,
            "tracks": tracks,
            "weight": weight,
            "fraction": 1.0,
            "horizon": 0,
            "tasks": (),
            "fields": (),
        }
    )


def flat_keys(config: ml_collections.ConfigDict, prefix: str = "") -> list[str]:
    """Dotted names of all keys, of inner parts too."""
    names = []
    for key, value in config.items():
        names.append(prefix + key)
        if isinstance(value, ml_collections.ConfigDict):
            names += flat_keys(value, f"{prefix}{key}.")
    return names


def nearest(key: str, known: Iterable[str]) -> str:
    """ "; did you mean ...?" for a key that does not exist: the most similar one, judged by its last part first."""
    names = list(known)
    last = key.rpartition(".")[2]
    by_last = {n.rpartition(".")[2]: n for n in reversed(names)}
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.75)
    close = close or [by_last[m] for m in difflib.get_close_matches(last, by_last, n=1)]
    close = close or difflib.get_close_matches(key, names, n=1, cutoff=0.0)
    return f"; did you mean config.{close[0]}?" if close else ""


def check_keys(config: ml_collections.ConfigDict) -> None:
    """A config file may only set keys that are read: those of base_config and what a stage adds."""
    known = flat_keys(base_config())
    for key in flat_keys(config):
        if key.split(".")[0] in STAGE_KEYS or any(key.startswith(f"{part}.") for part in _FREE):
            continue
        if key not in known:
            raise UserError(f"unknown key config.{key}{nearest(key, [*known, *STAGE_KEYS])}")
    entry = {"path", "rules"}
    for name, value in config.init_from.items():
        if set(value) not in (entry, entry | {"statistics"}):
            expected = "['path', 'rules'] and perhaps 'statistics'"
            raise UserError(f"init_from.{name} has the keys {sorted(value)}; expected {expected}")
    for part in ("sources", "validation"):
        for name, value in config.data[part].items():
            if wrong := sorted(set(value) ^ set(source_config())):
                raise UserError(f"data.{part}.{name}: unknown or missing key {wrong[0]!r}; use source_config()")
