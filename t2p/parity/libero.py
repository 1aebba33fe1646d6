"""LIBERO's recorded scenes: their files (traj_*.npz, predicates.npz, reset_samples.npz, model_*), what of them the
adapter is given, and what of them is compared.

Names of compared arrays are CATEGORY/FILE/ARRAY; a category is a key of the meta's "compare". Trajectories are
compared until a part of the robot first touches an object: from there on they are chaotic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from t2p.io import UserError, load_arrays, read_json
from t2p.parity.harness import CannotRun, Fixture, Part
from t2p.sim.libero import assets as files
from t2p.sim.libero import placement, stepping
from t2p.sim.libero.environment import LiberoEnvironment
from t2p.sim.libero.predicates import Goal, compile_goal
from t2p.sim.libero.scene import VIEWS, build, things
from t2p.sim.libero.task import SAME_PHYSICS, LiberoTask
from t2p.sim.render import choose_renderer
from t2p.sim.world import write_state
from t2p.types import InitialState, Observe

TRAJECTORIES = ("traj_iid", "traj_smooth")
FILES = (*TRAJECTORIES, "traj_success", "predicates", "reset_samples", "model_arrays")
STARTS = ("init_state", "start_state")  # of a trajectory's file, one of the two
POSES = ("body_pos", "body_quat")
RECORDED = ("states", "actions", "atoms", "success", "done", *POSES)
NEEDED = {  # of a file that is there
    **dict.fromkeys(TRAJECTORIES, (*RECORDED, "substep_states", "substep_ctrl")),
    "traj_success": RECORDED,
    "predicates": ("states", "truth", "goal", *POSES),
    "reset_samples": ("seed", "state", *POSES),
    "model_arrays": ("geom_type",),
}
GIVEN = {  # to the adapter
    **dict.fromkeys(TRAJECTORIES, (*STARTS, *POSES, "actions", "seed")),
    "traj_success": (*STARTS, *POSES, "actions", "seed", "states"),
    "predicates": (*POSES, "states"),
    "reset_samples": ("seed",),
}
ARM = 9  # of qpos: seven joints and two fingers stand first
SUBSTEPS, EXACT_STEPS = stepping.SUBSTEPS, 10  # of an environment step; so many steps' controls are compared
FIRST_SUBSTEPS = 15 * SUBSTEPS  # whose states are recorded
RESTING = 1e-6  # change of a coordinate in an environment step (m, or of a quaternion)
TOUCH = 1e-3  # m
OTHER = "other_mujoco_resting_objects"  # takes the place of resting_objects where the physics drifts
NO_PICTURES = "neither EGL nor OSMesa draws here"
# What the recordings' own tolerances leave out.
COMPARE = {"reset_samples": {"atol": 1e-9}, "model": {"atol": 1e-6}}
NAMES = ("body", "joint", "actuator", "site", "geom", "camera", "sensor")
NUMBERS = ("body_", "jnt_", "dof_", "geom_", "site_", "actuator_", "cam_", "light_", "qpos0")  # of a model
COUNTS = ("nq", "nv", "nu", "nbody", "njnt", "ngeom", "nsite", "ncam", "nsensor")


def read(directory: Path, meta: dict[str, Any]) -> Fixture:
    """The folder of one scene as a fixture, of the files that are there; CannotRun for missing assets, and where the
    meta, the summary or a file lacks something. Pictures are not run where nothing draws them as the original did."""
    task = _task(directory, meta)
    arrays = _open(directory)
    summary = _summary(directory, arrays)
    compare = _tolerances(directory, meta["compare"])
    inputs = {f"{f}/{name}": a[name] for f, a in arrays.items() for name in GIVEN.get(f, ()) if name in a}
    if "predicates" in arrays:
        inputs["predicates/atoms"] = np.array([" ".join(atom) for atom in summary["predicate_atoms"]])
    for file in arrays.keys() & set(TRAJECTORIES):
        steps = {int(name.rpartition("/")[2]) for name in arrays[file] if "_image/" in name}
        inputs[f"{file}/image_steps"] = np.array(sorted(steps), int)
    parts = dict(_parts(meta, arrays))
    parts |= _model(summary, arrays.get("model_arrays", {}))
    outputs = {name: part.want for name, part in parts.items()}
    undrawn = {} if _drawing() else {name: NO_PICTURES for name in outputs if name.startswith("image/")}
    absent = [f"{file}.npz" for file in FILES if file not in arrays]
    notes = ((f"absent, so not compared: {', '.join(absent)}",) if absent else ()) + ((task.note,) if task.note else ())
    return Fixture(directory, meta | {"compare": compare}, inputs, outputs, None, parts, undrawn, notes)


def _task(directory: Path, meta: dict[str, Any]) -> LiberoTask:
    if lacking := [key for key in ("suite", "task") if not isinstance(meta.get(key), str)]:
        raise CannotRun(f"{directory}/meta.json must name {' and '.join(lacking)}")
    return LiberoTask(f"{meta['suite']}/{meta['task']}")


def _open(directory: Path) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of those of FILES that are there; CannotRun where none is, or one lacks what is needed."""
    places = {file: directory / f"{file}.npz" for file in FILES}
    found = {file: load_arrays(path) for file, path in places.items() if path.is_file()}
    if not found:
        raise CannotRun(
            f"{directory} has nothing that could be compared: none of {', '.join(f'{f}.npz' for f in FILES)}"
        )
    for file, arrays in found.items():
        lacking = [name for name in NEEDED[file] if name not in arrays]
        if "actions" in NEEDED[file] and not arrays.keys() & set(STARTS):
            lacking.append(" or ".join(STARTS))
        if lacking:
            raise CannotRun(f"{places[file]} has no {', '.join(lacking)}")
    return found


def _summary(directory: Path, arrays: dict[str, Any]) -> dict[str, Any]:
    """model_summary.json; CannotRun where it is missing or lacks what is needed."""
    path = directory / "model_summary.json"
    if not path.is_file():
        raise CannotRun(f"{directory} has no {path.name}")
    summary = read_json(path)
    needed = [*(f"{kind}_names" for kind in NAMES), *COUNTS]
    needed += [key for key, file in (("predicate_atoms", "predicates"), ("fixtures", "model_arrays")) if file in arrays]
    if lacking := [key for key in needed if key not in summary]:
        raise CannotRun(f"{path} has no {', '.join(lacking)}")
    return summary


def _drawing() -> str | None:
    """The renderer that draws what the original saw, None where there is none: rays show no textures."""
    chosen = choose_renderer()
    return None if chosen == "rays" else chosen


def _tolerances(directory: Path, compare: dict[str, Any]) -> dict[str, Any]:
    if mujoco.__version__ in SAME_PHYSICS:
        return compare | COMPARE
    if OTHER not in compare:
        raise CannotRun(f'{directory}/meta.json has no {OTHER} in "compare", which MuJoCo {mujoco.__version__} needs')
    return compare | {"resting_objects": compare[OTHER]} | COMPARE


def _parts(meta: dict[str, Any], arrays: dict[str, dict[str, np.ndarray]]) -> Iterator[tuple[str, Part]]:
    model, instances = scene(meta), _instances(meta)
    for file in [file for file in TRAJECTORIES if file in arrays]:
        found = arrays[file]
        free = before_touch(model, instances, found["states"], found["body_pos"], found["body_quat"])
        for category, name, index in _compared(found, free, model, instances):
            want = found[name][index]
            want = want.astype(np.float32) if category == "image" else want  # integers would have to be equal
            yield f"{category}/{file}/{name}", Part(want, f"{file}/{name}", index)
    if won := arrays.get("traj_success"):
        for category, name in (("success", "success"), ("success", "done"), ("predicates", "atoms")):
            yield f"{category}/traj_success/{name}", Part(won[name], f"traj_success/{name}")
        yield "success/traj_success/end", Part(won["success"][-1], "traj_success/end")
    for file, names in (("predicates", ("truth", "goal")), ("reset_samples", ("state", "body_pos", "body_quat"))):
        for name in names if file in arrays else ():
            yield f"{file}/{file}/{name}", Part(arrays[file][name], f"{file}/{name}")


def _compared(
    found: dict[str, np.ndarray], free: int, model: mujoco.MjModel, instances: Sequence[str]
) -> Iterator[tuple[str, str, tuple]]:
    """(category, array, which of it) of a trajectory whose first `free` states come before the robot's first touch."""
    steps = max(free - 1, 0)  # that lead from one of them to the next
    arm, rest = slice(1, 1 + ARM), _coordinates(model)
    for name, rows, limit in (("states", free, RESTING), ("substep_states", SUBSTEPS * steps, RESTING / SUBSTEPS)):
        yield "arm_qpos_free_motion", name, (slice(rows), arm)
        yield "resting_objects", name, (at_rest(found[name], rows, rest, rest, limit),)
    yield "ctrl_first_10_env_steps", "substep_ctrl", (slice(SUBSTEPS * min(EXACT_STEPS, steps)),)
    for name in sorted(found):
        if name == "obs/object-state":
            whole = np.arange(found[name].shape[1]).reshape(-1, 14)  # pose, and pose in the hand's frame
            yield "resting_objects", name, (at_rest(found[name], free, list(whole[:, :7]), list(whole), RESTING),)
        elif seen := [one for one in instances if name.startswith(f"obs/{one}_")]:
            yield "resting_objects", name, (_seen_at_rest(found, name, max(seen, key=len), free, model),)
        elif name.startswith("obs/"):
            yield "proprio_free_motion", name, (slice(free),)
        elif "_image/" in name and int(name.rpartition("/")[2]) < free:
            yield "image", name, ()
    yield "predicates", "atoms", (slice(free),)
    yield "success", "success", (slice(free),)
    yield "success", "done", (slice(steps),)


def _seen_at_rest(found: dict[str, np.ndarray], name: str, thing: str, free: int, model: mujoco.MjModel) -> np.ndarray:
    """As `at_rest`, of an observation of one thing. Watched are its joints and, where it was recorded, its pose."""
    values = found[name].reshape(len(found[name]), -1)
    still = np.zeros((len(values), 1))  # what has no joints stands
    joints = [found["states"][:, columns] for columns in _coordinates(model, f"{thing}_")]
    poses = [found[pose] for pose in (f"obs/{thing}_pos", f"obs/{thing}_quat") if pose in found]
    table = np.concatenate([values, still, *joints, *poses], axis=1)
    own, watched = np.split(np.arange(table.shape[1]), [values.shape[1]])
    return at_rest(table, free, [watched], [own], RESTING)[:, own].reshape(found[name].shape)


def at_rest(
    values: np.ndarray, rows: int, watched: Sequence[np.ndarray], columns: Sequence[np.ndarray], limit: float
) -> np.ndarray:
    """[T, n] bool of a recording [T, n]: the columns of those things of which no watched coordinate changed by more
    than `limit` since the frame before, in the first `rows` frames. In the instant of an impact the versions of MuJoCo
    that are taken as the same differ by some 1e-5, because they find other contacts between boxes."""
    still = np.zeros(values.shape, bool)
    for seen, own in zip(watched, columns, strict=True):
        quiet = np.abs(np.diff(values[:rows, seen], axis=0)).max(axis=1) <= limit
        still[1 : 1 + len(quiet), own] = quiet[:, None]
    return still


def _coordinates(model: mujoco.MjModel, prefix: str = "") -> list[np.ndarray]:
    """Of each joint that is not the arm's, and whose body's name begins so, its columns in a recorded state."""
    ends = [*model.jnt_qposadr[1:], model.nq]
    found = zip(model.jnt_bodyid, model.jnt_qposadr, ends, strict=True)
    return [1 + np.arange(a, b) for i, a, b in found if a >= ARM and model.body(i).name.startswith(prefix)]


def before_touch(
    model: mujoco.MjModel, instances: tuple[str, ...], states: np.ndarray, body_pos: np.ndarray, body_quat: np.ndarray
) -> int:
    """How many of the states [n, 1 + nq + nv] come before the robot first touches an object or a fixture. That is told
    by coming within TOUCH: between two states the way is taken as straight."""
    names = [model.body(model.geom_bodyid[i]).name for i in range(model.ngeom)]
    robot = np.array([name.startswith(("robot0_", "gripper0_")) for name in names])
    thing = np.array([name.startswith(tuple(f"{one}_" for one in instances)) for name in names])
    model.body_pos[:], model.body_quat[:] = body_pos, body_quat
    margins = model.geom_margin.copy()
    model.geom_margin[thing] += TOUCH
    try:
        return _first_contact(model, states, robot, thing)
    finally:
        model.geom_margin[:] = margins  # it serves another trajectory


def _first_contact(model: mujoco.MjModel, states: np.ndarray, robot: np.ndarray, thing: np.ndarray) -> int:
    """The first state on whose way a geom of the one kind [ngeom] touches one of the other, or how many states."""
    data, before = mujoco.MjData(model), states[0]
    for count, state in enumerate(states):
        for share in np.linspace(0, 1, SUBSTEPS + 1)[1:]:  # a touch may have ended before the step does
            data.qpos[:] = (before + share * (state - before))[1 : 1 + model.nq]
            mujoco.mj_kinematics(model, data), mujoco.mj_comPos(model, data), mujoco.mj_collision(model, data)
            a, b = data.contact.geom.T
            if ((robot[a] & thing[b]) | (robot[b] & thing[a])).any():
                return count
        before = state
    return len(states)


def _model(summary: dict[str, Any], numbers: dict[str, np.ndarray]) -> dict[str, Part]:
    """What the compiled model must be: names in order, counts, and the recorded numbers."""
    names = {
        f"model/summary/{kind}_names": Part(np.array([name or "" for name in summary[f"{kind}_names"]], str))
        for kind in NAMES
    }
    counts = {f"model/summary/{count}": Part(np.array(summary[count])) for count in COUNTS}
    rows = {name: _same_in_all_versions(name, numbers, summary) for name in numbers}
    return (
        names | counts | {f"model/arrays/{n}": Part(numbers[n][rows[n]], f"model/arrays/{n}", rows[n]) for n in numbers}
    )


def _same_in_all_versions(name: str, numbers: dict[str, np.ndarray], summary: dict[str, Any]) -> tuple:
    """Which rows of a model's array are compared. Left out: where meshes have their frames (each version of MuJoCo has
    its own way of choosing them; vertices lie where they lay), where fixtures stand and how the stove's burner looks (a
    reset had changed both when it was recorded)."""
    if name in ("geom_pos", "geom_quat", "geom_size"):
        return (np.flatnonzero(numbers["geom_type"] != mujoco.mjtGeom.mjGEOM_MESH),)
    if name in ("body_pos", "body_quat"):
        moved = {f"{fixture}_main" for fixture in summary["fixtures"]}
        return (np.array([i for i, body in enumerate(summary["body_names"]) if body not in moved]),)
    if name == "site_rgba":
        return (np.array([i for i, site in enumerate(summary["site_names"]) if not site.endswith("_burner")]),)
    return ()


def _problem(meta: dict[str, Any]) -> tuple[Any, files.Assets]:
    """The task's problem and the assets; CannotRun where those are not here."""
    try:
        assets = files.find_assets()
    except UserError as e:
        raise CannotRun(str(e)) from e
    return files.load_problem(assets, meta["suite"], meta["task"]), assets


def _instances(meta: dict[str, Any]) -> tuple[str, ...]:
    problem, _ = _problem(meta)
    return tuple(name for name, _ in things(problem))


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


def run(meta: dict[str, Any], inputs: dict[str, np.ndarray], checkpoint: Any) -> dict[str, np.ndarray]:
    """Everything anew: the model and, of the files that were there, resets, predicates, trajectories with their
    observations and, where a renderer is, pictures.

    inputs: FILE/ARRAY (GIVEN); predicates/atoms; FILE/image_steps of the trajectories."""
    outputs = model_arrays(scene(meta))
    there = {name.partition("/")[0] for name in inputs}
    pictures = any(inputs[f"{file}/image_steps"].size for file in TRAJECTORIES if file in there)
    renderer = _drawing() if pictures else None
    task, observed = LiberoTask(f"{meta['suite']}/{meta['task']}"), Observe(tuple(VIEWS) if renderer else ())
    try:
        environment = LiberoEnvironment(task, observed, renderer or "rays")
    except UserError as e:
        raise CannotRun(str(e)) from e
    try:
        for file in [file for file in TRAJECTORIES if file in there]:
            steps = inputs[f"{file}/image_steps"].tolist() if renderer else []
            found = _trajectory(environment, _given(inputs, file), steps)
            outputs |= {f"{file}/{name}": array for name, array in found.items()}
        for file, judged in (("traj_success", _success), ("predicates", _predicates)):
            found = judged(environment, _given(inputs, file)) if file in there else {}
            outputs |= {f"{file}/{name}": array for name, array in found.items()}
        if "reset_samples" in there:
            outputs |= _resets(environment, inputs["reset_samples/seed"])
    finally:
        environment.close()
    return outputs


def _start(environment: LiberoEnvironment, state: np.ndarray, given: dict[str, np.ndarray]) -> InitialState:
    time, qpos, qvel = files.split_state(state, environment.model.nq, environment.model.nv)
    return InitialState(float(time), qpos, qvel, given["body_pos"], given["body_quat"])


def _trajectory(
    environment: LiberoEnvironment, given: dict[str, np.ndarray], image_steps: list[int]
) -> dict[str, np.ndarray]:
    """An episode with given actions: what is recorded of it, states after each step and after each physics step."""
    puppet, goal = environment.puppet, environment.scene.goal
    puppet.start(_start(environment, given["init_state" if "init_state" in given else "start_state"], given))
    rows: dict[str, list[Any]] = {}
    pictures: dict[str, np.ndarray] = {}

    def note(**values: Any) -> None:
        for name, value in values.items():
            rows.setdefault(name, []).append(np.array(value))

    def state() -> np.ndarray:
        data = puppet.data
        return np.concatenate([[data.time], data.qpos, data.qvel])

    def told() -> None:
        note(substep_ctrl=puppet.data.ctrl, substep_states=state())

    for step in range(len(given["actions"]) + 1):
        if step:
            stepping.step([puppet], [given["actions"][step - 1]], told)
        atoms = goal.truth(puppet.data)
        note(states=state(), atoms=atoms, success=atoms.all())
        note(**{f"obs/{name}": value for name, value in environment.original().items()})
        if step in image_steps:
            pictures |= _pictures(environment, step)
    found = {name: np.stack(values) for name, values in rows.items()}
    return found | pictures | {"done": found["success"][1:], "substep_states": found["substep_states"][:FIRST_SUBSTEPS]}


def _pictures(environment: LiberoEnvironment, step: int) -> dict[str, np.ndarray]:
    """As they are observed, and of the present; row 0 at the bottom, as OpenGL has it."""
    found = {}
    for view, camera in VIEWS.items():
        seen = environment.observe()[("images", view)]
        found[f"obs_image/{view}/{step:04d}"] = seen[::-1]
        renderer = environment.scene.renderer
        assert renderer is not None  # views are observed
        now = renderer.rgb(environment.shown()[1], camera, seen.shape[:2])
        found[f"fwd_image/{camera}/{step:04d}"] = now[::-1]
    return found


def _given(inputs: dict[str, np.ndarray], file: str) -> dict[str, np.ndarray]:
    return {name.partition("/")[2]: value for name, value in inputs.items() if name.startswith(f"{file}/")}


def _success(environment: LiberoEnvironment, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The goal in the recorded states, and at the end of an episode of ours from the first one. In between an object
    that was put into another may bounce, which each version of MuJoCo has otherwise."""
    atoms = _truth(environment, environment.scene.goal, given, stepped=True)
    won = np.all(atoms, axis=1)
    ours = _trajectory(environment, given, [])["success"][-1]
    return {"atoms": atoms, "success": won, "done": won[1:], "end": ours}


def _predicates(environment: LiberoEnvironment, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All atoms and the goal in every state."""
    atoms = compile_goal(environment.model, environment.scene.problem, [tuple(a.split()) for a in given["atoms"]])
    goal = _truth(environment, environment.scene.goal, given)
    return {"truth": _truth(environment, atoms, given), "goal": np.all(goal, axis=1)}


def _truth(
    environment: LiberoEnvironment, goal: Goal, given: dict[str, np.ndarray], stepped: bool = False
) -> np.ndarray:
    """[states, atoms] bool. stepped: all states but the first are what steps left, which the original judges by joints
    as they are and by poses and contacts as the last physics step found them."""
    model = environment.model
    data, found = mujoco.MjData(model), []
    for i, state in enumerate(given["states"]):
        here = _start(environment, state, given)
        write_state(model, data, step_before(model, here) if stepped and i else here)
        data.qpos[:] = here.qpos
        found.append(goal.truth(data))
    return np.array(found)


def step_before(model: mujoco.MjModel, state: InitialState) -> InitialState:
    """Where things were a physics step before: the way back at the velocities, by which the step has moved them."""
    qpos = state.qpos.copy()
    mujoco.mj_integratePos(model, qpos, state.qvel, -model.opt.timestep)
    return replace(state, qpos=qpos)


def _resets(environment: LiberoEnvironment, seeds: np.ndarray) -> dict[str, np.ndarray]:
    """Resets of one environment, one after the other, each with its seed."""
    loads, found = 1, []
    for seed in seeds:
        state, loads = placement.reset(environment.scene.placement, np.random.RandomState(seed), loads)
        found.append(state)
    states = [np.concatenate([[s.time], s.qpos, s.qvel]) for s in found]
    arrays = {"state": states, "body_pos": [s.body_pos for s in found], "body_quat": [s.body_quat for s in found]}
    return {f"reset_samples/{name}": np.stack(array) for name, array in arrays.items()}
