"""`t2p data check|show|import`: datasets of episodes."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from t2p.cli.options import source_options
from t2p.io import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the three sub-commands."""
    commands = parser.add_subparsers(dest="what", required=True, metavar="check|show|import")
    check = commands.add_parser(
        "check", allow_abbrev=False, help="read everything and name shard, record and field of each fault"
    )
    check.add_argument("directory", metavar="DIR")
    show = commands.add_parser("show", allow_abbrev=False, help="print contents, cameras and track sets; draw samples")
    show.add_argument("directory", metavar="DIR")
    show.add_argument(
        "--out",
        metavar="FILE",
        help=".png: sample frames with their tracks; .rrd: whole episodes, for the Rerun viewer",
    )
    show.add_argument("--split", help="the split to draw (default: the first)")
    show.add_argument("--tracks", metavar="SET", help="the track set to draw (default: each episode's first)")
    show.add_argument("--samples", type=int, default=6, metavar="N", help="episodes to draw (default: 6)")
    show.add_argument("--seed", type=int, default=0, help="of the choice of episodes")
    _add_import(
        commands.add_parser(
            "import",
            allow_abbrev=False,
            help="write recordings of another format as episodes",
            epilog="Options of the source's reader follow as --source.NAME=VALUE; docs/data.md lists them.",
        )
    )


def _add_import(parser: argparse.ArgumentParser) -> None:
    from t2p.data.codec import IMAGE_CODECS
    from t2p.data.sources import KINDS

    parser.add_argument("--source", default="auto", metavar="KIND", help=f"auto (default), {', '.join(KINDS)}")
    parser.add_argument("--input", metavar="PATH", default="", help="where the recordings are (none for synthetic)")
    parser.add_argument("--out", metavar="DIR", required=True, help="the dataset to write or to go on with")
    parser.add_argument("--split", default="train", help="the split to write (default: train)")
    parser.add_argument("--held_out", type=float, default=0.0, metavar="SHARE", help="this share goes to the split val")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="resize the frames")
    parser.add_argument("--episodes_per_shard", type=int, default=64, metavar="N", help="(default: 64)")
    parser.add_argument("--codec", choices=IMAGE_CODECS, default="jpeg", help="png keeps every bit (default: jpeg)")
    parser.add_argument(
        "--name", default="", help="where the data come from, for the manifest (default: the last part of --input)"
    )
    parser.add_argument("--licence", default="", help="of the data, for the manifest")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes (default: this one alone)")


def run(args: argparse.Namespace, rest: list[str]) -> int:
    """Runs a sub-command; `check` returns 1 when it finds a fault."""
    if args.what == "import":
        return _import(args, source_options(rest))
    if rest:
        raise UserError(f"unknown arguments {' '.join(rest)}; see t2p data {args.what} --help")
    return {"check": _check, "show": _show}[args.what](args)


def _check(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from t2p.data.check import check

    faults = 0
    with tqdm(desc="shards", unit="") as bar:
        for fault in check(args.directory, lambda name: bar.update()):
            bar.clear()
            print(fault, flush=True)
            faults += 1
    print(f"{args.directory}: {faults} faults" if faults else f"{args.directory}: whole, no faults")
    return 1 if faults else 0


def _show(args: argparse.Namespace) -> int:
    from t2p.data.store import Dataset, read_manifest
    from t2p.data.summary import describe

    splits = list(read_manifest(args.directory)["splits"])
    datasets = {split: Dataset(args.directory, split) for split in splits}
    print(describe(args.directory, datasets))
    if args.out:
        if args.samples < 1 or not args.out.lower().endswith((".png", ".rrd")):
            raise UserError(
                f"--samples {args.samples} --out {args.out}: expected at least one sample and a .png or .rrd file"
            )
        chosen = args.split or next(iter(datasets), None)
        if chosen not in datasets:
            raise UserError(f"{args.directory} has no split {chosen!r}; it has {', '.join(splits) or 'none'}")
        _draw(datasets[chosen], args)
    return 0


def _draw(dataset: Any, args: argparse.Namespace) -> None:
    from t2p.data.samples import chosen, samples
    from t2p.eval.overlay import contact_sheet, write_image
    from t2p.eval.rerun_file import write_episodes

    if args.out.lower().endswith(".rrd"):
        numbers = chosen(dataset, args.samples, args.seed, args.tracks)
        write_episodes(args.out, (_with_tracks(dataset.read(e), args.tracks) for e in numbers))
        print(f"wrote {args.out}: rerun {args.out} shows it")
        return
    labels, looks = zip(*samples(dataset, args.samples, args.seed, args.tracks))
    write_image(args.out, contact_sheet([[_picture(look) for look in row] for row in looks], labels))
    print(f"drew {args.out}")


def _with_tracks(episode: Any, name: str | None) -> Any:
    """An episode with one of its track sets, or all."""
    return episode if name is None else replace(episode, tracks={name: episode.tracks[name]})


def _picture(look: Any) -> Any:
    from t2p.eval.overlay import draw_tracks, enlarge, rainbow

    if look.points is None:
        return enlarge(look.frame[None])[0]
    still = look.frame[None].repeat(len(look.points), axis=0)
    return draw_tracks(still, look.points, look.visible, colors=rainbow(look.start), trail=len(still))[-1]


def _import(args: argparse.Namespace, options: dict[str, Any]) -> int:
    from tqdm import tqdm

    from t2p.data.importing import import_source
    from t2p.data.sources import open_source

    if args.size:
        options["size"] = tuple(args.size)
    if not args.input and args.source != "synthetic":
        raise UserError("name the recordings with --input PATH")
    source = open_source(args.input, args.source, **options)
    with tqdm(total=len(source.keys()), unit="episode") as bar:
        skipped = import_source(
            source,
            args.out,
            settings={"source": args.source, "input": args.input, "options": options, "held_out": args.held_out},
            split=args.split,
            held_out=args.held_out,
            episodes_per_shard=args.episodes_per_shard,
            codec=args.codec,
            name=args.name or args.input.rstrip("/").rpartition("/")[2] or args.source,
            licence=args.licence,
            workers=args.workers,
            progress=bar.update,
        )
    for broken in skipped:
        print(f"left out {broken.key}: {broken.reason}")
    print(f"wrote {args.out} ({len(source.keys()) - len(skipped)} episodes, {len(skipped)} recordings left out)")
    return 0
