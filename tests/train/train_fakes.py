"""A stage with dropout and BatchNorm that trains in milliseconds, and data with the pipeline's interface.

`install()` puts both where training looks for them; the data is a function of (seed, position) alone.
"""

from __future__ import annotations

import sys
import types as python_types
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

import t2p.data
from t2p.methods import registry
from t2p.train.defaults import base_config, source_config
from t2p.types import Batch, WindowSpec

WIDTH = 8


class Net(nn.Module):
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Dense(16, use_bias=False, name="encoder")(x)  # BatchNorm follows: a bias would learn from rounding
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(x))
        return nn.Dense(2, name="head")(x)


@dataclass(frozen=True)
class FakeStage:
    model: Net
    earlier: bool = False
    explode_at: int = -1

    @property
    def window(self) -> WindowSpec:
        return WindowSpec(views=("any",))

    def init(self, rng, batch):
        variables = self.model.init({"params": rng}, batch.proprio["x"], False)
        frozen = {"earlier": {"params": {"bias": jnp.zeros(2)}}} if self.earlier else {}
        return {"params": variables["params"], "batch_stats": variables["batch_stats"], "frozen": frozen}

    def loss(self, variables, batch, rng, train):
        own = {k: variables[k] for k in ("params", "batch_stats")}
        y, new = self.model.apply(own, batch.proprio["x"], train, rngs={"dropout": rng}, mutable=["batch_stats"])
        if self.earlier:
            y = y + variables["frozen"]["earlier"]["params"]["bias"]
        error = jnp.square(y - batch.actions).mean(-1)
        weight = jnp.ones_like(error) if batch.mask is None else batch.mask.astype(jnp.float32)
        loss = jnp.sum(error * weight) / jnp.maximum(weight.sum(), 1.0)
        if self.explode_at >= 0 and train:
            loss = jnp.where(batch.index[0] // batch.index.shape[0] == self.explode_at, jnp.nan, loss)
        stats = new["batch_stats"] if train else {}
        return loss, {"metrics": {"mean_index": batch.index.mean(dtype=jnp.float32)}, "batch_stats": stats}

    def flops_per_example(self, batch):
        return 6.0 * (WIDTH * 16 + 16 * 2)


def rows(seed: int, indices: np.ndarray) -> Batch:
    """Examples of global positions `indices`."""
    x = np.stack([np.random.default_rng([seed, i]).normal(size=WIDTH) for i in indices]).astype(np.float32)
    actions = np.tanh(x[:, :2] * x[:, 2:4]).astype(np.float32)
    return Batch(proprio={"x": x}, actions=actions, index=indices.astype(np.int64))


class FakeLoader:
    def __init__(self, batch_size, seed, block, blocks, start):
        self.size, self.seed, self.block, self.blocks = batch_size, seed, block, blocks
        self.position, self.skipped, self.closed = start, 0, False

    def __iter__(self):
        return self

    def __next__(self):
        local = self.size // self.blocks
        first = self.position * self.size + self.block * local
        self.position += 1
        return rows(self.seed, np.arange(first, first + local))

    def close(self):
        self.closed = True


def make_loader(data, window, *, batch_size, seed, process_index=0, process_count=1, start=0, text=None):
    return FakeLoader(batch_size, seed, process_index, process_count, start)


def evaluation_batches(sources, window, *, batch_size, process_index=0, process_count=1, **unused):
    """21 rows; the last batch is filled up."""
    local = batch_size // process_count
    for first in range(0, 21, batch_size):
        index = np.arange(first, first + batch_size)[process_index * local : (process_index + 1) * local]
        yield rows(10**6, np.minimum(index, 20)).replace(mask=index < 21)


def example_batch(data, window, batch_size, text=None):
    return rows(0, np.arange(batch_size))


def make_fake_stage(config: ml_collections.ConfigDict, platform: str = "") -> FakeStage:
    return FakeStage(Net(config.model.dropout), config.model.earlier, config.model.explode_at)


def install() -> None:
    """Replaces the pipeline of this process by the fake one and registers the stage "fake"."""
    module = python_types.ModuleType("t2p.data.pipeline")
    for function in (make_loader, evaluation_batches, example_batch):
        setattr(module, function.__name__, function)
    sys.modules["t2p.data.pipeline"] = module
    t2p.data.pipeline = module
    registry.STAGES["fake"] = make_fake_stage


def uninstall(before) -> None:
    registry.STAGES.pop("fake", None)
    sys.modules.pop("t2p.data.pipeline", None)
    if before is not None:
        sys.modules["t2p.data.pipeline"] = before
        t2p.data.pipeline = before
    elif hasattr(t2p.data, "pipeline"):
        del t2p.data.pipeline


def fake_config(**changes) -> ml_collections.ConfigDict:
    """A config of the fake stage; changes: dotted keys with __ for the dot."""
    c = base_config()
    c.stage = "fake"
    c.steps, c.batch_size = 8, 16
    c.model = ml_collections.ConfigDict({"dropout": 0.3, "earlier": False, "explode_at": -1})
    c.data.validation.fake = source_config("fake")
    c.optimizer.learning_rate = 1e-2
    c.fsdp_min_bytes = 0
    c.eval.every, c.checkpoint.every, c.log.every = 4, 4, 2
    c.log.tensorboard = False
    for key, value in changes.items():
        part = c
        *path, last = key.split("__")
        for name in path:
            part = part[name]
        part[last] = value
    return c


def numpy_variables(state) -> dict[str, np.ndarray]:
    """Every array of a state by path, gathered to this process."""
    from jax.experimental import multihost_utils

    tree = {"params": state.params, "batch_stats": state.batch_stats, "opt": state.opt_state, "ema": state.ema}
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    gather = (lambda x: multihost_utils.process_allgather(x, tiled=True)) if jax.process_count() > 1 else np.asarray
    return {jax.tree_util.keystr(p, simple=True, separator="/"): np.asarray(gather(x)) for p, x in leaves}
