"""Annotation of many videos: a list of shards, each an independent piece of work that is done or not.

A shard is the unit of resumption. What it holds depends on the job and its episodes alone, not on who writes it,
when, or beside what: workers, array jobs and restarts all give the same records.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from etils import epath

from t2p.data.codec import ImageCodec
from t2p.data.records import check_episode
from t2p.data.shards import tracks_name
from t2p.data.sources import Source, SourceError, open_source
from t2p.data.store import Dataset, read_manifest, write_shard, write_track_shard
from t2p.io import UserError
from t2p.tracking.base import Tracker, TrackingError, check_options, make_tracker
from t2p.tracking.copying import copy_shard
from t2p.tracking.layouts import Clip, clip_rng, make_layout
from t2p.tracking.lift import DepthFolder, MaskFolder, hide_embodiment, lift
from t2p.types import Camera, Episode, Space, TrackSet


@dataclass(frozen=True)
class Job:
    """Everything that decides what is written; JSON-able, picklable.

    input: what `open_source` opens (kind `source` with `source_options`), or a t2p dataset. adds: the input is
    a dataset, whose episodes get one more track set, in place or in a copy; else new episodes are written to
    `split`. size: (H, W) to which frames are resized. name: of the track set ("": see `set_name`).
    """

    input: str
    out: str
    tracker: str
    layout: str
    adds: bool = False
    source: str = "auto"
    source_options: Mapping[str, Any] = field(default_factory=dict)
    split: str = ""
    size: tuple[int, int] | None = None
    tracker_options: Mapping[str, Any] = field(default_factory=dict)
    layout_options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    space: Space = "image"
    depth: str = ""
    masks: str = ""
    name: str = ""
    episodes_per_shard: int = 16
    codec: ImageCodec = "jpeg"
    licence: str = ""

    @property
    def set_name(self) -> str:
        """The track set's name: <tracker>/<layout>, with the space behind it where tracks are lifted."""
        lifted = "" if self.space == "image" else f"-{self.space}"
        return self.name or f"{self.tracker}/{self.layout}{lifted}"

    def settings(self) -> dict[str, Any]:
        """What must not change between the runs that write one dataset, as JSON returns it: all but the places."""
        return json.loads(json.dumps({k: v for k, v in asdict(self).items() if k not in ("input", "out")}))


@dataclass(frozen=True)
class Task:
    """One shard: the ids of its episodes, in their order."""

    split: str
    shard: int
    keys: tuple[str, ...]

    @property
    def label(self) -> str:
        return f"{self.split}-{self.shard:05d}"


@dataclass(frozen=True)
class Outcome:
    """What came of a shard. skipped: (episode, reason) of those without tracks."""

    label: str
    episodes: int
    frames: int
    skipped: tuple[tuple[str, str], ...]


Count = Callable[[int, int], None]  # told after every video: (videos, frames)


def check_job(job: Job) -> None:
    """UserError if a setting is unknown or lacks another. Loads no weights and reads no video."""
    check_options(job.tracker, job.tracker_options)
    make_layout(job.layout, **job.layout_options)
    if job.layout == "stored" and job.tracker != "external":
        raise UserError("layout 'stored' takes the queries of tracker 'external'")
    if job.space != "image" and not job.depth:
        raise UserError(f"space {job.space!r} needs depth maps: --depth DIR")
    if job.depth and job.space == "image":
        raise UserError("depth maps are used for --space image_depth or camera; name one of them")
    for name, folder in (("--depth", job.depth), ("--masks", job.masks)):
        if folder and not epath.Path(folder).is_dir():
            raise UserError(f"{name} {folder} is not a folder")
    if job.size and min(job.size) < 1:
        raise UserError(f"--size {job.size[0]} {job.size[1]}: expected height and width in pixels, above 0")
    tracks_name(job.split or "all", 0, job.set_name)  # refuses other characters
    if job.episodes_per_shard < 1:
        raise UserError(f"a shard needs at least one episode, got {job.episodes_per_shard}")
    if job.adds and job.size:
        raise UserError("the frames of a dataset keep their size; give --source dataset to write them anew, resized")


def plan(job: Job) -> list[Task]:
    """The job's shards: episodes in the source's order, or the shards that the dataset has."""
    return list(_dataset_tasks(job) if job.adds else _source_tasks(job))


def _source_tasks(job: Job) -> Iterator[Task]:
    keys = _open(job).keys()
    if not keys:
        raise UserError(f"{job.input} holds no videos")
    for shard, first in enumerate(range(0, len(keys), job.episodes_per_shard)):
        yield Task(job.split, shard, tuple(keys[first : first + job.episodes_per_shard]))


def _dataset_tasks(job: Job) -> Iterator[Task]:
    splits = read_manifest(job.input)["splits"]
    if job.split and job.split not in splits:
        raise UserError(f"{job.input} has no split {job.split!r}; it has {', '.join(sorted(splits))}")
    for split in [job.split] if job.split else sorted(splits):
        infos = Dataset(job.input, split).infos
        for shard in range(len(splits[split]["shards"])):
            yield Task(split, shard, tuple(info.id for info in infos if info.shard == shard))


def digest(tasks: list[Task]) -> str:
    """Equal for equal episodes in equal shards."""
    return hashlib.sha256(repr([(t.label, t.keys) for t in tasks]).encode()).hexdigest()


def _open(job: Job) -> Source:
    options = dict(job.source_options)
    return open_source(job.input, kind=job.source, **options, **({"size": job.size} if job.size else {}))


def annotate_video(
    job: Job, tracker: Tracker, episode_id: str, view: str, video: np.ndarray, camera: Camera | None
) -> TrackSet:
    """The track set of one view: queries by the job's layout, tracked, lifted and masked as it says. TrackingError."""
    tracker = tracker.clip(episode_id, view)
    clip = Clip(tracker, tracker.prepare(video), len(video), video.shape[1:3])
    tracks = make_layout(job.layout, **job.layout_options).annotate(clip, clip_rng(episode_id, view, job.seed))
    result = tracks
    if job.space != "image":
        depth = DepthFolder(job.depth).depth(episode_id, view, clip.size)
        result = lift(tracks, depth, job.space, camera)
    if job.masks:
        hidden = hide_embodiment(tracks, MaskFolder(job.masks).mask(episode_id, view, clip.size))
        result = replace(result, visible=result.visible & hidden.visible)
    return result


class Worker:
    """Writes shards of one job; the source and the tracker are opened once, when first needed."""

    def __init__(self, job: Job, count: Count = lambda videos, frames: None):
        self.job, self.count = job, count
        self._source: Source | None = None
        self._tracker: Tracker | None = None
        self._datasets: dict[str, Dataset] = {}

    def run(self, task: Task, report: Callable[[Outcome], None]) -> Outcome:
        """Writes a shard, whole or not at all. report: called with the outcome before the shard counts as done."""
        outcomes: list[Outcome] = []

        def told(outcome: Outcome) -> None:
            report(outcome)
            outcomes.append(outcome)

        if self.job.adds:
            copy_shard(self.job.input, self.job.out, task.split, task.shard)
            write_track_shard(self.job.out, task.split, task.shard, self.job.set_name, self._added(task, told))
        else:
            episodes = self._episodes(task, told)
            write_shard(self.job.out, task.split, task.shard, episodes, codec=self.job.codec)
        return outcomes[0]

    @property
    def tracker(self) -> Tracker:
        if self._tracker is None:
            self._tracker = make_tracker(self.job.tracker, **self.job.tracker_options)
        return self._tracker

    @property
    def source(self) -> Source:
        if self._source is None:
            self._source = _open(self.job)
        return self._source

    def _episodes(self, task: Task, report: Callable[[Outcome], None]) -> Iterator[Episode]:
        """The task's episodes with their new track set; broken ones are left out."""
        frames, skipped = 0, []
        for key in task.keys:
            try:
                episode = self._annotated(self.source.read(key))
            except (SourceError, TrackingError) as e:
                skipped.append((key, getattr(e, "reason", str(e))))
                self.count(1, 0)
                continue
            self.count(1, episode.length)
            frames += episode.length
            yield episode
        report(Outcome(task.label, len(task.keys) - len(skipped), frames, tuple(skipped)))

    def _annotated(self, episode: Episode) -> Episode:
        try:
            check_episode(episode)
        except ValueError as e:
            raise TrackingError(str(e)) from e
        views = self._views(episode.id, episode.frames, episode.cameras)
        return replace(episode, tracks={**episode.tracks, self.job.set_name: views})

    def _added(self, task: Task, report: Callable[[Outcome], None]) -> Iterator[Mapping[str, TrackSet]]:
        """One {view: TrackSet} per episode of the dataset's shard; empty where there is none."""
        data = self._datasets.setdefault(task.split, Dataset(self.job.input, task.split))
        places = [i for i, info in enumerate(data.infos) if info.shard == task.shard]
        frames, skipped = 0, []
        for i in places:
            info = data.infos[i]
            videos = {view: data.frames(i, view, range(info.length)) for view in info.views}
            try:
                views = self._views(info.id, videos, data.cameras(i))
                frames += info.length
            except TrackingError as e:
                views = {}
                skipped.append((info.id, str(e)))
            self.count(1, info.length)
            yield views
        report(Outcome(task.label, len(places) - len(skipped), frames, tuple(skipped)))

    def _views(
        self, episode_id: str, videos: Mapping[str, np.ndarray], cameras: Mapping[str, Camera]
    ) -> dict[str, TrackSet]:
        return {
            view: annotate_video(self.job, self.tracker, episode_id, view, video, cameras.get(view))
            for view, video in videos.items()
        }
