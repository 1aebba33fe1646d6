"""A dataset in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from t2p.data.store import Dataset
from t2p.io import PathLike

_SHOWN = 5  # of sentences, tasks ...


def describe(directory: PathLike, datasets: Mapping[str, Dataset]) -> str:
    """The contents of a dataset's splits as text: counts, sizes, views, columns, cameras, track sets, statistics."""
    lines = [f"{directory}"]
    for split, dataset in datasets.items():
        manifest = dataset.manifest
        about = [manifest[key] for key in ("source", "licence") if manifest[key]]
        lines += [*(f"  {text}" for text in about if len(lines) == 1), *_split(split, dataset)]
    return "\n".join(lines)


def _split(split: str, dataset: Dataset) -> list[str]:
    entry, infos = dataset.manifest["splits"][split], dataset.infos
    hours = sum(i.length / i.fps for i in infos) / 3600
    shards = [s for entries in (entry["shards"], *entry["track_sets"].values()) for s in entries if s]
    size = sum(s["bytes"] for s in shards) / 2**20
    lines = [
        f"\nsplit {split}: {len(infos)} episodes, {entry['frames']} frames, {hours:.2f} h, "
        f"{len(entry['shards'])} shards, {size:.1f} MiB"
    ]
    if not infos:
        return lines
    lengths = [i.length for i in infos]
    lines.append(f"  length   {min(lengths)} to {max(lengths)} frames, median {int(np.median(lengths))}")
    lines.append(f"  fps      {_counted(f'{i.fps:g}' for i in infos)}")
    lines.append(f"  views    {_counted(f'{v} {w}x{h}' for i in infos for v, (h, w) in i.views.items())}")
    lines.append(f"  sources  {_counted(i.source or '(none)' for i in infos)}")
    lines.append(f"  tasks    {_counted(i.task or '(none)' for i in infos)}")
    lines.append(f"  language {_counted(text for i in infos for text in i.language)}")
    columns = (f"{c} {dtype[1:]}{list(row)}" for i in infos for c, (dtype, row) in i.columns.items())
    lines.append(f"  columns  {_counted(columns)}")
    return [*lines, *_cameras(dataset), *_track_sets(dataset), *_statistics(dataset)]


def _counted(items: Iterable[str]) -> str:
    """The most frequent items, with how many episodes have them."""
    counts = Counter(items)
    shown = [f"{item} ({n})" for item, n in counts.most_common(_SHOWN)]
    more = f" and {len(counts) - _SHOWN} more" if len(counts) > _SHOWN else ""
    return ", ".join(shown) + more if shown else "none"


def _cameras(dataset: Dataset) -> list[str]:
    """The first episode's."""
    cameras = dataset.cameras(0)
    if not cameras:
        return ["  cameras  none"]
    lines = [f"  cameras  of episode {dataset.infos[0].id}:"]
    for view, camera in cameras.items():
        (fx, _, cx), (_, fy, cy) = camera.K[:2]
        x, y, z = camera.T_base_cam[:3, 3]
        lines.append(
            f"    {view}: {camera.size[1]}x{camera.size[0]}, fx {fx:.1f} fy {fy:.1f} cx {cx:.1f} cy {cy:.1f}, "
            f"at ({x:.3f}, {y:.3f}, {z:.3f}) m"
        )
    return lines


def _track_sets(dataset: Dataset) -> list[str]:
    names = sorted({name for info in dataset.infos for name in info.track_sets})
    if not names:
        return ["  tracks   none (t2p annotate makes them)"]
    lines = ["  tracks"]
    for name in names:
        having = [e for e, info in enumerate(dataset.infos) if name in info.track_sets]
        info = dataset.infos[having[0]]
        view = next(iter(info.track_sets[name]))
        t = dataset.tracks(having[0], name, view, 0, 1)
        shape = f"window of {t.points.shape[1]} steps" if t.layout == "window" else "global"
        lines.append(
            f"    {name}: {shape}, {t.points.shape[-2]} points in {t.space}, tracker {t.tracker} {t.version}, "
            f"views {', '.join(info.track_sets[name])}, {len(having)} of {len(dataset.infos)} episodes"
        )
    return lines


def _statistics(dataset: Dataset) -> list[str]:
    with np.printoptions(precision=3, suppress=True, linewidth=100):
        return [
            line
            for name, s in dataset.statistics.items()
            for line in (f"  {name}: mean {s.mean} std {s.std}", f"    min {s.min} max {s.max}")
        ]
