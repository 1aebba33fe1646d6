"""Scripted episodes from the simulator as a dataset: video, exact tracks, cameras, actions; depth where it is wanted.

    collect(Collection("tabletop/block_stack", episodes=20), "OUT")

Each episode is a function of (settings, its number): how many processes made it, and whether the collection was cut
off in between, does not matter. Finished shards are kept; the rest is made anew.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from t2p import __version__
from t2p.data.importing import import_source
from t2p.data.sources import Source, SourceError
from t2p.geometry.clouds import furthest_points
from t2p.io import PathLike, UserError, write_bytes
from t2p.sim.record import Recording, Replay, exact_tracks, record
from t2p.sim.registry import make_scripted_task
from t2p.sim.render import choose_renderer, make_renderer
from t2p.sim.task import ScriptedTask
from t2p.types import Episode, TrackSet

SETS = ("grid", "objects", "image")
CANDIDATES, CANDIDATE_SEED = 10_000, 12_345  # of furthest point sampling (3PoinTr's released code)
ATTEMPTS = 20  # configurations that are tried for one episode, should the script fail


@dataclass(frozen=True)
class Collection:
    """What is collected.

    options: of the task (control, embodiment). seed, episodes: episode i is drawn by (seed, i). spread: so many first
    episodes start from configurations that furthest point sampling picks instead (3PoinTr: 20, in all its data).
    action_free: without actions and proprioception, as a video of somebody else would be. fps: frames per second.
    views: all of the task's, if empty. sets: track sets of the first view: "grid" (exact/grid, all of the scene, metres
    in the camera's frame), "objects" (exact/objects, without what is fixed to the world), "image" (exact/image: grid,
    projected). points: so many in each at most. depth: also OUT/depth/<episode>/<view>.npz, in millimetres."""

    task: str
    episodes: int
    seed: int = 0
    spread: int = 0
    action_free: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    fps: float = 20.0
    size: tuple[int, int] = (128, 128)
    views: tuple[str, ...] = ()
    sets: tuple[str, ...] = ("grid", "objects")
    points: int = 8192
    depth: bool = False
    renderer: str = "auto"

    def check(self) -> ScriptedTask:
        """The task; UserError for what cannot be collected."""
        task = make_scripted_task(self.task, **self.options)
        if self.episodes < 1 or self.points < 1 or self.seed < 0 or not 0 <= self.spread <= CANDIDATES:
            raise UserError(
                f"episodes {self.episodes}, points {self.points}, seed {self.seed}, spread {self.spread}: expected at "
                f"least 1, 1, 0, and 0 to {CANDIDATES}"
            )
        for name, given, known in (("view", self.views, tuple(task.views)), ("track set", self.sets, SETS)):
            if unknown := sorted(set(given) - set(known)):
                raise UserError(f"{self.task} has no {name} {unknown[0]!r}; expected some of {', '.join(known)}")
        return task


def collect(
    what: Collection,
    out: PathLike,
    *,
    split: str = "train",
    workers: int = 0,
    episodes_per_shard: int = 10,
    codec: str = "jpeg",
    progress: Callable[[int], None] = lambda episodes: None,
) -> int:
    """Writes the episodes as a split of a dataset; goes on with what is there. workers: processes (0: this one). -> how
    many configurations the script failed on and that were replaced. Raises UserError for an `out` that holds other
    settings' episodes, and where no configuration worked."""
    what.check()
    renderer = choose_renderer(what.renderer)
    source = _Source(what, Path(out), workers, renderer)
    try:
        import_collected(
            source,
            out,
            {**asdict(what), "renderer": renderer},
            otherwise="episodes could not be made",
            split=split,
            episodes_per_shard=episodes_per_shard,
            codec=codec,
            name=f"{what.task} (simulated)",
            licence="Apache-2.0",
            progress=progress,
        )
    finally:
        source.close()
    return source.failures


def import_collected(source: Source, out: PathLike, settings: dict[str, Any], otherwise: str, **options: Any) -> None:
    """Makes a dataset of what was collected, or goes on with one. settings: of the collection; otherwise: what is said
    of recordings that had to be left out; options: import_source's. UserError where any was."""
    skipped = import_source(source, out, settings={**settings, "mujoco": mujoco.__version__}, **options)
    if skipped:
        raise UserError(f"{len(skipped)} {otherwise}; the first: {skipped[0].reason}")


class _Source:
    """The collection as recordings that are made when they are read (t2p.data.sources.Source); processes work ahead."""

    def __init__(self, what: Collection, out: Path, workers: int, renderer: str):
        self.what, self.out, self.renderer, self.failures = what, out, renderer, 0
        self._ahead = 2 * workers
        self._pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn")) if workers else None
        self._waiting: dict[int, Future[Made]] = {}

    def keys(self) -> list[str]:
        prefix = self.what.task.rpartition("/")[2]
        return [f"{prefix}_{self.what.seed}_{i:05d}" for i in range(self.what.episodes)]

    def read(self, key: str) -> Episode:
        try:
            made = self._make(int(key.rpartition("_")[2]))
        except BrokenProcessPool as e:
            raise UserError("a collecting process was killed; the same command goes on from the last shard") from e
        if made.episode is None:
            raise SourceError(key, f"the script failed on {ATTEMPTS} configurations; the last: {made.reason}")
        self.failures += made.failures
        for view, depth in made.depth.items():
            _write_depth(self.out / "depth" / key / f"{view}.npz", depth)
        return made.episode

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _make(self, number: int) -> Made:
        if self._pool is None:
            return make_episode(self.what, number, self.renderer)
        for i in range(number, min(number + self._ahead, self.what.episodes)):
            if i not in self._waiting:
                self._waiting[i] = self._pool.submit(make_episode, self.what, i, self.renderer)
        return self._waiting.pop(number).result()


@dataclass(frozen=True)
class Made:
    """An episode, or None and the reason; failures: configurations that were replaced; depth: {view: [T, H, W] m}."""

    episode: Episode | None
    failures: int
    reason: str = ""
    depth: dict[str, np.ndarray] = field(default_factory=dict)


def make_episode(what: Collection, number: int, renderer: str) -> Made:
    """Records the number-th episode and draws it."""
    task, model = _studio(what.task, tuple(sorted(what.options.items())))
    reason = ""
    for attempt in range(ATTEMPTS):
        configuration = _configuration(what, task, number, attempt)
        try:
            found = record(task, model, mujoco.MjData(model), configuration, what.fps)
        except UserError as e:  # the scene itself comes apart
            reason = str(e)
            continue
        if found.success:
            facts = {"configuration": configuration.tolist(), "attempts": attempt + 1, "number": number}
            return _draw(what, task, model, found, renderer, facts, attempt)
        reason = found.failure or f"not solved from {configuration.tolist()}"
    return Made(None, ATTEMPTS, reason)


@functools.lru_cache(maxsize=1)
def _studio(name: str, options: tuple[tuple[str, Any], ...]) -> tuple[ScriptedTask, mujoco.MjModel]:
    """The task and its compiled model, kept from one episode to the next: compiling costs as much as an episode."""
    task = make_scripted_task(name, **dict(options))
    return task, task.build().compile()


def _configuration(what: Collection, task: ScriptedTask, number: int, attempt: int) -> np.ndarray:
    if number < what.spread and attempt == 0:
        return _spread(what.task, tuple(sorted(what.options.items())), what.spread)[number]
    return task.draw(np.random.default_rng([what.seed, number, attempt]))


@functools.lru_cache(maxsize=1)
def _spread(name: str, options: tuple[tuple[str, Any], ...], count: int) -> np.ndarray:
    return spread_configurations(make_scripted_task(name, **dict(options)), count)


def spread_configurations(task: ScriptedTask, count: int) -> np.ndarray:
    """[count, F] initial configurations by furthest point sampling from 10,000 random ones (3PoinTr, section IV:
    unscaled distances, from the first candidate on)."""
    rng = np.random.default_rng(CANDIDATE_SEED)
    candidates = np.stack([task.draw(rng) for _ in range(CANDIDATES)])
    return candidates[furthest_points(candidates, count)]


def _draw(
    what: Collection,
    task: ScriptedTask,
    model: mujoco.MjModel,
    found: Recording,
    renderer: str,
    facts: dict[str, Any],
    failures: int,
) -> Made:
    drawer = make_renderer(model, renderer)
    try:
        replay = Replay(task, found.start, found.qpos, drawer, model)
        views = what.views or tuple(task.views)
        first = next(iter(task.views))
        looks = {first: [replay.frame(t, first, what.size) for t in range(len(replay))]}
        if what.depth:
            looks |= {v: [replay.frame(t, v, what.size) for t in range(len(replay))] for v in views if v != first}
        frames = {v: np.stack([f.rgb for f in looks[v]]) if v in looks else replay.video(v, what.size) for v in views}
        tracks = _track_sets(what, task, replay, first, looks[first]) if first in views else {}
        camera = replay.camera(first, what.size, np.asarray(task.base))
    finally:
        drawer.close()
    prefix = what.task.rpartition("/")[2]
    columns = {"sim/qpos": found.qpos, **({} if what.action_free else found.columns)}
    simulator = {"mujoco": mujoco.__version__, "renderer": renderer, "t2p": __version__, "options": what.options}
    episode = Episode(
        id=f"{prefix}_{what.seed}_{facts['number']:05d}",
        fps=found.fps,
        frames=frames,
        columns=columns,
        language=(task.instruction,),
        cameras={first: camera} if first in views else {},
        tracks=tracks,
        source="simulator",
        task=what.task,
        info={
            **facts,
            "waypoint_times": found.waypoint_times.tolist(),
            "simulator": simulator,
            "start": {k: np.asarray(v).tolist() for k, v in asdict(found.start).items()},
        },
    )
    depth = {v: np.stack([f.depth for f in looks[v]]) for v in looks} if what.depth else {}
    return Made(episode, failures, depth=depth)


def _track_sets(
    what: Collection, task: ScriptedTask, replay: Replay, view: str, looks: list[Any]
) -> dict[str, dict[str, TrackSet]]:
    """{"exact/<set>": {view: tracks}}."""
    make = lambda kept: exact_tracks(replay, view, what.size, looks, kept, what.points, what.seed)  # noqa: E731
    found: dict[str, TrackSet] = {}
    if {"grid", "image"} & set(what.sets):
        whole = make(task.kept)
        found |= {"grid": whole["camera"], "image": whole["image"]}
    if "objects" in what.sets:
        found["objects"] = make([name for name in task.kept if name != "world"])["camera"]
    return {f"exact/{name}": {view: found[name]} for name in what.sets}


def _write_depth(path: Path, depth: np.ndarray) -> None:
    """[T, H, W] metres -> millimetres as uint16, 0 where nothing is seen (what t2p.tracking.lift.DepthFolder reads)."""
    near = np.where(np.isfinite(depth) & (depth < 65.5), depth, 0)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, depth=np.rint(near * 1000).astype(np.uint16))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())
