"""Which official files can be read: one entry per model, imported when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from t2p.convert.base import Arrays

Anchor = str | tuple[str, ...]


@dataclass(frozen=True)
class Options:
    """What files do not tell. image_size: (H, W) of the model's pictures; codebook: nominal size; window: (rows,
    columns) of motion classes, None: square; heads: of attention in every transformer; codes: whether inverse
    dynamics is conditioned on codes of motion."""

    image_size: tuple[int, int] | None = None
    codebook: int = 2048
    window: tuple[int, int] | None = None
    heads: int = 8
    codes: bool = True


class Converted(NamedTuple):
    """changes: {part of the config: {key: value}}, all that the weights tell of it; variables: the stage's; views: how
    many cameras the weights are for, None: any number."""

    changes: dict[str, dict[str, Any]]
    variables: dict[str, Any]
    views: int | None = None


@dataclass(frozen=True)
class Converter:
    """What `t2p convert` needs to know of one official model.

    stage: key of methods.registry.STAGES, or a name of its own for a part that only stages are built on. anchor: an
    array that each file of it has, or several of which each has one, "": names are taken as they are. needs: the files
    that it is built on, {name: anchor}. read(arrays, others, options): the file's arrays, and those of `needs`."""

    stage: str
    anchor: Anchor
    read: Callable[[Arrays, Mapping[str, Arrays], Options], Converted]
    needs: Mapping[str, Anchor] = field(default_factory=dict)


def _atm_track_transformer() -> Converter:
    from t2p.convert import atm

    return Converter("atm.track_transformer", atm.ANCHOR, atm.read_track_transformer)


def _atm_policy() -> Converter:
    from t2p.convert import atm_policy

    return Converter("atm.policy", atm_policy.ANCHOR, atm_policy.read_policy)


def _bc_policy() -> Converter:
    from t2p.convert import atm_policy

    return Converter("atm.policy", atm_policy.ANCHOR, atm_policy.read_cloned)


def _amplify_motion_tokenizer() -> Converter:
    from t2p.convert import amplify_stages as stages
    from t2p.convert.amplify import ANCHORS

    return Converter("amplify.motion_tokenizer", ANCHORS["motion_tokenizer"], stages.read_motion_tokenizer)


def _amplify_forward_dynamics() -> Converter:
    from t2p.convert import amplify_stages as stages
    from t2p.convert.amplify import ANCHORS

    needs = {"tokenizer": ANCHORS["motion_tokenizer"], "images": ""}
    return Converter("amplify.forward_dynamics", ANCHORS["forward_dynamics"], stages.read_forward_dynamics, needs)


def _amplify_inverse_dynamics() -> Converter:
    from t2p.convert import amplify_inverse
    from t2p.convert import amplify_stages as stages
    from t2p.convert.amplify import ANCHORS

    anchors = tuple(amplify_inverse.ANCHORS.values())
    needs = {"tokenizer": ANCHORS["motion_tokenizer"], "forward_dynamics": ANCHORS["forward_dynamics"], "images": ""}
    return Converter("amplify.inverse_dynamics", anchors, stages.read_inverse_dynamics, needs)


def _amplify_bundle() -> Converter:
    from t2p.convert import amplify_stages as stages
    from t2p.convert.amplify import ANCHORS

    return Converter("amplify.inverse_dynamics", ANCHORS["bundle"], stages.read_bundle)


def _resnet() -> Converter:
    from t2p.convert import resnet

    return Converter("images.resnet", "", resnet.read_resnet)


def _vit() -> Converter:
    from t2p.convert import vit

    return Converter("images.vit", "", vit.read_vit)


CONVERTERS: dict[str, Callable[[], Converter]] = {
    "atm.track_transformer": _atm_track_transformer,
    "atm.policy": _atm_policy,
    "bc.policy": _bc_policy,
    "amplify.motion_tokenizer": _amplify_motion_tokenizer,
    "amplify.forward_dynamics": _amplify_forward_dynamics,
    "amplify.inverse_dynamics": _amplify_inverse_dynamics,
    "amplify.bundle": _amplify_bundle,
    "images.resnet": _resnet,
    "images.vit": _vit,
}
