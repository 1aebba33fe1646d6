"""Queued resources: TPU VMs that Google creates when there is room, and that run the job when they start."""

from __future__ import annotations

import shlex

from launch.options import settings
from launch.plan import RESTART, Command, Plan, Shell, environment, quote, refuse, t2p
from launch.scripts import exports
from launch.spec import JobSpec
from t2p.accelerators import Topology
from t2p.io import UserError, is_remote

_GCLOUD = ("gcloud", "compute", "tpus", "queued-resources")


def queued(spec: JobSpec) -> Plan:
    """A script for this machine that asks for the slices. Given again, it leaves a request that waits or runs alone
    and replaces one that was taken away."""
    refuse(spec, "queued", ("tpu",), spot=True)
    own = settings("queued", spec.options)
    if not is_remote(spec.workdir):
        raise UserError(f"workdir {spec.workdir} would go with the TPU VM; name a bucket: gs://...")
    place = (f"--zone={own['zone']}", *((f"--project={own['project']}",) if own["project"] else ()))
    assert spec.topology  # refuse() lets TPUs through only
    create = (*_GCLOUD, "create", spec.name, *place, *_request(spec, spec.topology, own))
    delete = (*_GCLOUD, "delete", spec.name, *place, "--force", "--quiet")
    state = (*_GCLOUD, "describe", spec.name, *place, "--format=value(state.state)")
    script = f"""\
main() {{
state=$({quote(state)} 2>/dev/null)
case $state in
  SUSPENDED|FAILED) {quote(delete)} || return ;;
  "") ;;
  *) echo "{spec.name} is $state already"; return 0 ;;
esac
startup=$(mktemp)
trap 'rm -f "$startup"' EXIT
cat >"$startup" <<'T2P_STARTUP'
{_startup(spec, own)}
T2P_STARTUP
{quote(create)}
}}
main </dev/null
exit
"""
    advice = f"look at it: {quote(state)}", f"end it, and what it costs: {quote(delete)}"
    return Plan((Command(("bash",), script),), (), advice)


def _request(spec: JobSpec, topology: Topology, own: dict[str, str]) -> list[str]:
    kind = topology.kind.rpartition("-")[0]
    slices = [f"--accelerator-type={topology.kind}"]
    if not topology.usual:
        slices = [f"--type={kind}", f"--topology={topology.grid}"]
    names = [f"--node-id={spec.name}"]
    if spec.slices > 1:
        names = [f"--node-count={spec.slices}", f"--node-prefix={spec.name}"]
    given = {"service-account": "service_account", "network": "network", "subnetwork": "subnetwork"}
    return [
        *slices,
        *names,
        f"--runtime-version={own['runtime'] or topology.runtime}",
        *(["--spot"] if spec.spot else []),
        *(f"--{flag}={own[name]}" for flag, name in given.items() if own[name]),
        Shell('--metadata-from-file=startup-script="$startup"'),
    ]


def _startup(spec: JobSpec, own: dict[str, str]) -> str:
    """What each TPU VM runs as root whenever it starts: the job in its container, again after 42. Secrets come from
    Secret Manager to the container through the environment."""
    registry = own["image"].partition("/")[0]
    project = (f"--project={own['project']}",) if own["project"] else ()
    secrets = [
        f'{name}="$({quote(("gcloud", "secrets", "versions", "access", "latest", f"--secret={name}", *project))})"'
        f" || exit 3\nexport {name}"
        for name in spec.secrets
    ]
    variables = environment(spec, {"T2P_DISTRIBUTED": "1"} if spec.hosts > 1 else {})
    passed = [part for name in (*variables, *spec.secrets) for part in ("--env", name)]
    container = ("docker", "run", "--rm", "--init", "--name", spec.name, "--privileged", "--network=host", "--ipc=host")
    run = quote((*container, *passed, own["image"], *t2p(spec)))
    parts = (
        "#!/bin/bash",
        "export HOME=/root",
        f"gcloud auth configure-docker {shlex.quote(registry)} --quiet" if "." in registry else "",
        *secrets,
        exports(variables),
        "restarts=0",
        "while :; do",
        f"  docker rm --force {spec.name} >/dev/null 2>&1",
        f"  {run}",
        "  code=$?",
        f'  echo "{spec.name}: exit code $code, $restarts restarts"',
        f'  case $code in {"|".join(map(str, RESTART))}) ;; *) exit "$code" ;; esac',
        f'  [ "$restarts" -lt {spec.retries} ] || exit "$code"',
        "  restarts=$((restarts + 1))",
        "done",
    )
    return "\n".join(p for p in parts if p)
