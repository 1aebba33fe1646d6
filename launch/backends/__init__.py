"""Where jobs run: each backend is a pure function from a job to a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from launch.backends.jobset import jobset
from launch.backends.local import local
from launch.backends.nodes import nodes
from launch.backends.queued import queued
from launch.backends.slurm import slurm
from launch.backends.tpu_vm import tpu_vm
from launch.plan import Plan
from launch.spec import JobSpec

BACKENDS: Mapping[str, Callable[[JobSpec], Plan]] = {
    "local": local,
    "slurm": slurm,
    "tpu_vm": tpu_vm,
    "queued": queued,
    "jobset": jobset,
    "nodes": nodes,
}
