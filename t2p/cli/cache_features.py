"""`t2p cache-features`: what a frozen image encoder gives for every frame, once, for training (docs/data.md)."""

from __future__ import annotations

import argparse

from t2p.data.features import DTYPES

EPILOG = "settings of the config: --config.init_from.images.path=RESNET --config.model.images.size='(224, 224)' ..."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command; settings of the config follow as --config.KEY=VALUE."""
    parser.epilog = EPILOG
    add = parser.add_argument
    add("--config", required=True, metavar="FILE.py[:variant]", help="of a stage with a frozen image encoder")
    add("--data", required=True, metavar="DIR", help="the dataset; features are written into it")
    add("--split", default="", help="only this one (default: all splits)")
    add("--name", default="", help="of the features, for --config.data.features (default: the encoder's)")
    add("--dtype", default="float16", choices=DTYPES, help="in which tokens are stored")
    add("--shard", default="0/1", metavar="I/N", help="only every N-th shard from the I-th (0 .. N-1): array jobs")


def run(args: argparse.Namespace, rest: list[str]) -> int:
    """Exit code 0."""
    from t2p.cli.annotate import parse_part
    from t2p.cli.config import load_config
    from t2p.train.features import Job, cache_features

    config = load_config(args.config, rest)
    name = args.name or config.model.get("images", {}).get("encoder", "images")
    splits = (args.split,) if args.split else ()
    written = cache_features(config, Job(args.data, name, splits, args.dtype, parse_part(args.shard)))
    print(f"{written} shards written; train on them with --config.data.features={name}")
    return 0
