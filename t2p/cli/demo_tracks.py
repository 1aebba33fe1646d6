"""The demo of tracks: from clips (drawn, and any videos named) to a trained track transformer and its report."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

CONFIGS = ("atm/track_transformer.py",)
SIZE = 64  # side of the synthetic clips and of what the `cpu` model sees
# Few, large and slow shapes: what an optical flow can follow at this size.
SCENE = {"num_frames": 20, "num_objects": 2, "radius": (0.16, 0.2), "tempo": 0.7}


def commands(args: argparse.Namespace, out: Path, overrides: list[str]) -> Iterator[list[str]]:
    """The demo as a list of t2p commands."""
    from t2p.cli.demo import config_file

    config = config_file(CONFIGS[0])
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
        *("train", "--config", f"{config}:{'cpu_videos' if args.video else 'cpu'}"),
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
