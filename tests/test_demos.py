"""The demos: their commands are ones that exist (always), and what they must reach (long: minutes each)."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

import pytest

from t2p.cli import demo_circle, demo_tracks
from t2p.cli.config import load_config
from t2p.cli.main import COMMANDS, main


def arguments(**changes) -> argparse.Namespace:
    return argparse.Namespace(**{"clips": 4, "held_out": 2, "video": [], "episodes": 3, **changes})


@pytest.mark.parametrize("demo", [demo_circle, demo_tracks], ids=["circle", "tracks"])
def test_every_command_is_understood(demo, tmp_path: Path) -> None:
    """Each command's options are known to it, and each config takes what it is given."""
    commands = list(demo.commands(arguments(), tmp_path, []))
    assert {c[0] for c in commands} <= set(COMMANDS)
    for command in commands:
        parser = argparse.ArgumentParser()
        importlib.import_module(f"t2p.cli.{command[0]}").add_arguments(parser)
        known, rest = parser.parse_known_args(command[1:])
        if command[0] == "train":
            assert load_config(known.config, rest).steps > 0
        else:
            assert all(r.startswith("--source.") for r in rest)


def test_the_policies_differ_only_in_what_is_compared(tmp_path: Path) -> None:
    """DP3 and both controls have 3PoinTr's denoiser, batches, steps, optimiser, sampler and rule of selection."""
    configs = {}
    for command in demo_circle.commands(arguments(), tmp_path, []):
        if command[0] == "train" and "policy" in command[2]:
            rest = command[5:]
            configs[Path(command[4]).name] = load_config(command[2], rest)
    assert set(configs) == {"threepointr", "still", "dp3", "dp3_sample"}
    ours = configs.pop("threepointr")
    for other in configs.values():
        assert other.model.unet.to_dict() == ours.model.unet.to_dict()
        assert other.model.diffusion.to_dict() == ours.model.diffusion.to_dict()
        assert other.optimizer.to_dict() == ours.optimizer.to_dict()
        assert (other.batch_size, other.steps, other.eval.every) == (ours.batch_size, ours.steps, ours.eval.every)
        assert (other.checkpoint.best, other.seed) == (ours.checkpoint.best, ours.seed)
        assert other.data.sources.demos.path == ours.data.sources.demos.path
    assert configs["still"].model.conditioning == "still" and ours.model.conditioning == "predicted"


def test_rollouts_start_where_no_episode_was_collected(tmp_path: Path) -> None:
    seeds = {c[c.index("--seed") + 1] for c in demo_circle.commands(arguments(), tmp_path, []) if c[0] == "collect"}
    assert len(seeds) == len(demo_circle.DATA)
    assert max(map(int, seeds)) < demo_circle.FIRST_ROLLOUT


def test_videos_go_to_the_other_demo(tmp_path: Path, capsys) -> None:
    assert main(["demo", "--out", str(tmp_path / "d"), "--video", "mine.mp4"]) == 2
    assert "t2p demo tracks --video" in capsys.readouterr().err


@pytest.mark.long
def test_the_circle_reaches_its_aims(tmp_path: Path) -> None:
    assert main(["demo", "--out", str(tmp_path / "d")]) == 0
    found = json.loads((tmp_path / "d/rollout/success.json").read_text())
    policies = found["policies"]
    assert len(policies) == 4 and all(p["episodes"] == 200 for p in policies.values())
    assert policies["3PoinTr"]["success"] >= 0.6


@pytest.mark.long
def test_the_demo_of_tracks_reaches_its_aims(tmp_path: Path) -> None:
    assert main(["demo", "tracks", "--out", str(tmp_path / "d")]) == 0
    ratios = json.loads((tmp_path / "d/report/metrics.json").read_text())["ratios"]
    print(ratios)
    no_motion, constant, others = (
        next(v for k, v in ratios.items() if name in k) for name in ("no motion", "constant velocity", "another clip")
    )
    assert no_motion <= 0.5 and constant < 1 and others >= 1.5
