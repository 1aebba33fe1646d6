"""New demonstrations of LIBERO's tasks, by a script or adapted from recorded ones: files in LIBERO's own layout, and
the dataset that is read from them.

    collect_libero(LiberoCollection("libero_object/0", episodes=10), "OUT")
    collect_libero(LiberoCollection("libero_10/0", episodes=50, adapt="libero_10/..._demo.hdf5"), "OUT")

OUT/hdf5/<suite>/<task>_demo.hdf5 are what LIBERO's own demonstrations are, for programs that read those; OUT itself is
a dataset of ours with frame, state and action of one moment in a row (source `libero`, align "causal").

A demonstration starts where the rollout of its seed starts, and ends when the goal has held for half a second; other
seeds take the places of those at whose end it does not hold. A file that is there is kept, if it was made with the same
settings, which OUT/hdf5/collection.json tells; so is each demonstration of a task that was cut off.
"""

from __future__ import annotations

import functools
import io
import json
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from t2p import __version__
from t2p.collect import import_collected
from t2p.data.libero_file import LiberoDemo, write_libero_hdf5
from t2p.data.processes import die_with_parent
from t2p.data.sources.libero import LiberoSource
from t2p.geometry.rotations import quaternion_to_axis_angle
from t2p.io import PathLike, UserError, load_arrays, read_json, write_bytes, write_json
from t2p.sim import registry
from t2p.sim.libero.adaptation import Recording, Source, adapted, cut, noisy, solves
from t2p.sim.libero.environment import LiberoEnvironment
from t2p.sim.libero.experts import check_script, demonstration, until_held
from t2p.sim.libero.scene import VIEWS, Profile
from t2p.sim.libero.suites import SUITES
from t2p.sim.libero.task import LiberoTask
from t2p.types import Observe

NOTE = "collection.json"  # beside the files: how they were made
FAILURES = 5  # so many times as many seeds are tried as demonstrations are wanted


@dataclass(frozen=True)
class LiberoCollection:
    """What is collected. tasks: suite/task, suite/index, or a whole suite. episodes: of each task; seed: the first
    rollout's number. size: (H, W) of the pictures; profile: how they are drawn. options: of the tasks (protocol,
    libero_root). adapt: LIBERO's demonstrations, a file or a folder of them, that are adapted to new starts
    (t2p.sim.libero.adaptation); "": the tasks' scripts act. noise: standard deviation of what is added to all actions
    (MimicGen: 0.05), drawn by the seed."""

    tasks: str
    episodes: int
    seed: int = 0
    size: tuple[int, int] = (128, 128)
    profile: Profile = "faithful"
    renderer: str = "auto"
    options: tuple[tuple[str, Any], ...] = ()
    adapt: str = ""
    noise: float = 0.0

    def names(self) -> tuple[str, ...]:
        """The tasks; UserError for what cannot be collected."""
        if self.episodes < 1 or self.seed < 0:
            raise UserError(f"episodes {self.episodes}, seed {self.seed}: expected at least 1 and 0")
        if not 0 <= self.noise <= 1:
            raise UserError(f"noise is {self.noise}; expected 0 to 1, shares of the largest action")
        if self.tasks in SUITES:
            return registry.suite(self.tasks)
        return (registry.make_task(self.tasks).name,)

    def check(self) -> tuple[str, ...]:
        """The tasks; UserError also where LIBERO's files are missing, or a script or demonstrations to adapt of one."""
        names, source = self.names(), LiberoSource(self.adapt) if self.adapt else None
        for name in names:
            task = self.task(name)
            model = task.physics()
            if source is not None:
                _keys(source, self.adapt, name)
                continue
            try:
                check_script(model, task.problem)
            except UserError as e:
                raise UserError(f"{name}: {e}; name demonstrations to adapt") from e
        return names

    def task(self, name: str) -> LiberoTask:
        return LiberoTask(name, profile=self.profile, **dict(self.options))


def collect_libero(
    what: LiberoCollection,
    out: PathLike,
    *,
    split: str = "train",
    workers: int = 0,
    episodes_per_shard: int = 10,
    progress: Callable[[int], None] = lambda episodes: None,
) -> dict[str, int]:
    """Writes OUT. workers: processes that act (0: this one). -> {task: seeds that failed and were replaced}, of tasks
    whose file was not there. UserError for an `out` that holds other settings' files, and where a task's script, or
    what was adapted, fails too often."""
    names, settings, folder = what.check(), _settings(what), Path(out) / "hdf5"
    _begin(folder, {**settings, "split": split, "mujoco": mujoco.__version__})
    failures: dict[str, int] = {}
    for name in names:
        suite, task = name.split("/", 1)
        path, kept = folder / suite / f"{task}_demo.hdf5", folder / suite / f".{task}"
        if path.exists():
            progress(what.episodes)
        else:
            failures[name] = 0
            demos = _wanted(what, name, kept, workers, failures, progress)
            write_libero_hdf5(path, demos, _attributes(what.task(name)))
        shutil.rmtree(kept, ignore_errors=True)
    import_collected(
        LiberoSource(str(folder), align="causal"),
        out,
        settings,
        otherwise="demonstrations could not be read",
        split=split,
        episodes_per_shard=episodes_per_shard,
        name=f"{what.tasks} ({'adapted' if what.adapt else 'scripted'})",
        licence="" if what.adapt else "Apache-2.0",
    )
    return failures


def _settings(what: LiberoCollection) -> dict[str, Any]:
    """All that decides what is made: not where LIBERO's files are."""
    options = {name: value for name, value in what.options if name != "libero_root"}
    return {**asdict(what), "options": options, "t2p": __version__}


def _begin(folder: Path, settings: dict[str, Any]) -> None:
    """Notes how the files are made, or makes sure that those that are there were made so."""
    note, now = folder / NOTE, json.loads(json.dumps(settings))
    if not any(path.suffix in (".hdf5", ".npz") for path in folder.rglob("*")):
        return write_json(note, now)
    if not note.exists():
        raise UserError(f"{folder} holds files, but no {NOTE} that tells how they were made; choose another directory")
    before = read_json(note)
    changed = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    if changed:
        told = "; ".join(f"{name} {before.get(name)!r}, now {now.get(name)!r}" for name in changed)
        raise UserError(
            f"{folder} holds demonstrations that were collected with other settings ({told}); use the same to go on, "
            "or another directory"
        )


def _wanted(
    what: LiberoCollection,
    name: str,
    kept: Path,
    workers: int,
    failures: dict[str, int],
    progress: Callable[[int], None],
) -> Iterator[LiberoDemo]:
    """The first successes by seed, as many as are wanted; processes work a little ahead. kept: the folder of those that
    were made before."""
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=die_with_parent) if workers else None
    seeds, waiting, left = count(what.seed), deque[Callable[[], LiberoDemo | None]](), what.episodes
    try:
        while left:
            while len(waiting) < min(workers + 1, left):
                seed = next(seeds)
                act = functools.partial(_kept, kept / f"{seed}.npz", functools.partial(_act, what, name, seed))
                waiting.append(pool.submit(act).result if pool else act)
            demo = waiting.popleft()()
            if demo is not None:
                left -= 1
                yield demo
                progress(1)
                continue
            failures[name] += 1
            if failures[name] >= FAILURES * what.episodes:
                raise UserError(f"{name}: {_actor_is(what)} failed in {failures[name]} of the starts that were tried")
    finally:
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)


def _kept(path: Path, act: Callable[[], LiberoDemo | None]) -> LiberoDemo | None:
    """What `act` makes, or what it made before: a file keeps that until the task's is whole, an empty one a failure."""
    if path.exists():
        return _unpacked(load_arrays(path)) if path.stat().st_size else None
    demo, stream = act(), io.BytesIO()
    if demo is not None:
        np.savez(stream, **_packed(demo))  # type: ignore[arg-type]
    write_bytes(path, stream.getvalue())
    return demo


def _packed(demo: LiberoDemo) -> dict[str, np.ndarray]:
    """By names, those of frames and of what was observed behind a slash."""
    told = {field.name: getattr(demo, field.name) for field in fields(demo)}
    groups = {name: told.pop(name) for name in ("frames", "observed")}
    inner = {f"{group}/{name}": array for group, arrays in groups.items() for name, array in arrays.items()}
    return inner | {name: np.asarray(value) for name, value in told.items() if value is not None}


def _unpacked(arrays: dict[str, np.ndarray]) -> LiberoDemo:
    told: dict[str, Any] = {"frames": {}, "observed": {}}
    for name, array in arrays.items():
        group, slash, inner = name.partition("/")
        if slash:
            told[group][inner] = array
        else:
            told[name] = str(array) if name == "model_file" else array
    return LiberoDemo(**told)


def _actor_is(what: LiberoCollection) -> str:
    return "what was adapted" if what.adapt else "the script"


def recordings(path: PathLike, task: str) -> list[Recording]:
    """The demonstrations of a task (suite/task) in LIBERO's files. UserError where there are none, or they lack states
    or the scene that they were recorded in."""
    source, found = LiberoSource(path), []
    for key in _keys(source, path, task):
        episode = source.read(key)
        facts = episode.info["libero"]
        if "states" not in episode.columns or "fixtures" not in facts:
            raise UserError(f"{key} has no states or no model_file: it cannot be adapted")
        actions = np.asarray(episode.columns["actions"], np.float64)
        found.append(Recording(actions, episode.columns["states"], facts["fixtures"]))
    return found


def _keys(source: LiberoSource, path: PathLike, task: str) -> list[str]:
    """Of a task's demonstrations; UserError where there are none."""
    stem = f"{task.partition('/')[2]}_demo"
    every: list[str] = source.keys()
    keys = [key for key in every if Path(key).parent.name == stem]
    if not keys:
        raise UserError(f"{path} has no demonstrations of {task}: expected a file {stem}.hdf5")
    return keys


class Actor:
    """Acts a task's script, or adapts recordings of it, in one environment, which is made once."""

    def __init__(self, what: LiberoCollection, name: str):
        task = what.task(name)
        self.environment = LiberoEnvironment(task, Observe(tuple(VIEWS), size=what.size), what.renderer)
        self.spec = task.build("faithful")
        self.noise = what.noise
        self.sources = self._sources(what.adapt, name) if what.adapt else []

    def _sources(self, path: str, name: str) -> list[Source]:
        """The recordings whose goal holds, cut."""
        model, problem = self.environment.model, self.environment.scene.problem
        recorded = recordings(path, name)
        good = [cut(model, problem, one) for one in recorded if solves(model, problem, one)]
        if not good:
            raise UserError(
                f"{path}: in none of the {len(recorded)} demonstrations of {name} does the goal hold; "
                "expected some that succeed"
            )
        return good

    def actions(self, seed: int) -> Iterator[np.ndarray]:
        """What is done from the start on that the environment now has."""
        env = self.environment
        made = (
            adapted(env.model, env.data, env.scene.problem, self.sources)
            if self.sources
            else demonstration(env.model, env.data, env.scene.problem)
        )
        return noisy(made, self.noise, np.random.default_rng(seed)) if self.noise else made

    def act(self, seed: int) -> LiberoDemo | None:
        """The demonstration of a seed, or None if the goal does not hold at its end."""
        env = self.environment
        env.reset(seed)
        start = self._state()
        actions: list[np.ndarray] = []
        states: list[np.ndarray] = []
        seen: list[dict[str, np.ndarray]] = []
        for action in until_held(self.actions(seed), lambda: env.success):
            if env.failure is not None or len(actions) == env.task.limit:
                break
            actions.append(action)
            states.append(self._state())
            env.step(action)
            seen.append({**env.original(), **{key[-1]: array for key, array in env.observe().items()}})
        if not env.success or env.failure is not None:
            return None
        rows = {name: np.stack([one[name] for one in seen]) for name in seen[0]}
        position, quaternion, fingers = (rows[f"robot0_{k}"] for k in ("eef_pos", "eef_quat", "gripper_qpos"))
        return LiberoDemo(
            actions=np.stack(actions),
            states=np.stack(states),
            frames={view: rows[view] for view in VIEWS},
            observed={
                "joint_states": rows["robot0_joint_pos"],
                "gripper_states": fingers,
                "ee_pos": position,
                "ee_ori": quaternion_to_axis_angle(np.roll(quaternion, 1, axis=-1)),
            },
            robot_states=np.concatenate([fingers, position, quaternion], axis=-1),
            model_file=self._model_file(),
            init_state=start,
        )

    def _state(self) -> np.ndarray:
        data = self.environment.data
        return np.concatenate([[data.time], data.qpos, data.qvel])

    def _model_file(self) -> str:
        """The scene as MJCF, with the fixtures where they stand in this episode."""
        model, (positions, quaternions) = self.environment.model, self.environment.puppet.frames
        for instance in self.environment.scene.handles.instances.values():
            if not len(instance.free):
                placed = self.spec.body(model.body(instance.body).name)
                placed.pos, placed.quat = positions[instance.body], quaternions[instance.body]
        self.spec.compile()
        return self.spec.to_xml()


def _attributes(task: LiberoTask) -> dict[str, Any]:
    """What LIBERO's files say of their task."""
    suite, name = task.name.split("/", 1)
    problem = task.problem
    file = task.assets.task_file(suite, name)
    return {
        "env_name": problem.kind.title(),
        "problem_info": {"problem_name": problem.kind, "language_instruction": problem.language},
        "env_args": {"type": 1, "env_name": problem.kind, "env_kwargs": {"robots": ["Panda"], "control_freq": 20}},
        "bddl_file_name": f"{suite}/{name}.bddl",
        "bddl_file_content": file.read_text(),
    }


@functools.lru_cache(maxsize=1)
def _actor(what: LiberoCollection, name: str) -> Actor:
    """Made once in each process for all seeds of a task."""
    return Actor(what, name)


def _act(what: LiberoCollection, name: str, seed: int) -> LiberoDemo | None:
    return _actor(what, name).act(seed)
