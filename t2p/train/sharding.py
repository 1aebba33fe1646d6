"""The mesh, and where each array of the training state lies on it.

Axes: "data" copies parameters and splits batches, "fsdp" splits both, "tensor" splits what rules say. A parameter
goes by the first rule of config.sharding whose regex matches its path, else by its shape over "fsdp".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
import optax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from t2p.io import UserError
from t2p.train.state import TrainState, check_rules, first_match, flatten, split, unflatten

AXES = ("data", "fsdp", "tensor")
BATCH = PartitionSpec(("data", "fsdp"))
AnyMesh = Mesh | AbstractMesh


def batch_spec(before: int = 0) -> PartitionSpec:
    """Where batches lie whose rows come after `before` other axes."""
    return PartitionSpec(*(None,) * before, *BATCH)


def make_mesh(config: ml_collections.ConfigDict, devices: Sequence[jax.Device] = ()) -> Mesh:
    """A mesh with the sizes of config.mesh of these devices, or of all that JAX has here."""
    devices = list(devices) or jax.devices()
    sizes = mesh_sizes(config, len(devices))
    mesh = jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)
    processes = {d.process_index for d in devices}
    if any(rows_of_process(mesh, sizes[0] * sizes[1], p) is None for p in processes):
        # Topology order would scatter a process's rows: take the devices process by process instead.
        devices = sorted(devices, key=lambda d: (d.process_index, d.id))
        mesh = Mesh(np.array(devices).reshape(sizes), AXES, axis_types=(AxisType.Auto,) * 3)
    return mesh


def shapes_mesh(config: ml_collections.ConfigDict, count: int) -> AbstractMesh:
    """The mesh of so many devices that are not there: arrays can be divided over it, and nothing compiled for it."""
    return AbstractMesh(mesh_sizes(config, count), AXES, axis_types=(AxisType.Auto,) * 3)


def mesh_sizes(config: ml_collections.ConfigDict, count: int) -> tuple[int, ...]:
    """Sizes of AXES for so many devices: config.mesh, one of which may be -1, which takes what is left."""
    sizes = [config.mesh[a] for a in AXES]
    rest = math.prod(s for s in sizes if s != -1)
    fits = (
        sizes.count(-1) <= 1 and min(sizes) >= -1 and rest > 0 and (count % rest == 0 if -1 in sizes else count == rest)
    )
    if not fits:
        given = " ".join(f"{a}={s}" for a, s in zip(AXES, sizes))
        raise UserError(
            f"mesh {given} does not fit {count} devices; expected sizes whose product is {count} (one may be -1)"
        )
    return tuple(count // rest if s == -1 else s for s in sizes)


def rows_of_process(mesh: Mesh, batch_size: int, process: int) -> tuple[int, int] | None:
    """-> (block, blocks): a process's devices hold the block-th of `blocks` equal runs of rows of a batch.

    Processes that differ in the tensor axis alone hold the same rows. None if the rows are no such run."""
    held: Any = NamedSharding(mesh, BATCH).devices_indices_map((batch_size,)).items()
    spans = {i[0].indices(batch_size)[:2] for device, i in held if device.process_index == process}
    start, stop = min(s for s, _ in spans), max(e for _, e in spans)
    size = stop - start
    whole = sum(e - s for s, e in spans) == size
    return (start // size, batch_size // size) if whole and start % size == 0 and batch_size % size == 0 else None


def check_batch(config: ml_collections.ConfigDict, mesh: AnyMesh) -> None:
    """The global batch must divide into micro-batches, and each of those over the mesh."""
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    if config.batch_size % (config.accumulation * shards):
        raise UserError(
            f"batch_size {config.batch_size} does not divide over accumulation {config.accumulation} x {shards} "
            f"shards (mesh data x fsdp); expected a multiple of {config.accumulation * shards}"
        )


def _by_shape(shape: tuple[int, ...], itemsize: int, fsdp: int, min_bytes: int, scanned: bool) -> PartitionSpec:
    """The largest axis that divides evenly over fsdp; small arrays and vectors are copied. The axis of scanned
    layers is never split: each step of the scan would have to fetch its layer from one device."""
    first = 1 if scanned else 0
    if fsdp == 1 or len(shape) - first < 2 or math.prod(shape) * itemsize < min_bytes:
        return PartitionSpec()
    axes = [i for i in range(first, len(shape)) if shape[i] % fsdp == 0]
    if not axes:
        return PartitionSpec()
    largest = max(axes, key=lambda i: shape[i])
    return PartitionSpec(*[("fsdp" if i == largest else None) for i in range(len(shape))])


def partition(path: str, leaf: Any, mesh: AnyMesh, config: ml_collections.ConfigDict) -> PartitionSpec:
    """The partition of one parameter; a rule that does not fit its shape is an error."""
    rule = first_match(config.sharding, path)
    if rule is None:
        scanned = config.scan_layers and len(leaf.shape) > 2
        return _by_shape(leaf.shape, leaf.dtype.itemsize, mesh.shape["fsdp"], config.fsdp_min_bytes, scanned)
    spec = PartitionSpec(*[tuple(a) if isinstance(a, (list, tuple)) else a for a in rule])
    names = [n for a in spec if a for n in ((a,) if isinstance(a, str) else a)]
    if unknown := set(names) - set(AXES):
        raise UserError(f"sharding: {path} names the axis {sorted(unknown)[0]!r}; expected {', '.join(AXES)} or None")
    try:
        NamedSharding(mesh, spec).shard_shape(leaf.shape)
    except ValueError as e:
        raise UserError(
            f"sharding: {tuple(rule)} does not fit {path} of shape {leaf.shape} on {dict(mesh.shape)}"
        ) from e
    return spec


def tree_shardings(tree: Mapping[str, Any], mesh: AnyMesh, config: ml_collections.ConfigDict) -> dict[str, Any]:
    """A NamedSharding for each leaf of a tree of parameters (or of their shapes)."""
    flat = flatten(tree)
    return unflatten({k: NamedSharding(mesh, partition(k, v, mesh, config)) for k, v in flat.items()})


def state_shardings(
    shapes: Any,
    optimizer: optax.GradientTransformation,
    held: frozenset[str],
    mesh: AnyMesh,
    config: ml_collections.ConfigDict,
) -> Any:
    """A TrainState of shardings for a TrainState of shapes: optimiser moments and averages lie where their parameters
    do."""
    check_rules("sharding", [r[0] for r in config.sharding], list(flatten(shapes.params)))
    everywhere = NamedSharding(mesh, PartitionSpec())
    params = tree_shardings(shapes.params, mesh, config)
    opt_state = optax.tree_map_params(
        optimizer,
        lambda _, sharding: sharding,
        shapes.opt_state,
        split(params, held)[0],
        transform_non_params=lambda _: everywhere,
    )
    return shapes.replace(
        step=everywhere,
        params=params,
        batch_stats=jax.tree.map(lambda _: everywhere, shapes.batch_stats),
        opt_state=opt_state,
        ema=params if shapes.ema else {},
        frozen={name: tree_shardings(tree, mesh, config) for name, tree in shapes.frozen.items()},
    )


def with_shardings(shapes: Any, shardings: Any) -> Any:
    """ShapeDtypeStructs that say where they lie."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def table(state: TrainState) -> str:
    """Parameters with shape, type, partition and MiB a device; `state` holds arrays or shapes with shardings."""
    rows = [("parameter", "shape", "type", "partition", "MiB/device")]
    for path, leaf in flatten({**state.params, **{f"frozen:{k}": v for k, v in state.frozen.items()}}).items():
        local = math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize / 2**20
        rows.append(
            (path, "x".join(map(str, leaf.shape)) or "1", str(leaf.dtype), _spec(leaf.sharding), f"{local:.3f}")
        )
    widths = [max(len(r[i]) for r in rows) for i in range(5)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(r, widths)).rstrip() for r in rows)


def _spec(sharding: NamedSharding) -> str:
    return ", ".join(str(a) for a in sharding.spec) or "copied"
