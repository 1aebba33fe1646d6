"""A clip table (.csv or .jsonl): one row per clip of a video file or folder of frames.

Columns: path (the only one required), start, stop (seconds, or HH:MM:SS.s), fps (sample the clip at this rate),
text (one instruction sentence; in JSON also a list), id, task, recorded_fps (the rate of a folder of frames).
All other columns are kept in the episode's info.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t2p.data.sources import SourceError
from t2p.data.sources.decode import DecodeError, Size, read_folder, read_video
from t2p.io import PathLike, UserError
from t2p.types import Episode

_COLUMNS = ("path", "start", "stop", "fps", "text", "id", "task", "recorded_fps")


@dataclass(frozen=True)
class Clip:
    """One row. start, stop: seconds or None (the video's ends); fps: None keeps the recording's rate."""

    path: str
    start: float | None = None
    stop: float | None = None
    fps: float | None = None
    text: tuple[str, ...] = ()
    task: str = ""
    recorded_fps: float | None = None
    info: dict[str, Any] = field(default_factory=dict)


class ClipSource:
    """The clips of a table. Keys: the id column, else the path and, where it is cut, its span.

    root: what the table's paths are relative to (the table's own folder). fps, recorded_fps: for rows that give none.
    """

    def __init__(
        self,
        path: PathLike,
        *,
        root: PathLike | None = None,
        size: Size | None = None,
        fps: float | None = None,
        recorded_fps: float | None = None,
        view: str = "front",
    ):
        table = Path(path)
        self.root = table.parent if root is None else Path(root)
        self.size, self.fps, self.recorded_fps, self.view = size, fps, recorded_fps, view
        self._clips: dict[str, Clip] = {}
        for line, row in _rows(table):
            try:
                key, clip = _clip(row)
            except ValueError as e:
                raise UserError(f"{path}, line {line}: {e}") from e
            if key in self._clips:
                raise UserError(f"{path}, line {line}: a second clip is called {key!r}; name them in a column id")
            self._clips[key] = clip
        if not self._clips:
            raise UserError(f"{path} has no rows; expected columns {', '.join(_COLUMNS)}, of which path is required")

    def keys(self) -> list[str]:
        return list(self._clips)

    def read(self, key: str) -> Episode:
        """Decodes no more than the clip. Raises SourceError."""
        clip = self._clips[key]
        file = self.root / clip.path
        cut: dict[str, Any] = {"size": self.size, "start": clip.start, "stop": clip.stop, "fps": clip.fps or self.fps}
        try:
            if file.is_dir():
                frames, fps = read_folder(file, self._recorded(clip), **cut)
            else:
                frames, fps = read_video(file, **cut)
        except DecodeError as e:
            raise SourceError(key, f"{clip.path}: {e}") from e
        return Episode(
            key, fps, {self.view: frames}, language=clip.text, source="clips", task=clip.task, info=clip.info
        )

    def _recorded(self, clip: Clip) -> float:
        if not (rate := clip.recorded_fps or self.recorded_fps):
            raise DecodeError("a folder of frames has no frame rate: give it in a column recorded_fps")
        return rate


def _rows(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, row) of a table; raises UserError if it is no table."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{table} is not a readable clip table ({e})") from e
    if table.suffix == ".jsonl":
        yield from _json_rows(table, text)
        return
    reader = csv.DictReader(io.StringIO(text, newline=""))
    if "path" not in (reader.fieldnames or ()):
        raise UserError(f"{table} has no column path; its first line is {text[:80].splitlines()[:1]}")
    for row in reader:
        if None in row:
            raise UserError(f"{table}, line {reader.line_num}: more cells than columns; put text with commas in quotes")
        yield reader.line_num, row


def _json_rows(table: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, content in enumerate(text.splitlines(), 1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except json.JSONDecodeError as e:
            raise UserError(f"{table}, line {line}: not JSON ({e})") from e
        if not isinstance(row, dict):
            raise UserError(f"{table}, line {line}: expected an object with a path, got {content[:60]}")
        yield line, row


def _clip(row: dict[str, Any]) -> tuple[str, Clip]:
    """(key, clip) of a row; ValueError if a cell makes no sense."""
    path, text = row.get("path"), row.get("text") or ()
    if not path or not isinstance(path, str):
        raise ValueError(f"path must be a file or folder, got {path!r}")
    start, stop = _seconds(row, "start"), _seconds(row, "stop")
    if (start or 0) < 0 or (stop is not None and stop <= (start or 0)):
        raise ValueError(f"expected 0 <= start < stop in seconds, got {row.get('start')!r} and {row.get('stop')!r}")
    clip = Clip(
        path,
        start,
        stop,
        _rate(row, "fps"),
        (text,) if isinstance(text, str) else tuple(text),
        str(row.get("task") or ""),
        _rate(row, "recorded_fps"),
        {name: value for name, value in row.items() if name not in _COLUMNS},
    )
    span = "" if start is None and stop is None else f"@{start or 0:.2f}-{'' if stop is None else format(stop, '.2f')}"
    return str(row.get("id") or path + span), clip


def _seconds(row: dict[str, Any], name: str) -> float | None:
    """A time in seconds from 12.5, "12.5", "0:12.5" or "00:00:12.5"; None if there is none."""
    value = row.get(name)
    if value is None or value == "":
        return None
    try:
        parts = [float(part) for part in str(value).split(":")]
    except ValueError as e:
        raise ValueError(f"{name} must be seconds or HH:MM:SS.s, got {value!r}") from e
    return sum(part * 60**power for power, part in enumerate(reversed(parts)))


def _rate(row: dict[str, Any], name: str) -> float | None:
    value = row.get(name)
    if value is None or value == "":
        return None
    try:
        rate = float(value)
    except (TypeError, ValueError) as e:
        raise ValueError(f"{name} must be a number of frames per second, got {value!r}") from e
    if not rate > 0:
        raise ValueError(f"{name} must be positive, got {value!r}")
    return rate
