"""This machine: processes started by launch.local."""

from __future__ import annotations

import sys

from launch.options import settings
from launch.plan import Command, Plan, environment, quote, refuse, t2p
from launch.spec import JobSpec
from t2p.io import UserError


def local(spec: JobSpec) -> Plan:
    """One process; on "cpu" as many as the job has slices or shards."""
    refuse(spec, "local", ("cpu", "gpu", "tpu"), arrays=True)
    if spec.hosts > 1 and spec.platform != "cpu":
        raise UserError(f"backend local is this machine alone; {spec.accelerator} x {spec.slices} has {spec.hosts}")
    own = settings("local", spec.options)
    argv = t2p(spec, "$JAX_PROCESS_ID", (sys.executable, "-m", "t2p.cli.main"))
    if spec.shards > 1:  # launch.local gives each process its number in the environment
        argv = ("bash", "-c", f"exec {quote(argv)}")
    variables = [f"{name}={value}" for name, value in environment(spec).items()]
    start = [sys.executable, "-m", "launch.local", "--processes", str(max(spec.hosts, spec.shards))]
    start += ["--logs", own["logs"] or f"out/launch/{spec.name}", "--retries", str(spec.retries)]
    start += ["--devices", own["devices"]] if own["devices"] else []
    command = Command((*(("env", *variables) if variables else ()), *start, "--", *argv))
    return Plan((command,), spec.secrets, ("stop it: Ctrl-C; it saves first",))
