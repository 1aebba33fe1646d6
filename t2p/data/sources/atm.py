"""ATM's preprocessed demonstrations (Any-point Trajectory Modeling, scripts/preprocess_libero.py): one HDF5 per demo.

<suite>/<task>/demo_k.hdf5 with root/actions [T, 7], root/extra_states/<name> [T, d] and, per view,
root/<view>/video [1, T, 3, H, W] uint8 (upright), tracks [1, T, N, 2], vis [1, T, N]. Tracks are CoTracker's pixels
divided by (W, H). The script's folders train, val, bc_train_<n> hold links to the demos. What the files leave out of
LIBERO's demonstrations (states, scene), those have: <demos>/<task>.hdf5, also below <demos>/<suite>.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from t2p.data.sources import SourceError
from t2p.data.sources.decode import Size, natural, resize
from t2p.data.sources.external import files_below, first_seen, hdf5, libero_sentence, numeric, to_tracks
from t2p.data.sources.libero import FPS, read_demo
from t2p.geometry.conventions import from_atm
from t2p.io import PathLike, UserError
from t2p.types import Episode, TrackSet

TRACK_SET = "cotracker2/atm"
LAYOUT = "root/{actions, extra_states/<name>, <view>/{video [1,T,3,H,W], tracks [1,T,N,2], vis [1,T,N]}}"
_SPLIT = re.compile(r"train|val|bc_train_.*")


class AtmSource:
    """Keys: <suite>/<task>/demo_k below `path`. split: only the demos linked in folders of that name (None: all).
    demos: LIBERO's own files; pictures and columns are then theirs, which adds the simulator's states."""

    def __init__(
        self, path: PathLike, *, size: Size | None = None, split: str | None = None, demos: PathLike | None = None
    ):
        files = files_below(path, (".hdf5",), "ATM's <suite>/<task>/demo_k.hdf5")
        if split:
            files = {key: file for key, file in files.items() if file.parent.name == split}
        if not files:
            raise UserError(f"{path} has no demos in folders called {split!r}")
        if demos and not Path(demos).is_dir():
            raise UserError(f"demos is {demos!r}; expected the folder with LIBERO's <task>_demo.hdf5")
        self.size, self.demos, self._files = size, Path(demos) if demos else None, _distinct(files)

    def keys(self) -> list[str]:
        return list(self._files)

    def read(self, key: str) -> Episode:
        """Frames and the track set "cotracker2/atm" of every view, actions and proprioception. Raises SourceError."""
        file = self._files[key]
        task = _task_folder(file)
        with hdf5(key, file, LAYOUT) as f:
            root = f["root"]
            views = sorted(name for name in root if name not in ("actions", "extra_states", "task_emb_bert"))
            if self.demos is None:
                episode = _own(key, root, views, task.name)
            else:
                episode = read_demo(key, _demo_file(self.demos, task), file.stem, views=views)
            tracks = {view: _track_set(key, root[view], episode.frames[view]) for view in views}
        frames = {view: resize(video, self.size) for view, video in episode.frames.items()}
        return replace(episode, frames=frames, tracks={TRACK_SET: tracks}, source="atm", task=task.name)


def _own(key: str, root: Any, views: Sequence[str], task: str) -> Episode:
    """What ATM's file itself has of the demonstration."""
    frames = {view: np.moveaxis(root[view]["video"][0], 1, -1) for view in views}
    actions = root["actions"][()]
    columns = {"actions": numeric(actions[0] if actions.ndim == 3 else actions)}
    columns |= {f"proprio/{name}": numeric(data[()]) for name, data in root["extra_states"].items()}
    return Episode(key, FPS, frames, columns, (libero_sentence(task),))


def _demo_file(demos: Path, task: Path) -> Path:
    """LIBERO's file of the task whose demos ATM has in a folder <suite>/<task>."""
    names = [f"{task.name.removesuffix('_demo')}_demo.hdf5", f"{task.name}.hdf5"]
    places = [folder / name for folder in (demos, demos / task.parent.name) for name in names]
    return next((place for place in places if place.exists()), places[0])


def _task_folder(file: Path) -> Path:
    return file.parent.parent if _SPLIT.fullmatch(file.parent.name) else file.parent


def _distinct(files: dict[str, Path]) -> dict[str, Path]:
    """Each demo once, under its own name: links of the split folders lead to demos that may be listed already."""
    seen: dict[Path, str] = {}
    for key, file in sorted(files.items(), key=lambda item: (len(item[1].parts), natural(item[0]))):
        seen.setdefault(file.resolve(), key)
    return {key: files[key] for key in sorted(seen.values(), key=natural)}


def _track_set(key: str, group: Any, video: np.ndarray) -> TrackSet:
    raw, seen = group["tracks"][0], group["vis"][0]
    if raw.shape[:2] != seen.shape or len(raw) != len(video):
        raise SourceError(key, f"tracks {raw.shape}, vis {seen.shape} and {len(video)} frames do not fit together")
    size = video.shape[1:3]
    points, visible = to_tracks(raw, seen > 0.5, lambda xy: from_atm(xy, size))
    # ATM queries each point at a random frame that it does not store.
    return TrackSet("global", points, visible, first_seen(points, visible), "cotracker2", "atm")
