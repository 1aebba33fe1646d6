"""Every config and variant without data: shapes of a batch, and parameters divided over every accelerator."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import jax
import pytest
from jax.sharding import NamedSharding

from t2p.accelerators import ACCELERATORS
from t2p.cli.config import load_config
from t2p.methods.registry import make_stage
from t2p.train.shapes import window_shapes
from t2p.train.sharding import shapes_mesh, tree_shardings
from t2p.train.state import flatten
from t2p.train.statistics import with_statistics
from t2p.train.waste import unsplit

FOLDER = Path(__file__).resolve().parents[2] / "configs"


def _variants(path: Path) -> tuple[str, ...]:
    spec = importlib.util.spec_from_file_location("config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.VARIANTS


CONFIGS = [(str(path), variant) for path in sorted(FOLDER.glob("*/*.py")) for variant in _variants(path)]
# One host of every kind, and as many devices as 64 of them have.
COUNTS = sorted({n * a.per_host for a in ACCELERATORS.values() for n in (1, 64)})


@pytest.mark.parametrize(("path", "variant"), CONFIGS, ids=[f"{Path(p).parent.name}-{v}" for p, v in CONFIGS])
def test_shapes_and_shards(path, variant):
    config = with_statistics(load_config(f"{path}:{variant}"), blank=True)
    stage = make_stage(config, "tpu")
    example = window_shapes(stage.window, config.text.width, config.batch_size)
    assert {x.shape[0] for x in jax.tree.leaves(example)} == {config.batch_size}
    assert stage.flops_per_example(example) > 0
    params = jax.eval_shape(stage.init, jax.random.key(0), example)["params"]
    for count in COUNTS:
        config.mesh.update({"data": 1, "fsdp": count})
        mesh = shapes_mesh(config, count)
        shardings = tree_shardings(params, mesh, config)
        placed = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), params, shardings)
        named = unsplit(placed, mesh, config)
        for name, x in flatten(placed).items():
            assert isinstance(x.sharding, NamedSharding)
            whole, local = math.prod(x.shape), math.prod(x.sharding.shard_shape(x.shape))
            large = whole * x.dtype.itemsize >= config.fsdp_min_bytes and len(x.shape) > 1
            assert local == (whole // count if large and name not in named else whole), (name, count)
            assert name not in named or all(size % count for size in x.shape)


def test_there_are_configs_of_every_stage():
    from t2p.methods.registry import STAGES

    found = {load_config(f"{path}:{variant}").stage for path, variant in CONFIGS if variant == "debug"}
    assert found >= set(STAGES) - {"fake"}
