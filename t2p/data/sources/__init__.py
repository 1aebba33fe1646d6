"""Readers of outside formats: one file each, found through the table below and imported when they are opened."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any, Protocol

from t2p.io import PathLike, UserError, is_remote
from t2p.types import Episode

# kind -> (module, class). A class is called with the path and its own options; synthetic clips have no path.
KINDS = {
    "video": ("t2p.data.sources.video", "VideoSource"),
    "clips": ("t2p.data.sources.clips", "ClipSource"),
    "rlds": ("t2p.data.sources.rlds", "RldsSource"),
    "lerobot": ("t2p.data.sources.lerobot", "LeRobotSource"),
    "libero": ("t2p.data.sources.libero", "LiberoSource"),
    "atm": ("t2p.data.sources.atm", "AtmSource"),
    "amplify": ("t2p.data.sources.amplify", "AmplifySource"),
    "npz": ("t2p.data.sources.npz", "NpzSource"),
    "cotracker": ("t2p.data.sources.cotracker", "CoTrackerSource"),
    "synthetic": ("t2p.data.sources.synthetic", "SyntheticSource"),
    "setpoints": ("t2p.data.sources.setpoints", "SetpointSource"),
    "dataset": ("t2p.data.sources.dataset", "DatasetSource"),
}


_DEMOS = "*_demo.hdf5"  # LIBERO's files; those of ATM and AMPLIFY are called demo_k.hdf5


class SourceError(UserError):
    """One recording cannot be read; the others of its source still can. key: which one; reason: why."""

    def __init__(self, key: str, reason: str):
        super().__init__(key, reason)
        self.key, self.reason = key, reason

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}"


class Source(Protocol):
    """Recordings of one outside format. Picklable; an Episode's id is its key."""

    def keys(self) -> list[str]:
        """The recordings in a stable order; cheap: nothing is decoded."""
        ...

    def read(self, key: str) -> Episode:
        """One recording, whole. Raises SourceError if it is broken."""
        ...


def open_source(path: PathLike, kind: str = "auto", **options: Any) -> Source:
    """Opens the recordings at `path`.

    kind: one of KINDS, or "auto": a t2p dataset, a LeRobot or RLDS directory, LIBERO's <task>_demo.hdf5, a clip table
    (.csv, .jsonl), or video files and folders of frames. Formats of external tracks must be named. options: those
    of the kind's class; size=(H, W), which resizes the frames, is common to all. Raises UserError.
    """
    kind = detect(path) if kind == "auto" else kind
    if kind not in KINDS:
        raise UserError(f"unknown kind of source {kind!r}; expected auto, {', '.join(KINDS)}")
    if is_remote(path) and kind not in ("dataset", "setpoints"):
        raise UserError(f"{path}: only t2p datasets are read from remote directories; copy the recordings here first")
    module, name = KINDS[kind]
    cls = getattr(importlib.import_module(module), name)
    arguments = options if kind == "synthetic" else {"path": path, **options}
    _check_arguments(kind, cls, arguments)
    _check_values(kind, arguments)
    return cls(**arguments)


def _check_arguments(kind: str, cls: type, arguments: dict[str, Any]) -> None:
    parameters = inspect.signature(cls).parameters
    known = ", ".join(name for name in parameters if name != "path")
    for name in arguments:
        if name not in parameters:
            raise UserError(f"a source of kind {kind!r} has no option {name!r}; it takes {known}")
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in arguments:
            raise UserError(f"a source of kind {kind!r} needs the option {name}; it takes {known}")


def _check_values(kind: str, arguments: dict[str, Any]) -> None:
    """Rates and sizes that the classes share must be positive numbers, counts whole ones."""
    for name in ("fps", "recorded_fps"):
        if (rate := arguments.get(name)) is not None and not (_number(rate) and 0 < rate < float("inf")):
            raise UserError(f"{name} is {rate!r}; expected frames per second, a number above 0")
    size = arguments.get("size")
    if size is not None and not (
        isinstance(size, (tuple, list)) and len(size) == 2 and all(isinstance(n, int) and n > 0 for n in size)
    ):
        raise UserError(f"size is {size!r}; expected (height, width) in pixels, whole numbers above 0")


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def detect(path: PathLike) -> str:
    """The kind of what lies at `path`, judged by file names alone. Raises UserError if there is nothing known."""
    if is_remote(path):
        return "dataset"
    local = Path(path)
    if not local.exists():
        raise UserError(f"{path} does not exist")
    if local.is_file():
        return _detect_file(local)
    if (local / "manifest.json").exists():
        return "dataset"
    if (local / "meta" / "info.json").exists():
        return "lerobot"
    if (local / "features.json").exists() or any(local.glob("*/features.json")):
        return "rlds"
    if any(local.glob(_DEMOS)) or any(local.glob(f"*/{_DEMOS}")):
        return "libero"
    return "video"


def _detect_file(path: Path) -> str:
    if path.suffix in (".csv", ".jsonl"):
        return "clips"
    if path.match(_DEMOS):
        return "libero"
    if path.suffix in (".npz", ".hdf5", ".h5"):
        kinds = "npz, cotracker, libero, atm or amplify"
        raise UserError(f"{path} may hold tracks of several layouts: name its kind ({kinds})")
    return "video"
