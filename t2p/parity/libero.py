"""LIBERO's recorded scenes: their files (traj_*.npz, predicates.npz, reset_samples.npz, model_*), what of them the
adapter is given, and what of them is compared.

Names of compared arrays are CATEGORY/FILE/ARRAY; a category is a key of the meta's "compare". Trajectories are
compared until a part of the robot first touches an object: from there on they are chaotic.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from t2p.io import UserError, load_arrays, read_json
from t2p.parity.harness import CannotRun, Fixture, Part
from t2p.sim.libero import assets as files
from t2p.sim.libero.scene import build

TRAJECTORIES = ("traj_iid", "traj_smooth")
GIVEN = ("init_state", "start_state", "body_pos", "body_quat", "actions", "seed")  # to the adapter, of each file
ARM = 9  # of qpos: seven joints and two fingers stand first
SUBSTEPS, EXACT_STEPS = 25, 10  # of an environment step; so many steps' controls are compared
SAME_PHYSICS = ("2.3.7", "3.3.2")
# What the recordings' own tolerances leave out.
COMPARE = {"reset_samples": {"atol": 1e-9}, "model": {"atol": 1e-6}}
NAMES = ("body", "joint", "actuator", "site", "geom", "camera", "sensor")
NUMBERS = ("body_", "jnt_", "dof_", "geom_", "site_", "actuator_", "cam_", "light_", "qpos0")  # of a model
COUNTS = ("nq", "nv", "nu", "nbody", "njnt", "ngeom", "nsite", "ncam", "nsensor")


def read(directory: Path, meta: dict[str, Any]) -> Fixture:
    """The folder of one scene as a fixture; CannotRun for a missing file and for missing assets."""
    names = (*TRAJECTORIES, "traj_success", "predicates", "reset_samples", "model_arrays")
    for name in (*(f"{name}.npz" for name in names), "model_summary.json"):
        if not (directory / name).is_file():
            raise CannotRun(f"{directory} has no {name}")
    arrays = {name: load_arrays(directory / f"{name}.npz") for name in names}
    inputs = {f"{f}/{name}": a[name] for f, a in arrays.items() for name in GIVEN if name in a and f != "model_arrays"}
    del inputs["reset_samples/body_pos"], inputs["reset_samples/body_quat"]
    inputs["predicates/states"] = arrays["predicates"]["states"]
    parts = dict(_parts(meta, arrays))
    parts |= {name: Part(want) for name, want in _model(read_json(directory / "model_summary.json"), arrays).items()}
    outputs = {name: part.want for name, part in parts.items()}
    return Fixture(directory, meta | {"compare": _tolerances(meta["compare"])}, inputs, outputs, None, parts)


def _tolerances(compare: dict[str, Any]) -> dict[str, Any]:
    drifting = mujoco.__version__ not in SAME_PHYSICS
    changed = {"resting_objects": compare["other_mujoco_resting_objects"]} if drifting else {}
    return compare | changed | COMPARE


def _parts(meta: dict[str, Any], arrays: dict[str, dict[str, np.ndarray]]) -> Iterator[tuple[str, Part]]:
    model = scene(meta)
    for file in TRAJECTORIES:
        found = arrays[file]
        free = before_touch(model, _instances(meta), found["states"], found["body_pos"], found["body_quat"])
        for category, name, index in _compared(found, free, model.nq):
            want = found[name][index]
            want = want.astype(np.float32) if category == "image" else want  # integers would have to be equal
            yield f"{category}/{file}/{name}", Part(want, f"{file}/{name}", index)
    for category, name in (("success", "success"), ("success", "done"), ("predicates", "atoms")):
        yield f"{category}/traj_success/{name}", Part(arrays["traj_success"][name], f"traj_success/{name}")
    for name in ("truth", "goal"):
        yield f"predicates/predicates/{name}", Part(arrays["predicates"][name], f"predicates/{name}")
    for name in ("state", "body_pos", "body_quat"):
        yield f"reset_samples/reset_samples/{name}", Part(arrays["reset_samples"][name], f"reset_samples/{name}")


def _compared(found: dict[str, np.ndarray], free: int, nq: int) -> Iterator[tuple[str, str, tuple]]:
    """(category, array, which of it) of a trajectory whose first `free` states come before the robot's first touch."""
    steps, arm, rest = slice(free - 1), slice(1, 1 + ARM), slice(1 + ARM, 1 + nq)
    until = slice(min(SUBSTEPS * (free - 1), len(found["substep_states"])))
    for name, rows in (("states", slice(free)), ("substep_states", until)):
        yield "arm_qpos_free_motion", name, (rows, arm)
        yield "resting_objects", name, (rows, rest)
    yield "ctrl_first_10_env_steps", "substep_ctrl", (slice(SUBSTEPS * min(EXACT_STEPS, free - 1)),)
    for name in sorted(found):
        if name.startswith("obs/"):
            category = "resting_objects" if name == "obs/object-state" else "proprio_free_motion"
            yield category, name, (slice(free),)
        elif "_image/" in name and int(name.rpartition("/")[2]) < free:
            yield "image", name, ()
    yield "predicates", "atoms", (slice(free),)
    yield "success", "success", (slice(free),)
    yield "success", "done", (steps,)


def before_touch(
    model: mujoco.MjModel, instances: tuple[str, ...], states: np.ndarray, body_pos: np.ndarray, body_quat: np.ndarray
) -> int:
    """How many of the states [n, 1 + nq + nv] come before the first contact of a part of the robot with an object or a
    fixture."""
    names = [model.body(model.geom_bodyid[i]).name for i in range(model.ngeom)]
    robot = np.array([name.startswith(("robot0_", "gripper0_")) for name in names])
    thing = np.array([name.startswith(tuple(f"{one}_" for one in instances)) for name in names])
    model.body_pos[:], model.body_quat[:] = body_pos, body_quat
    data = mujoco.MjData(model)
    for count, state in enumerate(states):
        data.qpos[:], data.qvel[:] = state[1 : 1 + model.nq], state[1 + model.nq :]
        mujoco.mj_forward(model, data)
        a, b = data.contact.geom.T
        if ((robot[a] & thing[b]) | (robot[b] & thing[a])).any():
            return count
    return len(states)


def _model(summary: dict[str, Any], arrays: dict[str, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """What the compiled model must be: names in order, counts, numbers."""
    names = {f"model/summary/{kind}_names": np.array(summary[f"{kind}_names"], str) for kind in NAMES}
    counts = {f"model/summary/{count}": np.array(summary[count]) for count in COUNTS}
    return names | counts | {f"model/arrays/{name}": value for name, value in arrays["model_arrays"].items()}


def _problem(meta: dict[str, Any]) -> tuple[Any, files.Assets]:
    """The task's problem and the assets; CannotRun where those are not here."""
    try:
        assets = files.find_assets()
    except UserError as e:
        raise CannotRun(str(e)) from e
    return files.load_problem(assets, meta["suite"], meta["task"]), assets


def _instances(meta: dict[str, Any]) -> tuple[str, ...]:
    problem, _ = _problem(meta)
    return tuple(name for name, _ in (*problem.objects, *problem.fixtures))


def scene(meta: dict[str, Any]) -> mujoco.MjModel:
    """The task's compiled model."""
    return build(*_problem(meta)).compile()


def model_arrays(model: mujoco.MjModel) -> dict[str, np.ndarray]:
    """A compiled model as the recordings have it: names, counts, all numbers."""
    kinds = {"joint": model.njnt, "camera": model.ncam, "actuator": model.nu}
    found: dict[str, np.ndarray] = {}
    for kind in NAMES:
        count = kinds.get(kind) or getattr(model, f"n{kind}")
        found[f"model/summary/{kind}_names"] = np.array([getattr(model, kind)(i).name for i in range(count)], str)
    found |= {f"model/summary/{count}": np.array(getattr(model, count)) for count in COUNTS}
    fields = {name: getattr(model, name) for name in dir(model) if name.startswith(NUMBERS)}
    return found | {f"model/arrays/{k}": np.array(v) for k, v in fields.items() if isinstance(v, np.ndarray)}
