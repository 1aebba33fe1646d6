"""Video files and folders of frames below a directory: one episode of one view each."""

from __future__ import annotations

import os
from pathlib import Path

from t2p.data.sources import SourceError
from t2p.data.sources.decode import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    DecodeError,
    Size,
    images_in,
    natural,
    read_folder,
    read_video,
)
from t2p.io import PathLike, UserError
from t2p.types import Episode


class VideoSource:
    """Keys are paths below `path`, in natural order. A folder that holds pictures and no videos is one recording.

    fps: sample in time (None: every frame). recorded_fps: the rate of folders of frames, which do not say it.
    """

    def __init__(
        self,
        path: PathLike,
        *,
        size: Size | None = None,
        fps: float | None = None,
        recorded_fps: float | None = None,
        view: str = "front",
    ):
        self.path, self.size, self.fps, self.recorded_fps, self.view = Path(path), size, fps, recorded_fps, view
        if not self.path.exists():
            raise UserError(f"{path} does not exist; expected a video, a folder of frames or a directory of them")
        self._files = {_key(self.path, file): file for file in _recordings(self.path)}
        if not self._files:
            raise UserError(
                f"{path} holds no recordings; expected videos ({' '.join(VIDEO_SUFFIXES)}) or folders of pictures "
                f"({' '.join(IMAGE_SUFFIXES)})"
            )
        folders = [key for key, file in self._files.items() if file.is_dir()]
        if folders and not recorded_fps:
            raise UserError(f"{folders[0]} is a folder of frames, which has no frame rate: give recorded_fps=")

    def keys(self) -> list[str]:
        return list(self._files)

    def read(self, key: str) -> Episode:
        """[T, H, W, 3] frames under the view's name. Raises SourceError."""
        file = self._files[key]
        try:
            if file.is_dir():
                frames, fps = read_folder(file, self.recorded_fps or 0.0, size=self.size, fps=self.fps)
            else:
                frames, fps = read_video(file, size=self.size, fps=self.fps)
        except DecodeError as e:
            raise SourceError(key, str(e)) from e
        return Episode(id=key, fps=fps, frames={self.view: frames}, source="video")


def _key(root: Path, file: Path) -> str:
    return file.name if file == root else file.relative_to(root).as_posix()


def _recordings(root: Path) -> list[Path]:
    """Videos and folders of pictures at and below `root`; hidden ones are left out."""
    if root.is_file():
        return [root]
    found: list[Path] = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        videos = [n for n in names if Path(n).suffix.lower() in VIDEO_SUFFIXES and not n.startswith(".")]
        found += [Path(folder, name) for name in videos]
        if not videos and images_in(Path(folder)):
            found.append(Path(folder))
    return sorted(found, key=lambda p: natural(p.as_posix()))
