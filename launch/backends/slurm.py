"""Slurm: a script for sbatch, one process a node."""

from __future__ import annotations

import shlex

from launch.options import settings
from launch.plan import Command, Plan, Shell, environment, over_ray, quote, refuse, t2p
from launch.scripts import HOST, VERDICT, codes, exports, needed, prepared
from launch.spec import JobSpec

_HEAD = Shell('"$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):6379"')


def slurm(spec: JobSpec) -> Plan:
    """sbatch, reading the script. The script calls scontrol requeue when the processes end with 42."""
    refuse(spec, "slurm", ("cpu", "gpu"), arrays=True, ray=True)
    script = _script(spec, settings("slurm", spec.options))
    advice = f"watch it: squeue --me --name {spec.name}", f"stop it: scancel --name {spec.name}"
    return Plan((Command(("sbatch",), script),), spec.secrets, advice)


def _header(spec: JobSpec, own: dict[str, str]) -> list[str]:
    """Options of sbatch. TERM goes to the processes, not to the script, before the time limit; a second submission
    of the same job waits for the first; a requeued job's log goes on."""
    gpus = f"{own['gpu_type']}:" if own["gpu_type"] else ""
    options = {
        "job-name": spec.name,
        "output": f"{spec.name}-%{'A_%a' if spec.shards > 1 else 'j'}.txt",
        "open-mode": "append",
        "nodes": str(spec.hosts),
        "ntasks-per-node": "1",
        "cpus-per-task": own["cpus"],
        "mem": own["memory"],
        "gpus-per-node": f"{gpus}{spec.topology.per_host}" if spec.topology else "",
        "time": own["time"],
        "signal": f"TERM@{own['signal']}",
        "array": f"0-{spec.shards - 1}" if spec.shards > 1 else "",
        "dependency": "" if spec.shards > 1 else "singleton",
        "export": ",".join(("HOME", "USER", "PATH", *spec.secrets)),
        **{name: own[name] for name in ("partition", "account", "qos", "constraint")},
    }
    return ["#SBATCH --requeue", *(f"#SBATCH --{name}={value}" for name, value in options.items() if value)]


def _script(spec: JobSpec, own: dict[str, str]) -> str:
    argv = over_ray(spec, _HEAD, t2p(spec, "$SLURM_ARRAY_TASK_ID"))
    cpus = f"--cpus-per-task={own['cpus']} " if own["cpus"] else ""
    parts = (
        "#!/bin/bash -l",
        *_header(spec, own),
        VERDICT,
        codes(spec.hosts),
        f"cd {shlex.quote(own['directory'])} || exit 3" if own["directory"] else "",
        prepared(own["setup"]),
        needed(spec.secrets, "where sbatch was called"),
        exports(environment(spec, _devices(spec))),
        "log=$(mktemp)",
        f'srun --export=ALL {cpus}{quote((*HOST, *argv))} 2>&1 | tee "$log"',
        "verdict $(codes)",
        "code=$?",
        'rm -f "$log"',
        f'if [ "$code" = 42 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {spec.retries} ]; then',
        '  scontrol requeue "$SLURM_JOB_ID"',
        "fi",
        'exit "$code"',
    )
    return "\n".join(p for p in parts if p) + "\n"


def _devices(spec: JobSpec) -> dict[str, str]:
    """Under Slurm JAX gives a process the one GPU of its number on the node, as if there were a process for each."""
    if not spec.topology or spec.hosts == 1:
        return {}
    return {"JAX_LOCAL_DEVICE_IDS": ",".join(map(str, range(spec.topology.per_host)))}
