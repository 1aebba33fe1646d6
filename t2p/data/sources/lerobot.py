"""LeRobot datasets (codebase versions 2.x and 3.x) from a local directory, without the lerobot package.

Both: meta/info.json (fps, features, path templates) and columns in parquet files, pictures in mp4 files (features of
dtype "video") or in the parquet files themselves ("image"). Version 2: meta/episodes.jsonl (index, length, tasks), one
parquet and one mp4 per episode. Version 3: meta/episodes/*/*.parquet with the same and each episode's place, as
episodes follow each other in larger files: a video holds one from its from_timestamp to its to_timestamp.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from t2p.data.sources import SourceError
from t2p.data.sources.decode import DecodeError, Size, decode_image, read_video_at
from t2p.data.sources.external import numeric
from t2p.io import PathLike, UserError, read_json
from t2p.types import Episode

_PICTURES = ("video", "image")


class LeRobotSource:
    """Keys: episode_<index>. Views are named after their feature ("observation.images.top" -> "top").

    views: only these cameras. Columns: "action" -> "actions", "observation.<name>" -> "proprio/<name>".
    """

    def __init__(self, path: PathLike, *, views: Sequence[str] = (), size: Size | None = None):
        self.path, self.size = Path(path), size
        self.info = _info(self.path)
        self.version = int(self.info["codebase_version"].lstrip("v").split(".")[0])
        cameras = {_view(name): name for name, feature in self.info["features"].items() if _is_camera(feature)}
        if missing := [view for view in views if view not in cameras]:
            raise UserError(f"{path} has no camera {missing[0]!r}; it has {', '.join(cameras) or 'none'}")
        self.cameras = {view: name for view, name in cameras.items() if not views or view in views}
        if not self.cameras:
            raise UserError(f"{path} has no cameras; its features are {', '.join(self.info['features'])}")
        rows = _episode_rows(self.path, self.version)
        self._rows = {f"episode_{row['episode_index']:06d}": row for row in rows}

    def keys(self) -> list[str]:
        return list(self._rows)

    def read(self, key: str) -> Episode:
        """Frames of every camera, numeric columns, the episode's tasks as language. Raises SourceError."""
        row = self._rows[key]
        try:
            table = self._table(row)
            frames = {view: self._frames(table, row, name) for view, name in self.cameras.items()}
        except (DecodeError, OSError, KeyError, ValueError) as e:
            raise SourceError(key, f"{e.args[-1] if isinstance(e, KeyError) else e}") from e
        language = tuple(row.get("tasks") or ())
        task = language[0] if language else ""
        return Episode(
            key, float(self.info["fps"]), frames, self._columns(table), language, source="lerobot", task=task
        )

    def _table(self, row: dict[str, Any]) -> Any:
        """The episode's rows of the parquet file that holds them, ordered in time."""
        from pyarrow import parquet

        file = self.path / self.info["data_path"].format(**self._place(row, "data"))
        if not file.exists():
            raise DecodeError(f"there is no file {file}")
        pictures = {name for name, feature in self.info["features"].items() if feature["dtype"] in _PICTURES}
        names = [n for n in parquet.read_schema(file).names if n not in pictures or n in self.cameras.values()]
        table = parquet.read_table(file, columns=names, filters=[("episode_index", "=", row["episode_index"])])
        if table.num_rows != row["length"]:
            raise DecodeError(f"{file.name} holds {table.num_rows} of the episode's {row['length']} frames")
        return table.sort_by("frame_index")

    def _place(self, row: dict[str, Any], prefix: str) -> dict[str, int]:
        """What the path templates of info.json are filled with."""
        if self.version == 2:
            index = row["episode_index"]
            return {"episode_index": index, "episode_chunk": index // int(self.info["chunks_size"])}
        return {"chunk_index": row[f"{prefix}/chunk_index"], "file_index": row[f"{prefix}/file_index"]}

    def _frames(self, table: Any, row: dict[str, Any], name: str) -> np.ndarray:
        if self.info["features"][name]["dtype"] == "image":
            return np.stack([self._image(cell) for cell in table.column(name).to_pylist()])
        place = self._place(row, f"videos/{name}")
        file = self.path / self.info["video_path"].format(video_key=name, **place)
        begin = row[f"videos/{name}/from_timestamp"] if self.version > 2 else 0.0
        return read_video_at(file, [begin + t for t in table.column("timestamp").to_pylist()], size=self.size)

    def _image(self, cell: dict[str, Any]) -> np.ndarray:
        return decode_image(cell["bytes"] or self.path / cell["path"], self.size)

    def _columns(self, table: Any) -> dict[str, np.ndarray]:
        columns = {}
        for name, feature in self.info["features"].items():
            column = _column_name(name)
            if column and feature["dtype"].startswith(("float", "int", "uint", "bool")):
                columns[column] = numeric(table.column(name).to_pylist())
        return columns


def _view(name: str) -> str:
    return name.removeprefix("observation.").removeprefix("images.")


def _is_camera(feature: dict[str, Any]) -> bool:
    """Colour pictures; depth maps are kept as videos too and say so."""
    facts = {**(feature.get("info") or {}), **(feature.get("video_info") or {})}
    depth = facts.get("is_depth_map") or facts.get("video.is_depth_map")
    return feature["dtype"] in _PICTURES and not depth


def _column_name(name: str) -> str:
    """The t2p column of a feature, or "" for one that is left out (time stamps, indices, rewards)."""
    if name == "action":
        return "actions"
    return f"proprio/{name.removeprefix('observation.')}" if name.startswith("observation.") else ""


def _info(path: Path) -> dict[str, Any]:
    if not (path / "meta" / "info.json").exists():
        raise UserError(f"{path} is no LeRobot dataset: expected meta/info.json there")
    try:
        info = read_json(path / "meta" / "info.json")
    except ValueError as e:
        raise UserError(str(e)) from e
    version = str(info.get("codebase_version"))
    if not version.startswith(("v2.", "v3.")):
        raise UserError(f"{path} is a LeRobot dataset of version {version}; v2.x and v3.x are read, convert it first")
    if missing := [name for name in ("fps", "features", "data_path") if not info.get(name)]:
        raise UserError(f"{path}/meta/info.json lacks {', '.join(missing)}")
    return info


def _episode_rows(path: Path, version: int) -> list[dict[str, Any]]:
    """One dict per episode: episode_index, length, tasks, and for version 3 where its data and videos lie."""
    try:
        rows = (
            _legacy_rows(path / "meta" / "episodes.jsonl")
            if version == 2
            else _parquet_rows(path / "meta" / "episodes")
        )
        rows = sorted(rows, key=lambda row: row["episode_index"])
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise UserError(f"{path} has no readable list of episodes in meta/ ({e})") from e
    if not rows:
        raise UserError(f"{path} lists no episodes in meta/; is the download whole?")
    return rows


def _legacy_rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def _parquet_rows(folder: Path) -> list[dict[str, Any]]:
    from pyarrow import parquet

    rows = []
    for file in sorted(folder.glob("*/*.parquet")):
        names = [name for name in parquet.read_schema(file).names if not name.startswith("stats/")]
        rows += parquet.read_table(file, columns=names).to_pylist()
    return rows
