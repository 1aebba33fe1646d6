"""What of a config fits the devices badly: products that half fill matrix units, parameters that do not split."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import ml_collections
from jax.sharding import PartitionSpec

from t2p import pytrees  # noqa: F401
from t2p.methods.base import Stage
from t2p.train.sharding import AnyMesh
from t2p.train.state import flatten
from t2p.types import Batch

LANES, SUBLANES = 128, 8  # a TPU's matrix unit and the last two axes of its arrays in memory


@dataclass(frozen=True)
class Operation:
    """One of a traced step. where: the module it stands in; times: how often it runs; equation: JAX's."""

    where: str
    times: int
    equation: Any


@dataclass(frozen=True)
class Product:
    """A matrix product [rows, depth] x [depth, columns], `batch` of them each time. flops: of all times together."""

    where: str
    rows: int
    depth: int
    columns: int
    flops: float

    @property
    def use(self) -> float:
        """The share of a TPU's matrix unit that does real work: depth and one of rows and columns are filled up to
        LANES, the other one to SUBLANES."""
        n, m = sorted((self.rows, self.columns))
        filled = min(_up(n, LANES) * _up(m, SUBLANES), _up(n, SUBLANES) * _up(m, LANES))
        return self.depth / _up(self.depth, LANES) * n * m / filled


@dataclass(frozen=True)
class Intermediate:
    """An array between operations, as it is before XLA fuses them."""

    where: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int


def trace(stage: Stage, example: Batch) -> tuple[Operation, ...]:
    """All operations of loss and gradient of one batch; only shapes of `example` matter. Nothing is compiled."""
    rng = jax.eval_shape(lambda: jax.random.key(0))
    variables = jax.eval_shape(stage.init, rng, example)

    def loss(params: Any, variables: Any, batch: Batch, rng: jax.Array) -> jax.Array:
        return stage.loss({**variables, "params": params}, batch, rng, True)[0]

    traced = jax.make_jaxpr(jax.grad(loss))(variables["params"], variables, example, rng)
    return tuple(_walk(traced.jaxpr, "", 1))


def _walk(jaxpr: Any, where: str, times: int) -> Iterator[Operation]:
    for equation in jaxpr.eqns:
        here = "/".join(filter(None, (where, str(equation.source_info.name_stack))))
        yield Operation(here, times, equation)
        runs = times * equation.params["length"] if equation.primitive.name == "scan" else times
        for value in equation.params.values():
            for inner in _inner(value):
                yield from _walk(inner, here, runs)


def _inner(value: Any) -> list[Any]:
    """The jaxprs among an equation's parameters."""
    values = value if isinstance(value, (tuple, list)) else [value]
    return [getattr(v, "jaxpr", v) for v in values if hasattr(getattr(v, "jaxpr", v), "eqns")]


def products(operations: Iterable[Operation]) -> tuple[Product, ...]:
    """The matrix products and convolutions, those of equal sizes together, by the arithmetic that padding wastes."""
    found: dict[tuple[int, int, int], Product] = {}
    for op in operations:
        if op.equation.primitive.name not in ("dot_general", "conv_general_dilated"):
            continue
        dot = op.equation.primitive.name == "dot_general"
        sizes, batch = (_dot if dot else _convolution)(op.equation)
        before = found.get(sizes, Product(op.where, *sizes, 0.0))
        flops = before.flops + 2.0 * op.times * batch * math.prod(sizes)
        found[sizes] = dataclasses.replace(before, flops=flops)
    return tuple(sorted(found.values(), key=lambda p: -p.flops * (1 / p.use - 1)))


def _dot(equation: Any) -> tuple[tuple[int, int, int], int]:
    """-> ((rows, depth, columns), batch)."""
    (contracted, _), (batched, _) = equation.params["dimension_numbers"]
    left, right = (x.aval.shape for x in equation.invars)
    depth, batch = math.prod(left[i] for i in contracted), math.prod(left[i] for i in batched)
    return (math.prod(left) // (depth * batch), depth, math.prod(right) // (depth * batch)), batch


def _convolution(equation: Any) -> tuple[tuple[int, int, int], int]:
    """As the product of all windows with the kernel."""
    numbers, out = equation.params["dimension_numbers"], equation.outvars[0].aval.shape
    kernel = equation.invars[1].aval.shape
    columns = out[numbers.out_spec[1]]
    return (math.prod(out) // columns, math.prod(kernel) // kernel[numbers.rhs_spec[0]], columns), 1


def use_of_all(found: Iterable[Product]) -> float:
    """The share of the matrix units' work that is real, over all products."""
    found = list(found)
    return sum(p.flops for p in found) / sum(p.flops / p.use for p in found) if found else 1.0


def largest(operations: Iterable[Operation], count: int) -> tuple[Intermediate, ...]:
    """The largest intermediate arrays of different shape or type."""
    found: dict[tuple[Any, ...], Intermediate] = {}
    for op in operations:
        for x in op.equation.outvars:
            shape, dtype = tuple(x.aval.shape), str(x.aval.dtype)
            if jax.dtypes.issubdtype(x.aval.dtype, jax.dtypes.prng_key):
                continue
            size = math.prod(shape) * x.aval.dtype.itemsize
            found.setdefault((shape, dtype), Intermediate(op.where, shape, dtype, size))
    return tuple(sorted(found.values(), key=lambda i: -i.bytes)[:count])


def unsplit(params: Any, mesh: AnyMesh, config: ml_collections.ConfigDict) -> dict[str, int]:
    """{path: bytes} of parameters that are large enough to split over fsdp, and copied since no axis divides."""
    if mesh.shape["fsdp"] == 1:
        return {}
    sizes = {path: (math.prod(x.shape) * x.dtype.itemsize, x) for path, x in flatten(params).items()}
    return {
        path: size
        for path, (size, x) in sizes.items()
        if size >= config.fsdp_min_bytes and len(x.shape) > 1 and x.sharding.spec == PartitionSpec()
    }


def cut_heads(stage: Stage, tensor: int) -> dict[str, int]:
    """{network: its attention heads} where the heads do not divide over the mesh's tensor axis."""
    fields = {f.name: getattr(stage, f.name) for f in dataclasses.fields(stage)}  # type: ignore[arg-type]
    heads = {name: x.heads for name, x in fields.items() if isinstance(x, nn.Module) and hasattr(x, "heads")}
    return {name: count for name, count in heads.items() if count % tensor}


def _up(size: int, step: int) -> int:
    return -(-size // step) * step
