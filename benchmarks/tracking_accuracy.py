"""Accuracy and speed of the trackers that need no weights, on drawn clips with exact tracks.

    python benchmarks/tracking_accuracy.py [--seeds 32] [--frames 16 48] [--labels 32]

256 x 256 pixels, 32 x 32 points of the first frame, of which the moving ones (more than 2 px) count. within: mean
share of points within 1 .. 10 px (Track2Act's delta over visible points, first frame left out). AJ, OA: average
Jaccard and occlusion accuracy as TAP-Vid defines them. frames/s: of processor time, one thread. "occluded": share
of moving points' steps at which they cannot be seen. Results are kept in docs/tracking.md.
"""

from __future__ import annotations

import argparse
import time

import cv2
import numpy as np

from t2p.cli.demo import SCENE, SIZE
from t2p.data.sources.synthetic import SyntheticSource
from t2p.metrics.tapvid import tapvid
from t2p.metrics.tracks import track2act_delta
from t2p.tracking.base import Tracker
from t2p.tracking.dis import Dis
from t2p.tracking.layouts import Atm, Clip, clip_rng
from t2p.tracking.lk import LucasKanade
from t2p.types import Tracks, TrackSet

SIDE = 256


class NoMotion(Tracker):
    """Every point stays where it was asked for."""

    name, version = "no motion", "1"

    def prepare(self, video: np.ndarray) -> int:
        return len(video)

    def track(self, features: int, queries: np.ndarray, span: tuple[int, int] | None = None) -> Tracks:
        points = np.repeat(queries[None, :, 1:], features, 0)
        return Tracks(points, np.ones(points.shape[:2], bool), queries)


LABELLERS = {
    "threshold 1": Dis(short_side=128),
    "threshold 0.25": Dis(short_side=128, threshold=0.25),
    "threshold 0.25, motion boundaries": Dis(short_side=128, threshold=0.25, motion_boundaries=True),
}
TRACKERS = {"dis": Dis(), "dis, gaps 1 4": Dis((1, 4)), "lk": LucasKanade(), "no motion": NoMotion()}


def moving_points(truth: TrackSet) -> np.ndarray:
    """[N] bool: points that move more than 2 px from where they start."""
    return np.linalg.norm(truth.points - truth.points[:1], axis=-1).max(0) * SIDE > 2


def measure(tracker: Tracker, video: np.ndarray, truth: TrackSet) -> dict[str, float]:
    """One clip: within, AJ, OA and the seconds per frame."""
    began = time.process_time()
    tracks = tracker.track(tracker.prepare(video), truth.queries)
    seconds = time.process_time() - began
    moving = moving_points(truth)
    pixels = [points[1:] * SIDE for points in (tracks.points, truth.points)]
    rest = tapvid(
        tracks.points, tracks.visible, truth.points, truth.visible, truth.queries[:, 0], "strided", where=moving
    )
    return {
        "within": float(track2act_delta(*pixels, truth.visible[1:] & moving)),
        "AJ": float(rest["average_jaccard"]),
        "OA": float(rest["occlusion_accuracy"]),
        "seconds": seconds / len(video),
    }


def clips(seeds: int, frames: int) -> list[tuple[np.ndarray, TrackSet]]:
    """[(video, exact tracks)] of the benchmark preset."""
    found = []
    for seed in range(seeds):
        source = SyntheticSource.benchmark(seed, frames)
        episode = source.read(source.keys()[0])
        found.append((next(iter(episode.frames.values())), next(iter(episode.tracks["exact/grid"].values()))))
    return found


def labels(tracker: Tracker, clips: int) -> dict[str, float]:
    """ATM's layout on the demo's clips, beside what the same queries really do over 16 steps from every fourth frame:
    "drags": share of the visible points that seem to move (more than 2 px) but stand still; "moves": that
    really move; "error": squared error of those over their squared motion."""
    source = SyntheticSource(clips, **SCENE)
    dragged, moving, seen, error, motion = 0, 0, 0, 0.0, 0.0
    for key in list(source.keys()):
        scene = source.scene(key)
        video = scene.draw()
        layout_clip = Clip(tracker, tracker.prepare(video), len(video), video.shape[1:3])
        made = Atm().annotate(layout_clip, clip_rng(key, "front", 0))
        truth, _ = scene.track(np.asarray(made.queries))
        for t in range(0, len(video) - 4, 4):
            start, steps = made.visible[t], slice(t, t + 16)
            visible = made.visible[steps][:, start, None]
            label, true = (((p[steps] - p[t])[:, start] * SIZE) * visible for p in (made.points, truth))
            moves, seems = (np.linalg.norm(d, axis=-1).max(0) > 2 for d in (true, label))
            dragged, moving, seen = dragged + (seems & ~moves).sum(), moving + moves.sum(), seen + start.sum()
            error, motion = error + ((label - true)[:, moves] ** 2).sum(), motion + (true[:, moves] ** 2).sum()
    return {"drags": dragged / seen, "moves": moving / seen, "error": error / motion}


def describe(data: list[tuple[np.ndarray, TrackSet]]) -> str:
    """How far the points move and how often they are hidden."""
    motion, hidden = [], []
    for _, truth in data:
        moving = moving_points(truth)
        distance = np.linalg.norm(truth.points - truth.points[:1], axis=-1) * SIDE
        motion.append(distance.max(0)[moving].mean())
        hidden.append(1 - truth.visible[:, moving].mean())
    return f"mean motion {np.mean(motion):.1f} px, occluded {np.mean(hidden):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=32)
    parser.add_argument("--frames", type=int, nargs="+", default=[16, 48])
    parser.add_argument("--verbose", action="store_true", help="the clips one by one")
    parser.add_argument("--labels", type=int, default=32, help="clips on which labels to learn from are judged")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    if args.labels:
        print("| labels of the demo | stand still, seem to move | really move | error / motion |\n|---|---|---|---|")
        for name, tracker in LABELLERS.items():
            found = labels(tracker, args.labels)
            print(f"| {name} | {found['drags']:.3f} | {found['moves']:.3f} | {found['error']:.3f} |", flush=True)
    for frames in args.frames:
        data = clips(args.seeds, frames)
        print(f"{frames} frames, {args.seeds} clips: {describe(data)}")
        print("| tracker | within 1..10 px | AJ | OA | frames/s |\n|---|---|---|---|---|")
        for name, tracker in TRACKERS.items():
            found = [measure(tracker, *clip) for clip in data]
            within, aj, oa, seconds = (np.mean([f[k] for f in found]) for k in ("within", "AJ", "OA", "seconds"))
            print(f"| {name} | {within:.3f} | {aj:.3f} | {oa:.3f} | {1 / max(seconds, 1e-9):.0f} |", flush=True)
            if args.verbose:
                print(" ".join(f"{f['within']:.2f}" for f in found))


if __name__ == "__main__":
    main()
