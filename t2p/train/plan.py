"""What a config amounts to on the devices at hand, worked out before any array exists."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t2p import pytrees  # noqa: F401
from t2p.checkpoint import provenance
from t2p.io import UserError
from t2p.methods.base import Stage
from t2p.methods.registry import make_stage
from t2p.train.bounds import check_values
from t2p.train.compilation import lean
from t2p.train.evals import Eval, validation
from t2p.train.feed import Batches, group_of, to_device
from t2p.train.init_from import held_paths
from t2p.train.optimizer import make_optimizer
from t2p.train.sharding import (
    AnyMesh,
    batch_spec,
    check_batch,
    make_mesh,
    rows_of_process,
    state_shardings,
    with_shardings,
)
from t2p.train.state import TrainState, flatten, initial_state
from t2p.train.statistics import with_statistics
from t2p.train.step import TrainStep, several
from t2p.types import Batch


@dataclass(frozen=True)
class Plan:
    """example: ShapeDtypeStructs of a global batch; state: those of the training state, with shardings; text:
    embeddings by sentence, or None; block: (index, count) of this process's share of a global batch."""

    config: ml_collections.ConfigDict
    mesh: Mesh
    stage: Stage
    text: Mapping[str, np.ndarray] | None
    example: Batch
    step: TrainStep
    state: TrainState
    block: tuple[int, int]

    def init(self) -> TrainState:
        """A fresh state, every array made where it will lie."""
        shardings = jax.tree.map(lambda x: x.sharding, self.state)
        # Hundreds of random draws that run once: on a CPU optimising their code takes longer than all the rest.
        options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
        fresh = _initial(self.stage, self.step, self.example)
        return jax.jit(fresh, out_shardings=shardings, compiler_options=options)()

    def compile(self) -> jax.stages.Compiled:
        """config.dispatch train steps on as many batches; the first argument is donated."""
        shardings = jax.tree.map(lambda x: x.sharding, self.state), NamedSharding(self.mesh, PartitionSpec())
        step = partial(several, self.step) if self.config.dispatch > 1 else self.step
        jitted = jax.jit(step, donate_argnums=0, out_shardings=shardings)
        return lean(jitted.lower(self.state, self.batch_shapes()))

    def batch_shapes(self) -> Batch:
        """`example` with where it lies, and one for each step of a dispatch."""
        group = group_of(self.config.dispatch)
        sharding = NamedSharding(self.mesh, batch_spec(len(group)))
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((*group, *x.shape), x.dtype, sharding=sharding), self.example
        )

    def loader(self, start: int) -> Batches:
        """Training batches from global position `start` on."""
        from t2p.data import pipeline

        c, (index, count) = self.config, self.block
        return pipeline.make_loader(
            c.data,
            self.stage.window,
            batch_size=c.batch_size,
            seed=c.seed,
            process_index=index,
            process_count=count,
            start=start,
            text=self.text,
        )

    def evals(self) -> tuple[Eval, ...]:
        """The standard validation, if the config has validation data."""
        from t2p.data import pipeline

        c, (index, count) = self.config, self.block
        if not c.data.validation:
            return ()
        batches = partial(
            pipeline.evaluation_batches,
            c.data.validation,
            self.stage.window,
            batch_size=c.batch_size,
            process_index=index,
            process_count=count,
            text=self.text,
            batches=c.eval.batches,
            skip_damaged=c.data.skip_damaged,
        )
        place = partial(to_device, mesh=self.mesh, batch_size=c.batch_size)
        return (validation(self.stage, batches, place, c.eval.every, c.data.skip_damaged),)

    def flops_per_step(self) -> float:
        return self.stage.flops_per_example(self.example) * self.config.batch_size

    def meta(self) -> dict[str, Any]:
        """What a checkpoint says of itself, the same at every step."""
        config = json.loads(self.config.to_json())
        shapes = describe(self.example)
        return {
            "config": config,
            "statistics": _statistics(config),
            "shapes": shapes,
            **_origin(config),
            **provenance(),
        }

    def counts(self) -> str:
        """How many parameters there are and are trained."""
        sizes = {path: math.prod(x.shape) for path, x in flatten(self.state.params).items()}
        trained = sum(n for path, n in sizes.items() if path not in self.step.held)
        frozen = sum(math.prod(x.shape) for x in jax.tree.leaves(self.state.frozen))
        return f"parameters: {sum(sizes.values()):,} ({trained:,} trained); in frozen earlier stages: {frozen:,}"

    def first_line(self) -> str:
        """Platform, devices, mesh, and how the model computes."""
        found = list(self.mesh.devices.flat)
        devices = ", ".join(f"{n} x {kind}" for kind, n in Counter(d.device_kind for d in found).items())
        processes = len({d.process_index for d in found})
        mesh = " ".join(f"{a}={s}" for a, s in self.mesh.shape.items())
        attention = attention_of(self.stage)
        computes = self.config.dtype + (f", attention {attention}" if attention else "")
        return f"{found[0].platform}: {devices} in {processes} process(es), mesh {mesh}; {computes}"


def _initial(stage: Stage, step: TrainStep, example: Batch) -> Any:
    return partial(initial_state, stage, step.optimizer, step.held, step.ema > 0.0, example, step.seed)


def attention_of(stage: Stage) -> str:
    """The implementation that runs, "" where there is none: dropout on the attention's weights is only in "matmul"
    (t2p.models.layers)."""
    model = getattr(stage, "model", None)
    chosen = getattr(model, "implementation", "")
    falls_back = chosen not in ("", "matmul") and getattr(model, "attention_dropout", 0.0) > 0.0
    return f"{chosen} (matmul in training: attention dropout is on)" if falls_back else chosen


def make_plan(
    config: ml_collections.ConfigDict,
    example: Batch | None = None,
    mesh: AnyMesh | None = None,
    platform: str = "",
) -> Plan:
    """Checks the config against data and devices and works out shapes and shardings; allocates nothing large.

    example: shapes of a global batch (see t2p.train.shapes), for a plan that never trains: no data is read, no
    sentence embedded, and empty statistics become limits of -1 and 1. mesh, platform: of the devices that it is for,
    where those are not this machine's: such a plan may be compiled, and with an AbstractMesh not even that."""
    check_accelerator(config.accelerator, platform)
    check_values(config)
    here = mesh is None
    mesh = make_mesh(config) if mesh is None else mesh
    check_batch(config, mesh)
    block = rows_of_process(cast(Mesh, mesh), config.batch_size, jax.process_index()) if here else (0, 1)
    assert block is not None, "make_mesh gives every process one run of rows"
    config = with_statistics(config, blank=example is not None)
    stage = make_stage(config, platform)
    check_cache(config, stage)
    text = _embed(config) if stage.window.text and example is None else None
    example = example or _example(config, stage, text)
    variables = jax.eval_shape(lambda: stage.init(jax.random.key(0), _zeros(example)))
    held = held_paths(config, variables["params"], variables.get("frozen", {}))
    optimizer, schedule = make_optimizer(config)
    ema = config.optimizer.ema, config.optimizer.ema_power
    step = TrainStep(stage, optimizer, schedule, held, config.seed, config.accumulation, *ema)
    shapes = jax.eval_shape(_initial(stage, step, example))
    state = with_shardings(shapes, state_shardings(shapes, optimizer, held, mesh, config))
    return Plan(config, cast(Mesh, mesh), stage, text, example, step, state, block)


def check_cache(config: ml_collections.ConfigDict, stage: Stage) -> None:
    """UserError for cached features that the stage does not read, or that stand for pictures to be augmented. Beside
    augmented pictures (ATM's policy) features are welcome: they are those of the pictures as they are."""
    features, probability = config.data.features, config.data.augment.probability
    if features and stage.window.feature_set is None:
        raise UserError(f"data.features is {features!r}, and the stage {config.stage} reads none; set it to ''")
    if features and probability and stage.window.images is None:
        raise UserError(
            f"data.augment.probability is {probability} and data.features {features!r}; cached features are those of "
            "the pictures as they are: set one of the two to nothing"
        )


def check_accelerator(wanted: str, platform: str = "") -> None:
    """The accelerator that the config asks for must be the one that JAX found, or the `platform` planned for."""
    if wanted not in ("", "cpu", "gpu", "tpu"):
        raise UserError(f"accelerator is {wanted!r}; expected cpu, gpu, tpu or '' (whatever is there)")
    if platform:
        if wanted not in ("", platform):
            raise UserError(f"config.accelerator is {wanted!r}, but this is a plan for {platform!r}; set it to ''")
        return
    try:
        found = jax.default_backend()
    except RuntimeError as e:
        raise UserError(f"JAX finds no device: {e}") from e
    if wanted and wanted != found:
        raise UserError(
            f"accelerator {wanted!r} was asked for, but JAX runs on {found!r} ({jax.device_count()} devices); install "
            f"jax for it (pip install 't2p[{wanted}]'), or set config.accelerator to '' to take what is there"
        )


def _embed(config: ml_collections.ConfigDict) -> Mapping[str, np.ndarray]:
    from t2p.data import pipeline
    from t2p.methods.language import embed

    return embed(config.text, pipeline.sentences(config.data))


def _example(config: ml_collections.ConfigDict, stage: Stage, text: Mapping[str, np.ndarray] | None) -> Batch:
    """Shapes of a global batch, from a small one."""
    from t2p.data import pipeline

    def shape(x: Any) -> jax.ShapeDtypeStruct:
        x = np.asarray(x)
        return jax.ShapeDtypeStruct((config.batch_size, *x.shape[1:]), jax.dtypes.canonicalize_dtype(x.dtype))

    return jax.tree.map(shape, pipeline.example_batch(config.data, stage.window, 2, text))


def _zeros(example: Batch) -> Batch:
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), example)


def _statistics(config: Mapping[str, Any]) -> dict[str, Any]:
    """{source: {column: statistics}} of the training data."""
    from t2p.data.manifest import read_manifest

    sources = config["data"]["sources"]
    return {n: read_manifest(s["path"])["splits"][s["split"]]["statistics"] for n, s in sources.items()}


def _origin(config: Mapping[str, Any]) -> dict[str, Any]:
    """{"tasks": of all episodes of the training data, "renderers": that drew its pictures, by each source's first
    episode}, sorted; what no episode names is left out."""
    from t2p.data.mixture import open_dataset, select_episodes

    tasks, renderers = set(), set()
    for name, source in config["data"]["sources"].items():
        dataset = open_dataset(name, source)
        episodes = select_episodes(name, dataset.infos, tuple(source["tasks"]), source["fraction"])
        tasks |= {dataset.infos[n].task for n in episodes}
        renderers.add(dataset.info(episodes[0]).get("simulator", {}).get("renderer", ""))
    return {"tasks": sorted(tasks - {""}), "renderers": sorted(renderers - {""})}


def describe(x: Any) -> Any:
    """Shapes as JSON: {field: {name: [B, ...]}}; absent fields are left out."""
    if dataclasses.is_dataclass(x) and not isinstance(x, jax.ShapeDtypeStruct):
        x = {f.name: getattr(x, f.name) for f in dataclasses.fields(x)}
    if isinstance(x, Mapping):
        return {k: d for k, v in x.items() if (d := describe(v))}
    return list(x.shape) if hasattr(x, "shape") else None
