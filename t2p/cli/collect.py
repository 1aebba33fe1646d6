"""`t2p collect TASK`: scripted episodes from the simulator, written as a dataset."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any, TypeVar

from t2p.io import UserError

Result = TypeVar("Result")
TABLETOP, LIBERO = "tabletop tasks", "LIBERO's tasks"
TASK_OPTIONS = {"control": "setpoint_pose", "embodiment": "xarm7"}  # of tabletop tasks themselves
TABLETOP_OPTIONS = ("spread", "action_free", *TASK_OPTIONS, "fps", "views", "sets", "points", "depth")
LIBERO_OPTIONS = ("profile", "libero_root", "adapt", "noise")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "task",
        metavar="TASK",
        help="such as tabletop/block_stack (a wrong name lists them all), libero_object/0, or libero_object: all tasks",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the dataset to write, or to go on with")
    parser.add_argument("--episodes", type=int, required=True, metavar="N")
    parser.add_argument("--split", default="train", help="(default: train)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other episodes (default: 0)")
    parser.add_argument("--size", type=int, nargs=2, default=(128, 128), metavar=("H", "W"))
    parser.add_argument("--renderer", default="auto", help="auto (default), egl, osmesa or rays")
    parser.add_argument("--workers", type=int, default=-1, metavar="N", help="processes (default: one a core)")
    parser.add_argument("--episodes_per_shard", type=int, default=10, metavar="N", help="(default: 10)")
    _add_tabletop_arguments(_own(parser, TABLETOP))
    _add_libero_arguments(_own(parser, LIBERO))


def _own(parser: argparse.ArgumentParser, tasks: str) -> Callable[..., Any]:
    """Adds options of some tasks alone: what is not given is no attribute of the arguments."""
    group = parser.add_argument_group(tasks)

    def add(name: str, help: str, **how: Any) -> None:
        group.add_argument(name, default=argparse.SUPPRESS, help=f"{tasks}: {help}", **how)

    return add


def _add_tabletop_arguments(add: Callable[..., Any]) -> None:
    from t2p.collect import SETS

    add("--spread", "the first K start from configurations spread evenly", type=int, metavar="K")
    add("--action_free", "leave out actions and proprioception", action="store_true")
    add("--control", "setpoint_pose (default) or osc_delta")
    add("--embodiment", "xarm7 (default), panda or hand")
    add("--fps", "frames per second (default: 20)", type=float)
    add("--views", "(default: all of the task's)", nargs="*")
    add("--sets", f"track sets, some of {', '.join(SETS)} (default: grid objects)", nargs="*")
    add("--points", "in each set at most (default: 8192)", type=int)
    add("--depth", "write depth to DIR/depth too", action="store_true")


def _add_libero_arguments(add: Callable[..., Any]) -> None:
    add("--profile", "faithful (default) or fast pictures")
    add("--libero_root", "LIBERO's own files (default: T2P_LIBERO_ROOT, ...)", metavar="DIR")
    adapt = "demonstrations (HDF5, a file or a folder) to adapt to new starts; else a script acts"
    add("--adapt", adapt, metavar="PATH")
    add("--noise", "added to all actions (MimicGen: 0.05; default: 0)", type=float, metavar="S")


def run(args: argparse.Namespace, rest: list[str]) -> int:
    from t2p.sim.libero.suites import SUITES

    if rest:
        raise UserError(f"unknown arguments {rest}; t2p collect --help lists what there is")
    return (_libero if args.task.partition("/")[0] in SUITES else _tabletop)(args)


def _given(args: argparse.Namespace, names: tuple[str, ...], others: tuple[str, ...], tasks: str) -> dict[str, Any]:
    """Those of the options `names` that were given; UserError where any of `others`, which are for `tasks`, was."""
    if wrong := [f"--{name}" for name in others if hasattr(args, name)]:
        raise UserError(f"{', '.join(wrong)}: for {tasks} only, and {args.task} is none of them; leave it out")
    return {name: getattr(args, name) for name in names if hasattr(args, name)}


def _of_all(args: argparse.Namespace) -> dict[str, Any]:
    """What is told of every collection."""
    return {"episodes": args.episodes, "seed": args.seed, "size": tuple(args.size), "renderer": args.renderer}


def _tabletop(args: argparse.Namespace) -> int:
    from t2p.collect import Collection, collect

    own = _given(args, TABLETOP_OPTIONS, LIBERO_OPTIONS, LIBERO)
    options = {name: own.pop(name, default) for name, default in TASK_OPTIONS.items()}
    own |= {name: tuple(own[name]) for name in ("views", "sets") if name in own}
    what = Collection(args.task, options=options, **_of_all(args), **own)
    failures = _with_bar(collect, what, args.episodes, args)
    print(f"wrote {args.out} ({args.episodes} episodes; {failures} starts replaced because the script failed on them)")
    return 0


def _with_bar(collect: Callable[..., Result], what: Any, total: int, args: argparse.Namespace) -> Result:
    """Collects under a bar of `total` episodes, once it is known that it can be; -> what `collect` says of failures."""
    from tqdm import tqdm

    from t2p.sim.render import choose_renderer

    what.check()
    choose_renderer(what.renderer)
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

    own = _given(args, LIBERO_OPTIONS, TABLETOP_OPTIONS, TABLETOP)
    options = (("libero_root", own.pop("libero_root", None)),)
    what = LiberoCollection(args.task, options=options, **_of_all(args), **own)
    failures = _with_bar(collect_libero, what, args.episodes * len(what.names()), args)
    for name, count in failures.items():
        print(f"{name}: {args.episodes} demonstrations; {count} starts replaced because they failed")
    print(f"wrote {args.out} and, in LIBERO's layout, {args.out}/hdf5")
    if note := what.task(what.names()[0]).note:
        print(note)
    return 0
