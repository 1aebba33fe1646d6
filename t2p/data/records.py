"""What the records of an episode hold: an Episode or a TrackSet <-> contents of records, in their order.

An episode shard holds per episode one record of facts and numeric columns, then one frame per record, view by view. A
track shard holds per (episode, view) one header with the queries, then the tracks: of a "global" set in chunks of
CHUNK time steps, of a "window" set one record per frame.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from t2p.data import codec
from t2p.types import Camera, Episode, Layout, Space, TrackSet

CHUNK = 8  # time steps of a global set in one record: a window of 16 reads at most 24
_NORMALISED = ("actions", "proprio/")


@dataclass(frozen=True)
class TracksLayout:
    """What the index knows of one view of a track set; T is the episode's length."""

    view: str
    layout: Layout
    horizon: int  # steps of a window; 0 for "global"
    points: int
    dims: int
    space: Space
    tracker: str
    version: str

    def records(self, length: int) -> int:
        """How many records follow the header."""
        return length if self.layout == "window" else -(-length // CHUNK)

    def shape(self, steps: int) -> tuple[int, ...]:
        """Shape of `visible` over `steps` time steps (rows of a window set)."""
        return (steps, self.horizon, self.points) if self.layout == "window" else (steps, self.points)


def is_normalised(column: str) -> bool:
    """True for the columns that have statistics: actions and proprioception."""
    return column.startswith(_NORMALISED)


def check_episode(episode: Episode) -> None:
    """Raises ValueError, naming the field, when an episode cannot be stored."""
    if not isinstance(episode.id, str) or not episode.id:
        raise ValueError(f"an episode's id is {episode.id!r}; expected a string")
    if not episode.frames:
        raise ValueError(f"episode {episode.id!r} has no frames")
    if episode.length == 0:
        raise ValueError(f"episode {episode.id!r} has no time steps")
    if not (np.isfinite(episode.fps) and episode.fps > 0):
        raise ValueError(f"episode {episode.id!r}: fps is {episode.fps}, expected a positive number")
    try:
        json.dumps(dict(episode.info))
    except TypeError as e:
        raise ValueError(f"episode {episode.id!r}: info is not JSON-able ({e})") from e
    for view, frames in episode.frames.items():
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or len(frames) != episode.length:
            raise ValueError(
                f"episode {episode.id!r}, frames of view {view!r}: expected uint8 [{episode.length}, H, W, 3], "
                f"got {frames.dtype} {list(frames.shape)}"
            )
    for name, column in episode.columns.items():
        _check_column(episode, name, np.asarray(column))
    if unknown := set(episode.cameras) - set(episode.frames):
        raise ValueError(f"episode {episode.id!r}: cameras of unknown views {sorted(unknown)}")
    for views in episode.tracks.values():
        check_tracks(episode.id, episode.length, set(episode.frames), views)


def _check_column(episode: Episode, name: str, column: np.ndarray) -> None:
    where = f"episode {episode.id!r}, column {name!r}"
    if column.ndim < 1 or len(column) != episode.length:
        raise ValueError(f"{where}: expected {episode.length} rows, got shape {list(column.shape)}")
    if column.dtype.kind not in "biuf":
        raise ValueError(f"{where}: expected numbers, got {column.dtype}")
    if is_normalised(name):
        if column.ndim != 2:
            raise ValueError(f"{where}: expected [{episode.length}, d], got shape {list(column.shape)}")
        if not np.isfinite(column).all():
            raise ValueError(f"{where} holds NaN or infinite numbers")


def check_tracks(episode: str, length: int, views: set[str], tracks: Mapping[str, TrackSet]) -> None:
    """Raises ValueError when one track set of an episode of `length` frames cannot be stored."""
    for view, t in tracks.items():
        where = f"episode {episode!r}, tracks of view {view!r}"
        if view not in views:
            raise ValueError(f"{where}: the episode's views are {sorted(views)}")
        if t.layout not in ("global", "window"):
            raise ValueError(f"{where}: layout {t.layout!r}, expected global or window")
        if t.space not in ("image", "image_depth", "camera"):
            raise ValueError(f"{where}: space {t.space!r}, expected image, image_depth or camera")
        dims = 2 if t.space == "image" else 3
        if t.points.ndim != (4 if t.layout == "window" else 3) or t.points.shape[-1] != dims or len(t.points) != length:
            shape = "h, N" if t.layout == "window" else "N"
            raise ValueError(f"{where}: expected points [{length}, {shape}, {dims}], got {list(t.points.shape)}")
        if t.visible.shape != t.points.shape[:-1] or t.visible.dtype != bool:
            raise ValueError(
                f"{where}: expected visible bool {list(t.points.shape[:-1])}, got {t.visible.dtype} "
                f"{list(t.visible.shape)}"
            )
        if t.queries.shape != (t.points.shape[-2], 3):
            raise ValueError(f"{where}: expected queries [{t.points.shape[-2]}, 3], got {list(t.queries.shape)}")
        if not np.isfinite(t.points).all():
            raise ValueError(f"{where}: points hold NaN; hidden points keep finite coordinates and visible=False")


def episode_record(episode: Episode) -> bytes:
    """The record of facts and numeric columns."""
    cameras = {
        view: {"K": codec.pack_array(c.K), "T_base_cam": codec.pack_array(c.T_base_cam), "size": list(c.size)}
        for view, c in episode.cameras.items()
    }
    return codec.pack(
        {
            "id": episode.id,
            "fps": float(episode.fps),
            "language": list(episode.language),
            "task": episode.task,
            "source": episode.source,
            "info": json.dumps(dict(episode.info), sort_keys=True),
            "cameras": cameras,
            "columns": {name: codec.pack_array(column) for name, column in episode.columns.items()},
        }
    )


def parse_info(record: Mapping[str, Any]) -> dict[str, Any]:
    """The episode's free facts."""
    return json.loads(record["info"])


def parse_cameras(record: Mapping[str, Any]) -> dict[str, Camera]:
    """The episode's cameras."""
    return {
        view: Camera(codec.unpack_array(c["K"]), codec.unpack_array(c["T_base_cam"]), (c["size"][0], c["size"][1]))
        for view, c in record["cameras"].items()
    }


def parse_column(record: Mapping[str, Any], name: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """A numeric column; CodecError when it is not of the dtype and shape that the index promises."""
    if name not in record["columns"]:
        raise codec.CodecError(f"column {name!r} is not in the record")
    column = codec.unpack_array(record["columns"][name])
    if column.dtype.str != dtype or column.shape != shape:
        raise codec.CodecError(f"holds {column.dtype.str} {list(column.shape)}, the index says {dtype} {list(shape)}")
    return column


def frame_records(episode: Episode, image_codec: codec.ImageCodec) -> Iterator[bytes]:
    """The frames, view by view in the order of episode.frames."""
    for frames in episode.frames.values():
        for frame in frames:
            yield codec.encode_image(frame, image_codec)


def tracks_layout(view: str, tracks: TrackSet) -> TracksLayout:
    """The index entry of a view's tracks."""
    *_, points, dims = tracks.points.shape
    horizon = tracks.points.shape[1] if tracks.layout == "window" else 0
    return TracksLayout(view, tracks.layout, horizon, points, dims, tracks.space, tracks.tracker, tracks.version)


def track_records(tracks: TrackSet) -> Iterator[bytes]:
    """Header, then chunks of a global set or rows of a window set."""
    yield codec.pack({"queries": codec.pack_array(np.asarray(tracks.queries, np.float32))})
    length = len(tracks.points)
    step = 1 if tracks.layout == "window" else CHUNK
    for start in range(0, length, step):
        rows = slice(start, start + step)
        points = np.asarray(tracks.points[rows], np.float32)
        yield codec.pack({"points": codec.pack_array(points), "visible": codec.pack_bits(tracks.visible[rows])})


def parse_queries(content: bytes, layout: TracksLayout) -> np.ndarray:
    """The header record -> [N, 3] float32."""
    queries = codec.unpack_array(codec.unpack(content).get("queries"))
    if queries.shape != (layout.points, 3) or queries.dtype != np.float32:
        raise codec.CodecError(f"queries are {queries.dtype} {list(queries.shape)}, the index says {layout.points}")
    return queries


def parse_tracks(content: bytes, layout: TracksLayout, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """A chunk of `steps` time steps -> points float32, visible bool."""
    record = codec.unpack(content)
    points, visible = codec.unpack_array(record.get("points")), codec.unpack_bits(record.get("visible"))
    shape = layout.shape(steps)
    if points.shape != (*shape, layout.dims) or points.dtype != np.float32 or visible.shape != shape:
        raise codec.CodecError(
            f"holds points {points.dtype} {list(points.shape)} and visible {list(visible.shape)}, the index says "
            f"{[*shape, layout.dims]}"
        )
    return points, visible
