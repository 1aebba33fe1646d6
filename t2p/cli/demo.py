"""`t2p demo`: the whole circle on synthetic clips (and any videos named), each step printed as the command it is."""

from __future__ import annotations

import argparse
import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from t2p.io import UserError

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "atm" / "track_transformer.py"
SIZE = 64  # side of the synthetic clips and of what the `cpu` model sees
# Few, large and slow shapes: what an optical flow can follow at this size.
SCENE = {"num_frames": 20, "num_objects": 2, "radius": (0.16, 0.2), "tempo": 0.7}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="out/demo", metavar="DIR", help="where everything goes; made anew")
    parser.add_argument("--video", action="append", default=[], metavar="FILE", help="a video to use too; repeatable")
    parser.add_argument("--clips", type=int, default=640, help="synthetic clips to train on (default: 640)")
    parser.add_argument("--held_out", type=int, default=48, help="synthetic clips to evaluate on (default: 48)")


def run(args: argparse.Namespace, rest: list[str]) -> int:
    """rest: overrides of the training config, --config.KEY=VALUE."""
    from t2p.cli.main import main

    out = Path(args.out)
    if not CONFIG.exists():
        raise UserError(f"the demo reads {CONFIG.name} from a checkout of the project; run `make demo` there")
    if missing := [v for v in args.video if not Path(v).exists()]:
        raise UserError(f"--video {missing[0]} does not exist")
    _clear(out)
    for command in commands(args, out, rest):
        print(f"\n$ t2p {shlex.join(command)}", flush=True)
        start = time.monotonic()
        code = main(command)
        if code:
            return code
        print(f"({time.monotonic() - start:.0f} s)", flush=True)
    print(f"\nOpen {out / 'report' / 'report.html'} in a browser; the checkpoint is in {out / 'train'}.")
    return 0


def _clear(out: Path) -> None:
    """Empties a folder that an earlier demo made; refuses any other."""
    marker = out / ".t2p-demo"
    if out.exists() and any(out.iterdir()):
        if not marker.exists():
            raise UserError(f"{out} is not empty and was not made by the demo; name another with --out DIR")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    marker.touch()


def commands(args: argparse.Namespace, out: Path, overrides: list[str]) -> Iterator[list[str]]:
    """The demo as a list of t2p commands."""
    train, held_out, videos = out / "clips", out / "held_out", out / "videos"
    for folder, split, count in ((train, "train", args.clips), (held_out, "val", args.held_out)):
        options = {"count": count, "split": split, "size": (SIZE, SIZE), **SCENE}
        yield [
            *("data", "import", "--source", "synthetic", "--out", str(folder), "--split", split),
            *("--codec", "png", *(f"--source.{name}={value}" for name, value in options.items())),
        ]
    annotate = ["--tracker", "dis", "--short_side", "128", "--threshold", "0.25", "--motion_boundaries"]
    annotate += ["--layout", "atm"]
    yield ["annotate", "--input", str(train), "--out", str(train), *annotate]
    if args.video:
        table = _clip_table(out / "videos.csv", args.video)
        size = ["--size", str(SIZE), str(SIZE)]
        yield ["annotate", "--input", str(table), "--out", str(videos), *size, *annotate]
    yield [
        *("train", "--config", f"{CONFIG}:{'cpu_videos' if args.video else 'cpu'}"),
        *("--workdir", str(out / "train")),
        *_sources(train, held_out, videos if args.video else None),
        *overrides,
    ]
    for_report = ["--data", str(held_out), "--split", "val", "--tracks", "exact/atm"]
    yield ["eval", "--checkpoint", str(out / "train"), *for_report, "--out", str(out / "report")]


def _clip_table(path: Path, videos: list[str]) -> Path:
    """A table of whole videos, without sentences."""
    import csv

    with open(path, "w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(["path"])
        writer.writerows([[str(Path(v).resolve())] for v in videos])
    return path


def _sources(train: Path, held_out: Path, videos: Path | None) -> list[str]:
    """Config overrides that name the data."""
    keys = {"data.sources.clips.path": train, "data.validation.clips.path": held_out}
    if videos is not None:
        keys["data.sources.videos.path"] = videos
    return [f"--config.{key}={value}" for key, value in keys.items()]
