"""Official weights <-> t2p parameters, as a table of rows that works in both directions.

A row names an official array, the parameter that it becomes ("block_0/mlp/fc1/kernel") and the change of layout
between them. Gradients go through the same rows, so they can be compared under official names. Parameters are
those of the unscanned model; t2p.checkpoint.match_layers leads from and to the layout under scan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from t2p.io import UserError

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Transform:
    """A change of layout. ours: official array -> our array; official: the way back."""

    ours: Callable[[np.ndarray], np.ndarray]
    official: Callable[[np.ndarray], np.ndarray]


IDENTITY = Transform(lambda x: x, lambda x: x)
TRANSPOSE = Transform(np.transpose, np.transpose)  # PyTorch's Linear [out, in] <-> kernel [in, out]


def permute(*axes: int) -> Transform:
    """A permutation of axes, as np.transpose takes it, from the official to our order."""
    back = tuple(int(i) for i in np.argsort(axes))
    return Transform(lambda x: np.transpose(x, axes), lambda x: np.transpose(x, back))


def reshape(official: Sequence[int], ours: Sequence[int]) -> Transform:
    """The same numbers in the same order, in another shape."""
    return Transform(lambda x: x.reshape(tuple(ours)), lambda x: x.reshape(tuple(official)))


def chain(*steps: Transform) -> Transform:
    """One change after the other, on the way from official to ours."""

    def ours(x: np.ndarray) -> np.ndarray:
        for step in steps:
            x = step.ours(x)
        return x

    def official(x: np.ndarray) -> np.ndarray:
        for step in reversed(steps):
            x = step.official(x)
        return x

    return Transform(ours, official)


@dataclass(frozen=True)
class Row:
    """official: its name in the official file; ours: the parameter's path, joined by "/"."""

    official: str
    ours: str
    transform: Transform = IDENTITY


@dataclass(frozen=True)
class Constant:
    """An array of the official file that is no parameter and always holds `value` (a buffer)."""

    official: str
    value: np.ndarray


def linear(official: str, ours: str, bias: bool = True) -> list[Row]:
    """The rows of one PyTorch Linear."""
    rows = [Row(f"{official}.weight", f"{ours}/kernel", TRANSPOSE)]
    return rows + [Row(f"{official}.bias", f"{ours}/bias")] if bias else rows


def layer_norm(official: str, ours: str) -> list[Row]:
    """The rows of one PyTorch norm with scale and shift."""
    return [Row(f"{official}.weight", f"{ours}/scale"), Row(f"{official}.bias", f"{ours}/bias")]


def to_variables(rows: Sequence[Row | Constant], arrays: Arrays) -> dict[str, Any]:
    """Official arrays -> nested parameters, float32. UserError listing all names that are missing or unknown, and
    every constant that holds something else."""
    missing = [r.official for r in rows if r.official not in arrays]
    unknown = sorted(set(arrays) - {r.official for r in rows})
    if missing or unknown:
        raise UserError(f"the weights do not fit the model.{_listed('missing', missing)}{_listed('unknown', unknown)}")
    changed = [r.official for r in rows if isinstance(r, Constant) and not _holds(r, arrays[r.official])]
    if changed:
        raise UserError(f"the official model keeps these arrays constant, but here they differ: {', '.join(changed)}")
    params = {r.ours: r.transform.ours(arrays[r.official]).astype(np.float32) for r in rows if isinstance(r, Row)}
    return unflatten_dict(params, sep="/")


def _holds(row: Constant, value: np.ndarray) -> bool:
    return np.shape(value) == row.value.shape and np.array_equal(value, row.value)


def _listed(what: str, names: Sequence[str]) -> str:
    return f" {what.capitalize()} ({len(names)}): {', '.join(names)}." if names else ""


def to_official(rows: Sequence[Row | Constant], tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Nested parameters, or gradients of their shapes, -> arrays under official names, without the constants."""
    flat = flatten_dict(dict(tree), sep="/")
    missing = sorted({r.ours for r in rows if isinstance(r, Row)} ^ set(flat))
    if missing:
        raise UserError(f"the parameters do not fit the table of names: {', '.join(missing)}")
    return {r.official: np.asarray(r.transform.official(np.asarray(flat[r.ours]))) for r in rows if isinstance(r, Row)}


def constants(rows: Sequence[Row | Constant]) -> dict[str, np.ndarray]:
    """The official file's arrays that are no parameters."""
    return {r.official: r.value for r in rows if isinstance(r, Constant)}


def strip_prefix(arrays: Arrays, *anchors: str) -> dict[str, np.ndarray]:
    """The arrays of the model that contains one of `anchors`, without what wrappers put before its names ("module.",
    "_forward_module.", "state_dict/"); names outside the wrapped model (an optimiser's) are left out."""
    prefixes = {
        name.removesuffix(anchor)
        for anchor in anchors
        for name in arrays
        if name == anchor or name.endswith(("." + anchor, "/" + anchor))
    }
    if len(prefixes) != 1:
        found = "has no array" if not prefixes else f"has {len(prefixes)} arrays"
        called = " or ".join(repr(anchor) for anchor in anchors)
        raise UserError(f"the file {found} called {called}; it holds {', '.join(sorted(arrays)[:8])} ...")
    (prefix,) = prefixes
    return {name[len(prefix) :]: value for name, value in arrays.items() if name.startswith(prefix)}
