"""Options of a source's reader, given as --source.NAME=VALUE by the commands that read recordings."""

from __future__ import annotations

import ast
from typing import Any

from t2p.io import UserError


def source_options(rest: list[str]) -> dict[str, Any]:
    """["--source.fps=5", "--source.videos=DIR"] -> {"fps": 5, "videos": "DIR"}. UserError for anything else."""
    found: dict[str, Any] = {}
    for argument in rest:
        name, equals, value = argument.removeprefix("--source.").partition("=")
        if not argument.startswith("--source.") or not equals or not name.isidentifier():
            raise UserError(f"unknown argument {argument!r}; options of the input's reader are --source.NAME=VALUE")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found
