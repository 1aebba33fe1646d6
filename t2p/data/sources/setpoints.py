"""A dataset brought to a few instants of each episode: 3PoinTr's setpoints (paper, section III; specification of time).

Episodes of different duration become T + 1 frames at the same normalised times, so that a whole episode is one window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from t2p.data.sources import SourceError
from t2p.data.sources.dataset import DatasetSource
from t2p.geometry.resample import interpolation_weights
from t2p.geometry.rotations import matrix_from_6d, matrix_to_6d
from t2p.io import PathLike, UserError
from t2p.types import Episode, TrackSet

TIMES = ("uniform", "waypoints")
TOOL, GRIPPER = "proprio/tool", "proprio/gripper"
STATES = "sim/"  # they belong to the frames, and hold quaternions


class SetpointSource:
    """One split of a t2p dataset at 1 + `steps` instants: the start and the ends of `steps` parts of equal duration
    ("uniform", paper), or the start and the recorded waypoints ("waypoints", as the released code stores them).

    Global track sets and numeric columns are interpolated linearly (tool rotations are made orthonormal again; what a
    gripper was told holds until it is told otherwise); frames and the simulator's states ("sim/...") are those of the
    nearest instant; a point is visible where it is in both neighbouring frames. Where there is proprioception,
    "actions" [T + 1, 10] are the setpoints: row k is the measured tool pose [9] (position, 6D rotation) and the
    gripper's command at instant k + 1 (the last row stands twice). tracks: the sets to keep (all that are global, if
    empty)."""

    def __init__(
        self,
        path: PathLike,
        *,
        split: str = "train",
        steps: int = 9,
        times: str = "uniform",
        tracks: tuple[str, ...] = (),
    ):
        if times not in TIMES:
            raise UserError(f"times is {times!r}; expected one of {', '.join(TIMES)}")
        if steps < 1:
            raise UserError(f"steps is {steps}; expected at least 1")
        self.steps, self.times = steps, times
        self.tracks = (tracks,) if isinstance(tracks, str) else tuple(tracks)
        self._source = DatasetSource(path, split=split)

    def keys(self) -> list[str]:
        return self._source.keys()

    def read(self, key: str) -> Episode:
        """The episode at its setpoints; info["setpoint_times"]: seconds. SourceError for one without the waypoints or
        track sets that were asked for."""
        episode = self._source.read(key)
        instants = self._instants(episode)
        at = np.arange(episode.length) / episode.fps
        apart = np.abs(at[:, None] - instants)  # [frames, instants]
        near, now = apart.argmin(0), apart.argmin(1)
        mix = interpolation_weights(at, instants)
        columns = {
            name: values[near] if name.startswith(STATES) else _column(name, values, at, instants, mix)
            for name, values in episode.columns.items()
        }
        columns.pop("actions", None)
        if TOOL in columns and GRIPPER in columns:
            setpoints = np.concatenate([columns[TOOL], columns[GRIPPER]], axis=1)
            columns["actions"] = np.concatenate([setpoints[1:], setpoints[-1:]])
        sets = self._sets(episode)
        return replace(
            episode,
            fps=(len(instants) - 1) / max(float(instants[-1]), 1e-9),
            frames={view: frames[near] for view, frames in episode.frames.items()},
            columns=columns,
            tracks={name: {v: _tracks(t, mix, now) for v, t in views.items()} for name, views in sets.items()},
            info={**episode.info, "setpoint_times": instants.tolist()},
        )

    def _instants(self, episode: Episode) -> np.ndarray:
        """Seconds since the episode's start, rising, the first 0."""
        end = (episode.length - 1) / episode.fps
        if self.times == "uniform":
            if episode.length < 2:
                raise SourceError(episode.id, "has one frame: there is no time to divide")
            return np.linspace(0.0, end, self.steps + 1)
        waypoints = np.asarray(episode.info.get("waypoint_times", ()), float)
        if len(waypoints) == 0 or len(waypoints) > self.steps:
            raise SourceError(
                episode.id, f"has {len(waypoints)} recorded waypoints; expected 1 to {self.steps} (or times=uniform)"
            )
        instants = np.concatenate([[0.0], waypoints])
        if (np.diff(instants) <= 0).any() or instants[-1] > end + 1 / episode.fps:
            raise SourceError(episode.id, f"waypoint times {waypoints.tolist()} do not rise within its {end:.2f} s")
        return instants

    def _sets(self, episode: Episode) -> dict[str, dict[str, TrackSet]]:
        wanted = self.tracks or tuple(n for n, v in episode.tracks.items() if _global(v))
        for name in wanted:
            if name not in episode.tracks or not _global(episode.tracks[name]):
                raise SourceError(episode.id, f"has no global track set {name!r}; it has {sorted(episode.tracks)}")
        return {name: dict(episode.tracks[name]) for name in wanted}


def _global(views: Mapping[str, TrackSet]) -> bool:
    return all(t.layout == "global" for t in views.values())


def _column(name: str, values: np.ndarray, at: np.ndarray, instants: np.ndarray, mix: np.ndarray) -> np.ndarray:
    if name == GRIPPER or values.dtype.kind not in "f":
        return values[np.searchsorted(at, instants + 1e-6, side="right") - 1]
    flat = mix @ values.reshape(len(values), -1).astype(np.float64)
    if name == TOOL:
        flat[:, 3:] = matrix_to_6d(matrix_from_6d(flat[:, 3:]))
    return flat.reshape(len(instants), *values.shape[1:]).astype(values.dtype)


def _tracks(tracks: TrackSet, mix: np.ndarray, now: np.ndarray) -> TrackSet:
    """The same points at the new instants. now: [frames] the instant nearest to each frame, for the queries."""
    steps, count, size = tracks.points.shape
    points = (mix @ tracks.points.reshape(steps, -1).astype(np.float64)).reshape(-1, count, size)
    visible = ~((mix > 1e-6) @ ~tracks.visible)
    queries = tracks.queries.copy()
    queries[:, 0] = now[queries[:, 0].astype(int)]
    return replace(tracks, points=points.astype(np.float32), visible=visible, queries=queries)
