"""What a plan needs and how fast it could be, as one JSON-able object: memory, collectives, FLOPs, roofline, waste."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax

from t2p.accelerators import Accelerator
from t2p.train.hlo import Collective, collectives
from t2p.train.plan import Plan, attention_of
from t2p.train.roofline import ASSUMPTIONS, Estimate, estimate
from t2p.train.state import flatten
from t2p.train.traffic import memory_traffic
from t2p.train.waste import cut_heads, largest, products, trace, unsplit, use_of_all

INTERMEDIATES = 3  # so many of the largest are named
PRODUCTS = 5  # and of the products that use less than POOR of a matrix unit and cost at least NOTICED of all its time
POOR, NOTICED = 0.8, 0.01


def inspection(
    plan: Plan, compiled: jax.stages.Compiled | None, accelerator: Accelerator | None, devices: int
) -> dict[str, Any]:
    """Everything that is known. compiled: plan.compile(), or None for shapes only; accelerator: None where it is not in
    the table: then there are no estimates. Bytes are of one device."""
    found = {
        "stage": plan.config.stage,
        "devices": devices,
        "mesh": {axis: int(size) for axis, size in plan.mesh.shape.items()},
        "batch_size": plan.config.batch_size,
        "dtype": plan.config.dtype,
        "attention": attention_of(plan.stage),
        "compiled": compiled is not None,
        "memory": memory(plan, compiled, accelerator),
        "flops": {"example": plan.flops_per_step() / plan.config.batch_size, "step": plan.flops_per_step()},
        "waste": waste(plan, accelerator),
    }
    mesh = found["mesh"]
    program = (compiled.as_text() or "") if compiled else ""
    between = collectives(program, mesh) if compiled else expected_collectives(plan)
    found["collectives"] = [{**dataclasses.asdict(c), "sent": c.sent} for c in between]
    found["traffic"] = memory_traffic(program)
    found["xla"] = {name: float(x) for name, x in _costs(compiled).items() if name in ("flops", "bytes accessed")}
    if accelerator:
        found["estimate"] = _estimate(estimate(accelerator, devices, plan.flops_per_step(), found["traffic"], between))
    return found


def memory(plan: Plan, compiled: jax.stages.Compiled | None, accelerator: Accelerator | None) -> dict[str, int]:
    """Bytes on each device, by kind; what only a compiled program tells is missing without one.

    padding: what the layouts of the arguments add to them. new: results that do not take an argument's place."""
    state = plan.state
    parts = {
        "parameters": state.params,
        "optimizer": state.opt_state,
        "averages": state.ema,
        "frozen": state.frozen,
        "statistics": (state.batch_stats, state.step),
        "batch": plan.batch_shapes(),
    }
    found = {name: sum(_local(x) for x in jax.tree.leaves(part)) for name, part in parts.items()}
    own = sum(found.values())
    if accelerator:
        found["device"] = accelerator.memory
    analysis = compiled.memory_analysis() if compiled else None
    if analysis is None:
        return {**found, "known": own}
    found |= {
        "padding": max(analysis.argument_size_in_bytes - own, 0),
        "temporary": analysis.temp_size_in_bytes,
        "output": analysis.output_size_in_bytes,
        "alias": analysis.alias_size_in_bytes,
        "code": analysis.generated_code_size_in_bytes,
        "new": analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
    }
    return {**found, "known": own + sum(found[name] for name in ("padding", "temporary", "new", "code"))}


def expected_collectives(plan: Plan) -> tuple[Collective, ...]:
    """What to expect of a step that is not compiled. Gradients of parameters are summed over the axes that share
    a batch; parameters that are split over fsdp are gathered for the forward and the backward pass, their gradients
    scattered; all in float32, where XLA may take the computation's type. Over tensor nothing is foretold."""
    shape = plan.mesh.shape
    sizes = {"copied": 0, "split": 0}
    for path, x in flatten(plan.state.params).items():
        if path not in plan.step.held:
            split = "fsdp" in str(x.sharding.spec)
            sizes["split" if split else "copied"] += _local(x) * (shape["fsdp"] if split else 1)
    both = tuple(axis for axis in ("data", "fsdp") if shape[axis] > 1)
    group, fsdp = math.prod(shape[a] for a in both), shape["fsdp"]
    rows = [
        Collective("all-reduce", both, group, 1, sizes["copied"]),
        Collective("all-gather", ("fsdp",), fsdp, 2, 2 * sizes["split"]),
        Collective("reduce-scatter", ("fsdp",), fsdp, 1, sizes["split"]),
        Collective("all-reduce", ("data",), shape["data"], 1, sizes["split"] // fsdp),
    ]
    return tuple(c for c in rows if c.group > 1 and c.bytes)


def waste(plan: Plan, accelerator: Accelerator | None) -> dict[str, Any]:
    """What fits badly. unsplit: {parameter: bytes copied whole}; cut_heads: {network: heads}; products: those that
    leave much of a TPU's matrix unit idle, with the share of all its time that this costs; largest: intermediates."""
    shards = plan.mesh.shape["data"] * plan.mesh.shape["fsdp"] * plan.config.accumulation
    rows = plan.config.batch_size // shards
    example = jax.tree.map(lambda x: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype), plan.example)
    operations = trace(plan.stage, example)
    found: dict[str, Any] = {
        "unsplit": unsplit(plan.state.params, plan.mesh, plan.config),
        "cut_heads": cut_heads(plan.stage, plan.mesh.shape["tensor"]),
        "largest": [dataclasses.asdict(x) for x in largest(operations, INTERMEDIATES)],
    }
    if accelerator and accelerator.platform == "tpu":
        all_of_them = products(operations)
        work = sum(p.flops / p.use for p in all_of_them)
        poor = [(p, (p.flops / p.use - p.flops) / work) for p in all_of_them if p.use < POOR]
        named = [{**dataclasses.asdict(p), "use": p.use, "costs": cost} for p, cost in poor if cost >= NOTICED]
        found |= {"use": use_of_all(all_of_them), "products": named[:PRODUCTS]}
    return found


def _costs(compiled: jax.stages.Compiled | None) -> Mapping[str, Any]:
    """XLA's own count of a device's step, which takes the body of a loop once."""
    return (compiled.cost_analysis() if compiled else None) or {}


def _estimate(e: Estimate) -> dict[str, Any]:
    names = ("compute", "memory", "network", "step", "overlapped", "mfu", "mfu_overlapped")
    return {name: getattr(e, name) for name in names} | {"assumptions": list(ASSUMPTIONS)}


def _local(x: Any) -> int:
    return math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
