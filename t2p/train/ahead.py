"""Plans for accelerators that are not here: TPUs that XLA compiles for ahead of time, or shapes alone."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Sequence

import jax
import ml_collections

from t2p.accelerators import Topology
from t2p.io import UserError
from t2p.methods.registry import make_stage
from t2p.train.plan import Plan, attention_of, make_plan
from t2p.train.sharding import make_mesh, shapes_mesh
from t2p.train.statistics import with_statistics
from t2p.types import Batch


def cannot_compile(topology: Topology) -> str:
    """Why programs for it cannot be compiled here; "" where they can."""
    if not topology.aot:
        return "XLA compiles for GPUs only where there is one: run `t2p inspect` without --topology on such a machine"
    if importlib.util.find_spec("libtpu") is None:
        return "compiling for TPUs needs libtpu: pip install 't2p[tpu]'"
    return ""


def only_compile(topology: Topology) -> None:
    """Makes this process one that only compiles: JAX on the CPU, and a libtpu that looks for no TPU on this machine."""
    jax.config.update("jax_platforms", "cpu")
    for name, value in libtpu_settings(topology).items():
        os.environ.setdefault(name, value)


def libtpu_settings(topology: Topology) -> dict[str, str]:
    """Environment variables of a libtpu without a TPU: what it would ask the cloud's metadata server, and no lock,
    which one process at a time could hold."""
    return {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": topology.kind,
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }


def devices_of(topology: Topology) -> Sequence[jax.Device]:
    """The devices to compile for; `cannot_compile` has been asked."""
    from jax.experimental import topologies

    options: dict[str, object] = {}
    if topology.hosts == 1:  # else libtpu cuts it into its usual hosts of four chips
        options["chips_per_host_bounds"] = (*topology.shape, 1, 1)[:3]
    if topology.name == "v4":
        options["chip_config_name"] = "megacore"  # a device a chip, as JAX has it on a v4; newer ones have that anyway
    return topologies.get_topology_desc(platform="tpu", topology_name=topology.aot, **options).devices


def plan_for(config: ml_collections.ConfigDict, example: Batch, topology: Topology) -> Plan:
    """What the config amounts to on `topology`; it can be compiled unless `cannot_compile` says why not.

    example: as make_plan has it. libtpu is asked for its devices only where it is there."""
    if config.batch_size % topology.devices and config.mesh.tensor == 1:
        raise UserError(
            f"batch_size {config.batch_size} does not divide over the {topology.devices} devices of {topology.kind}; "
            f"give a multiple, or --batch_per_chip"
        )
    platform = topology.accelerator.platform
    if not cannot_compile(topology):
        return make_plan(config, example, make_mesh(config, devices_of(topology)), platform)
    return make_plan(_traceable(config, topology), example, shapes_mesh(config, topology.devices), platform)


def _traceable(config: ml_collections.ConfigDict, topology: Topology) -> ml_collections.ConfigDict:
    """cuDNN's kernels are traced on a GPU only: the other kind that never holds a whole matrix stands in for them."""
    if not attention_on(topology, config).startswith("cudnn"):
        return config
    return ml_collections.ConfigDict(config.to_dict() | {"attention": "blockwise"})


def attention_on(topology: Topology, config: ml_collections.ConfigDict) -> str:
    """The attention that runs on it, as the first line of a training tells it; "" for a stage without."""
    return attention_of(make_stage(with_statistics(config, blank=True), topology.accelerator.platform))


def use_suggested_mesh(config: ml_collections.ConfigDict, example: Batch, topology: Topology) -> None:
    """Sets config.mesh to the topology's suggestion for a state of this size."""
    alone = ml_collections.ConfigDict(_traceable(config, topology).to_dict())
    alone.mesh.update({"data": -1, "fsdp": 1, "tensor": 1})
    alone.sharding = ()
    state = make_plan(alone, example, shapes_mesh(alone, 1), topology.accelerator.platform).state
    size = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state))
    try:
        config.mesh.update(topology.mesh(size, config.batch_size))
    except ValueError as e:
        raise UserError(f"--mesh auto: {e}") from e
