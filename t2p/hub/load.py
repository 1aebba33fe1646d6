"""A checkpoint by its directory or its published name, ready to predict or act: `t2p.load`."""

from __future__ import annotations

import os
from pathlib import Path

from t2p import checkpoint
from t2p.hub.fetch import CONVERTED, entry_folder
from t2p.hub.table import TABLE, find
from t2p.io import PathLike, UserError, is_remote
from t2p.methods.restored import Restored, rebuild


def load(source: PathLike, which: str | int = "best", text_path: str = "", folder: PathLike | None = None) -> Restored:
    """source: a training workdir or an exported or converted checkpoint, local or gs://; or NAME or NAME/PART, what
    `t2p fetch NAME` converted. which: "best", "latest" or a step. text_path: where the text encoder is on this machine,
    in place of the config's text.path. folder: that of `t2p fetch --out` (default: as there).

    Raises UserError for a directory without a checkpoint, a name that is unknown or has not been fetched, weights that
    are no stage's, and a checkpoint that lacks what its stage needs (statistics)."""
    directory = checkpoint_directory(source, folder)
    variables, meta = checkpoint.load(directory, which)
    try:
        return rebuild(variables, meta, text_path)
    except UserError as e:
        raise UserError(f"the checkpoint in {directory} cannot be used: {e}") from e


def checkpoint_directory(source: PathLike, folder: PathLike | None = None) -> PathLike:
    """Where the checkpoint lies that `source` means; see `load`."""
    text = os.fspath(source)
    if is_remote(text) or Path(text).is_dir():
        return source
    name, _, part = text.partition("/")
    if name not in TABLE:
        if os.sep in text or text.startswith((".", "~")):
            raise UserError(f"there is no directory {text}; expected a checkpoint's, or a name that `t2p fetch` lists")
        find(name)  # names the nearest
    entry = TABLE[name]
    if entry.convert is None:
        raise UserError(f"{name!r} ({entry.what}) is no checkpoint that t2p loads: {entry.use}")
    there = sorted(p.name for p in (entry_folder(entry, folder) / CONVERTED).glob("[!.]*"))
    if not there:
        out = f" --out {folder}" if folder else ""
        raise UserError(
            f"{name!r} is not in {entry_folder(entry, folder)}: `t2p fetch {name}{out}` gets and converts it"
        )
    if part not in there and (part or len(there) > 1):
        given = f"no {part!r}" if part else f"{len(there)} checkpoints"
        raise UserError(f"{name!r} has {given}; expected one of {', '.join(f'{name}/{p}' for p in there)}")
    return entry_folder(entry, folder) / CONVERTED / (part or there[0])
