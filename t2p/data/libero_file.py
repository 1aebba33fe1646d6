"""Writes demonstrations in the layout of LIBERO's own HDF5 files (t2p.data.sources.libero reads it, ATM's and AMPLIFY's
loaders too), so that what was collected elsewhere trains whatever trains on LIBERO's."""

from __future__ import annotations

import json
import os
import tempfile
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from t2p.data.sources.external import import_h5py
from t2p.io import PathLike, UserError, is_remote, publish

ATTRIBUTES = ("env_name", "problem_info", "env_args", "bddl_file_name", "bddl_file_content")
OBSERVED = ("joint_states", "gripper_states", "ee_pos", "ee_ori")


@dataclass(frozen=True)
class LiberoDemo:
    """One demonstration of T rows. Row t: an action, the simulator's state before it, what was observed after it.

    actions: [T, 7]; states: [T, 1 + nq + nv] (time, qpos, qvel). frames: {"agentview", "eye_in_hand": uint8
    [T, H, W, 3], row 0 on top}. observed: {"joint_states": [T, 7], "gripper_states": [T, 2], "ee_pos": [T, 3] metres,
    "ee_ori": [T, 3] axis-angle, any other: [T, d]}. robot_states: [T, 9] (gripper, ee_pos, orientation as a quaternion
    x y z w). model_file: the compiled scene as MJCF, with this demonstration's poses of the fixtures. init_state:
    [1 + nq + nv]. rewards, dones: [T]; None: 0, and 1 in the last row."""

    actions: np.ndarray
    states: np.ndarray
    frames: Mapping[str, np.ndarray]
    observed: Mapping[str, np.ndarray]
    robot_states: np.ndarray
    model_file: str
    init_state: np.ndarray
    rewards: np.ndarray | None = None
    dones: np.ndarray | None = None


def write_libero_hdf5(path: PathLike, demos: Iterable[LiberoDemo], attributes: Mapping[str, Any]) -> int:
    """Writes data/demo_0, demo_1 ... as they come, one in memory at a time; returns how many.

    path: <task>_demo.hdf5, local or remote; it appears when it is whole. attributes: ATTRIBUTES, the task's facts;
    mappings are stored as JSON. Raises UserError for a demonstration that is not as LiberoDemo says, and for none."""
    if set(attributes) != set(ATTRIBUTES):
        raise UserError(f"attributes are {', '.join(sorted(attributes))}; expected {', '.join(ATTRIBUTES)}")
    h5py = import_h5py()
    partial = _partial(path)
    try:
        with h5py.File(partial, "w") as file:
            count = _write(file.create_group("data"), demos, attributes)
        publish(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return count


def _partial(path: PathLike) -> Path:
    """Where the file grows: beside its place, under a name that nobody reads; what a killed writer left is removed."""
    folder, name = os.path.split(os.fspath(path))
    local = Path(tempfile.gettempdir() if is_remote(path) else folder or ".")
    local.mkdir(parents=True, exist_ok=True)
    if not is_remote(path):  # a temporary folder is shared
        for left in local.glob(f".{name}.*.partial"):
            left.unlink(missing_ok=True)
    return local / f".{name}.{uuid.uuid4().hex[:8]}.partial"


def _write(data: Any, demos: Iterable[LiberoDemo], attributes: Mapping[str, Any]) -> int:
    count = total = 0
    for demo in demos:
        arrays = _arrays(f"demonstration {count}", demo)
        group = data.create_group(f"demo_{count}")
        for name, array in arrays.items():
            group[name] = array
        group.attrs["num_samples"] = len(demo.actions)
        group.attrs["model_file"] = demo.model_file  # of variable length: HDF5 keeps fixed attributes below 64 KiB
        group.attrs["init_state"] = np.asarray(demo.init_state, np.float64)
        count, total = count + 1, total + len(demo.actions)
    if not count:
        raise UserError("there are no demonstrations to write")
    for name, value in attributes.items():
        data.attrs[name] = json.dumps(value) if isinstance(value, Mapping) else value
    data.attrs["macros_image_convention"] = "opengl"
    data.attrs["num_demos"], data.attrs["total"] = count, total
    return count


def _arrays(which: str, demo: LiberoDemo) -> dict[str, np.ndarray]:
    """{name below demo_k: array as it is stored}; UserError names what does not fit."""
    if missing := [name for name in OBSERVED if name not in demo.observed]:
        raise UserError(f"{which} lacks {', '.join(missing)} among what was observed")
    if not demo.frames:
        raise UserError(f"{which} has no frames")
    if np.shape(demo.init_state) != np.shape(demo.states)[1:]:
        raise UserError(f"{which}: init_state is {np.shape(demo.init_state)}, states are {np.shape(demo.states)}")
    length = len(demo.actions)
    ends = np.zeros(length, np.uint8)
    ends[-1:] = 1
    arrays = {name: np.asarray(getattr(demo, name), np.float64) for name in ("actions", "states", "robot_states")}
    arrays |= {f"obs/{name}": np.asarray(values, np.float64) for name, values in demo.observed.items()}
    for name, array in arrays.items():
        _check(which, name, array, length, 2)
    arrays["obs/ee_states"] = np.concatenate([arrays["obs/ee_pos"], arrays["obs/ee_ori"]], axis=-1)
    for name, given in (("rewards", demo.rewards), ("dones", demo.dones)):
        arrays[name] = _check(which, name, ends if given is None else np.asarray(given, np.uint8), length, 1)
    for view, video in demo.frames.items():
        if video.dtype != np.uint8:
            raise UserError(f"{which}: frames of {view} are {video.dtype}, expected uint8")
        arrays[f"obs/{view}_rgb"] = _check(which, f"frames of {view}", video, length, 4)[:, ::-1]  # row 0 at the bottom
    return arrays


def _check(which: str, name: str, array: np.ndarray, length: int, ndim: int) -> np.ndarray:
    if array.ndim != ndim or len(array) != length or not length:
        raise UserError(f"{which}: {name} is {array.shape}; expected {ndim} axes, the first {length} (above 0) long")
    return array
