"""What training says: lines, a progress bar, metrics as JSON lines, TensorBoard and Weights & Biases."""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any

import jax
import ml_collections
import numpy as np
from etils import epath
from tqdm import tqdm

from t2p import accelerators
from t2p.io import PathLike, UserError, is_remote, read_json_lines, write_bytes
from t2p.train.goodput import append

_FLUSH = 30.0  # seconds


class NonFinite(ArithmeticError):
    """Training stopped because a metric became NaN or infinite; the message gives step, metric and last checkpoint."""

    def __init__(self, step: int, metric: str, value: float, last_good: str):
        super().__init__(f"{metric} is {value} at step {step}; last good checkpoint: {last_good}")
        self.step, self.metric = step, metric


def say(text: str) -> None:
    """A line for the user, from the first process only, above the progress bar."""
    if jax.process_index() == 0:
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()


class Log:
    """Writes on the first process; does nothing on the others. Metrics are {name: number}; NaN is null in JSON."""

    def __init__(self, workdir: PathLike, config: ml_collections.ConfigDict, start: int):
        self._writes = jax.process_index() == 0
        self._path = epath.Path(workdir) / "metrics.jsonl"
        self._board: Any = None
        self._wandb: Any = None
        self._closing = ExitStack()
        self._bar = tqdm(total=config.steps, initial=start, unit="step", disable=not self._writes, mininterval=1.0)
        if not self._writes:
            return
        _forget_after(self._path, start)
        if config.log.tensorboard and not is_remote(workdir):
            self._board = _Board(epath.Path(workdir) / "tensorboard", start)
        elif config.log.tensorboard:
            say(f"no TensorBoard files in {workdir}, which is not a local folder; metrics.jsonl has the same numbers")
        if config.log.wandb:
            self._wandb = _start_wandb(workdir, config, self._closing)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        if not self._writes:
            return
        finite = {k: float(v) if math.isfinite(v) else None for k, v in metrics.items()}
        append(self._path, json.dumps({"step": step, **finite}) + "\n")
        if self._board:
            self._board.add(step, metrics)
        if self._wandb:
            self._wandb.log(dict(metrics), step=step)

    def advance(self, step: int, note: Mapping[str, str] | None = None) -> None:
        """Moves the progress bar to `step`."""
        if note:
            self._bar.set_postfix(note, refresh=False)
        self._bar.update(step - self._bar.n)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()
        with suppress(*([OSError] if error else [])):  # a full disk is told by what failed first
            if self._board:
                self._board.close()
        if self._wandb:
            self._wandb.finish()
        self._closing.close()


class _Board:
    """TensorBoard's file, written here: tensorboardX's SummaryWriter has a thread that dies of a full disk and then
    blocks whoever logs."""

    def __init__(self, folder: epath.Path, start: int):
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto import event_pb2

        self._event, self._scalar = event_pb2.Event, summary.scalar
        folder.mkdir(parents=True, exist_ok=True)
        self._file = event_file_writer.EventsWriter(str(folder / "events"))
        self._flushed = time.monotonic()
        again = event_pb2.SessionLog(status=event_pb2.SessionLog.START)  # what comes after `start` is forgotten
        self._file.write_event(self._event(step=start, session_log=again))

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        now = time.time()
        for name, value in metrics.items():
            self._file.write_event(self._event(step=step, wall_time=now, summary=self._scalar(name, value)))
        if time.monotonic() - self._flushed > _FLUSH:
            self._file.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        self._file.close()


def _start_wandb(workdir: PathLike, config: ml_collections.ConfigDict, closing: ExitStack) -> Any:
    """The run that the workdir names in wandb_id, so that a restart goes on with it. Its files are kept in the
    workdir, or, where that is remote, in a folder that lasts until `closing`."""
    wandb = _wandb()
    path = epath.Path(workdir) / "wandb_id"
    if not path.exists():
        write_bytes(path, uuid.uuid4().hex[:8].encode())
    folder = closing.enter_context(tempfile.TemporaryDirectory()) if is_remote(workdir) else str(workdir)
    settings = {"project": config.log.wandb, "id": path.read_text(), "config": config.to_dict()}
    return wandb.init(**settings, dir=folder, resume="allow")


def _wandb() -> Any:
    try:
        import wandb
    except ModuleNotFoundError as e:
        raise UserError("log.wandb names a project, but wandb is not installed: pip install 't2p[wandb]'") from e
    return wandb


def _forget_after(path: epath.Path, step: int) -> None:
    """Leaves out the lines after `step`, which this run is going to write again."""
    if path.exists():
        kept = [e for e in read_json_lines(path) if e["step"] <= step]
        write_bytes(path, "".join(json.dumps(e) + "\n" for e in kept).encode())


class Pending:
    """Metrics of steps that the devices may still be computing. Fetching all but the last step's waits for nothing
    that the devices are not done with, or about to be."""

    def __init__(self) -> None:
        self._entries: list[tuple[int, dict[str, jax.Array]]] = []

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """metrics: of `step`, or [k] of the k steps that end with it."""
        self._entries.append((step, metrics))

    def keep_pace(self) -> None:
        """Waits for the last step but one: one step runs, one is queued, and no more batches pile up on the devices."""
        if len(self._entries) > 1:
            jax.block_until_ready(self._entries[-2][1])

    def running(self) -> Any:
        """The last step's metrics: ready when the devices have nothing left to do."""
        return self._entries[-1][1] if self._entries else ()

    def fetch(self, last_good: Callable[[], str], all_steps: bool = False) -> tuple[int, dict[str, float]]:
        """-> (newest step fetched, mean of each metric over the steps fetched); (0, {}) if there are none.

        all_steps: also the last one. Raises NonFinite for the first step and metric that is not finite."""
        count = len(self._entries) - (0 if all_steps else 1)
        entries, self._entries = self._entries[:count], self._entries[count:]
        values = jax.device_get([m for _, m in entries])
        for (step, _), metrics in zip(entries, values):
            _check_finite(step, metrics, last_good)
        if not entries:
            return 0, {}
        return entries[-1][0], {k: float(np.mean([v[k] for v in values], dtype=np.float64)) for k in values[0]}


def _check_finite(step: int, metrics: Mapping[str, np.ndarray], last_good: Callable[[], str]) -> None:
    """metrics: numbers of `step`, or [k] of the k steps that end with it."""
    names = sorted(metrics, key=lambda n: (n != "loss", n))
    values = np.stack([np.atleast_1d(metrics[n]) for n in names], axis=1)
    wrong = np.argwhere(~np.isfinite(values))  # ordered by step, then as the names are
    if len(wrong):
        row, column = wrong[0]
        raise NonFinite(step - len(values) + 1 + int(row), names[column], float(values[row, column]), last_good())


class Speed:
    """Rates over the time since they were last asked for."""

    def __init__(self, flops_per_step: float, batch_size: int):
        self._flops, self._batch_size = flops_per_step, batch_size
        self._peak = _peak()
        self._last: tuple[int, float, float] | None = None

    def rates(self, step: int, waited: float, elsewhere: float) -> dict[str, float]:
        """{steps_per_second, examples_per_second, data_wait (share), flops_per_second, mfu if the device is known}.

        waited: seconds spent waiting for data so far; elsewhere: in evaluation and checkpoints, which do not count."""
        now = time.monotonic() - elsewhere
        previous, self._last = self._last, (step, now, waited)
        if previous is None or step <= previous[0]:
            return {}
        seconds = max(now - previous[1], 1e-9)
        rate = (step - previous[0]) / seconds
        result = {
            "steps_per_second": rate,
            "examples_per_second": rate * self._batch_size,
            "data_wait": min((waited - previous[2]) / seconds, 1.0),
            "flops_per_second": rate * self._flops,
        }
        return {**result, "mfu": rate * self._flops / self._peak} if self._peak else result


def _peak() -> float:
    """Peak bfloat16 FLOP/s of all devices; 0 where the device is not in the table."""
    known = accelerators.lookup(jax.devices()[0].device_kind)
    return known.bf16 * jax.device_count() if known else 0.0
