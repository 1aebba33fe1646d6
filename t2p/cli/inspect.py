"""`t2p inspect`: parameters, sharding, memory, collectives, FLOPs and least time of a config, before anything runs."""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

from t2p.io import UserError

if TYPE_CHECKING:
    import ml_collections

    from t2p.accelerators import Topology
    from t2p.train.plan import Plan
    from t2p.types import Batch

MIB = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, metavar="FILE.py[:variant]", help="a config file and its variant")
    where = "another accelerator than this machine's: v5e:16x16, v5litepod-256, v4-8, h100-16"
    parser.add_argument("--topology", default="", metavar="NAME", help=where)
    auto = "config: the mesh of the config; auto: the one suggested for --topology"
    parser.add_argument("--mesh", default="config", choices=("config", "auto"), help=auto)
    parser.add_argument("--batch_per_chip", type=int, default=0, metavar="N", help="sets batch_size to N x chips")
    parser.add_argument("--shapes", action="store_true", help="compile nothing: seconds instead of minutes")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(args: argparse.Namespace, rest: list[str]) -> int:
    topology = _topology(args)
    if topology:
        from t2p.train.ahead import only_compile

        only_compile(topology)
    import jax

    from t2p.cli.config import load_config
    from t2p.train.ahead import attention_on
    from t2p.train.inspection import inspection

    config = load_config(args.config, rest)
    config.dispatch = 1  # all figures are of one step
    if args.batch_per_chip:
        config.batch_size = args.batch_per_chip * (topology.chips if topology else jax.device_count())
    plan, why_not = _plan(config, topology, args.mesh)
    why_not = "--shapes was given" if args.shapes else why_not
    start = time.monotonic()
    with contextlib.nullcontext() if why_not else jax.set_mesh(plan.mesh):
        compiled = None if why_not else plan.compile()
    seconds = time.monotonic() - start
    found = inspection(plan, compiled, _accelerator(plan, topology), plan.mesh.size)
    found = {"config": args.config, "topology": topology.aot or topology.kind if topology else "", **found}
    found |= {"compile_seconds": round(seconds, 1), "not_compiled": why_not}
    if topology:
        found["attention"] = attention_on(topology, config)
    print(json.dumps(found) if args.json else text(plan, found))
    return 0


def _topology(args: argparse.Namespace) -> Topology | None:
    from t2p.accelerators import parse_topology

    if args.batch_per_chip < 0:
        raise UserError(f"--batch_per_chip is {args.batch_per_chip}; expected at least 1")
    if not args.topology:
        if args.mesh == "auto":
            raise UserError("--mesh auto is a suggestion for a --topology; name one")
        return None
    try:
        return parse_topology(args.topology)
    except ValueError as e:
        raise UserError(f"--topology: {e}") from e


def _plan(config: ml_collections.ConfigDict, topology: Topology | None, mesh: str) -> tuple[Plan, str]:
    """-> the plan, and why its step cannot be compiled ("" where it can)."""
    from t2p.train import ahead
    from t2p.train.plan import make_plan

    if topology is None:
        return make_plan(config, _without_data(config)), ""
    example = _shapes(config)
    if mesh == "auto":
        ahead.use_suggested_mesh(config, example, topology)
    return ahead.plan_for(config, example, topology), ahead.cannot_compile(topology)


def _without_data(config: ml_collections.ConfigDict) -> Batch | None:
    """The shapes of a batch where the config names sources but no path yet; None where the data is to tell."""
    paths = [source.path for source in config.data.sources.values()]
    return None if not paths or any(paths) else _shapes(config)


def _shapes(config: ml_collections.ConfigDict) -> Batch:
    from t2p.methods.registry import make_stage
    from t2p.train.shapes import window_shapes
    from t2p.train.statistics import with_statistics

    window = make_stage(with_statistics(config, blank=True), "cpu").window  # the same on every platform
    return window_shapes(window, config.text.width, config.batch_size)


def _accelerator(plan: Plan, topology: Topology | None) -> Any:
    from t2p import accelerators

    return topology.accelerator if topology else accelerators.lookup(plan.mesh.devices.flat[0].device_kind)


def text(plan: Plan, found: dict[str, Any]) -> str:
    """The whole report. plan: whose parameters are listed; found: what `inspection` gave."""
    from t2p.train.sharding import table

    lines = [_first_line(plan, found), "", table(plan.state), "", plan.counts()]
    lines += [*_memory(found), *_collectives(found), *_flops(found), *_estimate(found), *_waste(found)]
    return "\n".join(lines)


def _first_line(plan: Plan, found: dict[str, Any]) -> str:
    if not found["topology"] or not found["not_compiled"]:
        return plan.first_line()
    mesh = " ".join(f"{axis}={size}" for axis, size in found["mesh"].items())
    computes = found["dtype"] + (f", attention {found['attention']}" if found["attention"] else "")
    return f"{found['topology']}: {found['devices']} devices, mesh {mesh}; {computes}\nno step: {found['not_compiled']}"


def _memory(found: dict[str, Any]) -> list[str]:
    m = found["memory"]
    state = ("parameters", "optimizer", "averages", "frozen", "statistics")
    total = sum(m[name] for name in state) / MIB
    lines = [f"training state: {total:,.1f} MiB on each device ({_parts(m, state)})"]
    share = f", {m['known'] / m['device']:.0%} of its memory" if "device" in m else ""
    if found["compiled"] and "temporary" in m:
        parts = _parts(m, (*state, "batch", "padding", "temporary", "new", "code"))
        return [*lines, f"train step: {m['known'] / MIB:,.1f} MiB on each device ({parts}){share}"]
    lines.append(f"state and batch: {m['known'] / MIB:,.1f} MiB on each device ({_parts(m, ('batch',))}){share}")
    return [*lines, "what lies between operations is known only of a compiled step; the largest, before XLA fuses:"] + [
        f"  {x['dtype']}[{','.join(map(str, x['shape']))}] {x['bytes'] / MIB:,.1f} MiB at {x['where']}"
        for x in found["waste"]["largest"]
    ]


def _parts(m: dict[str, int], names: tuple[str, ...]) -> str:
    return ", ".join(f"{name} {m[name] / MIB:,.1f}" for name in names if m[name])


def _collectives(found: dict[str, Any]) -> list[str]:
    if found["devices"] == 1:
        return []
    sent = sum(c["sent"] for c in found["collectives"])
    how = "" if found["compiled"] else ", expected: gradients and split parameters in their own type, nothing else"
    lines = [f"collectives: each device sends {sent / MIB:,.2f} MiB a step{how}"]
    for c in found["collectives"]:
        where, size = f"{'+'.join(c['axes'])} ({c['group']})", c["bytes"] / MIB
        lines.append(f"  {c['count']:4d} x {c['kind']:18s} over {where}: {size:,.2f} MiB, {c['sent'] / MIB:,.2f} sent")
    return lines


def _flops(found: dict[str, Any]) -> list[str]:
    f = found["flops"]
    lines = [f"FLOPs: {f['example']:.4g} an example, {f['step']:.4g} a step"]
    if found["compiled"]:
        lines.append(f"memory traffic: {found['traffic'] / MIB:,.1f} MiB a step on each device")
    return lines


def _estimate(found: dict[str, Any]) -> list[str]:
    if "estimate" not in found:
        return []
    e, ms = found["estimate"], 1e3
    memory = f"memory {e['memory'] * ms:.3g}" if found["compiled"] else "memory unknown"
    parts = f"compute {e['compute'] * ms:.3g}, {memory}, collectives {e['network'] * ms:.3g}"
    how = "" if found["compiled"] else " from shapes"
    return [
        f"estimate{how}: {e['step'] * ms:.3g} ms a step ({parts}), MFU {e['mfu']:.0%}; with overlap "
        f"{e['overlapped'] * ms:.3g} ms, MFU {e['mfu_overlapped']:.0%}",
        *(f"  {line}" for line in e["assumptions"]),
    ]


def _waste(found: dict[str, Any]) -> list[str]:
    w, mesh = found["waste"], found["mesh"]
    lines = [
        f"{path}: {size / MIB:,.1f} MiB copied to each of fsdp={mesh['fsdp']} devices, since no axis of it divides"
        for path, size in w["unsplit"].items()
    ]
    lines += [
        f"{name}: {heads} attention heads are cut by tensor={mesh['tensor']}, so XLA moves activations between devices"
        for name, heads in w["cut_heads"].items()
    ]
    if "use" in w:
        lines.append(f"matrix units: {w['use']:.0%} of what they do is not padding")
        lines += [
            f"  [{p['rows']} x {p['depth']}] x [{p['depth']} x {p['columns']}] uses {p['use']:.0%}, which costs "
            f"{p['costs']:.0%} of their time; {p['where']}"
            for p in w["products"]
        ]
    return lines
