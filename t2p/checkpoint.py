"""Checkpoints: Orbax behind one small interface.

    DIR/checkpoints/<step>/{variables, ema, optimizer, meta}    DIR/checkpoints/frozen    DIR/damaged/<step>

variables are {"params", "batch_stats"}; ema (averaged parameters) and optimizer are there when training has them;
frozen holds the variables of earlier stages, written once, so that a checkpoint stands alone. meta is JSON:
{"schema", "config", "statistics", "shapes", "versions", "git", "step", "position", "metrics", "sums"}. DIR is local or
gs://.
A weights-only checkpoint (`export`) has the same layout with one step, 0.
"""

from __future__ import annotations

import errno
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax.traverse_util import flatten_dict
from jax.experimental import multihost_utils

from t2p.io import PathLike, UserError

Tree = Any
Variables = dict[str, Any]

# The layout above. Checkpoints from before there was a number have the same one, so they count as 1. A layout that this
# code cannot read gets the next number; `meta` stays readable as JSON in all of them, so that older code can refuse.
SCHEMA = 1
ITEMS = ("variables", "ema", "optimizer")
LAYER, STACKED = "block_", "blocks"  # names of a model's layers, apart and under nn.scan
_PACKAGES = ("t2p", "jax", "flax", "optax", "orbax-checkpoint", "mujoco", "numpy")
# What Orbax and TensorStore raise for files that are cut off, missing or not what they should be.
_READ_ERRORS = (ValueError, OSError, KeyError, TypeError)
_WRITE_ERRORS = (ValueError, OSError, RuntimeError)  # TensorStore says ValueError, JAX's coordination RuntimeError
_ADVICE = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
    errno.EFBIG: "raise the limit on a file's size (ulimit -f)",
}


class DamagedCheckpoint(UserError):
    """A checkpoint that cannot be read back as it was written; the message names it."""


class SaveFailed(UserError):
    """A checkpoint could not be written; the message names it, why, and the last good one, which is untouched."""


@dataclass(frozen=True)
class _Keep:
    """Orbax's question which checkpoints stay: the last `count` and the best."""

    count: int
    owner: Checkpoints

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [c.step for c in checkpoints]
        return [s in steps[-self.count :] or s == self.owner.best_step for s in steps]


class _Manager(ocp.CheckpointManager):
    """Asks nobody about preemption: training does (t2p.train.preemption), and JAX, which works out from the questions
    how far each process is, must not be asked for old steps by Orbax's threads."""

    def reached_preemption(self, step: int) -> bool:
        return False


class Checkpoints:
    """The checkpoints of one directory. All processes call every method.

    keep: so many latest ones stay; best: name of the metric whose best checkpoint stays as well ("" for none);
    mode: "min" or "max"; before_save: called before each save, may refuse it."""

    def __init__(
        self,
        directory: PathLike,
        keep: int = 1,
        best: str = "",
        mode: str = "min",
        read_only: bool = False,
        before_save: Callable[[], None] = lambda: None,
    ):
        if mode not in ("min", "max"):
            raise UserError(f"checkpoint.mode is {mode!r}; expected min or max")
        if keep < 1:
            raise UserError(f"checkpoint.keep is {keep}; expected at least 1")
        self.directory = epath.Path(directory)
        self.root = _absolute(self.directory) / "checkpoints"
        if read_only and not self.root.is_dir():
            raise UserError(
                f"no checkpoint in {directory}: expected a folder {self.root.name}/ as training and convert write it"
            )
        self._best, self._mode, self._before_save = best, mode, before_save
        self._saving: int | None = None  # step whose writing goes on in the background
        self._failure: BaseException | None = None  # what went wrong with it
        self._told = False  # that a save failed
        self.best_step: int | None = None
        self.best_value = math.inf if mode == "min" else -math.inf
        if not read_only:
            _remove_unfinished(self.root)
        options = ocp.CheckpointManagerOptions(
            create=not read_only,
            preservation_policy=_Keep(keep, self),
            async_options=ocp.AsyncOptions(barrier_sync_fn=self._meet),
        )
        handlers = {name: ocp.StandardCheckpointHandler() for name in ITEMS} | {"meta": ocp.JsonCheckpointHandler()}
        self._manager = _Manager(self.root, options=options, item_handlers=handlers)
        for step in self.steps:
            self._note(step, self._metrics(step))

    @property
    def steps(self) -> list[int]:
        """Steps of the checkpoints that are finished, and of the one that is being written, ascending."""
        return sorted(self._manager.all_steps())

    def path(self, step: int) -> epath.Path:
        return self.root / str(step)

    def better(self, metrics: Mapping[str, float]) -> bool:
        """Whether these metrics beat the best checkpoint so far."""
        value = metrics.get(self._best, math.nan)
        return value < self.best_value if self._mode == "min" else value > self.best_value

    def _note(self, step: int, metrics: Mapping[str, float]) -> None:
        if self.better(metrics):
            self.best_step, self.best_value = step, metrics[self._best]

    def _metrics(self, step: int) -> dict[str, float]:
        try:
            return self.meta(step).get("metrics", {})
        except DamagedCheckpoint:
            return {}  # whoever restores this step is told

    def save(self, step: int, items: Mapping[str, Tree], meta: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Starts writing {"variables": ..., "ema": ..., "optimizer": ...}; returns once the arrays are copied off the
        devices. metrics: those of an evaluation at this step, or {}. Raises SaveFailed, for the save before as well."""
        self._before_save()
        self.wait()
        sums = {name: checksums(tree) for name, tree in items.items()}
        full = {**meta, "schema": SCHEMA, "step": step, "metrics": dict(metrics), "sums": sums}
        self._note(step, metrics)
        args = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        with self._writing(self.path(step)):
            self._manager.save(step, args=ocp.args.Composite(meta=ocp.args.JsonSave(full), **args), force=True)
        self._saving = step

    def save_frozen(self, frozen: Tree) -> None:
        """Writes the earlier stages' variables, if there are any and they are not there yet."""
        path = self.root / "frozen"
        if jax.tree.leaves(frozen) and not path.is_dir():
            with self._writing(path), ocp.Checkpointer(ocp.StandardCheckpointHandler()) as writer:
                writer.save(path, args=ocp.args.StandardSave(frozen))

    def check(self) -> None:
        """Raises SaveFailed if the save in the background has failed; waits for nothing."""
        if self._saving is not None and (self._failure or not self._manager.is_saving_in_progress()):
            self.wait()

    def _meet(self, *, key: str, timeout_ms: int) -> None:
        """Waits for the other processes, but not in one of Orbax's threads with an error in hand (it meets in a
        `finally`): the others wait elsewhere for what failed here, and would not come within these 20 minutes."""
        error = sys.exc_info()[1]
        if error and threading.current_thread() is not threading.main_thread():
            self._failure = error
            raise error
        if jax.process_count() > 1:
            ocp.multihost.get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)

    def wait(self) -> None:
        """Until all that was saved is on disk; raises SaveFailed if it is not."""
        step, self._saving = self._saving, None
        if step is not None:
            with self._writing(self.path(step)):
                self._manager.wait_until_finished()

    def last_good(self) -> str:
        """Path of the newest checkpoint that is whole, or "none"; waits for one that is being written."""
        with suppress(SaveFailed):
            self.wait()
        steps = ocp.path.step.checkpoint_steps(self.root)  # Orbax counts those out that a save was going to replace
        return str(self.path(max(steps))) if steps else "none"

    @contextmanager
    def _writing(self, path: epath.Path) -> Iterator[None]:
        """Turns what goes wrong inside into SaveFailed."""
        try:
            yield
        except _WRITE_ERRORS as e:
            raise self.failed(path, e) from e

    def failed(self, path: PathLike, error: Exception) -> SaveFailed:
        """What to say when `path` could not be written."""
        self._told = True
        why = no_room(error) or f"{type(error).__name__}: {_first_line(error)}"
        good = self.last_good()
        go_on = "the same command starts again" if good == "none" else "the same command goes on from it"
        return SaveFailed(f"{path} could not be written ({why}); last good checkpoint: {good}; {go_on}")

    def meta(self, step: int) -> dict[str, Any]:
        try:
            found = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
            schema, version = found.get("schema", 1), found.get("versions", {}).get("t2p")
        except _READ_ERRORS as e:
            raise self._damaged(step, e) from e
        if schema not in range(1, SCHEMA + 1):
            raise UserError(
                f"checkpoint {self.path(step)} has schema {schema!r}, as t2p {version} writes it; this is t2p "
                f"{_version('t2p')}, which reads up to {SCHEMA}: use t2p {version} or newer (pip install -U t2p)"
            )
        return found

    def shapes(self, step: int) -> dict[str, Tree]:
        """{item: tree of ShapeDtypeStruct} of what a checkpoint holds."""
        try:
            found = self._manager.item_metadata(step)
            trees = {name: getattr(value, "tree", None) for name, value in found.items() if name != "meta"}
            if not trees.get("variables"):
                raise ValueError("its variables are missing")
            return {name: jax.tree.map(_shape, tree) for name, tree in trees.items() if tree is not None}
        except _READ_ERRORS as e:
            raise self._damaged(step, e) from e

    def restore(self, step: int, targets: Mapping[str, Tree]) -> dict[str, Tree]:
        """Reads items onto the shardings of `targets` (ShapeDtypeStructs), whatever mesh wrote them; as NumPy arrays
        where a target has no sharding. Raises DamagedCheckpoint for what differs from what was saved."""
        sums = self.meta(step)["sums"]
        args = {name: ocp.args.StandardRestore(jax.tree.map(_target, tree)) for name, tree in targets.items()}
        try:
            found = self._manager.restore(step, args=ocp.args.Composite(**args))
        except _READ_ERRORS as e:
            raise self._damaged(step, e) from e
        for name in targets:
            _compare(f"{self.path(step)}/{name}", sums[name], checksums(found[name]))
        return {name: found[name] for name in targets}

    def restore_frozen(self, target: Tree | None = None) -> Tree:
        """The earlier stages' variables, as NumPy arrays without a target; {} if there are none."""
        if not (self.root / "frozen").is_dir():
            return {}
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
            try:
                if target is None:
                    target = jax.tree.map(_shape, reader.metadata(self.root / "frozen").item_metadata.tree)
                return reader.restore(
                    self.root / "frozen", args=ocp.args.StandardRestore(jax.tree.map(_target, target))
                )
            except _READ_ERRORS as e:
                raise DamagedCheckpoint(f"{self.root / 'frozen'} cannot be read: {_first_line(e)}") from e

    def set_aside(self, step: int) -> epath.Path:
        """Moves a damaged checkpoint out of the way, to DIR/damaged/, so that its step can be written again."""
        target = self.root.parent / "damaged" / str(step)
        if jax.process_index() == 0:
            target.parent.mkdir(exist_ok=True)
            if target.exists():
                target.rmtree()
            self.path(step).rename(target)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"set aside {step}")
        self._manager.reload()
        if self.best_step == step:
            self.best_step, self.best_value = None, math.inf if self._mode == "min" else -math.inf
            for other in self.steps:
                self._note(other, self._metrics(other))
        return target

    def close(self) -> None:
        """Waits for the save in the background; raises SaveFailed if it fails, once: Orbax has a thread for each part
        of a save, and what one has told, the others tell again."""
        try:
            self.wait()
        finally:
            try:
                self._manager.close()
            except _WRITE_ERRORS as e:
                if not self._told:
                    raise self.failed(self.root, e) from e

    def _damaged(self, step: int, error: Exception) -> DamagedCheckpoint:
        return DamagedCheckpoint(
            f"checkpoint {self.path(step)} is damaged or incomplete ({type(error).__name__}: {_first_line(error)}); "
            "take another step, or remove it"
        )


def load(directory: PathLike, which: str | int = "best") -> tuple[Variables, dict[str, Any]]:
    """-> ({"params", "batch_stats", "frozen"}, meta) of a workdir or an exported checkpoint, as NumPy arrays.

    which: "best" by the metric that the config names (the latest where no checkpoint was evaluated), "latest" or a
    step, also as text ("400"). params are the averaged ones where training averaged. Raises DamagedCheckpoint, or
    UserError where there is no such checkpoint."""
    checkpoints = Checkpoints(directory, read_only=True)
    try:
        step = _choose(checkpoints, which)
        meta, shapes = checkpoints.meta(step), checkpoints.shapes(step)
        items = checkpoints.restore(step, {name: shapes[name] for name in ("variables", "ema") if name in shapes})
        variables = {"params": {}, "batch_stats": {}, **items["variables"]}
        if "ema" in items:
            variables["params"] = items["ema"]
        return {**variables, "frozen": checkpoints.restore_frozen()}, meta
    finally:
        checkpoints.close()


def load_meta(directory: PathLike, which: str | int = "best") -> dict[str, Any]:
    """What a checkpoint says of itself, as `load` gives it, without reading its arrays."""
    checkpoints = Checkpoints(directory, read_only=True)
    try:
        return checkpoints.meta(_choose(checkpoints, which))
    finally:
        checkpoints.close()


def _choose(checkpoints: Checkpoints, which: str | int) -> int:
    steps = checkpoints.steps
    which = int(which) if isinstance(which, str) and which.isdigit() else which
    if not steps:
        raise UserError(f"no finished checkpoint in {checkpoints.directory}")
    if which == "latest":
        return steps[-1]
    if which == "best":
        setting = checkpoints.meta(steps[-1]).get("config", {}).get("checkpoint", {})
        name, sign = setting.get("best", ""), -1 if setting.get("mode") == "max" else 1
        values = {s: checkpoints.meta(s)["metrics"] for s in steps}
        rated = [s for s in steps if name in values[s]]
        return min(rated, key=lambda s: sign * values[s][name]) if rated else steps[-1]
    if which not in steps:
        raise UserError(
            f"no checkpoint {which!r} in {checkpoints.directory}; there are steps {steps}, 'best' and 'latest'"
        )
    return int(which)


def export(directory: PathLike, variables: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    """Writes a weights-only checkpoint, which `load` and `init_from` read like one of training."""
    checkpoints = Checkpoints(directory)
    try:
        if checkpoints.steps:
            raise UserError(f"{directory} already holds checkpoints {checkpoints.steps}; expected a new directory")
        checkpoints.save_frozen(variables.get("frozen", {}))
        items = {"variables": {k: variables.get(k, {}) for k in ("params", "batch_stats")}}
        checkpoints.save(0, items, {"statistics": {}, "shapes": {}, **provenance(), **meta}, {})
        checkpoints.wait()
    finally:
        checkpoints.close()


def provenance() -> dict[str, Any]:
    """{"versions": {package: version or None}, "git": revision of this source tree or None}."""
    return {"versions": {name: _version(name) for name in _PACKAGES}, "git": _git_revision()}


def revision() -> str:
    """Of this source tree, for people."""
    found = _git_revision()
    return "no commit" if found is None else f"commit {found[:7]}{'-dirty' * found.endswith('-dirty')}"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def checksums(tree: Tree) -> dict[str, int]:
    """{path: sum of the array's bits as unsigned words, modulo 2^32}: independent of mesh and order."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    values = [x for _, x in leaves]
    on_device = any(isinstance(x, jax.Array) for x in values)
    sums = jax.device_get(_sums(values)) if on_device else [_sum(x) for x in values]
    return {jax.tree_util.keystr(p, simple=True, separator="/"): int(s) for (p, _), s in zip(leaves, sums)}


def _sum(x: Any) -> Any:
    word = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint32}[x.dtype.itemsize]
    return (x.reshape(-1) if x.dtype.itemsize == 8 else x).view(word).sum(dtype=np.uint32)


@jax.jit
def _sums(values: list[jax.Array]) -> list[jax.Array]:
    return [_sum(x) for x in values]


def _compare(path: str, saved: Mapping[str, int], found: Mapping[str, int]) -> None:
    wrong = [k for k in saved if found.get(k) != saved[k]]
    if wrong:
        raise DamagedCheckpoint(
            f"checkpoint {path} is damaged: {wrong[0]} differs from what was saved ({len(wrong)} arrays do)"
        )


def mismatch(found: Tree, expected: Tree) -> str:
    """What differs between two trees of variables in paths and shapes, in words; "" if nothing does."""
    have, want = (flatten_dict(t, sep="/") for t in (found, expected))
    for path in [*want, *have]:
        a, b = have.get(path), want.get(path)
        if a is None or b is None or tuple(a.shape) != tuple(b.shape):
            here, there = ("missing" if x is None else f"{tuple(x.shape)}" for x in (a, b))
            return f"{path} is {here} in the checkpoint and {there} in the config's model"
    return ""


def _shape(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(x.shape), x.dtype)


def _target(x: Any) -> Any:
    """Orbax reads NumPy arrays where the target is one; this one takes no memory."""
    return np.broadcast_to(np.zeros((), x.dtype), x.shape) if getattr(x, "sharding", None) is None else x


def _remove_unfinished(root: epath.Path) -> None:
    """Removes what a killed run left half-written. Done before anything is written: Orbax's own clean-up runs in the
    background, beside the first save, and can take away the files of `save_frozen`."""
    if jax.process_index() == 0 and root.is_dir():
        for name in ocp.path.step.tmp_checkpoints(root):
            (root / name).rmtree()
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"clean {root}")


def _absolute(path: epath.Path) -> epath.Path:
    return path if "://" in str(path) else epath.Path(Path(str(path)).absolute())


def no_room(error: BaseException | None) -> str:
    """What the system says where a write failed for want of space (disk, quota, limit on a file's size), and what to
    do; else ""."""
    while error is not None:
        for number, advice in _ADVICE.items():
            if getattr(error, "errno", None) == number or os.strerror(number) in str(error):
                return f"{os.strerror(number)}; {advice}"
        error = error.__cause__ or error.__context__
    return ""


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]


def match_layers(params: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """The same parameters in the layout of `like`: layers apart (block_0, block_1, ...), or stacked along a leading
    axis as `blocks`, as nn.scan keeps them; in the modules inside too. Parameters that have the layout, or no such
    layers, are left alone."""
    if STACKED in like and STACKED not in params and f"{LAYER}0" in params:
        return _stack(params)
    if f"{LAYER}0" in like and f"{LAYER}0" not in params and STACKED in params:
        return _unstack(params)
    inside = [n for n, part in params.items() if isinstance(part, Mapping) and isinstance(like.get(n), Mapping)]
    return {name: match_layers(part, like[name]) if name in inside else part for name, part in params.items()}


def _stack(params: Mapping[str, Any]) -> dict[str, Any]:
    names = sorted((n for n in params if n.startswith(LAYER)), key=lambda n: int(n[len(LAYER) :]))
    layers = jax.tree.map(lambda *x: np.stack([np.asarray(one) for one in x]), *(params[n] for n in names))
    return {**{n: v for n, v in params.items() if n not in names}, STACKED: layers}


def _unstack(params: Mapping[str, Any]) -> dict[str, Any]:
    depth = len(jax.tree.leaves(params[STACKED])[0])
    layers = {f"{LAYER}{i}": jax.tree.map(lambda x, i=i: x[i], params[STACKED]) for i in range(depth)}
    return {**{n: v for n, v in params.items() if n != STACKED}, **layers}
