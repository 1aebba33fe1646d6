"""A TPU VM that is there already: gcloud runs the command on all its workers."""

from __future__ import annotations

from launch.options import settings
from launch.plan import Command, Plan, environment, quote, refuse, t2p
from launch.scripts import VERDICT, codes, host_script, loop, remote
from launch.spec import JobSpec, shared_workdir
from t2p.io import UserError


def tpu_vm(spec: JobSpec) -> Plan:
    """A script for this machine that keeps the workers running as long as it runs."""
    refuse(spec, "tpu_vm", ("tpu",))
    own = settings("tpu_vm", spec.options)
    if spec.slices > 1:
        raise UserError(f"a TPU VM is one slice; {spec.slices} slices come as queued resources or a JobSet")
    if spec.hosts > 1 and not shared_workdir(spec):
        raise UserError(f"workdir {spec.workdir}: {spec.hosts} hosts share no home folder; name gs://... or /a/mount")
    place = [f"--zone={own['zone']}", *([f"--project={own['project']}"] if own["project"] else [])]
    node = own["node"] or spec.name
    script = f"{VERDICT}\n{codes(spec.hosts)}\n{_remote(spec, own)}\n{loop(spec, _attempt(spec, node, place))}\n"
    describe = quote(("gcloud", "compute", "tpus", "tpu-vm", "describe", node, *place))
    return Plan((Command(("bash",), script),), (), (f"look at it: {describe}", "stop it: Ctrl-C; it saves first"))


def _remote(spec: JobSpec, own: dict[str, str]) -> str:
    variables = environment(spec, {"T2P_DISTRIBUTED": "1"} if spec.hosts > 1 else {})
    job = host_script(spec, own, t2p(spec), variables)
    return remote(job)


def _attempt(spec: JobSpec, node: str, place: list[str]) -> str:
    """All workers at once: gcloud's batches would start the 65th after the first 64 are done."""
    options = ["--worker=all", f"--batch-size={spec.hosts}", "--ssh-flag=-tt"]
    ssh = quote(("gcloud", "compute", "tpus", "tpu-vm", "ssh", node, *place, *options))
    return f"""\
  log=$(mktemp)
  {ssh} --command="$remote" 2>&1 | tee "$log" &
  while kill -0 $! 2>/dev/null; do wait $!; done
  answer=$(codes)
  rm -f "$log\""""
