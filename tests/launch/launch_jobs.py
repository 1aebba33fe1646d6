"""Jobs that stand for their backends, and the plans that are expected of them in golden/.

`python tests/launch/launch_jobs.py`, from the project's root, writes golden/ anew."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from launch.backends import BACKENDS
from launch.plan import show
from launch.spec import JobSpec

GOLDEN = Path(__file__).with_name("golden")
CONFIG = "configs/atm/track_transformer.py:paper"
ZONE = {"zone": "us-west4-a", "project": "robots"}
IMAGE = {"image": "us-docker.pkg.dev/robots/t2p/t2p:tpu"}

TRAIN = JobSpec("atm", "gs://bucket/runs/atm", CONFIG, overrides=("--config.seed=1",), environment={"NOTE": "a b"})
POD = dataclasses.replace(TRAIN, accelerator="v5litepod-256", secrets=("WANDB_API_KEY",), spot=True)
GPUS = dataclasses.replace(TRAIN, accelerator="h100-16", secrets=("WANDB_API_KEY",))
LABEL = JobSpec(
    "label", "gs://bucket/data", command="annotate", overrides=("--input", "gs://bucket/videos", "--layout", "atm")
)
PARTS = dataclasses.replace(LABEL, shards=8)
RAY = dataclasses.replace(LABEL, slices=4, overrides=(*LABEL.overrides, "--engine", "ray"))


def on(backend: str, spec: JobSpec, **options: str) -> tuple[str, JobSpec]:
    return backend, dataclasses.replace(spec, options={backend: options})


CASES = {
    "local": on("local", dataclasses.replace(TRAIN, slices=2), devices="4"),
    "local_array": on("local", PARTS),
    "slurm": on("slurm", GPUS, partition="gpu", time="24:00:00", cpus="96", setup="module load cuda; . env.sh"),
    "slurm_array": on("slurm", PARTS, directory="/home/me/t2p", cpus="16"),
    "slurm_ray": on("slurm", RAY),
    "tpu_vm": on("tpu_vm", dataclasses.replace(POD, accelerator="v5litepod-16", spot=False), **ZONE),
    "queued": on("queued", dataclasses.replace(POD, slices=2), **ZONE, **IMAGE),
    "jobset_tpu": on("jobset", dataclasses.replace(POD, slices=2), **IMAGE, service_account="trainer", queue="robots"),
    "jobset_gpu": on("jobset", GPUS, image="registry/t2p:gpu", claim="scratch:/data", namespace="lab"),
    "jobset_array": on("jobset", PARTS, **IMAGE, cpus="16"),
    "xpk": on("jobset", dataclasses.replace(POD, secrets=(), spot=False, slices=2), **ZONE, **IMAGE, xpk="cluster"),
    "nodes": on("nodes", GPUS, hosts="me@gpu1,me@gpu2"),
}


def printed(name: str) -> str:
    """What the dry run prints of a case, with "python" for this interpreter."""
    backend, spec = CASES[name]
    return show(BACKENDS[backend](spec)).replace(sys.executable, "python")


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for case in CASES:
        (GOLDEN / f"{case}.txt").write_text(printed(case))
