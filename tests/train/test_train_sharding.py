"""Where parameters lie: rules first, shape otherwise."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from t2p.io import UserError
from t2p.train.defaults import base_config
from t2p.train.sharding import AXES, check_batch, make_mesh, partition, state_shardings
from t2p.train.state import TrainState

MESH = AbstractMesh((2, 4, 2), AXES, axis_types=(AxisType.Auto,) * 3)


def config(**changes):
    c = base_config()
    c.update({"fsdp_min_bytes": 1024, **changes})
    return c


def leaf(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((64, 128), P(None, "fsdp")),
        ((128, 64), P("fsdp", None)),
        ((66, 128), P(None, "fsdp")),
        ((130, 64), P(None, "fsdp")),  # the largest axis does not divide by 4
        ((131, 67), P()),
        ((512,), P()),
        ((8, 8), P()),  # small
    ],
)
def test_shape_rule(shape, expected):
    assert partition("a/kernel", leaf(*shape), MESH, config()) == expected


def test_scanned_layers_are_not_split_over_layers():
    assert partition("blocks/kernel", leaf(128, 64, 32), MESH, config()) == P("fsdp", None, None)
    assert partition("blocks/kernel", leaf(128, 64, 32), MESH, config(scan_layers=True)) == P(None, "fsdp", None)


def test_first_rule_wins_over_shape():
    c = config(sharding=((".*/out/kernel", ("tensor", None)), (".*kernel", (None, ("fsdp", "tensor")))))
    assert partition("a/out/kernel", leaf(64, 128), MESH, c) == P("tensor", None)
    assert partition("a/in/kernel", leaf(64, 128), MESH, c) == P(None, ("fsdp", "tensor"))
    assert partition("a/in/kernel_2", leaf(64, 128), MESH, c) == P(None, "fsdp")  # whole path, not a part of it


def test_rules_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="a/kernel of shape \\(3, 5\\)"):
        partition("a/kernel", leaf(3, 5), MESH, config(sharding=((".*", ("fsdp",)),)))
    with pytest.raises(UserError, match="axis 'model'"):
        partition("a/kernel", leaf(4, 4), MESH, config(sharding=((".*", ("model",)),)))


def test_optimiser_state_and_average_lie_with_their_parameters():
    params = {"a": {"kernel": leaf(64, 128)}, "b": {"kernel": leaf(128, 64), "bias": leaf(64)}}
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    trained = {"b": params["b"]}
    shapes = TrainState(leaf(), params, {"norm": leaf(4)}, jax.eval_shape(tx.init, trained), params, {})
    found = state_shardings(shapes, tx, frozenset({"a/kernel"}), MESH, config())
    assert found.params["b"]["kernel"].spec == found.ema["b"]["kernel"].spec == P("fsdp", None)
    assert (
        found.opt_state[1][0].mu["b"]["kernel"].spec == found.opt_state[1][0].nu["b"]["kernel"].spec == P("fsdp", None)
    )
    assert found.opt_state[1][0].count.spec == found.step.spec == found.batch_stats["norm"].spec == P()
    assert "a" not in found.opt_state[1][0].mu


def test_a_rule_that_matches_nothing_is_an_error():
    shapes = TrainState(leaf(), {"a": leaf(4, 4)}, {}, (), {}, {})
    with pytest.raises(UserError, match=r"'encoder/\.\*' matches no parameter"):
        state_shardings(shapes, optax.sgd(1.0), frozenset(), MESH, config(sharding=(("encoder/.*", ()),)))


def test_mesh_and_batch_must_fit_the_devices():
    c = base_config()
    c.mesh.update({"data": jax.device_count() + 1})
    with pytest.raises(UserError, match="does not fit"):
        make_mesh(c)
    c = base_config()
    c.batch_size, c.accumulation = 6, 4
    with pytest.raises(UserError, match="batch_size 6 does not divide over accumulation 4"):
        check_batch(c, make_mesh(c))
