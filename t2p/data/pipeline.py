"""From datasets to batches: what training, evaluation and initialisation ask of the data.

    loader = make_loader(config.data, stage.window, batch_size=64, seed=0, text=embeddings)
    batch = next(loader)          # types.Batch of NumPy arrays; loader.position is what a checkpoint keeps

windows.py cuts examples, augment.py augments them, mixture.py joins sources, loader.py sets order and workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import grain
import numpy as np

from t2p.data.augment import Augment
from t2p.data.loader import EvaluationRows, Loader, ReadExample, iterate, to_batch, training_order
from t2p.data.mixture import Mixture, open_dataset, open_mixture, select_episodes
from t2p.io import UserError
from t2p.types import Batch, WindowSpec

Text = Mapping[str, np.ndarray]  # instruction sentence -> its embedding [E]


def make_loader(
    data: Mapping[str, Any],
    window: WindowSpec,
    *,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    start: int = 0,
    text: Text | None = None,
) -> Loader:
    """Endless training batches: this process's contiguous block of every global batch.

    data: the `data` part of a config (t2p.train.defaults). batch_size: global, a multiple of process_count.
    start: global batches already consumed; the loader gives exactly what an uninterrupted one would give next,
    whatever process_count and data.workers were or are. text: sentence -> embedding, needed if the window
    takes text; `sentences` says which.

    Raises UserError for sources that cannot give the window. A damaged record raises DamagedRecord from next(),
    or with data.skip_damaged is replaced by another row of its source and counted in Loader.skipped.

    An example whose views all lack a visible point at the window's start has has["tracks"] False and zeros.
    """
    local = _local_size(batch_size, process_count)
    if seed < 0:
        raise UserError(f"seed is {seed}; expected a number from 0 on")
    mixture, table = _open(data["sources"], window, text)
    augment = Augment(**data["augment"])
    if augment.shift and mixture.space == "camera" and "tracks" in {path[0] for path in mixture.template}:
        raise UserError("data.augment.shift moves pictures; tracks in the camera's frame in metres cannot follow")
    read = ReadExample(mixture, seed, augment if augment.probability else None, data["skip_damaged"])
    examples = training_order(mixture, seed).map_with_index(read)
    batches = examples.batch(local, drop_remainder=True)[process_index::process_count][start:]
    return Loader(iterate(batches, data["workers"]), mixture, table, start)


def evaluation_batches(
    sources: Mapping[str, Any],
    window: WindowSpec,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    text: Text | None = None,
    batches: int = 0,
    skip_damaged: bool = False,
) -> Evaluation:
    """One ordered pass over the rows of all sources (a config's `data.validation`, say), as types.Batch with `mask`.

    The last batch is filled up with repeated rows (mask False); every process gets equally many. batches: that many
    batches of rows spread evenly over the sources (0: all rows). Points are drawn by a generator keyed by the row
    alone, an episode's first sentence is taken, nothing is augmented: each pass sees the same. With skip_damaged a
    row that cannot be read has mask False and is counted in Evaluation.skipped. Each `iter` starts a pass; `len` is
    its batches.
    """
    local = _local_size(batch_size, process_count)
    mixture, table = _open(sources, window, text)
    rows = EvaluationRows(mixture, batch_size, batches * batch_size)
    read = _Masked(ReadExample(mixture, skip_damaged=skip_damaged), rows.rows)
    examples = grain.MapDataset.source(rows).map_with_index(read)
    return Evaluation(examples.batch(local, drop_remainder=True)[process_index::process_count], mixture, table)


class Evaluation:
    """Batches that can be gone through again and again; see evaluation_batches.

    skipped: damaged rows that this process has met in the latest pass."""

    def __init__(self, batches: grain.MapDataset, mixture: Mixture, table: np.ndarray | None):
        self._batches, self._mixture, self._table = batches, mixture, table
        self.skipped = 0

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        self.skipped = 0
        reading = iterate(self._batches, workers=0)
        try:
            for arrays in reading:
                self.skipped += int(arrays["skipped"].sum())
                yield to_batch(arrays, self._mixture, self._table)
        finally:
            reading.close()


class _Masked:
    """Adds mask: False on the rows that only fill up, and on those that were damaged, which count once."""

    def __init__(self, read: ReadExample, rows: int):
        self.read, self.rows = read, rows

    def __call__(self, position: int, key: tuple[int, int]) -> dict[str, Any]:
        example = self.read(position, key)
        counts, damaged = position < self.rows, example["skipped"] > 0
        return {**example, "mask": np.bool_(counts and not damaged), "skipped": np.int64(counts and damaged)}


def sentences(data: Mapping[str, Any]) -> list[str]:
    """The distinct instruction sentences of all training and validation sources, sorted.

    Where no episode has one it is [""], so that whoever embeds them still learns the embedding's width."""
    found = set()
    for name, config in [*data["sources"].items(), *data.get("validation", {}).items()]:
        dataset = open_dataset(name, config)
        for number in select_episodes(name, dataset.infos, tuple(config["tasks"]), config["fraction"]):
            found.update(dataset.infos[number].language)
    return sorted(found) or [""]


def example_batch(data: Mapping[str, Any], window: WindowSpec, batch_size: int, text: Text | None = None) -> Batch:
    """A batch with the shapes and types of training: the first readable example, repeated batch_size times."""
    mixture, table = _open(data["sources"], window, text)
    example = ReadExample(mixture, skip_damaged=data["skip_damaged"])(0, (0, 0))
    arrays = next(iter(grain.MapDataset.source([example]).repeat().batch(batch_size)))
    return to_batch(arrays, mixture, table)


def _open(sources: Mapping[str, Any], window: WindowSpec, text: Text | None) -> tuple[Mixture, np.ndarray | None]:
    """-> the mixture and, if the window takes text, the table [sentences, E] of embeddings."""
    if not window.text:
        return open_mixture(sources, window), None
    if not text:
        raise UserError("the window takes text, but no sentence embeddings were given")
    mixture = open_mixture(sources, window, text)
    for component in mixture.components:
        for number in component.rows.episodes:
            if missing := [s for s in component.dataset.infos[number].language if s not in text]:
                raise UserError(f"source {component.name!r}: no embedding of the sentence {missing[0]!r}")
    return mixture, np.stack([np.asarray(v, np.float32) for v in text.values()])


def _local_size(batch_size: int, process_count: int) -> int:
    if batch_size < 1 or batch_size % process_count:
        raise UserError(f"batch_size is {batch_size}; expected a positive multiple of {process_count} processes")
    return batch_size // process_count
