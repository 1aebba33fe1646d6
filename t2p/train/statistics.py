"""The statistics that a stage normalises with, from exactly the episodes that it is trained on; or, where
init_from.<name>.statistics says so, from the checkpoint that training starts from.

They become part of the resolved config, and so of every checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import ml_collections
import numpy as np

from t2p import checkpoint
from t2p.data.mixture import open_dataset, select_episodes
from t2p.data.statistics import Accumulator
from t2p.io import UserError


def with_statistics(config: ml_collections.ConfigDict, blank: bool = False) -> ml_collections.ConfigDict:
    """The config with its empty `statistics` filled; what is there already stays. The given config is not changed.

    blank: without data, for what only asks about shapes: limits of -1 and 1 for any width."""
    empty = [name for name, s in config.get("statistics", {}).items() if not len(s["min"])]
    if not empty:
        return config
    filled = copy.deepcopy(config)
    kept = {} if blank else _kept(config)
    for column in empty:
        low, high = ((-1.0,), (1.0,)) if blank else kept.get(column) or _limits(filled, column)
        filled.statistics[column].update({"min": low, "max": high})
    return filled


def _kept(config: ml_collections.ConfigDict) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
    """{column: (least, greatest)} of the checkpoints in init_from whose statistics are to be kept."""
    found: dict[str, Any] = {}
    for name, entry in config.init_from.items():
        if entry.get("statistics"):
            theirs = checkpoint.load_meta(entry["path"])["config"].get("statistics") or {}
            found |= {column: (tuple(s["min"]), tuple(s["max"])) for column, s in theirs.items() if s["min"]}
            if not found:
                raise UserError(f"init_from.{name}.statistics: the checkpoint in {entry['path']} holds no statistics")
    return found


def _limits(config: ml_collections.ConfigDict, column: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    seen: Accumulator | None = None
    for rows in _rows(config, column):
        seen = seen or Accumulator(rows.shape[1])
        if rows.shape[1] != seen.width:
            raise UserError(f"column {column!r} has {seen.width} numbers in one episode and {rows.shape[1]} in another")
        seen.add(rows)
    if seen is None or not seen.count:
        raise UserError(
            f"no training episode has the column {column!r}, which this stage normalises; collect or convert "
            "demonstrations with it, or check data.sources"
        )
    found = seen.result()
    return tuple(map(float, found.min)), tuple(map(float, found.max))


def _rows(config: ml_collections.ConfigDict, column: str) -> Iterator[np.ndarray]:
    """[T, d] of every training episode that has the column and whose source gives its field."""
    for name, source in config.data.sources.items():
        if source.fields and column.partition("/")[0] not in source.fields:
            continue
        dataset = open_dataset(name, source)
        for number in select_episodes(name, dataset.infos, tuple(source.tasks), source.fraction):
            if column in dataset.infos[number].columns:
                yield dataset.column(number, column)
