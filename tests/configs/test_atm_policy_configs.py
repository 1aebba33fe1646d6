"""configs/atm/policy.py and configs/bc/policy.py: each variant makes a stage. `debug` trains in tests/train."""

from pathlib import Path

import pytest

from t2p.cli.config import load_config
from t2p.io import UserError
from t2p.methods.registry import make_policy, make_stage
from t2p.train.statistics import with_statistics

ATM, BC, TRACKER = (
    str(Path(__file__).resolve().parents[2] / "configs" / name)
    for name in ("atm/policy.py", "bc/policy.py", "atm/track_transformer.py")
)
VARIANTS = ("debug", "cpu_libero", "cpu_tabletop", "gpu20", "gpu20_tabletop", "paper", "released")


@pytest.mark.parametrize("variant", VARIANTS)
def test_behaviour_cloning_differs_in_what_it_is_told_and_nothing_else(variant):
    atm, bc = (with_statistics(load_config(f"{path}:{variant}"), blank=True) for path in (ATM, BC))
    guided, cloned = make_stage(atm), make_stage(bc)
    assert guided.tracker is not None and cloned.tracker is None
    assert cloned.net.track_steps == (16 if variant == "released" else 0)
    assert cloned.net.spatial_text and cloned.net.temporal_text
    assert not guided.net.spatial_text and not guided.net.temporal_text
    assert make_policy(atm).action == make_policy(bc).action
    assert (atm.steps, atm.batch_size, atm.optimizer) == (bc.steps, bc.batch_size, bc.optimizer)
    assert dict(bc.init_from) == {} and set(atm.init_from) == {"track_transformer"}
    assert atm.optimizer.warmup_steps < atm.steps


@pytest.mark.parametrize("variant", VARIANTS)
def test_track_transformers_of_the_same_variant_fit(variant):
    policy, tracker = load_config(f"{ATM}:{variant}"), load_config(f"{TRACKER}:{variant}")
    assert policy.model.track_transformer == tracker.model
    assert (policy.text.encoder, policy.text.width) == (tracker.text.encoder, tracker.text.width)
    if variant != "debug":
        assert tuple(policy.window.views) == tuple(tracker.window.views)


@pytest.mark.parametrize("path", [ATM, BC, TRACKER])
@pytest.mark.parametrize("variant", VARIANTS)
def test_no_weights_are_needed_but_by_the_papers_variants(path, variant):
    """What departs from them says so."""
    c = load_config(f"{path}:{variant}")
    assert (c.text.encoder == "bert") == (variant in ("paper", "released"))
    if variant.startswith("gpu20"):
        assert (c.text.width, c.text.path) == (256, "") and "hashed words instead of BERT" in c.departures


def test_paper_and_released_differ_where_paper_and_code_do():
    paper, released = (load_config(f"{ATM}:{v}") for v in ("paper", "released"))
    assert (paper.model.net.modality_ids, released.model.net.modality_ids) == ("views", "released")
    assert paper.loss.mask_padding and not released.loss.mask_padding
    assert released.steps / paper.steps == pytest.approx(101 / 100)
    for c in (paper, released):
        o = c.optimizer
        assert (o.learning_rate, o.weight_decay, o.clip_norm, o.warmup_steps) == (5e-4, 1e-4, 100.0, 0)
        assert (c.batch_size, c.window.steps, c.dtype) == (512, 10, "float32")
        assert int(45 * c.data.sources.libero.fraction + 1e-9) == 10  # demonstrations of each task
        assert make_stage(c).window.clean  # tracks are predicted in pictures without augmentation


@pytest.mark.parametrize(
    ("changes", "tokens", "late"),
    [
        ("early=False", 0, 2048),
        ("late=False", 64, 0),
        ("track_steps=8 track_patch=8", 64, 1024),
        ("track_steps=4 track_patch=4", 64, 512),
    ],
)
def test_ablations_are_settings(changes, tokens, late):
    """Table 2 and Figure 6."""
    net = make_stage(load_config(f"{ATM}:released", [f"--config.model.net.{c}" for c in changes.split()])).net
    assert net.track_tokens == tokens
    assert net.views * net.track_steps * net.track_points * 2 * net.fuses_late == late


def test_an_unknown_variant_is_named():
    for path in (ATM, BC):
        with pytest.raises(UserError, match="expected one of debug, cpu_libero"):
            load_config(f"{path}:tiny")
