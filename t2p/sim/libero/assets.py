"""Where LIBERO's own files are: models, task files and initial states, and robosuite's Panda. None comes with t2p.

They are read from disk alone: neither `libero` nor `robosuite` is imported.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import lzma
import os
import shutil
import tarfile
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from t2p.io import PathLike, UserError, cache_folder, load_arrays, load_torch_zip
from t2p.sim.libero import bddl
from t2p.sim.libero.suites import find_task

ROOT, ROBOSUITE_ROOT = "T2P_LIBERO_ROOT", "T2P_ROBOSUITE_ROOT"

GET_LIBERO = (
    f"Name its place by {ROOT}: a checkout of github.com/Lifelong-Robot-Learning/LIBERO, the folder of an installed "
    "`libero` or `hf-libero` package, or an archive (.tar.xz) of assets/, bddl_files/ and init_files/ or init_states/"
)
GET_ROBOSUITE = (
    f"Name its place by {ROBOSUITE_ROOT}: robosuite 1.4's folder models/assets, from `pip install --no-deps "
    "robosuite==1.4.1` or github.com/ARISE-Initiative/robosuite at v1.4.1"
)
GET_MODELS = (
    "hf-libero downloads them when they are first needed: `python -c 'from libero.libero import get_assets_path; "
    "get_assets_path()'` does that; or link or copy the folder assets/ of a checkout of "
    "github.com/Lifelong-Robot-Learning/LIBERO (libero/libero/assets) to the first of these places"
)
_INSIDE = ("", "libero_assets", "libero", "libero/libero")
_MODELS = "scenes"  # a folder that is there where LIBERO's models are
_ROBOT_FILES = ("robots/panda/robot.xml", "grippers/panda_gripper.xml", "mounts/rethink_mount.xml")


@dataclass(frozen=True)
class Assets:
    """Folders. libero: holds bddl_files/ and init_files/ or init_states/; robosuite: holds robots/, grippers/ and
    mounts/ of robosuite 1.4; hub: holds what assets/ in `libero` does, where that is not there."""

    libero: Path
    robosuite: Path
    hub: Path | None = None

    @property
    def models(self) -> Path:
        """LIBERO's models and pictures: scenes/, textures/ ..."""
        return self.hub or self.libero / "assets"

    def model(self, path: str) -> Path:
        """A file of LIBERO's models; UserError where it is missing."""
        return _present(self.models / path, GET_LIBERO)

    def robot(self, path: str) -> Path:
        """A file of robosuite's models; UserError where it is missing."""
        return _present(self.robosuite / path, GET_ROBOSUITE)

    def task_file(self, suite: str, task: str) -> Path:
        """A task's .bddl file; UserError for an unknown suite or task and where it is missing."""
        name = find_task(f"{suite}/{task}")
        return _present(self.libero / "bddl_files" / name.suite / f"{name.name}.bddl", GET_LIBERO)

    def states_file(self, suite: str, task: str) -> Path:
        """A task's file of initial states, .pruned_init (LIBERO's) or .npz; UserError as for `task_file`."""
        name = find_task(f"{suite}/{task}")
        places = [
            self.libero / folder / name.suite / f"{name.name}{suffix}"
            for folder in ("init_files", "init_states")
            for suffix in (".pruned_init", ".npz")
        ]
        return next((p for p in places if p.is_file()), None) or _present(places[0], GET_LIBERO)


def _present(path: Path, get: str) -> Path:
    if not path.is_file():
        raise UserError(f"{path} is missing. {get}")
    return path


def load_problem(assets: Assets, suite: str, task: str) -> bddl.Problem:
    """A task's problem; UserError that names the file where it cannot be read."""
    path = assets.task_file(suite, task)
    try:
        return bddl.parse(path.read_text())
    except (UserError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: {e}") from e


def initial_states(assets: Assets, suite: str, task: str) -> np.ndarray:
    """[50, 1 + nq + nv] float64: a task's published initial states, a row each: time, qpos, qvel (`split_state`).

    A .pruned_init file is a pickle: it is read by an unpickler that knows arrays alone, all else is a UserError."""
    path = assets.states_file(suite, task)
    if path.suffix == ".npz":
        states = load_arrays(path).get("states")
    else:
        states = load_torch_zip(path)
    if not isinstance(states, np.ndarray) or states.ndim != 2 or states.dtype.kind != "f" or not states.size:
        what = f"{states.dtype} of shape {states.shape}" if isinstance(states, np.ndarray) else type(states).__name__
        raise UserError(f"{path} must hold one array of numbers, a row for each initial state; it holds {what}")
    if not np.isfinite(states).all():
        raise UserError(f"{path} holds numbers that are not finite")
    return np.array(states, np.float64)


def split_state(states: np.ndarray, nq: int, nv: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """time [...], qpos [..., nq] and qvel [..., nv] of states [..., 1 + nq + nv]; UserError for another length."""
    if states.shape[-1] != 1 + nq + nv:
        raise UserError(
            f"the states have {states.shape[-1]} numbers each, this model needs {1 + nq + nv} "
            f"(time, {nq} positions, {nv} velocities): another task's states?"
        )
    return states[..., 0], states[..., 1 : 1 + nq], states[..., 1 + nq :]


def find_assets(root: PathLike | None = None, robosuite: PathLike | None = None) -> Assets:
    """The assets in `root`, else in $T2P_LIBERO_ROOT, else in the installed package `libero` (hf-libero's has that name
    too, and its models in a folder of their own: `hub_models`); robosuite's in `robosuite`, else in
    $T2P_ROBOSUITE_ROOT, else in robosuite/ beside the others, else in the installed package. A .tar or .tar.xz root is
    unpacked once, into the cache folder. UserError names what is missing and how to get it."""
    given = root or os.environ.get(ROOT)
    roots = [_unpacked(Path(given).expanduser())] if given else _installed("libero")
    libero, hub = _find_libero(roots)
    given = robosuite or os.environ.get(ROBOSUITE_ROOT)
    beside = [libero / "robosuite", *(r / "robosuite" for r in roots)]
    places = [Path(given).expanduser()] if given else [*beside, *_installed("robosuite")]
    robots = _first(places, ("", "models/assets", "robosuite/models/assets"), _ROBOT_FILES)
    if robots is None:
        raise UserError(
            f"robosuite's models ({', '.join(_ROBOT_FILES)}) are not found{_looked(places)}. {GET_ROBOSUITE}"
        )
    return Assets(libero.resolve(), robots.resolve(), hub)


def _find_libero(roots: Sequence[Path]) -> tuple[Path, Path | None]:
    """-> Assets.libero, Assets.hub."""
    if whole := _first(roots, _INSIDE, (f"assets/{_MODELS}", "bddl_files")):
        return whole, None
    tasks = _first(roots, _INSIDE, ("bddl_files",))
    if tasks is None:
        raise UserError(f"LIBERO's assets are not found{_looked(roots)}. {GET_LIBERO}")
    if not (hub_models() / _MODELS).is_dir():
        places = f"{tasks / 'assets'} and, where hf-libero puts them, {hub_models()}"
        raise UserError(f"{tasks} holds LIBERO's task files, but its models are in neither of {places}. {GET_MODELS}")
    return tasks, hub_models().resolve()


def hub_models() -> Path:
    """Where hf-libero, whose package holds no models, keeps those that it downloads (its utils/download_utils; no
    setting of its own moves the folder)."""
    return Path("~/.cache/libero/assets").expanduser()


def _first(roots: Iterable[Path], inside: Iterable[str], needed: Iterable[str]) -> Path | None:
    """The first folder that has all that is needed."""
    folders = (root / folder for root in roots for folder in inside)
    return next((f for f in folders if all((f / path).exists() for path in needed)), None)


def _looked(places: Iterable[Path]) -> str:
    return f" in {', '.join(map(str, places))}" if places else "; no package that holds them is installed"


def _installed(package: str) -> list[Path]:
    """The folders of an installed package, which is not imported."""
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # a module of that name was made by hand
        return []
    return [Path(p) for p in spec.submodule_search_locations or ()] if spec else []


def _unpacked(root: Path) -> Path:
    """The folder itself, or the one that an archive was unpacked into: once, however many processes ask."""
    if not root.exists():
        raise UserError(f"{root} does not exist. {GET_LIBERO}")
    if root.is_dir():
        return root
    stat = root.stat()
    key = hashlib.sha256(f"{root.resolve()}|{stat.st_size}|{stat.st_mtime_ns}".encode()).hexdigest()[:16]
    target = cache_folder() / "libero" / key
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.with_suffix(".lock"), "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            _unpack(root, target)
    return target


def _unpack(archive: Path, target: Path) -> None:
    """The target holds everything afterwards or is not there."""
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(partial, filter="data")  # plain files and folders below the target only
        partial.rename(target)
    except (tarfile.TarError, lzma.LZMAError, EOFError) as e:
        raise UserError(f"{archive} cannot be unpacked ({e}): expected a folder or a whole .tar.xz") from e
    finally:
        shutil.rmtree(partial, ignore_errors=True)
