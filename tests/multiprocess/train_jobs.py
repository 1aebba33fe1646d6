"""Training jobs as users start them, `t2p train` under launch.local, and what they leave in their workdirs."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import jax
import numpy as np

from launch.local import Group
from t2p.checkpoint import Checkpoints

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FAST = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"  # to compile


def environment(flags: str = FAST, **more: str) -> dict[str, str]:
    """That of a plain shell, whatever the tests run in."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "T2P_", "XLA_", "SLURM_", "OMPI_"))}
    return {**plain, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT), **more}


def training(
    folder: Path, workdir: Path, processes: int, *changes: str, sleep: float = 0.0, heartbeat: int = 10, **options
) -> Group:
    """`t2p train` of tests/multiprocess/fault_config.py with one CPU device a process; changes: "batch_size=32", ..."""
    cache = folder.parent / "xla"
    env = {
        "FAULT_SLEEP": f"{sleep}",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        **options.pop("env", {}),
    }
    command = [sys.executable, "-m", "t2p.cli.main", "train", "--config", str(HERE / "fault_config.py")]
    command += ["--workdir", str(workdir), "--heartbeat", str(heartbeat)]
    changes = (f"mesh.data={processes}", *changes)
    command += [f"--config.{change}" for change in changes]
    return Group(command, processes, folder, devices=1, environment=environment(flags="", **env), **options)


def said(group: Group) -> str:
    return "\n".join(f"== {log.name}\n{log.read_text()}" for log in group.logs if log.exists())


def wait_for(condition, *groups: Group, seconds: float = 240.0) -> None:
    """Until condition(); the jobs must go on meanwhile."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "too slow\n" + "\n".join(map(said, groups))
        for group in groups:
            assert group.poll() is None, "the job ended early\n" + said(group)
        time.sleep(0.02)


def steps_of(workdir: Path) -> list[int]:
    folder = workdir / "checkpoints"
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []


def records(workdir: Path) -> dict[int, dict[str, float]]:
    """{step: loss, norm of the gradient, mean index of the batch's rows}."""
    names = ("train/loss", "train/grad_norm", "train/mean_index")
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {r["step"]: {n: r[n] for n in names if n in r} for r in lines if names[0] in r}


def final(workdir: Path) -> dict[str, np.ndarray]:
    """Every array of the newest checkpoint, optimiser and averages too, and the data position; all checkpoints there
    must be whole."""
    checkpoints = Checkpoints(workdir, read_only=True)
    try:
        for step in checkpoints.steps:
            items = checkpoints.restore(step, checkpoints.shapes(step))  # compares the sums
        position = checkpoints.meta(step)["position"]
    finally:
        checkpoints.close()
    leaves = jax.tree_util.tree_leaves_with_path(items)
    found = {jax.tree_util.keystr(p, simple=True, separator="/"): np.asarray(x) for p, x in leaves}
    return {**found, "position": np.array(position)}


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray], tolerance: float = 0.0) -> None:
    assert a.keys() == b.keys() and len(a) > 15
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=0, atol=tolerance, err_msg=name)
