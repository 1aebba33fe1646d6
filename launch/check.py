"""Whether t2p takes a job's command line, asked of the command's own parser before anything waits in a queue."""

from __future__ import annotations

import argparse
import importlib

from launch.plan import Shell, t2p
from launch.spec import JobSpec
from t2p.io import UserError


def check(spec: JobSpec) -> None:
    """UserError, or the parser's own message and exit, for arguments or config keys that the command does not have."""
    name, *arguments = t2p(spec, "0", ())
    module = importlib.import_module(f"t2p.cli.{name}")
    parser = argparse.ArgumentParser(prog=f"t2p {name}", allow_abbrev=False)
    module.add_arguments(parser)
    known, rest = parser.parse_known_args([a.strip('"') if isinstance(a, Shell) else a for a in arguments])
    if name == "train":
        from t2p.cli.config import load_config

        load_config(known.config, rest)
    elif name in ("annotate", "data"):
        from t2p.cli.options import source_options

        source_options(rest)
    elif rest:
        raise UserError(f"t2p {spec.command} does not take {' '.join(rest)}")
