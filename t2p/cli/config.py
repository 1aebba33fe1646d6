"""Configs on the command line: `--config FILE.py:variant --config.key=value ...`, an error for what is not known."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from t2p.io import UserError
from t2p.train.bounds import check_values
from t2p.train.defaults import check_keys, flat_keys, nearest, source_config

PREFIX = "--config."


def load_config(spec: str, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """spec: FILE.py or FILE.py:variant, whose get_config(variant) gives the config. overrides: "--config.key=value"
    (or "--config.key", "value"), typed like the value that they replace; a path at a new name among data.sources or
    data.validation adds a source, one at init_from.NAME, a part of config.model, an entry. Returns the locked config.

    Raises UserError for a missing file, an unknown key (naming the nearest one), a value of another type or out of
    bounds."""
    if not Path(spec.partition(":")[0]).is_file():
        raise UserError(f"no config file {spec.partition(':')[0]}; expected FILE.py or FILE.py:variant")
    config = _parse(spec, config_flags.DEFINE_config_file, spec)
    check_keys(config)
    _add_sources(config, overrides)
    _check_overrides(config, overrides)
    config = _parse(spec, config_flags.DEFINE_config_dict, config, overrides)
    check_values(config)
    return config


def _parse(
    spec: str, define: Callable[..., Any], start: Any, overrides: Sequence[str] = ()
) -> ml_collections.ConfigDict:
    """Uses flags of its own, so that the process's are neither read nor changed. define: of ml_collections, for the
    `start` that it takes."""
    values, arguments = flags.FlagValues(), ["t2p", *overrides]
    try:
        define("config", start, lock_config=True, flag_values=values, sys_argv=arguments)
        values(arguments)
        config = values["config"].value
    except (flags.Error, UserError, TypeError, KeyError) as e:
        if own := _own_error(e):  # of the config file: it says in its words what is wrong
            raise own from None
        kind = "" if isinstance(e, flags.Error) else f"{type(e).__name__}: "  # absl's name says nothing to a user
        raise UserError(f"config {spec}: {kind}{str(e).strip().splitlines()[-1]}") from e
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(f"config {spec}: get_config gave {type(config).__name__}; expected a ConfigDict")
    return config


def _add_sources(config: ml_collections.ConfigDict, overrides: Sequence[str]) -> None:
    """Makes room for the sources, and for the weights of parts of the model, that only the overrides name."""
    for argument in overrides:
        found = re.match(rf"{re.escape(PREFIX)}data\.(sources|validation)\.([^.=]+)\.path(=|$)", argument)
        if found and found[2] not in config.data[found[1]]:
            with config.unlocked():
                config.data[found[1]][found[2]] = source_config()
        part = re.match(rf"{re.escape(PREFIX)}init_from\.([^.=]+)\.path(=|$)", argument)
        model = config.get("model", {})
        if part and part[1] not in config.init_from and isinstance(model.get(part[1]), ml_collections.ConfigDict):
            with config.unlocked():
                config.init_from[part[1]] = ml_collections.ConfigDict({"path": "", "rules": ()})


def _own_error(error: BaseException) -> UserError | None:
    """The UserError behind an error, the first that was raised: absl and ml_collections wrap it, the latter in its
    own type and with a traceback for its text."""
    found: UserError | None = None
    step: BaseException | None = error
    while step is not None:
        found = step if isinstance(step, UserError) else found
        step = step.__cause__ or step.__context__
    return found


def _check_overrides(config: ml_collections.ConfigDict, overrides: Sequence[str]) -> None:
    known = flat_keys(config)
    value_expected = False
    for argument in overrides:
        if value_expected and not argument.startswith("--"):
            value_expected = False
            continue
        if not argument.startswith(PREFIX):
            raise UserError(f"unexpected argument {argument!r}; settings are given as --config.key=value")
        key, equals, _ = argument.removeprefix(PREFIX).partition("=")
        if key not in known and key.startswith("init_from."):
            raise UserError(
                f"config.{key} cannot be given on the command line: init_from is set in a config file only, as "
                'c.init_from.NAME = {"path": DIR, "rules": ((REGEX, "load"), ...)}'
            )
        if key not in known:
            raise UserError(f"unknown key config.{key}{nearest(key, known)}")
        value_expected = not equals
