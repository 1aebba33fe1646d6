"""The stages that can be trained, by the name that a config's `stage` gives."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

import ml_collections

from t2p.io import UserError
from t2p.methods.base import Policy, Stage


def _atm_track_transformer(config: ml_collections.ConfigDict, platform: str) -> Stage:
    from t2p.methods.atm import TrackTransformerStage

    return TrackTransformerStage.from_config(config, platform)


def _configure_atm_track_transformer(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    from t2p.methods.atm import configure

    return configure(config)


def _atm_policy(config: ml_collections.ConfigDict, platform: str) -> Stage:
    from t2p.methods.atm_policy import AtmPolicyStage

    return AtmPolicyStage.from_config(config, platform)


def _act_atm(stage: Any, config: ml_collections.ConfigDict) -> Policy:
    from t2p.methods.atm_policy import make_policy

    return make_policy(stage, config.model.policy)


def _configure_atm_policy(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    from t2p.methods.atm_policy import configure

    return configure(config)


def _threepointr_tracks(config: ml_collections.ConfigDict, platform: str) -> Stage:
    from t2p.methods.threepointr.tracks import TracksStage

    return TracksStage.from_config(config, platform)


def _threepointr_policy(config: ml_collections.ConfigDict, platform: str) -> Stage:
    from t2p.methods.threepointr.policy import PolicyStage

    return PolicyStage.from_config(config, platform)


def _dp3_policy(config: ml_collections.ConfigDict, platform: str) -> Stage:
    from t2p.methods.dp3 import Dp3Stage

    return Dp3Stage.from_config(config)


def _diffusion_policy(config: ml_collections.ConfigDict, platform: str) -> Stage:
    from t2p.methods.diffusion_policy import DiffusionPolicyStage

    return DiffusionPolicyStage.from_config(config)


def _amplify_policy(stage: Any, config: ml_collections.ConfigDict) -> Policy:
    from t2p.methods.amplify.policy import make_policy

    return make_policy(stage, config.model.policy)


def _open_loop(stage: Any, config: ml_collections.ConfigDict) -> Policy:
    from t2p.methods.open_loop import OpenLoopPolicy

    return OpenLoopPolicy(stage)


def _general_flow(config: ml_collections.ConfigDict, platform: str) -> Stage:
    from t2p.methods.general_flow.stage import GeneralFlowStage

    return GeneralFlowStage.from_config(config)


def _amplify_motion_tokenizer(config: ml_collections.ConfigDict, platform: str) -> Stage:
    from t2p.methods.amplify.tokenizer import MotionTokenizerStage

    return MotionTokenizerStage.from_config(config, platform)


def _amplify_forward_dynamics(config: ml_collections.ConfigDict, platform: str) -> Stage:
    from t2p.methods.amplify.dynamics import ForwardDynamicsStage

    return ForwardDynamicsStage.from_config(config, platform)


def _amplify_inverse_dynamics(config: ml_collections.ConfigDict, platform: str) -> Stage:
    from t2p.methods.amplify.inverse import InverseDynamicsStage

    return InverseDynamicsStage.from_config(config, platform)


def _configure_amplify(name: str) -> Callable[[ml_collections.ConfigDict], ml_collections.ConfigDict]:
    def configure(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
        from importlib import import_module

        return import_module(f"t2p.methods.amplify.{name}").configure(config)

    return configure


def _weigh_amplify_views(config: ml_collections.ConfigDict) -> None:
    from t2p.methods.amplify.motion import weigh_views

    weigh_views(config)


STAGES: dict[str, Callable[[ml_collections.ConfigDict, str], Stage]] = {
    "atm.track_transformer": _atm_track_transformer,
    "atm.policy": _atm_policy,
    "threepointr.tracks": _threepointr_tracks,
    "threepointr.policy": _threepointr_policy,
    "general_flow.flow": _general_flow,
    "dp3.policy": _dp3_policy,
    "diffusion_policy.policy": _diffusion_policy,
    "amplify.motion_tokenizer": _amplify_motion_tokenizer,
    "amplify.forward_dynamics": _amplify_forward_dynamics,
    "amplify.inverse_dynamics": _amplify_inverse_dynamics,
}
# Stages that act, and what makes a policy of them.
POLICIES: dict[str, Callable[[Any, ml_collections.ConfigDict], Policy]] = {
    "atm.policy": _act_atm,
    "amplify.inverse_dynamics": _amplify_policy,
    "threepointr.policy": _open_loop,
    "dp3.policy": _open_loop,
    "diffusion_policy.policy": _open_loop,
}


# What adds a stage's keys, at their published values, to a base config: for stages that `t2p convert` makes.
CONFIGURE: dict[str, Callable[[ml_collections.ConfigDict], ml_collections.ConfigDict]] = {
    "atm.track_transformer": _configure_atm_track_transformer,
    "atm.policy": _configure_atm_policy,
    "amplify.motion_tokenizer": _configure_amplify("tokenizer"),
    "amplify.forward_dynamics": _configure_amplify("dynamics"),
    "amplify.inverse_dynamics": _configure_amplify("inverse"),
}

# What else of a stage's config follows from window.views, which `t2p convert` sets.
FOLLOW_VIEWS: dict[str, Callable[[ml_collections.ConfigDict], None]] = {
    "amplify.motion_tokenizer": _weigh_amplify_views,
}


def make_stage(config: ml_collections.ConfigDict, platform: str = "") -> Stage:
    """The stage that config.stage names, built from the config. platform: that it will run on ("cpu", "gpu", "tpu"), if
    not on JAX's own here."""
    if config.stage not in STAGES:
        near = difflib.get_close_matches(config.stage, STAGES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"unknown stage {config.stage!r}; expected one of {', '.join(STAGES)}{hint}")
    return STAGES[config.stage](config, platform)


def make_policy(config: ml_collections.ConfigDict) -> Policy:
    """The policy of the stage that config.stage names; UserError for a stage that does not act."""
    stage = make_stage(config)
    if config.stage not in POLICIES:
        raise UserError(f"stage {config.stage!r} is no policy; policies are {', '.join(POLICIES)}")
    return POLICIES[config.stage](stage, config)
