"""`t2p inspect`: parameters, sharding, memory and FLOPs of a config, before anything runs."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ml_collections

    from t2p.train.plan import Plan
    from t2p.types import Batch

MIB = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, metavar="FILE.py[:variant]", help="a config file and its variant")


def run(args: argparse.Namespace, rest: list[str]) -> int:
    import jax

    from t2p.cli.config import load_config
    from t2p.train.plan import make_plan

    config = load_config(args.config, rest)
    plan = make_plan(config, _without_data(config))
    with jax.set_mesh(plan.mesh):
        print(report(plan))
    return 0


def _without_data(config: ml_collections.ConfigDict) -> Batch | None:
    """The shapes of a batch where the config names sources but no path yet; None where the data is to tell."""
    from t2p.methods.registry import make_stage
    from t2p.train.plan import window_shapes

    paths = [source.path for source in config.data.sources.values()]
    if not paths or any(paths) or "image_size" not in config.model:
        return None
    size = tuple(config.model.image_size)
    return window_shapes(make_stage(config).window, size, config.text.width, config.batch_size)


def report(plan: Plan) -> str:
    """The whole text. The train step is compiled for this machine's devices, and not run."""
    import jax

    from t2p.train.sharding import table

    lines = [plan.first_line(), "", table(plan.state), "", plan.counts()]
    state = sum(_local_bytes(x) for x in jax.tree.leaves(plan.state)) / MIB
    lines += [f"training state: {state:,.1f} MiB on each device (parameters, averages, optimiser, frozen stages)"]
    lines += [*_memory(plan), *_flops(plan)]
    return "\n".join(lines)


def _local_bytes(x: Any) -> int:
    return math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize


def _memory(plan: Plan) -> list[str]:
    import jax

    from t2p import accelerators

    found = plan.compile().memory_analysis()
    if found is None:
        return ["train step: this backend does not report its memory"]
    arguments, scratch = found.argument_size_in_bytes / MIB, found.temp_size_in_bytes / MIB
    new = (found.output_size_in_bytes - found.alias_size_in_bytes) / MIB
    total = arguments + scratch + new
    line = f"train step: {total:,.1f} MiB on each device (state and batch {arguments:,.1f}, temporary {scratch:,.1f})"
    known = accelerators.lookup(jax.devices()[0].device_kind)
    return [line + (f", {total * MIB / known.memory:.0%} of its memory" if known else "")]


def _flops(plan: Plan) -> list[str]:
    import jax

    from t2p import accelerators

    step = plan.flops_per_step()
    example, total = step / plan.config.batch_size, step * plan.config.steps
    lines = [f"FLOPs: {example:.4g} an example, {step:.4g} a step, {total:.4g} in all"]
    known = accelerators.lookup(jax.devices()[0].device_kind)
    if known:
        seconds = step / (known.bf16 * jax.device_count())
        lines.append(f"at half of the devices' peak rate: {2e3 * seconds:.3g} ms a step")
    return lines
