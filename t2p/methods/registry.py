"""The stages that can be trained, by the name that a config's `stage` gives."""

from __future__ import annotations

import difflib
from collections.abc import Callable

import ml_collections

from t2p.io import UserError
from t2p.methods.base import Stage


def _atm_track_transformer(config: ml_collections.ConfigDict) -> Stage:
    from t2p.methods.atm import TrackTransformerStage

    return TrackTransformerStage.from_config(config)


def _configure_atm_track_transformer(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    from t2p.methods.atm import configure

    return configure(config)


def _general_flow(config: ml_collections.ConfigDict) -> Stage:
    from t2p.methods.general_flow.stage import GeneralFlowStage

    return GeneralFlowStage.from_config(config)


STAGES: dict[str, Callable[[ml_collections.ConfigDict], Stage]] = {
    "atm.track_transformer": _atm_track_transformer,
    "general_flow.flow": _general_flow,
}


# What adds a stage's keys, at their published values, to a base config: for stages that `t2p convert` makes.
CONFIGURE: dict[str, Callable[[ml_collections.ConfigDict], ml_collections.ConfigDict]] = {
    "atm.track_transformer": _configure_atm_track_transformer,
}


def make_stage(config: ml_collections.ConfigDict) -> Stage:
    """The stage that config.stage names, built from the config."""
    if config.stage not in STAGES:
        near = difflib.get_close_matches(config.stage, STAGES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"unknown stage {config.stage!r}; expected one of {', '.join(STAGES)}{hint}")
    return STAGES[config.stage](config)
