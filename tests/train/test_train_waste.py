"""What is said to fit badly: products, parameters, heads."""

from __future__ import annotations

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding

from t2p.models.threepointr import TrackNet
from t2p.train.defaults import base_config
from t2p.train.sharding import partition, shapes_mesh
from t2p.train.waste import Product, cut_heads, largest, products, trace, unsplit, use_of_all
from t2p.types import Batch


@dataclass(frozen=True)
class Stage:
    """A matrix of [12, 40], there and back in a loop of three, and a convolution."""

    net: nn.Module | None = None

    def init(self, rng, batch):
        return {"params": {"w": jnp.zeros((12, 40)), "k": jnp.zeros((5, 4, 6))}, "batch_stats": {}, "frozen": {}}

    def loss(self, variables, batch, rng, train):
        def body(x, _):
            with jax.named_scope("inner"):
                return jnp.tanh(x @ variables["params"]["w"] @ variables["params"]["w"].T), None

        total = jax.lax.scan(body, batch.proprio["x"], None, length=3)[0].sum()
        image = jnp.ones((2, 10, 4))
        return total + jax.lax.conv_general_dilated(
            image, variables["params"]["k"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
        ).sum(), {}


def test_a_trace_finds_products_in_loops_and_convolutions():
    operations = trace(Stage(), Batch(proprio={"x": jax.ShapeDtypeStruct((7, 12), jnp.float32)}))
    found = {(p.rows, p.depth, p.columns): p for p in products(operations)}
    one = 3 * 2 * 7 * 12 * 40
    assert found[7, 12, 40].flops == 2 * one  # there, forward; back, backward
    assert "inner" in found[7, 12, 40].where
    assert sum(p.flops for p in found.values() if p.depth == 7) == 2 * one  # the gradient of w, there and back
    assert found[20, 20, 6].flops == 2 * (2 * 20 * 20 * 6)  # the convolution and its kernel's gradient
    assert largest(operations, 1)[0].shape == (3, 7, 40)  # what the loop keeps for its way back


def test_use_of_a_matrix_unit():
    def use(*sizes):
        return Product("", *sizes, 1.0).use

    assert use(256, 128, 128) == 1.0 and use(8, 128, 256) == 1.0 and use(256, 128, 8) == 1.0
    assert use(2048, 64, 2048) == 0.5
    assert use(256, 48, 193) == pytest.approx(48 / 128 * 193 / 200)
    assert use(1, 128, 1) == 1 / 8 / 128
    halves = [Product("", 256, 64, 256, 1.0), Product("", 256, 128, 256, 1.0)]
    assert use_of_all(halves) == pytest.approx(2 / 3)


def test_parameters_that_do_not_divide_are_named_with_their_bytes():
    config = base_config()
    config.mesh.update({"data": 1, "fsdp": 8})
    config.fsdp_min_bytes = 1000
    mesh = shapes_mesh(config, 8)

    def leaf(path, *shape):
        x = jax.ShapeDtypeStruct(shape, jnp.float32)
        spec = partition(path, x, mesh, config)
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))

    params = {"odd": leaf("odd", 27, 81), "even": leaf("even", 16, 81), "small": leaf("small", 3, 3)}
    assert unsplit(params, mesh, config) == {"odd": 4 * 27 * 81}
    config.mesh.update({"data": 8, "fsdp": 1})
    assert unsplit(params, shapes_mesh(config, 8), config) == {}


def test_heads_that_a_tensor_axis_cuts_are_named():
    stage = Stage(TrackNet(width=48, depth=1, heads=6, steps=2))
    assert cut_heads(stage, 4) == {"net": 6}
    assert cut_heads(stage, 2) == cut_heads(stage, 1) == {}
