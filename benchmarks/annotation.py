"""How many frames a second `t2p annotate` takes from video files to a finished dataset.

    python benchmarks/annotation.py [--videos 8] [--frames 48] [--size 128] [--workers 1 2]

Drawn clips are written as MP4 files first; then decoding, tracking, encoding and writing are timed together, the
start of worker processes included. In brackets: processor milliseconds per frame, all processes together, which
other work on the machine disturbs less. Results are kept in docs/tracking.md.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from pathlib import Path

from t2p.data.sources.synthetic import SyntheticSource
from t2p.eval.overlay import write_video
from t2p.tracking.annotate import Job
from t2p.tracking.batch import annotate

SETS = (("dis", "grid"), ("dis", "atm"), ("dis", "amplify"), ("lk", "grid"), ("lk", "atm"))


def draw_videos(folder: Path, videos: int, frames: int, size: int) -> None:
    """Writes the clips to be annotated."""
    source = SyntheticSource(videos, size=(size, size), num_frames=frames)
    keys = source.keys()
    for key in keys:
        episode = source.read(key)
        write_video(folder / f"{key}.mp4", next(iter(episode.frames.values())), episode.fps)


def processor_seconds() -> float:
    """Of this process and its finished children."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        (root / "videos").mkdir()
        draw_videos(root / "videos", args.videos, args.frames, args.size)
        print(f"{args.videos} videos of {args.frames} frames, {args.size} x {args.size}: frames/s")
        print(
            "| track set |" + "".join(f" {n} workers |" for n in args.workers) + "\n|---|" + "---|" * len(args.workers)
        )
        for tracker, layout in SETS:
            row = f"| {tracker}/{layout} |"
            for workers in args.workers:
                out = root / f"{tracker}-{layout}-{workers}"
                job = Job(str(root / "videos"), str(out), tracker, layout, split="train", episodes_per_shard=1)
                began = processor_seconds()
                summary = annotate(job, workers=workers, quiet=True, say=lambda line: None)
                frames = summary.report["frames"]
                cost = (processor_seconds() - began) / frames * 1000
                row += f" {frames / summary.seconds:.0f} ({cost:.0f} ms) |"
            print(row, flush=True)


if __name__ == "__main__":
    main()
