from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from t2p.io import PathLike
    from t2p.methods.restored import Restored

__version__ = "0.1.0"


def load(source: PathLike, which: str | int = "best", text_path: str = "", folder: PathLike | None = None) -> Restored:
    """A trained stage or policy by its directory or its published name; see t2p.hub.load.load."""
    from t2p.hub.load import load

    return load(source, which, text_path, folder)
