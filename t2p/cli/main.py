"""`t2p COMMAND ...`: one module per command, imported only when it is called."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType

from t2p import __version__
from t2p.io import UserError

COMMANDS = {
    "annotate": "track the points of videos and write episodes with track sets",
    "data": "make, check, show and import datasets",
    "collect": "scripted episodes from the simulator as a dataset",
    "cache-features": "encode a dataset's pictures once, for training on a frozen encoder",
    "train": "train a stage from a config",
    "inspect": "parameters, sharding, memory and FLOPs of a config, before anything runs",
    "eval": "measure a checkpoint on held-out data and write a report",
    "rollout": "a policy's success on a simulated task, with intervals, films and a report",
    "predict": "draw the motion that a checkpoint predicts for an image and a sentence",
    "fetch": "published checkpoints and data by name: download, verify, convert",
    "convert": "turn an official checkpoint into a t2p checkpoint",
    "parity": "compare t2p with recorded outputs of the original implementations",
    "demo": "the whole circle: demonstrations, point tracks, policies, success (or: demo tracks)",
}


def module_of(command: str) -> ModuleType:
    """The module of a command."""
    return importlib.import_module(f"t2p.cli.{command.replace('-', '_')}")


def _help() -> str:
    rows = "\n".join(f"  {name:14s} {what}" for name, what in COMMANDS.items())
    return f"t2p {__version__}: tracks to policy\n\nusage: t2p COMMAND [options]   (t2p COMMAND --help)\n\n{rows}\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code (2 for wrong usage)."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print(_help())
        return 0 if args else 2
    if args[0] == "--version":
        print(__version__)
        return 0
    if args[0] not in COMMANDS:
        print(f"t2p: unknown command {args[0]!r}; expected one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module = module_of(args[0])
    parser = argparse.ArgumentParser(prog=f"t2p {args[0]}", description=COMMANDS[args[0]], allow_abbrev=False)
    module.add_arguments(parser)
    known, rest = parser.parse_known_args(args[1:])
    try:
        return module.run(known, rest)
    except UserError as e:
        print(f"t2p {args[0]}: {e}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
