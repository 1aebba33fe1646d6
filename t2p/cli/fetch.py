"""`t2p fetch`: published checkpoints and data by name: download, verify, unpack, convert."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from t2p.hub.download import Client
from t2p.hub.fetch import CONVERTED, entry_folder, fetch, missing, weights
from t2p.hub.table import TABLE, Entry, describe, find, listing
from t2p.io import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Without NAME: what there is, with licences. A download that was cut off goes on where it stopped."
    parser.add_argument("name", nargs="?", metavar="NAME", help="of the list")
    parser.add_argument(
        "--out", metavar="DIR", help="where things go, each into DIR/NAME (default: t2p/ in your cache folder)"
    )
    parser.add_argument("--yes", action="store_true", help="agree to licence and size; do not ask")


def run(args: argparse.Namespace, rest: list[str]) -> int:
    if rest:
        raise UserError(f"unknown arguments {rest}; t2p fetch --help lists what there is")
    if not args.name:
        print(listing())
        return 0
    get(args.name, args.out, args.yes)
    return 0


def get(
    name: str, out: str | None, yes: bool, table: Mapping[str, Entry] = TABLE, client: Client | None = None
) -> None:
    """Everything `t2p fetch NAME` does. Raises UserError; see t2p.hub.fetch.fetch."""
    entry = find(name, table)
    print(describe(entry), flush=True)
    if any(f.url for f in missing(entry, out)) and not yes:
        _ask(name)
    place = fetch(entry, out, client)
    print(f"there: {place}")
    if entry.convert:
        _convert(entry, place, entry_folder(table[entry.convert.text], out))


def _ask(name: str) -> None:
    if not sys.stdin.isatty():
        raise UserError(f"nothing was downloaded: `t2p fetch {name} --yes` agrees to licence and size")
    if input("download? [y/N] ").strip().lower() not in ("y", "yes"):
        raise UserError("nothing was downloaded")


def _convert(entry: Entry, place: Path, text: Path) -> None:
    """Every file of weights by `t2p convert`, into a folder that appears whole or not at all."""
    from t2p.cli.convert import convert

    assert entry.convert is not None
    for part, file in weights(entry, place).items():
        target = place / CONVERTED / part
        if not target.exists():
            partial = target.with_name(f".{part}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            convert(entry.convert.model, str(file), str(partial), text={"path": str(text)})
            partial.rename(target)
        print(f"converted: {target}   (t2p.load('{entry.name}/{part}'))")
    if not text.is_dir():
        print(f"Its sentences are encoded with {entry.convert.text}: t2p fetch {entry.convert.text}")
