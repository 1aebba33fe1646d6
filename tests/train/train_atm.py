"""ATM's debug config, smaller still, with dropout, patch masks and augmentation on, and a few synthetic clips."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import ml_collections
import numpy as np

from t2p.cli.config import load_config
from t2p.data.sources import open_source
from t2p.data.store import finish, write_shard

CONFIG = Path(__file__).resolve().parents[2] / "configs/atm/track_transformer.py"
SETTINGS = (
    "model.image_size=(32, 32) model.dim=16 model.heads=1 model.depth=1 "
    "model.attention_dropout=0.2 model.mlp_dropout=0.2 optimizer.warmup_steps=1 "
    "data.augment.probability=0.9 data.augment.brightness=0.3 data.augment.hue=0.3 data.augment.shift=3 "
    "steps=6 eval.every=2 eval.batches=1 checkpoint.every=2 log.every=1 log.tensorboard=False fsdp_min_bytes=0"
).replace(", ", ",")


def write_clips(folder: Path, count: int = 4, columns: Mapping[str, np.ndarray] | None = None) -> str:
    """columns: given to every clip; one row for each of its 18 frames."""
    source = open_source("", "synthetic", count=count, size=(32, 32), num_frames=18, num_points=32)
    episodes = [replace(e, columns=columns or e.columns) for e in map(source.read, list(source.keys()))]
    write_shard(folder, "train", 0, episodes)
    finish(folder, shards={"train": 1})
    return str(folder)


def arguments(data: str) -> list[str]:
    """Overrides of CONFIG:debug for the clips in `data`."""
    paths = [f"data.{part}.clips.path={data}" for part in ("sources", "validation")]
    return [f"--config.{s}" for s in (*SETTINGS.split(), *paths, "data.validation.clips.split=train")]


def atm_config(data: str, **changes) -> ml_collections.ConfigDict:
    """changes: dotted keys with __ for the dot."""
    more = [f"--config.{k.replace('__', '.')}={v}" for k, v in changes.items()]
    return load_config(f"{CONFIG}:debug", [*arguments(data), *more])
