"""The training loop: one, for every stage.

The order within a step matters. The batch is fetched first, so that waiting for it is seen; metrics are read one step
late, so that reading them waits for nothing; evaluation comes before saving, so that a checkpoint carries its metrics;
saving comes before stopping. `state` is donated to the step: no second name may hold it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import jax
import ml_collections
from etils import epath

from t2p.checkpoint import Checkpoints, no_room
from t2p.io import PathLike, UserError, write_json
from t2p.train.compilation import kept_programs
from t2p.train.defaults import check_keys
from t2p.train.distributed import over_processes
from t2p.train.evals import Eval
from t2p.train.feed import Feed
from t2p.train.goodput import Goodput
from t2p.train.lock import hold
from t2p.train.logging import Log, NonFinite, Pending, Speed, say
from t2p.train.plan import Plan, make_plan
from t2p.train.preemption import Preempted, Preemption
from t2p.train.profiling import Trace
from t2p.train.resume import begin
from t2p.train.sharding import table
from t2p.train.state import TrainState

_EVAL_KEY = 2**32 - 1  # folded into the seed's key: no step has this number


def train(config: ml_collections.ConfigDict, workdir: PathLike, evals: Sequence[Eval] = ()) -> TrainState:
    """Trains config.stage to config.steps in `workdir`, from its last checkpoint if it has one.

    evals run besides the standard validation. Raises UserError for a config that does not fit, NonFinite when a
    metric is NaN or infinite, Preempted after SIGTERM, DamagedCheckpoint when no checkpoint of the workdir is whole,
    SaveFailed when one could not be written, UserError when another job trains in the workdir."""
    check_keys(config)
    goodput = Goodput(epath.Path(workdir) / "events.jsonl" if jax.process_index() == 0 else None)
    with goodput.section("init"):
        plan = make_plan(config)
        say(plan.first_line())
    c = config.checkpoint
    with (
        Preemption() as preemption,
        hold(workdir) as still_ours,
        closing(Checkpoints(workdir, c.keep, c.best, c.mode, before_save=still_ours)) as checkpoints,
        jax.set_mesh(plan.mesh),
        kept_programs(workdir, config.compilation_cache),
    ):
        try:
            return _train(plan, workdir, (*plan.evals(), *evals), checkpoints, goodput, preemption)
        except OSError as e:  # of a log or the config: checkpoints have their own words
            if no_room(e):
                raise checkpoints.failed(workdir, e) from e
            raise


def _train(
    plan: Plan,
    workdir: PathLike,
    evals: tuple[Eval, ...],
    checkpoints: Checkpoints,
    goodput: Goodput,
    preemption: Preemption,
) -> TrainState:
    config = plan.config
    with goodput.section("init"):
        state, meta = begin(plan, checkpoints)  # refuses a workdir of another config: nothing is written before
        start = int(state.step)
        if jax.process_index() == 0:
            write_json(epath.Path(workdir) / "config.json", plan.meta()["config"])
        say(f"{table(state)}\n{plan.counts()}")
    if start >= config.steps:
        say(f"{workdir} is already at step {start} of {config.steps}: nothing to do")
        return state
    with goodput.section("compile"):
        train_step = plan.compile()
    if preemption.requested(start):
        raise Preempted(start)
    goodput.start(start)
    with (
        Feed(plan.loader(meta["position"]), plan.mesh, config.batch_size, group=config.dispatch) as feed,
        Log(workdir, config, start) as log,
        Trace(workdir, config.profile.first, config.profile.last) as trace,
    ):
        run = _Run(plan, evals, checkpoints, goodput, log, feed, Pending(), _speed(plan, start, goodput), meta)
        for step in range(start + config.dispatch, config.steps + 1, config.dispatch):
            trace.before(step)
            checkpoints.check()
            batch, position, skipped = run.next_batch()
            with jax.profiler.StepTraceAnnotation("train", step_num=step), jax.transfer_guard("disallow"):
                state, metrics = train_step(state, batch)
            run.pending.add(step, metrics)
            trace.after(step, metrics)
            log.advance(step)
            if step % config.log.every == 0:
                run.report({"skipped_examples": float(skipped)} if config.data.skip_damaged else {})
            found = run.evaluate(state, step)
            stop = preemption.requested(step)
            if stop or step == config.steps or step % config.checkpoint.every == 0 or checkpoints.better(found):
                run.save(state, step, position, found)
            if stop and step < config.steps:
                checkpoints.wait()
                raise Preempted(step)
        run.finish(config.steps, skipped, found)
    return state


def _speed(plan: Plan, start: int, goodput: Goodput) -> Speed:
    speed, seconds = Speed(plan.flops_per_step(), plan.config.batch_size), goodput.seconds()
    speed.rates(start, 0.0, seconds["eval"] + seconds["checkpoint"])  # from here on
    return speed


@dataclass(frozen=True)
class _Run:
    """What the loop does between steps."""

    plan: Plan
    evals: tuple[Eval, ...]
    checkpoints: Checkpoints
    goodput: Goodput
    log: Log
    feed: Feed
    pending: Pending
    speed: Speed
    meta: dict[str, Any]

    def next_batch(self) -> Any:
        self.pending.keep_pace()
        before = self.feed.waited
        item = self.feed.next(self.pending.running())
        self.goodput.add("data", self.feed.waited - before)
        return item

    def report(self, more: dict[str, float], all_steps: bool = False) -> None:
        """Reads and writes the metrics of the steps that are done; stops the run if one is not finite."""
        step, means = self.pending.fetch(self.checkpoints.last_good, all_steps)
        if not means:
            return
        seconds = self.goodput.seconds()
        rates = self.speed.rates(step, self.feed.waited, seconds["eval"] + seconds["checkpoint"])
        shares = {f"goodput/{k}": v for k, v in self.goodput.summary(step).items()}
        self.log.write(step, {**{f"train/{k}": v for k, v in {**means, **rates, **more}.items()}, **shares})
        note = {"loss": f"{means['loss']:.4g}"}
        note |= {k: f"{rates[k]:.1%}" for k in ("data_wait", "mfu") if k in rates}
        self.log.advance(step, note)
        self.goodput.progress(step)

    def evaluate(self, state: TrainState, step: int) -> dict[str, float]:
        """Runs the evaluations that are due; {} if none is. The steps before them are looked at first, so that the
        first metric that is not finite is the one that is named."""
        due = [e for e in self.evals if e.due(step, self.plan.config.steps)]
        if not due:
            return {}
        self.report({}, all_steps=True)
        with self.goodput.section("eval"):
            rng = jax.random.fold_in(jax.random.key(self.plan.config.seed), _EVAL_KEY)
            variables = state.inference_variables
            found = {f"{e.name}/{k}": float(v) for e in due for k, v in e.fn(variables, step, rng).items()}
        self._check(found, step)
        self.log.write(step, found)
        say(f"step {step}: " + ", ".join(f"{k} {v:.5g}" for k, v in found.items()))
        return found

    def _check(self, found: dict[str, float], step: int) -> None:
        """The validation's metrics and the best checkpoint's must be finite; other evaluations may give NaN."""
        best = self.plan.config.checkpoint.best
        owner = best.partition("/")[0]
        for name, value in found.items():
            if (name == best or name.startswith("val/")) and not math.isfinite(value):
                raise NonFinite(step, name, value, self.checkpoints.last_good())
        if best not in found and any(k.startswith(f"{owner}/") for k in found):
            raise UserError(f"checkpoint.best is {best!r}; the evaluation gives {', '.join(found)}")

    def save(self, state: TrainState, step: int, position: int, found: dict[str, float]) -> None:
        """Saves a state whose metrics are all finite."""
        self.report({}, all_steps=True)
        with self.goodput.section("checkpoint"):
            variables = {"params": state.params, "batch_stats": state.batch_stats}
            items = {"variables": variables, "optimizer": state.opt_state, **({"ema": state.ema} if state.ema else {})}
            self.checkpoints.save(step, items, {**self.meta, "position": position}, found)

    def finish(self, step: int, skipped: int, found: dict[str, float]) -> None:
        with self.goodput.section("checkpoint"):
            self.checkpoints.wait()
        self.goodput.progress(step)
        if self.plan.config.data.skip_damaged:
            count, validation = over_processes(skipped), found.get("val/skipped_examples", 0.0)
            say(f"skipped as damaged in this run: {count} examples; in the last validation: {validation:.0f}")
        say(f"done: step {step}, {self.goodput.describe(step)}")
