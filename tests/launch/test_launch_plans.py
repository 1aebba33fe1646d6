"""Plans: golden commands and manifests, what a manifest must hold, and what no plan may show."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys

import launch_jobs
import pytest
import yaml

from launch.backends import BACKENDS
from launch.plan import GPU_ENVIRONMENT, RESTART, show
from launch.spec import JobSpec
from t2p.io import UserError
from t2p.train.preemption import EXIT_CODE

CASES = launch_jobs.CASES


def manifest(spec: JobSpec, **options: str) -> dict:
    """The JobSet of a job, as YAML gives it."""
    _, spec = launch_jobs.on("jobset", spec, **{**launch_jobs.IMAGE, **options})
    (command,) = BACKENDS["jobset"](spec).commands
    return yaml.safe_load(command.stdin)


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str):
    """After a change that is meant: python tests/launch/launch_jobs.py, and read the difference."""
    assert launch_jobs.printed(case) == (launch_jobs.GOLDEN / f"{case}.txt").read_text()


@pytest.mark.parametrize("case", CASES)
def test_scripts_parse(case: str):
    backend, spec = CASES[case]
    plan = BACKENDS[backend](spec)
    scripts = [show(plan), *(c.stdin for c in plan.commands if c.argv[0] in ("bash", "sbatch"))]
    for script in scripts:
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_values_of_secrets_are_nowhere(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_API_KEY", "hush-hush")
    for backend, spec in CASES.values():
        plan = BACKENDS[backend](spec)
        assert "hush-hush" not in show(plan) + "".join(plan.advice)
        assert not any("WANDB_API_KEY" in argument for c in plan.commands for argument in c.argv)


def test_preempted_training_is_among_what_is_started_again():
    assert RESTART[0] == EXIT_CODE


def test_xla_knows_the_flags_that_gpu_jobs_get():
    """XLA ends a process whose XLA_FLAGS hold a flag that it does not know."""
    environment = {**os.environ, **GPU_ENVIRONMENT, "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", "import jax; jax.devices()"], check=True, env=environment)


def test_a_job_set_of_tpus():
    found = manifest(dataclasses.replace(launch_jobs.POD, slices=2))
    assert (found["apiVersion"], found["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (job,) = found["spec"]["replicatedJobs"]
    group, pod = job["template"]["spec"], job["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert job["replicas"] * group["completions"] * chips == 512
    assert group["parallelism"] == group["completions"] and group["backoffLimit"] == 0
    assert pod["restartPolicy"] == "Never"  # which podFailurePolicy asks for
    assert group["podFailurePolicy"]["rules"][-1]["onExitCodes"]["containerName"] == container["name"]
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "16x16"
    mounted = {m["name"] for m in container["volumeMounts"]}
    assert mounted == {v["name"] for v in pod["volumes"]}


@pytest.mark.parametrize(
    "accelerator, pods, chips",
    [("v4-8", 1, 4), ("v5litepod-8", 1, 8), ("v5litepod-16", 4, 4), ("v5p:4x4x12", 48, 4), ("v6e-1", 1, 1)],
)
def test_each_pod_has_a_hosts_chips(accelerator: str, pods: int, chips: int):
    (job,) = manifest(dataclasses.replace(launch_jobs.TRAIN, accelerator=accelerator))["spec"]["replicatedJobs"]
    group = job["template"]["spec"]
    (container,) = group["template"]["spec"]["containers"]
    assert (group["completions"], container["resources"]["limits"]["google.com/tpu"]) == (pods, chips)


def test_training_on_cpus_and_gpus_is_told_who_it_is():
    (job,) = manifest(dataclasses.replace(launch_jobs.TRAIN, slices=3))["spec"]["replicatedJobs"]
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    found = {e["name"]: e.get("value") for e in container["env"]}
    assert found["JAX_COORDINATOR_ADDRESS"] == "atm-job-0-0.atm:8476" and found["JAX_NUM_PROCESSES"] == "3"
    assert "JAX_PROCESS_ID" in found and "resources" not in container
    (job,) = manifest(launch_jobs.TRAIN)["spec"]["replicatedJobs"]  # alone: none of them
    assert "JAX_" not in str(job)


def test_several_gpu_nodes_under_slurm_see_all_their_gpus():
    assert "export JAX_LOCAL_DEVICE_IDS=0,1,2,3,4,5,6,7" in launch_jobs.printed("slurm")


def test_accelerators_are_asked_of_training():
    """Without it, a machine whose accelerator is not found trains on its CPU."""
    for case in ("slurm", "tpu_vm", "queued", "xpk", "nodes"):
        assert re.search(r"--config\.accelerator=(gpu|tpu)", launch_jobs.printed(case))
    own = dataclasses.replace(CASES["slurm"][1], overrides=("--config.accelerator=",))
    assert "--config.accelerator=gpu" not in show(BACKENDS["slurm"](own))


def test_unusual_grids_are_asked_for_by_their_grid():
    spec = dataclasses.replace(launch_jobs.TRAIN, accelerator="v5p:4x4x12")
    _, asked = launch_jobs.on("queued", spec, **launch_jobs.ZONE, **launch_jobs.IMAGE)
    assert "--type=v5p --topology=4x4x12" in show(BACKENDS["queued"](asked))
    _, asked = launch_jobs.on("jobset", spec, **launch_jobs.IMAGE, xpk="c")
    assert "--tpu-type=v5p-4x4x12" in show(BACKENDS["jobset"](asked))


ZONE, IMAGE = launch_jobs.ZONE, launch_jobs.IMAGE


@pytest.mark.parametrize(
    "backend, changes, options, message",
    [
        ("local", {"accelerator": "h100-16"}, {}, "this machine alone"),
        ("local", {"spot": True}, {}, "takes the machines as they are"),
        ("slurm", {"accelerator": "v4-8"}, {}, "cpu or gpu"),
        ("tpu_vm", {"accelerator": "h100-8"}, ZONE, "runs on tpu"),
        ("tpu_vm", {"accelerator": "v4-8", "slices": 2}, ZONE, "one slice"),
        ("tpu_vm", {"accelerator": "v4-32", "workdir": "runs/a"}, ZONE, "share no home folder"),
        ("tpu_vm", {"accelerator": "v4-8"}, {}, "needs --option zone"),
        ("queued", {"accelerator": "v4-8", "workdir": "/runs"}, {**ZONE, **IMAGE}, "name a bucket"),
        ("jobset", {"workdir": "/runs"}, IMAGE, "--option claim"),
        ("jobset", {"accelerator": "v3-8"}, IMAGE, "GKE has no nodes"),
        ("jobset", {"accelerator": "h100-8"}, {**IMAGE, "xpk": "c"}, "runs on tpu"),
        ("jobset", {"accelerator": "v4-8", "secrets": ("A",)}, {**IMAGE, "xpk": "c"}, "into its manifest"),
        ("jobset", {"accelerator": "v4-8", "environment": {"A": '"'}}, {**IMAGE, "xpk": "c"}, "cannot pass A"),
        ("nodes", {"slices": 2}, {"hosts": "a"}, "2 processes, one a host"),
        ("nodes", {"slices": 2}, {"hosts": "a,a"}, "2 processes, one a host"),
        ("nodes", {"slices": 2, "workdir": "runs/a"}, {"hosts": "a,b"}, "share no home folder"),
    ],
)
def test_what_a_backend_cannot_do_is_refused(backend: str, changes: dict, options: dict, message: str):
    _, spec = launch_jobs.on(backend, dataclasses.replace(launch_jobs.TRAIN, **changes), **options)
    with pytest.raises(UserError, match=message):
        BACKENDS[backend](spec)


def test_arrays_and_ray_are_refused_where_there_are_none():
    for spec, message in ((launch_jobs.PARTS, "no arrays"), (launch_jobs.RAY, "no Ray cluster")):
        one = dataclasses.replace(spec, accelerator="v4-8")
        with pytest.raises(UserError, match=message):
            BACKENDS["tpu_vm"](one)
