"""What a backend makes of a job: commands that are printed, or run, exactly as they are."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launch.spec import OUTPUT, JobSpec
from t2p.io import UserError

# Started again: preempted (t2p.train.preemption), aborted because another process died, killed, told to stop early.
RESTART = (42, 134, 137, 143)

# XLA's and JAX's documented settings for GPUs; a job's own environment replaces them.
GPU_ENVIRONMENT: Mapping[str, str] = {
    "XLA_FLAGS": "--xla_gpu_enable_latency_hiding_scheduler=true",
    "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9",
}
END = "T2P_END"  # of what is given to a command's standard input; no value holds a line of its own


class Shell(str):
    """An argument that the shell is to expand, such as a process's own number; all others are quoted."""


@dataclass(frozen=True)
class Command:
    """argv: the program and its arguments. stdin: what it reads; "" leaves it what the launcher has."""

    argv: tuple[str, ...]
    stdin: str = ""


@dataclass(frozen=True)
class Plan:
    """commands: run in this order, each only if the one before gave 0. needs: variables that must be set where the
    plan is run, their values unseen. advice: how the job is watched and stopped."""

    commands: tuple[Command, ...]
    needs: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()


def quote(argv: Sequence[str]) -> str:
    """One line of shell that gives exactly these arguments."""
    return " ".join(str(a) if isinstance(a, Shell) else shlex.quote(a) for a in argv)


def t2p(spec: JobSpec, shard: str = "", program: Sequence[str] = ("t2p",)) -> tuple[str, ...]:
    """The job's command line, the same on all hosts. shard: the number of the part, as the shell knows it, where the
    job has several."""
    found = [*program, *spec.command.split()]
    if spec.config:
        found += ["--config", spec.config]
    found += [OUTPUT[spec.command], spec.workdir, *spec.overrides]
    if spec.command == "train" and spec.platform != "cpu" and not _sets_accelerator(spec):
        found.append(f"--config.accelerator={spec.platform}")  # rather an error than training on the CPU
    if spec.shards > 1:
        found += ["--shard", Shell(f'"{shard}/{spec.shards}"')]
    return tuple(found)


def _sets_accelerator(spec: JobSpec) -> bool:
    return any(a.partition("=")[0] == "--config.accelerator" for a in spec.overrides)


def over_ray(spec: JobSpec, head: str, argv: tuple[str, ...]) -> tuple[str, ...]:
    """argv on the first host, with a Ray cluster of all hosts under it. head: its "host:port"."""
    if not (spec.ray and spec.hosts > 1):
        return argv
    return ("ray", "symmetric-run", "--address", head, "--min-nodes", str(spec.hosts), "--", *argv)


def environment(spec: JobSpec, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables of each process: what its kind of device wants, what the backend sets, what the job says."""
    own = GPU_ENVIRONMENT if spec.platform == "gpu" else {}
    return {**own, **(more or {}), **spec.environment}


def refuse(
    spec: JobSpec,
    backend: str,
    allowed: Sequence[str],
    *,
    arrays: bool = False,
    ray: bool = False,
    spot: bool = False,
) -> None:
    """UserError where a backend has no such devices, or no arrays, no Ray cluster or no spot machines to offer."""
    if spec.platform not in allowed:
        raise UserError(
            f"backend {backend} runs on {' or '.join(allowed)}; the job's accelerator is {spec.accelerator}"
        )
    if spec.shards > 1 and not arrays:
        raise UserError(f"backend {backend} has no arrays of shards; local, slurm, jobset and nodes have")
    if spec.ray and spec.hosts > 1 and not ray:
        raise UserError(f"backend {backend} starts no Ray cluster; slurm, jobset and nodes do")
    if spec.spot and not spot:
        raise UserError(f"backend {backend} takes the machines as they are; queued and jobset can ask for spot ones")


def show(plan: Plan) -> str:
    """The plan as a shell script: run by bash, it does what `execute` does."""
    lines = []
    for command in plan.commands:
        if command.stdin:
            lines += [f"{quote(command.argv)} <<'{END}'", command.stdin.rstrip("\n"), END]
        else:
            lines.append(quote(command.argv))
    return "\n".join(lines) + "\n"


def execute(plan: Plan) -> int:
    """Runs the commands; the exit code of the first that fails, or 0.

    UserError where a secret is not set here that the job takes from here, or a program is missing."""
    if missing := [name for name in plan.needs if not os.environ.get(name)]:
        raise UserError(f"secret {', '.join(missing)} is not set in this shell, from which the job takes it")
    for command in plan.commands:
        if code := _run(command):
            return code
    return 0


def _run(command: Command) -> int:
    """SIGTERM is passed on; Ctrl-C reaches the command by itself, which then needs time to end."""
    try:
        child = subprocess.Popen(command.argv, stdin=subprocess.PIPE if command.stdin else None)
    except FileNotFoundError:
        raise UserError(f"there is no program {command.argv[0]} on this machine") from None

    def pass_on(number: int, frame: Any) -> None:
        if number == signal.SIGTERM:
            child.terminate()

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        child.communicate(command.stdin.encode() if command.stdin else None)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode
