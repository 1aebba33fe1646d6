"""Writes episode shards and track shards, each whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

from t2p.data import codec, records
from t2p.data.index import EpisodesIndex, IndexBuilder
from t2p.data.manifest import refuse_if_finished
from t2p.data.shards import ShardWriter, done, episodes_name, read_sidecar, tracks_name
from t2p.io import PathLike, UserError
from t2p.types import Episode, TrackSet


def shard_done(directory: PathLike, split: str, shard: int, name: str | None = None) -> bool:
    """True when the episodes of a shard (or its track set `name`) are written whole."""
    return done(directory, tracks_name(split, shard, name) if name else episodes_name(split, shard))


def write_shard(
    directory: PathLike, split: str, shard: int, episodes: Iterable[Episode], *, codec: codec.ImageCodec = "jpeg"
) -> dict[str, Any]:
    """Writes the frames, columns and own track sets of one shard's episodes; returns the shard's sidecar.

    Whole or nothing: the shard counts as done when its sidecar is there, which is written after everything else. A
    ValueError names the episode and the field that cannot be stored.
    """
    _check_codec(codec)
    refuse_if_finished(directory, split, shard)
    with ExitStack() as stack:
        frames = stack.enter_context(ShardWriter(directory, episodes_name(split, shard)))
        sets: dict[str, _TrackShardWriter] = {}
        index = IndexBuilder()
        lengths: list[int] = []
        for episode in episodes:
            records.check_episode(episode)
            _add_episode(frames, episode, codec)
            index.add_episode(episode)
            for name in sorted(set(episode.tracks) - set(sets)):
                sets[name] = stack.enter_context(_TrackShardWriter(directory, split, shard, name))
                for length in lengths:
                    sets[name].add(length, {})
            for name, writer in sets.items():
                writer.add(episode.length, episode.tracks.get(name, {}))
            lengths.append(episode.length)
        for writer in sets.values():
            writer.finish(frames.sha256)
        about = {"split": split, "shard": shard, "codec": codec, "track_sets": sorted(sets)}
        return frames.finish({**about, **index.index()})


def write_track_shard(
    directory: PathLike, split: str, shard: int, name: str, tracks: Iterable[Mapping[str, TrackSet]]
) -> dict[str, Any]:
    """Adds the track set `name` to a finished shard: one {view: TrackSet} per episode, in the shard's order (empty
    where an episode lacks the set). Returns the sidecar. Frames are not touched."""
    if not shard_done(directory, split, shard):
        raise UserError(f"shard {episodes_name(split, shard)} of {directory} is not written; write its episodes first")
    refuse_if_finished(directory, split, shard, name)
    index = EpisodesIndex(episodes_name(split, shard), read_sidecar(directory, episodes_name(split, shard)))
    with _TrackShardWriter(directory, split, shard, name) as writer:
        for e, views in enumerate(_exactly(tracks, len(index.ids))):
            records.check_tracks(index.ids[e], index.lengths[e], set(index.layout(e).views), views)
            writer.add(index.lengths[e], views)
        return writer.finish(index.sidecar["sha256"])


class _TrackShardWriter:
    """Writes the records of one track set of a shard."""

    def __init__(self, directory: PathLike, split: str, shard: int, name: str):
        self._about = {"split": split, "shard": shard, "track_set": name}
        self._shard = ShardWriter(directory, tracks_name(split, shard, name))
        self._index = IndexBuilder()

    def __enter__(self) -> _TrackShardWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self._shard.__exit__(*exception)

    def add(self, length: int, views: Mapping[str, TrackSet]) -> None:
        for view in views.values():
            for record in records.track_records(view):
                self._shard.add(record)
        self._index.add_tracks(length, views)

    def finish(self, episodes_sha256: str) -> dict[str, Any]:
        """Publishes; the digest ties the tracks to the very frames that they were made for."""
        return self._shard.finish({**self._about, "episodes_sha256": episodes_sha256, **self._index.index()})


def _add_episode(shard: ShardWriter, episode: Episode, image_codec: codec.ImageCodec) -> None:
    shard.add(records.episode_record(episode))
    for frame in records.frame_records(episode, image_codec):
        shard.add(frame)


def _check_codec(name: str) -> None:
    if name not in codec.IMAGE_CODECS:
        raise UserError(f"codec {name!r}: expected one of {', '.join(codec.IMAGE_CODECS)}")


def _exactly(tracks: Iterable[Mapping[str, TrackSet]], count: int) -> Iterator[Mapping[str, TrackSet]]:
    given = 0
    for views in tracks:
        given += 1
        if given > count:
            break
        yield views
    if given != count:
        raise ValueError(f"the shard has {count} episodes, tracks were given for {'more' if given > count else given}")
