"""`t2p annotate`: tracks the points of videos and writes episodes with track sets (docs/tracking.md)."""

from __future__ import annotations

import argparse
from typing import Any

from etils import epath

from t2p.cli.options import source_options
from t2p.io import UserError, is_remote
from t2p.tracking.annotate import Job
from t2p.tracking.base import TRACKERS
from t2p.tracking.batch import Summary, annotate
from t2p.tracking.layouts import LAYOUTS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command; options of the source's reader follow as --source.NAME=VALUE."""
    add = parser.add_argument
    add("--input", default="", help="videos, frames, clip table, RLDS, LeRobot ... or a t2p dataset")
    add("--out", required=True, help="the dataset; the same as --input adds a track set to it in place")
    add("--tracker", default="dis", choices=sorted(TRACKERS))
    add("--layout", default="atm", choices=sorted(LAYOUTS), help="where the query points are")
    add("--source", default="auto", help="kind of input where it cannot be told from the files")
    add("--split", default="", help="of new episodes: train; of a dataset: all its splits")
    add("--size", type=int, nargs=2, metavar=("H", "W"), help="resize the frames")
    add("--workers", type=int, default=0, help="processes (default: one per core; one for trackers on a GPU)")
    add("--shard", default="0/1", metavar="I/N", help="only every N-th shard from the I-th (0 .. N-1): array jobs")
    add("--engine", default="local", choices=("local", "ray"))
    add("--episodes_per_shard", type=int, default=16, help="a shard is the unit of resumption: at most a few minutes")
    add("--seed", type=int, default=0, help="of random queries")
    add("--name", default="", help="of the track set (default: TRACKER/LAYOUT)")
    add("--codec", default="jpeg", choices=("jpeg", "png"), help="of stored frames; png is lossless")
    add("--licence", default="", help="of the data, noted in the manifest")
    _add_tracker_arguments(parser.add_argument_group("tracker").add_argument)
    group = parser.add_argument_group("depth and masks")
    group.add_argument("--space", default="image", choices=("image", "image_depth", "camera"))
    group.add_argument("--depth", default="", metavar="DIR", help="DIR/<episode>/<view>.npy|npz: [T, H, W] metres")
    group.add_argument("--masks", default="", metavar="DIR", help="the same for masks of the robot or hand")


def _add_tracker_arguments(add: Any) -> None:
    add("--weights", help="weights file: tapir, bootstapir, cotracker")
    add("--online", action="store_true", default=None, help="the weights are a causal model's: tapir, bootstapir")
    add("--checkout", metavar="DIR", help="CoTracker's repository")
    add("--model", help="cotracker2 or cotracker3_offline")
    add("--gaps", type=int, nargs="+", help="frames that a step of dis may span, such as 1 4")
    add("--short_side", type=int, help="dis: enlarge smaller videos to this side (default 256; less is faster)")
    add("--threshold", type=float, help="dis: forward-backward error of a visible point, enlarged pixels (default 1)")
    lose = "dis: lose points at motion boundaries too: fewer points that a passing shape drags along"
    add("--motion_boundaries", action="store_true", default=None, help=lose)
    add("--tracks", metavar="DIR", help="tracks made elsewhere: external")
    add("--renderer", help="simulator: auto, egl, osmesa or rays")
    add("--libero_root", metavar="DIR", help="simulator: LIBERO's own files (default: T2P_LIBERO_ROOT, ...)")
    add("--side", type=int, help="points along a side of the grid: grid, amplify (default 20)")
    add("--horizon", type=int, help="frames of a window: amplify (default 16)")


def run(args: argparse.Namespace, rest: list[str]) -> int:
    """Exit code 0; 1 if there were videos and none could be annotated."""
    job = make_job(args, source_options(rest))
    summary = annotate(job, workers=args.workers, part=parse_part(args.shard), engine=args.engine)
    print(describe(job, summary))
    return 1 if summary.all_failed else 0


def make_job(args: argparse.Namespace, options: dict[str, Any]) -> Job:
    """The job that the arguments describe."""
    if not args.input and args.source != "synthetic":
        raise UserError("name the videos with --input PATH")
    if args.input and not is_remote(args.input) and not epath.Path(args.input).exists():
        raise UserError(f"--input {args.input} does not exist")
    adds = args.source == "auto" and (epath.Path(args.input) / "manifest.json").exists()
    if adds and options:
        raise UserError(f"{args.input} is a t2p dataset, read without --source options; got {', '.join(options)}")
    dis = ("gaps", "short_side", "threshold", "motion_boundaries")
    given = ("weights", "online", "checkout", "model", "renderer", "libero_root", *dis)
    tracker = {key: getattr(args, key) for key in given}
    tracker["folder"] = args.input if args.tracker == "simulator" else args.tracks
    return Job(
        input=args.input,
        out=args.out,
        tracker=args.tracker,
        layout=args.layout,
        adds=adds,
        source=args.source,
        source_options=options,
        split=args.split or ("" if adds else "train"),
        size=tuple(args.size) if args.size else None,
        tracker_options={key: value for key, value in tracker.items() if value is not None},
        layout_options={k: getattr(args, k) for k in ("side", "horizon") if getattr(args, k) is not None},
        seed=args.seed,
        space=args.space,
        depth=args.depth,
        masks=args.masks,
        name=args.name,
        episodes_per_shard=args.episodes_per_shard,
        codec=args.codec,
        licence=args.licence,
    )


def parse_part(text: str) -> tuple[int, int]:
    """ "2/8" -> (2, 8)."""
    first, slash, count = text.partition("/")
    if not (slash and first.isdigit() and count.isdigit() and int(first) < int(count)):
        raise UserError(f"--shard {text!r}: expected I/N with 0 <= I < N, such as 0/8 .. 7/8")
    return int(first), int(count)


def describe(job: Job, summary: Summary) -> str:
    """What was done and what is left, in a few lines."""
    episodes, frames = (sum(getattr(o, name) for o in summary.own) for name in ("episodes", "frames"))
    skipped = sum(len(o.skipped) for o in summary.own)
    lines = [
        f"{summary.written} of {summary.shards} shards written in {summary.seconds:.1f} s; "
        f"they hold {episodes} episodes with {frames} frames, {skipped} videos were skipped"
    ]
    if skipped:
        lines.append(f"skipped videos and reasons: {job.out}/annotation/*/report.json")
    if summary.all_failed:
        lines.append("no video could be annotated: nothing was written; the same command tries them again")
    elif summary.waiting_for:
        lines.append(f"not finished yet, shards are missing of: {', '.join(summary.waiting_for)}")
        lines.append(f"(to give a job up, remove its folder in {job.out}/annotation)")
    else:
        lines.append(f"{job.out} is complete, track set {job.set_name}")
    return "\n".join(lines)
