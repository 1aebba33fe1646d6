"""From a checkpoint directory to something that predicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_collections

from t2p import checkpoint
from t2p.io import PathLike
from t2p.methods.base import Stage, Variables
from t2p.methods.registry import make_stage


@dataclass(frozen=True)
class Restored:
    """A trained stage. meta: what its checkpoint says of itself (config, statistics, shapes, versions)."""

    stage: Stage
    variables: Variables
    config: ml_collections.ConfigDict
    meta: Mapping[str, Any]


def restore(directory: PathLike, which: str | int = "best") -> Restored:
    """Loads a training workdir or an exported checkpoint; which: "best", "latest" or a step."""
    variables, meta = checkpoint.load(directory, which)
    config = ml_collections.ConfigDict(meta["config"])
    return Restored(make_stage(config), variables, config, meta)
