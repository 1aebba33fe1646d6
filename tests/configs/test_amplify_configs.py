"""configs/amplify: what their variants say of augmentation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from t2p.cli.config import load_config
from t2p.data.augment import Augment
from t2p.io import UserError

CONFIGS = Path(__file__).resolve().parents[2] / "configs/amplify"


@pytest.mark.parametrize("variant", ["released", "paper", "cpu"])
def test_one_switch_turns_the_releases_augmentation_on(variant):
    pictures = {"images": {"front": np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), np.uint8)}}
    off = load_config(f"{CONFIGS}/forward_dynamics.py:{variant}").data.augment
    on = load_config(f"{CONFIGS}/forward_dynamics.py:{variant}", ["--config.data.augment.probability=1"]).data.augment
    assert Augment(**off)(pictures, np.random.default_rng(0)) is pictures
    augment = Augment(**on)
    assert (augment(pictures, np.random.default_rng(0))["images"]["front"] != pictures["images"]["front"]).any()
    strengths = [on[name] for name in ("brightness", "contrast", "saturation", "hue")]
    assert strengths == [0.3] * 4 and on.blur == 0.5 and on.shift == 0
    assert augment.blur_sizes == (3, 5, 7) and augment.blur_sigma == (0.1, 2.0)


def test_a_kernel_without_a_middle_is_refused_before_training():
    with pytest.raises(UserError, match="odd numbers of pixels"):
        load_config(f"{CONFIGS}/forward_dynamics.py:cpu", ["--config.data.augment.blur_sizes=(3, 4)"])


@pytest.mark.parametrize("stage", ["motion_tokenizer", "inverse_dynamics"])
def test_the_other_stages_have_no_augmentation_to_switch_on(stage):
    augment = load_config(f"{CONFIGS}/{stage}.py:released").data.augment
    assert not any((augment.brightness, augment.hue, augment.blur, augment.shift, augment.probability))
