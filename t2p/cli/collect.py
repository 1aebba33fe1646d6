"""`t2p collect TASK`: scripted episodes from the simulator, written as a dataset."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any, TypeVar

from t2p.io import UserError

Result = TypeVar("Result")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from t2p.collect import SETS

    parser.add_argument(
        "task",
        metavar="TASK",
        help="such as tabletop/block_stack (a wrong name lists them all), libero_object/0, or libero_object: all tasks",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the dataset to write, or to go on with")
    parser.add_argument("--episodes", type=int, required=True, metavar="N")
    parser.add_argument("--split", default="train", help="(default: train)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other episodes (default: 0)")
    parser.add_argument(
        "--spread", type=int, default=0, metavar="K", help="the first K start from configurations spread evenly"
    )
    parser.add_argument("--action_free", action="store_true", help="leave out actions and proprioception")
    parser.add_argument("--control", default="setpoint_pose", help="setpoint_pose (default) or osc_delta")
    parser.add_argument("--embodiment", default="xarm7", help="xarm7 (default), panda or hand")
    parser.add_argument("--fps", type=float, default=20.0, help="frames per second (default: 20)")
    parser.add_argument("--size", type=int, nargs=2, default=(128, 128), metavar=("H", "W"))
    parser.add_argument("--views", nargs="*", default=(), help="(default: all of the task's)")
    parser.add_argument("--sets", nargs="*", default=("grid", "objects"), help=f"track sets: some of {', '.join(SETS)}")
    parser.add_argument("--points", type=int, default=8192, help="in each set at most (default: 8192)")
    parser.add_argument("--depth", action="store_true", help="write depth to DIR/depth too")
    parser.add_argument("--renderer", default="auto", help="auto (default), egl, osmesa or rays")
    parser.add_argument("--profile", default="faithful", help="LIBERO's tasks: faithful (default) or fast pictures")
    parser.add_argument("--libero_root", metavar="DIR", help="LIBERO's own files (default: T2P_LIBERO_ROOT, ...)")
    parser.add_argument(
        "--adapt",
        default="",
        metavar="PATH",
        help="LIBERO's tasks: demonstrations (HDF5, a file or a folder) to adapt to new starts; else a script acts",
    )
    parser.add_argument(
        "--noise", type=float, default=0.0, metavar="S", help="LIBERO's tasks: added to all actions (MimicGen: 0.05)"
    )
    parser.add_argument("--workers", type=int, default=-1, metavar="N", help="processes (default: one a core)")
    parser.add_argument("--episodes_per_shard", type=int, default=10, metavar="N", help="(default: 10)")


def run(args: argparse.Namespace, rest: list[str]) -> int:
    from t2p.collect import Collection, collect
    from t2p.sim.libero.suites import SUITES

    if rest:
        raise UserError(f"unknown arguments {rest}; t2p collect --help lists what there is")
    if args.task.partition("/")[0] in SUITES:
        return _libero(args)
    if args.adapt or args.noise:
        raise UserError(f"--adapt and --noise are for LIBERO's tasks; {args.task} has a script of its own")
    what = Collection(
        task=args.task,
        episodes=args.episodes,
        seed=args.seed,
        spread=args.spread,
        action_free=args.action_free,
        options={"control": args.control, "embodiment": args.embodiment},
        fps=args.fps,
        size=tuple(args.size),
        views=tuple(args.views),
        sets=tuple(args.sets),
        points=args.points,
        depth=args.depth,
        renderer=args.renderer,
    )
    failures = _with_bar(collect, what, args.episodes, args)
    print(f"wrote {args.out} ({args.episodes} episodes; {failures} starts replaced because the script failed on them)")
    return 0


def _with_bar(collect: Callable[..., Result], what: Any, total: int, args: argparse.Namespace) -> Result:
    """Collects under a bar of `total` episodes; -> what `collect` says of failures."""
    from tqdm import tqdm

    workers = (os.cpu_count() or 1) if args.workers < 0 else args.workers
    with tqdm(total=total, unit="episode") as bar:
        return collect(
            what,
            args.out,
            split=args.split,
            workers=workers,
            episodes_per_shard=args.episodes_per_shard,
            progress=bar.update,
        )


def _libero(args: argparse.Namespace) -> int:
    """LIBERO's tasks: 20 frames a second, both cameras, relative control, as LIBERO's own demonstrations."""
    from t2p.collect_libero import LiberoCollection, collect_libero

    what = LiberoCollection(
        args.task,
        args.episodes,
        args.seed,
        tuple(args.size),
        args.profile,
        args.renderer,
        (("libero_root", args.libero_root),),
        args.adapt,
        args.noise,
    )
    failures = _with_bar(collect_libero, what, args.episodes * len(what.names()), args)
    for name, count in failures.items():
        print(f"{name}: {args.episodes} demonstrations; {count} starts replaced because they failed")
    print(f"wrote {args.out} and, in LIBERO's layout, {args.out}/hdf5")
    return 0
