"""Which data the stages learn from in the policy experiments (Collins et al. 2025, Table 1), as data.

A config's variant is followed by a mixture's name: `inverse_dynamics.py:released,few_shot_10`. Its sources are then
those of the table and no others; their paths are given on the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections

from t2p.io import UserError
from t2p.methods.amplify import dynamics, inverse, tokenizer

# The source that a variant has by itself: the robot doing the tasks that are evaluated, under the variant's own name.
OWN = "own"
# The columns of Table 1. The tokenizer learns from what forward dynamics learns from.
COLUMNS = {tokenizer.STAGE: "videos", dynamics.STAGE: "videos", inverse.STAGE: "actions"}
# {mixture: {column: {source: settings of data.sources.<source>}}}
MIXTURES: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]] = {
    "in_distribution": {"videos": {OWN: {}}, "actions": {OWN: {}}},
    # 2, 5 and 10 of a task's 50 demonstrations; all their videos.
    "few_shot_4": {"videos": {OWN: {}}, "actions": {OWN: {"fraction": 0.04}}},
    "few_shot_10": {"videos": {OWN: {}}, "actions": {OWN: {"fraction": 0.1}}},
    "few_shot_20": {"videos": {OWN: {}}, "actions": {OWN: {"fraction": 0.2}}},
    # People move about twice as fast: 8 frames of theirs are stretched to the robot's 16 (Appendix D).
    "cross_embodiment": {"videos": {OWN: {}, "human": {"horizon": 8}}, "actions": {OWN: {}}},
    # Actions of other tasks only (LIBERO-90), to act in tasks of which there are videos (Table 5).
    "zero_shot": {"videos": {OWN: {}, "other_tasks": {}}, "actions": {"other_tasks": {}}},
}


def parse(variant: str, variants: Sequence[str]) -> tuple[str, str]:
    """ "cpu,few_shot_10" -> ("cpu", "few_shot_10"); "cpu" -> ("cpu", ""). UserError names what there is."""
    name, comma, mixture = variant.partition(",")
    if name not in variants:
        raise UserError(f"unknown variant {name!r}; expected one of {', '.join(variants)}")
    if comma and mixture not in MIXTURES:
        raise UserError(f"unknown data mixture {mixture!r} after {name!r}; expected one of {', '.join(MIXTURES)}")
    return name, mixture


def mix(
    config: ml_collections.ConfigDict, mixture: str, source: Callable[[], ml_collections.ConfigDict]
) -> ml_collections.ConfigDict:
    """The config with the mixture's sources in place of its one source; as it is for "". source: makes a new one."""
    if not mixture:
        return config
    ((own, found),) = config.data.sources.items()
    config.data.sources = ml_collections.ConfigDict()
    for name, settings in MIXTURES[mixture][COLUMNS[config.stage]].items():
        chosen = found if name == OWN else source()
        chosen.update(settings)
        config.data.sources[own if name == OWN else name] = chosen
    return config
