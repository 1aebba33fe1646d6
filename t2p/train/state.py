"""What training changes from step to step, and the paths by which rules name parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from t2p import pytrees  # noqa: F401
from t2p.io import UserError
from t2p.methods.base import Stage, Variables
from t2p.types import Batch

Tree = Mapping[str, Any]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """step: int32 [], optimiser steps taken; params: all parameters of the stage, trained and held; opt_state: of
    the trained ones; ema: their running average with the held ones, or {}; frozen: earlier stages' variables."""

    step: jax.Array
    params: Tree
    batch_stats: Tree
    opt_state: Any
    ema: Tree
    frozen: Tree

    @property
    def variables(self) -> Variables:
        """What Stage methods take, with the parameters in training."""
        return {"params": self.params, "batch_stats": self.batch_stats, "frozen": self.frozen}

    @property
    def inference_variables(self) -> Variables:
        """The same with the averaged parameters where there are any: what is evaluated and used later."""
        return {**self.variables, "params": self.ema or self.params}

    def replace(self, **changes: Any) -> TrainState:
        return replace(self, **changes)


def flatten(tree: Tree) -> dict[str, Any]:
    """{"encoder/dense/kernel": leaf}: the paths that all rules of a config are matched against, in full."""
    return flatten_dict(tree, sep="/")


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    return unflatten_dict(dict(flat), sep="/")


def first_match(rules: Sequence[tuple[str, Any]], path: str) -> Any | None:
    """The value of the first rule whose regex matches the whole path; None if none does."""
    for pattern, value in rules:
        if re.fullmatch(pattern, path):
            return value
    return None


def check_rules(where: str, patterns: Sequence[str], paths: Sequence[str]) -> None:
    """Every regex must be one, and must match some path: a rule that matches nothing is a typing error."""
    for pattern in patterns:
        try:
            matched = any(re.fullmatch(pattern, p) for p in paths)
        except re.error as e:
            raise UserError(f"{where}: {pattern!r} is not a regular expression ({e})") from e
        if not matched:
            raise UserError(f"{where}: {pattern!r} matches no parameter; there are {', '.join(paths[:8])} ...")


def split(params: Tree, held: frozenset[str]) -> tuple[dict, dict]:
    """-> (trained, held) parameters, each a tree with the others' leaves left out."""
    flat = flatten(params)
    return unflatten({k: v for k, v in flat.items() if k not in held}), unflatten(
        {k: v for k, v in flat.items() if k in held}
    )


def merge(a: Tree, b: Tree) -> dict:
    """One tree from two with different leaves."""
    return unflatten({**flatten(a), **flatten(b)})


def initial_state(
    stage: Stage,
    optimizer: optax.GradientTransformation,
    held: frozenset[str],
    ema: bool,
    example: Batch,
    seed: int,
) -> TrainState:
    """A fresh state; traced under jit or eval_shape. example: ShapeDtypeStructs of any batch size."""
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), example)
    variables = stage.init(jax.random.key(seed), zeros)
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(split(params, held)[0]),
        ema=jax.tree.map(jnp.copy, params) if ema else {},
        frozen=variables.get("frozen", {}),
    )
