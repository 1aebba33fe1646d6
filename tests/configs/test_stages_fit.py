"""Configs of stages that build on each other: what a stage builds on is what the earlier stage's config of the same
variant makes; other settings of equal shapes are refused."""

from pathlib import Path
from typing import Any

import pytest

from t2p.cli.config import load_config
from t2p.io import UserError
from t2p.methods.registry import make_stage
from t2p.train.init_from import check_settings
from t2p.train.statistics import with_statistics

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
AMPLIFY = ("debug", "cpu", "cpu_libero", "paper", "released")
PAIRS = [
    *(("amplify/forward_dynamics", "tokenizer", "amplify/motion_tokenizer", v) for v in (*AMPLIFY, "bridge")),
    *(("amplify/inverse_dynamics", "forward_dynamics", "amplify/forward_dynamics", v) for v in AMPLIFY),
    *(
        ("atm/policy", "track_transformer", "atm/track_transformer", v)
        for v in ("debug", "cpu_libero", "cpu_tabletop", "gpu20", "gpu20_tabletop", "paper", "released")
    ),
    *(("threepointr/policy", "tracks", "threepointr/tracks", v) for v in ("debug", "cpu", "gpu20", "paper")),
]


def load(name: str, variant: str) -> Any:
    return load_config(f"{CONFIGS / name}.py:{variant}")


def check(config: Any, name: str, earlier: Any) -> None:
    keys = make_stage(with_statistics(config, blank=True)).builds_on[name]
    check_settings(name, config, {"path": "DIR", "config": earlier.to_dict()}, keys)


@pytest.mark.parametrize(("config", "name", "earlier", "variant"), PAIRS)
def test_stages_of_a_variant_fit(config: str, name: str, earlier: str, variant: str) -> None:
    check(load(config, variant), name, load(earlier, variant))


def test_settings_that_shapes_do_not_tell_are_refused() -> None:
    """512 and 256 have codes of three numbers each, with other levels."""
    tokenizer = load("amplify/motion_tokenizer", "cpu")
    dynamics = load("amplify/forward_dynamics", "cpu")
    dynamics.model.tokenizer.codebook = 256
    said = (
        r"init_from\.tokenizer: model\.tokenizer\.codebook is 256, .* 512; set --config\.model\.tokenizer\.codebook=512"
    )
    with pytest.raises(UserError, match=said):
        check(dynamics, "tokenizer", tokenizer)
    tracker, policy = load("atm/track_transformer", "released"), load("atm/policy", "released")
    policy.model.track_transformer.mean = (0.0, 0.0, 0.0)
    with pytest.raises(UserError, match=r"track_transformer\.mean is \(0\.0, 0\.0, 0\.0\)"):
        check(policy, "track_transformer", tracker)


def test_what_does_not_matter_is_let_pass() -> None:
    """Dropout, the release's unused classes, cameras of other names, settings that a checkpoint does not know."""
    tokenizer, dynamics = (load(f"amplify/{stage}", "cpu") for stage in ("motion_tokenizer", "forward_dynamics"))
    dynamics.model.tokenizer.dropout = 0.5
    dynamics.window.views = ("left", "right")
    with tokenizer.unlocked():
        del tokenizer.model["input_scale"]
    check(dynamics, "tokenizer", tokenizer)
    dynamics.window.views = tuple(reversed(tokenizer.window.views))
    with pytest.raises(UserError, match=r"window\.views"):
        check(dynamics, "tokenizer", tokenizer)
