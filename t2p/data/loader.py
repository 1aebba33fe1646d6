"""The loader: which row stands at each global position, read into batches by a thread or worker processes.

The order is a function of (seed, global position) alone. Each source is shuffled by its own seed, repeated and
mixed by weight, every example's randomness comes from a generator keyed by (seed, position), and batches are
cut before the work is divided: process p takes the p-th contiguous block of each global batch, worker w of n
every n-th of those. So neither hosts nor workers change order or augmentation, and a position is one integer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import grain
import numpy as np
from absl import flags

from t2p.data.augment import Augment
from t2p.data.mixture import Component, Mixture, Path
from t2p.data.store import DamagedRecord
from t2p.types import Batch, Tracks

Key = tuple[int, int]  # (component of the mixture, row in it)

# A row that cannot be read is replaced by another one drawn at random; so many in a row mean that hardly any can.
_SUBSTITUTES = 16


@dataclass
class ReadExample:
    """Reads the example at a position. Its fields are those of the mixture's template, plus
    "has" {field: bool}, "index", "sentence" (a number, -1 without) and "skipped" (damaged rows passed over).

    seed None: evaluation; random draws depend on the row alone, the first sentence is taken, no augmentation.
    """

    mixture: Mixture
    seed: int | None = None
    augment: Augment | None = None
    skip_damaged: bool = False

    def __call__(self, position: int, key: Key) -> dict[str, Any]:
        component = self.mixture.components[key[0]]
        rng = keyed_generator(component.seed, key[1]) if self.seed is None else keyed_generator(self.seed, position)
        cut, row, skipped = self._read(component, key[1], rng)
        sentences = component.sentences(row)
        chosen = 0 if self.seed is None or len(sentences) < 2 else int(rng.integers(len(sentences)))
        if self.augment is not None:
            cut = self.augment(cut, rng)
        example = self._complete(component, row, cut)
        sentence = self.mixture.sentences[sentences[chosen]] if sentences else -1
        if self.mixture.window.text:
            example["sentence"] = np.int64(sentence)
            example["has"]["text"] = np.bool_(sentence >= 0)
        return {**example, "index": np.int64(position), "skipped": np.int64(skipped)}

    def _read(self, component: Component, row: int, rng: np.random.Generator) -> tuple[dict[str, Any], int, int]:
        """-> (fields, row, damaged rows passed over)."""
        for skipped in range(_SUBSTITUTES):
            try:
                return component.cutter.cut(component.rows[row], rng), row, skipped
            except DamagedRecord:
                if not self.skip_damaged:
                    raise
            row = int(rng.integers(len(component.rows)))
        return component.cutter.cut(component.rows[row], rng), row, _SUBSTITUTES

    def _complete(self, component: Component, row: int, cut: dict[str, Any]) -> dict[str, Any]:
        """Every field of the template: what was cut, or zeros with has=False; nested dicts."""
        example: dict[str, Any] = {"has": {}}
        for path, zeros in self.mixture.template.items():
            value = _lookup(cut, path)
            if value is not None and value.shape != zeros.shape:
                episode = component.dataset.infos[component.rows[row].segments[0].episode].id
                raise ValueError(
                    f"{component.name}: {'/'.join(path)} of episode {episode!r} has shape {value.shape}, others "
                    f"{zeros.shape}; a batch needs one shape (for tracks: set num_points)"
                )
            _put(example, path, zeros if value is None else value)
            if path[0] != "action_valid":
                example["has"][path[0]] = np.bool_(value is not None)
        return example


def keyed_generator(*key: int) -> np.random.Generator:
    """A generator that depends on two integers only."""
    return np.random.Generator(np.random.Philox(key=np.array(key, np.uint64)))


def _lookup(tree: Any, path: Path) -> np.ndarray | None:
    for name in path:
        if name not in tree:
            return None
        tree = tree[name]
    return tree


def _put(tree: dict[str, Any], path: Path, value: np.ndarray) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value


class _ComponentRows:
    """The keys of one component, as Grain's source of records."""

    def __init__(self, component: int, rows: int):
        self.component, self.rows = component, rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, row: int) -> Key:
        return self.component, int(row)


def training_order(mixture: Mixture, seed: int) -> grain.MapDataset:
    """The infinite sequence of keys: each component reshuffled every epoch, components interleaved by weight
    (relative weights are exact to one part in a hundred of the smallest)."""
    parts = []
    for number, component in enumerate(mixture.components):
        own = int(np.random.SeedSequence([seed, component.seed]).generate_state(1)[0])
        rows = grain.MapDataset.source(_ComponentRows(number, len(component.rows)))
        parts.append(rows.shuffle(seed=own).repeat())
    return parts[0] if len(parts) == 1 else grain.MapDataset.mix(parts, [c.weight for c in mixture.components])


class EvaluationRows:
    """Every row of a mixture once, in order; or `limit` of them (0: no limit), spread evenly. Past the end the
    last row is repeated, so that `size`, a multiple of the batch, is filled. Grain's source of records."""

    def __init__(self, mixture: Mixture, batch_size: int, limit: int = 0):
        self.ends = np.cumsum([len(c.rows) for c in mixture.components])
        self.total = int(self.ends[-1])
        self.rows = min(limit or self.total, self.total)
        self.size = -(-self.rows // batch_size) * batch_size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, position: int) -> Key:
        position = min(int(position), self.rows - 1)
        number = position * (self.total - 1) // max(self.rows - 1, 1) if self.rows < self.total else position
        component = int(np.searchsorted(self.ends, number, side="right"))
        return component, number - (int(self.ends[component - 1]) if component else 0)


def iterate(batches: grain.MapDataset, workers: int) -> grain.DatasetIterator[dict[str, Any]]:
    """Reads batches ahead in one thread of this process, or of each worker process. The iterator has close().

    Two threads of one process take a third more of the processor's time for an example, waiting for the interpreter's
    lock; what needs more than one thread needs workers."""
    reading = batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
    if workers:
        if not flags.FLAGS.is_parsed():  # a notebook, a test or a script without absl.app: Grain reads a flag
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        reading = reading.mp_prefetch(options, worker_init_fn=_start_worker)
    return iter(reading)


def _start_worker(index: int, count: int) -> None:
    import cv2

    cv2.setNumThreads(1)  # one process per core already: OpenCV's own threads would only fight for it


class Loader:
    """Endless training batches of this process; see t2p.data.pipeline.make_loader.

    position: global batches consumed so far, including the one returned last. skipped: damaged rows that this
    process has passed over in them.
    """

    def __init__(
        self, iterator: grain.DatasetIterator[dict[str, Any]], mixture: Mixture, table: np.ndarray | None, start: int
    ):
        self._iterator = iterator
        self._mixture = mixture
        self._table = table
        self.position = start
        self.skipped = 0

    def __iter__(self) -> Loader:
        return self

    def __next__(self) -> Batch:
        arrays = next(self._iterator)
        self.position += 1
        self.skipped += int(arrays["skipped"].sum())
        return to_batch(arrays, self._mixture, self._table)

    def close(self) -> None:
        """Ends threads and worker processes."""
        self._iterator.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def to_batch(arrays: dict[str, Any], mixture: Mixture, table: np.ndarray | None) -> Batch:
    """A Batch from stacked examples; text [B, E] is looked up in table [sentences, E], zeros without a sentence."""
    plain = _map_arrays(np.asarray, arrays)
    tracks = {view: Tracks(**parts, space=mixture.space) for view, parts in plain.get("tracks", {}).items()}
    text = None
    if table is not None:
        known = plain["sentence"] >= 0
        text = np.where(known[:, None], table[np.where(known, plain["sentence"], 0)], np.float32(0))
    return Batch(
        images=plain.get("images", {}),
        clean=plain.get("clean", {}),
        features=plain.get("features", {}),
        goal=plain.get("goal", {}),
        cameras={view: (c["K"], c["T_base_cam"]) for view, c in plain.get("cameras", {}).items()},
        tracks={str(mixture.window.track_set): tracks} if tracks else {},
        text=text,
        proprio=plain.get("proprio", {}),
        actions=plain.get("actions"),
        action_valid=plain.get("action_valid"),
        has=plain["has"],
        index=plain["index"],
        mask=plain.get("mask"),
    )


def _map_arrays(function: Callable[[Any], Any], tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _map_arrays(function, value) for name, value in tree.items()}
    return function(tree)
