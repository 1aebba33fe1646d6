"""From a checkpoint directory to something that predicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_collections

from t2p import checkpoint
from t2p.io import PathLike, UserError
from t2p.methods.base import Stage, Variables
from t2p.methods.registry import make_stage


@dataclass(frozen=True)
class Restored:
    """A trained stage. meta: what its checkpoint says of itself (config, statistics, shapes, versions)."""

    stage: Stage
    variables: Variables
    config: ml_collections.ConfigDict
    meta: Mapping[str, Any]


def restore(directory: PathLike, which: str | int = "best", text_path: str = "") -> Restored:
    """Loads a training workdir or an exported checkpoint; which: "best", "latest" or a step, also as text ("400").

    text_path: where the text encoder is on this machine, in place of the config's text.path."""
    step = int(which) if isinstance(which, str) and which.isdigit() else which
    variables, meta = checkpoint.load(directory, step)
    config = ml_collections.ConfigDict(meta["config"])
    if text_path:
        if config.text.encoder == "hashed":
            raise UserError(f"--text_path {text_path}: this checkpoint's text.encoder 'hashed' reads no files")
        config.text.path = text_path
    return Restored(make_stage(config), variables, config, meta)
