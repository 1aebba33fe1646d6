"""A t2p dataset read back as recordings: to track it again, to change its codec, to take a part of it."""

from __future__ import annotations

from dataclasses import replace

from t2p.data.sources import SourceError
from t2p.data.sources.decode import Size, resize
from t2p.data.store import DamagedRecord, Dataset
from t2p.io import PathLike
from t2p.types import Episode


class DatasetSource:
    """One split of a t2p dataset, local or remote. Keys: the episodes' ids."""

    def __init__(self, path: PathLike, *, split: str = "train", size: Size | None = None):
        self.size = size
        self._data = Dataset(path, split)
        self._index = {info.id: i for i, info in enumerate(self._data.infos)}

    def keys(self) -> list[str]:
        return list(self._index)

    def read(self, key: str) -> Episode:
        """The episode with its columns, cameras and track sets. Raises SourceError for a damaged one."""
        try:
            episode = self._data.read(self._index[key])
        except DamagedRecord as e:
            raise SourceError(key, str(e)) from e
        return replace(episode, frames={view: resize(video, self.size) for view, video in episode.frames.items()})
