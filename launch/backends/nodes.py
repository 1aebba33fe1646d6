"""Hosts that are reached by ssh: GPU machines without a scheduler."""

from __future__ import annotations

import shlex

from launch.options import settings
from launch.plan import Command, Plan, Shell, environment, over_ray, quote, refuse, t2p
from launch.scripts import VERDICT, host_script, loop, remote
from launch.spec import JobSpec, shared_workdir
from t2p.io import UserError


def nodes(spec: JobSpec) -> Plan:
    """A script for this machine that keeps the hosts running as long as it runs."""
    refuse(spec, "nodes", ("cpu", "gpu"), arrays=True, ray=True)
    own = settings("nodes", spec.options)
    hosts = own["hosts"].split(",")
    count = max(spec.hosts, spec.shards)
    if len(set(hosts)) != count or len(hosts) != count:
        raise UserError(f"the job has {count} processes, one a host; --option hosts names {own['hosts']}")
    if count > 1 and not shared_workdir(spec):
        raise UserError(f"workdir {spec.workdir}: {count} hosts share no home folder; name gs://... or /a/mount")
    logs = own["logs"] or f"out/launch/{spec.name}"
    script = f"{VERDICT}\n{_remote(spec, own, hosts)}\n{loop(spec, _attempt(hosts, logs))}\n"
    advice = f"the hosts' logs: {logs}/host-K.txt", "stop it: Ctrl-C; it saves first"
    return Plan((Command(("bash",), script),), (), advice)


def _remote(spec: JobSpec, own: dict[str, str], hosts: list[str]) -> str:
    first = hosts[0].rpartition("@")[2]
    group = {}
    if spec.command == "train" and spec.hosts > 1:
        group = {"JAX_COORDINATOR_ADDRESS": f"{first}:{own['port']}", "JAX_NUM_PROCESSES": str(spec.hosts)}
    argv = over_ray(spec, f"{first}:6379", t2p(spec, "$JAX_PROCESS_ID"))
    job = host_script(spec, own, argv, environment(spec, group))
    return remote(job)


def _attempt(hosts: list[str], logs: str) -> str:
    """The same command on all hosts; the number of each is in its environment. ssh -tt: hosts notice its end."""
    alive = ("-o", "BatchMode=yes", "-o", "ServerAliveInterval=30")
    lines = [f"mkdir -p {shlex.quote(logs)}", "pids=()"]
    for k, host in enumerate(hosts):
        number = f"env JAX_PROCESS_ID={k} " if len(hosts) > 1 else ""
        ssh = quote(("ssh", "-n", "-tt", *alive, host, Shell(f'"{number}$remote"')))
        lines.append(f"{ssh} >>{shlex.quote(f'{logs}/host-{k}.txt')} 2>&1 & pids+=($!)")
    lines += [
        'answer=""',
        'for pid in "${pids[@]}"; do',
        '  while kill -0 "$pid" 2>/dev/null; do wait "$pid"; done',
        '  wait "$pid"',
        '  answer="$answer $?"',
        "done",
    ]
    return "\n".join(f"  {line}" for line in lines)
