"""configs/amplify: data mixtures of the paper's Table 1, and what variants say of augmentation."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from t2p.cli.config import load_config
from t2p.data.augment import Augment
from t2p.data.mixture import select_episodes
from t2p.io import UserError
from t2p.methods.amplify.mixtures import MIXTURES
from t2p.methods.registry import make_stage
from t2p.train.init_from import check_settings

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


STAGES = ("motion_tokenizer", "forward_dynamics", "inverse_dynamics")
# Table 1 as sentences: what beside the robot's own videos, and whose actions; and the fractions of Figure 4.
TABLE = {
    "in_distribution": (set(), {"libero"}, 1.0),
    "few_shot_4": (set(), {"libero"}, 0.04),
    "few_shot_10": (set(), {"libero"}, 0.1),
    "few_shot_20": (set(), {"libero"}, 0.2),
    "cross_embodiment": ({"human"}, {"libero"}, 1.0),
    "zero_shot": ({"other_tasks"}, {"other_tasks"}, 1.0),
}


@pytest.mark.parametrize("mixture", TABLE)
def test_every_stage_knows_every_row_of_the_table(mixture):
    added, actions, fraction = TABLE[mixture]
    plain = [load_config(f"{CONFIGS}/{stage}.py:paper") for stage in STAGES]
    mixed = [load_config(f"{CONFIGS}/{stage}.py:paper,{mixture}") for stage in STAGES]
    for before, after in zip(plain[:2], mixed[:2], strict=True):
        assert set(after.data.sources) == {"libero"} | added
        assert after.data.sources.libero == before.data.sources.libero  # few shot: all videos
    assert set(mixed[2].data.sources) == actions
    assert {source.fraction for source in mixed[2].data.sources.values()} == {fraction}
    for before, after in zip(plain, mixed, strict=True):  # nothing but the sources differs
        after.data.sources = before.data.sources
        assert after == before
    assert set(TABLE) == set(MIXTURES)


def test_people_move_twice_as_fast():
    human = load_config(f"{CONFIGS}/forward_dynamics.py:released,cross_embodiment").data.sources.human
    assert (human.horizon, human.split, human.weight) == (8, "train", 1.0)


def test_a_mixture_goes_with_every_variant_and_its_paths_are_settings():
    c = load_config(f"{CONFIGS}/inverse_dynamics.py:cpu_alone,few_shot_20", ["--config.data.sources.demos.path=D"])
    assert (c.data.sources.demos.path, c.data.sources.demos.fraction) == ("D", 0.2)
    c = load_config(f"{CONFIGS}/motion_tokenizer.py:debug,zero_shot", ["--config.data.sources.other_tasks.path=E"])
    assert {name: s.path for name, s in c.data.sources.items()} == {"videos": "", "other_tasks": "E"}


@pytest.mark.parametrize("wrong", ["released,few_shot_5", "released,", "released,few_shot_4,zero_shot"])
@pytest.mark.parametrize("stage", STAGES)
def test_an_unknown_mixture_is_told_with_those_that_there_are(stage, wrong):
    with pytest.raises(UserError, match=r"unknown data mixture .* expected one of in_distribution, few_shot_4.*zero_"):
        load_config(f"{CONFIGS}/{stage}.py:{wrong}")
    with pytest.raises(UserError, match="unknown variant 'few_shot_4'; expected one of debug, cpu"):
        load_config(f"{CONFIGS}/{stage}.py:few_shot_4")


def test_ten_percent_of_twenty_demonstrations_are_the_first_two_of_each_task():
    infos = [SimpleNamespace(id=f"demo_{k}", task=task) for k in range(20) for task in ("a", "b")]
    chosen = {}
    for stage in STAGES[1:]:
        source = load_config(f"{CONFIGS}/{stage}.py:released,few_shot_10").data.sources.libero
        chosen[stage] = {(infos[n].task, infos[n].id) for n in select_episodes("s", infos, (), source.fraction)}
    assert chosen["inverse_dynamics"] == {(task, f"demo_{k}") for task in "ab" for k in (0, 1)}
    assert len(chosen["forward_dynamics"]) == 40


DOCS = (CONFIGS.parents[1] / "docs/amplify.md").read_text()
# What the stages that are built on a stage are told of it, by the beginning of the stage's own keys.
TOLD = {
    "motion_tokenizer": {"model.": "model.tokenizer.", "window.": "window."},
    "forward_dynamics": {"model.dynamics.": "model.dynamics.", "model.images.": "model.images.", "window.": "window."},
}


def commands() -> list[tuple[str, str]]:
    """(stage, what stands behind its file's name) of the table of the paper's tables."""
    section = DOCS[DOCS.index("## Commands for each table") :].split("\n## ")[0]
    rows = [re.split(r"(?<!\\)\|", line)[2:5] for line in section.splitlines() if line.startswith("| Table")]
    cells = [(stage, cell) for row in rows for stage, cell in zip(STAGES, row, strict=True)]
    return [(stage, found) for stage, cell in cells for found in re.findall(r"`(:[^`]*)`", cell)]


@pytest.mark.parametrize(("stage", "command"), commands())
def test_commands_of_the_papers_tables_make_stages(stage, command):
    variant, *settings = shlex.split(command)
    config, plain = (load_config(f"{CONFIGS}/{stage}.py{variant}", changes) for changes in (settings, ()))
    make_stage(config)
    assert (config != plain) == bool(settings)  # each says something that the variant does not
    told = [
        f"--config.{new}{setting.removeprefix(f'--config.{old}')}"
        for setting in settings
        for old, new in TOLD.get(stage, {}).items()
        if setting.startswith(f"--config.{old}")
    ]
    for later in STAGES[STAGES.index(stage) + 1 :] if told else ():
        if variant.startswith((":released", ":paper")):
            built = load_config(f"{CONFIGS}/{later}.py{variant}", told)
            keys = make_stage(built).builds_on[stage.removeprefix("motion_")]
            check_settings(stage, built, {"path": "DIR", "config": config.to_dict()}, keys)


def test_every_table_of_the_paper_has_its_commands():
    assert len(commands()) > 30
    section = DOCS[DOCS.index("## Commands for each table") :].split("\n## ")[0]
    for number in (1, 2, 3, 4, 5, 6, 11, 12, 13, 14, 15, 16, 17):
        assert re.search(rf"Tables?[^|.]*\b{number}\b", section) or ("11 to 13" in section and number == 12), number


def test_weights_of_an_encoder_that_the_tokenizer_does_not_look_through_are_refused():
    images = "--config.init_from.images.path=RESNET"
    with pytest.raises(UserError, match=r"looks at no pictures: set model\.images\.joint to True"):
        make_stage(load_config(f"{CONFIGS}/motion_tokenizer.py:released", [images]))
    joint = load_config(f"{CONFIGS}/motion_tokenizer.py:released", [images, "--config.model.images.joint=True"])
    assert joint.init_from.images.path == "RESNET" and make_stage(joint).window.images is not None
