"""From a checkpoint directory to something that predicts."""

from __future__ import annotations

from t2p import checkpoint
from t2p.io import PathLike
from t2p.methods.restored import Restored, rebuild

__all__ = ["Restored", "restore"]


def restore(directory: PathLike, which: str | int = "best", text_path: str = "") -> Restored:
    """Loads a training workdir or an exported checkpoint; which: "best", "latest" or a step, also as text ("400").

    text_path: where the text encoder is on this machine, in place of the config's text.path."""
    return rebuild(*checkpoint.load(directory, which), text_path)
