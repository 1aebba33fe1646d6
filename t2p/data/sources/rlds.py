"""RLDS datasets in TFDS directories (Open X-Embodiment and others), read without TensorFlow.

tensorflow-datasets parses features.json and decodes a record; the records themselves come from TFRecord files
(framing in tfrecord.py) or ArrayRecord files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from t2p.data.sources import SourceError, tfrecord
from t2p.data.sources.decode import Size, natural, resize
from t2p.data.sources.external import numeric
from t2p.io import PathLike, UserError
from t2p.types import Episode

# Control rates of the datasets that the papers use; features.json does not hold them.
RATES = {"bridge": 5.0, "bridge_dataset": 5.0, "bridge_orig": 5.0, "fractal20220817_data": 3.0}


class RldsSource:
    """Keys: <split>/<number>.

    path: the directory with features.json, or the one above it (then the newest version). split: one or several
    (None: all). views: only these cameras. recorded_fps: steps per second, which RLDS does not store.
    """

    def __init__(
        self,
        path: PathLike,
        *,
        split: str | Sequence[str] | None = None,
        views: Sequence[str] = (),
        size: Size | None = None,
        recorded_fps: float | None = None,
    ):
        self.path, self.views, self.size = _version_folder(Path(path)), tuple(views), size
        self._info: Any = None
        self._offsets: dict[str, list[int]] = {}
        name = self._opened().name
        self.name, self.fps = name, recorded_fps or RATES.get(name, 0.0)
        if not self.fps:
            raise UserError(f"RLDS does not store the rate of {name!r}: give recorded_fps=, its steps per second")
        if "steps" not in self._opened().features:
            raise UserError(f"{path} is no RLDS dataset: it has no feature steps, but {list(self._opened().features)}")
        self.splits = [split] if isinstance(split, str) else list(split or self._opened().splits)
        if missing := [s for s in self.splits if s not in self._opened().splits]:
            raise UserError(f"{path} has no split {missing[0]!r}; it has {', '.join(self._opened().splits)}")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_info": None, "_offsets": {}}  # opened again in the other process

    def _opened(self) -> Any:
        if self._info is None:
            self._info = _dataset_info(self.path)
        return self._info

    def keys(self) -> list[str]:
        splits = self._opened().splits
        return [f"{split}/{i:06d}" for split in self.splits for i in range(splits[split].num_examples)]

    def read(self, key: str) -> Episode:
        """Every picture of an observation is a view; "actions" and "proprio/<name>" its numbers. Raises SourceError."""
        split, number = key.split("/")
        try:
            example = self._opened().features.deserialize_example_np(self._record(split, int(number)))
            steps = list(example["steps"])
        except Exception as e:  # whatever a decoder makes of a record that is not what features.json says
            raise SourceError(key, f"the record cannot be read: {e or type(e).__name__}") from e
        if not steps:
            raise SourceError(key, "the episode has no steps")
        frames, columns, language = self._frames(key, steps), _columns(steps), _language(steps)
        info = {name: _plain(value) for name, value in _leaves(example.get("episode_metadata", {}))}
        task = language[0] if language else ""
        return Episode(key, self.fps, frames, columns, language, source=f"rlds:{self.name}", task=task, info=info)

    def _record(self, split: str, number: int) -> bytes:
        """The bytes of a split's example: shards follow each other, their lengths are in dataset_info.json."""
        info = self._opened().splits[split]
        for file, length in zip(info.filepaths, info.shard_lengths):
            if number < length:
                return self._read_shard(Path(file), number, length)
            number -= length
        raise ValueError(f"split {split!r} ends before it")

    def _read_shard(self, file: Path, number: int, length: int) -> bytes:
        if ".array_record" in file.name:
            return _read_array_record(file, number)
        if file.name not in self._offsets:
            self._offsets[file.name] = tfrecord.offsets(file)
        offsets = self._offsets[file.name]
        if len(offsets) != length:
            raise ValueError(f"{file.name} holds {len(offsets)} records, dataset_info.json says {length}")
        return tfrecord.read(file, offsets[number])

    def _frames(self, key: str, steps: list[Any]) -> dict[str, np.ndarray]:
        """{camera: frames}. Absent cameras are stored as pictures of one colour; flags has_<name> are not reliable."""
        rows = [dict(_leaves(step["observation"])) for step in steps]
        names = [name for name, value in rows[0].items() if _is_picture(value)]
        wanted = [name for name in names if name in self.views or not self.views]
        videos = {name: np.stack([row[name] for row in rows]) for name in wanted}
        frames = {name: resize(video, self.size) for name, video in videos.items() if (video != video[0, 0, 0]).any()}
        if not frames:
            asked = f" (asked for {', '.join(self.views)})" if self.views else ""
            raise SourceError(key, f"no camera has pictures; the observations have {names or 'none'}{asked}")
        return frames


def _version_folder(path: Path) -> Path:
    if (path / "features.json").exists():
        return path
    versions = sorted((p.parent for p in path.glob("*/features.json")), key=lambda p: natural(p.name))
    if not versions:
        raise UserError(f"{path} is no TFDS directory: expected features.json there or in a folder below it")
    return versions[-1]


def _dataset_info(path: Path) -> Any:
    import tensorflow_datasets as tfds

    try:
        return tfds.builder_from_directory(path).info
    except Exception as e:  # tfds has no error type for a directory that it cannot parse
        raise UserError(f"{path} is no TFDS directory that tensorflow-datasets can read: {e}") from e


def _read_array_record(file: Path, number: int) -> bytes:
    from array_record.python import array_record_module

    reader = array_record_module.ArrayRecordReader(str(file))
    try:
        return reader.read([number])[0]
    finally:
        reader.close()


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def _is_picture(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3 and value.shape[-1] == 3


def _is_vector(name: str, value: Any) -> bool:
    """Numbers of a state; sentence embeddings, which some datasets repeat at every step, are not."""
    return isinstance(value, np.ndarray | np.number) and np.ndim(value) <= 1 and not name.endswith("embedding")


def _columns(steps: list[Any]) -> dict[str, np.ndarray]:
    """ "actions" (parts of a structured action: "action/<name>") and "proprio/<name>"."""
    columns = {}
    if "action" in steps[0]:
        parts = [dict(_leaves({"action": step["action"]})) for step in steps]
        for name in parts[0]:
            columns["actions" if name == "action" else name] = numeric([part[name] for part in parts])
    rows = [dict(_leaves(step["observation"])) for step in steps]
    for name, value in rows[0].items():
        if _is_vector(name, value):
            columns[f"proprio/{name}"] = numeric([row[name] for row in rows])
    return columns


def _language(steps: list[Any]) -> tuple[str, ...]:
    """The distinct instruction sentences, in order."""
    found = [
        value.decode(errors="replace").strip()
        for step in steps
        for name, value in _leaves(step)
        if isinstance(value, bytes) and ("instruction" in name or "language" in name)
    ]
    return tuple(dict.fromkeys(sentence for sentence in found if sentence))


def _plain(value: Any) -> Any:
    """A JSON-able copy of an episode's fact."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
