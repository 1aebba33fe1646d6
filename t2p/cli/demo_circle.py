"""The demo's circle: demonstrations of Block Stack, point tracks, 3PoinTr and DP3, 200 rollouts of each, a report.

Beside 3PoinTr stand DP3 on the same 20 demonstrations (same U-Net, batches, steps and selection rule), and two
controls that say where a difference comes from: the same policy on tracks that do not move, and DP3's encoder with
3PoinTr's normalisation.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

CONFIGS = ("threepointr/tracks.py", "threepointr/policy.py", "dp3/policy.py")
TASK = "tabletop/block_stack"
# What is collected: (folder, episodes, seed, further options). Test episodes choose nothing: they are only measured on.
DATA = (
    ("demonstrations", 20, 0, ("--spread", "20")),
    ("videos", 100, 1, ("--action_free",)),
    ("validation", 24, 2, ()),
    ("test", 32, 3, ()),
)
# Small pictures a few times a second: the policies look at points, not at pictures, and setpoints are few.
LOOK = ("--fps", "4", "--views", "front", "--sets", "objects", "--renderer", "rays")
FIRST_ROLLOUT = 1000  # seeds of the rollouts


def commands(args: argparse.Namespace, out: Path, overrides: list[str]) -> Iterator[list[str]]:
    """The demo as a list of t2p commands."""
    for folder, episodes, seed, more in DATA:
        raw, data = out / "recorded" / folder, out / "data" / folder
        count = ("--episodes", str(episodes), "--seed", str(seed))
        yield ["collect", TASK, "--out", str(raw), *count, *more, *LOOK]
        yield [
            *("data", "import", "--source", "setpoints", "--input", str(raw), "--out", str(data)),
            *("--source.steps=9", "--source.times=waypoints"),
        ]
    tracks_config, policy_config, dp3_config = CONFIGS
    sources = {"demos": out / "data/demonstrations", "held_out": out / "data/validation"}
    named = [f"--config.data.sources.demos.path={sources['demos']}"]
    named += [f"--config.data.validation.held_out.path={sources['held_out']}"]
    tracks, free = out / "tracks", f"--config.data.sources.free.path={out / 'data/videos'}"
    yield [*_train(f"{tracks_config}:cpu", tracks), free, *named, *overrides]
    yield ["eval", "--checkpoint", str(tracks), "--data", str(out / "data/test"), "--split", "train"]
    start = f"--config.init_from.tracks.path={tracks}"
    still = "--config.model.conditioning=still"
    yield [*_train(f"{policy_config}:cpu", out / "threepointr"), start, *named, *overrides]
    yield [*_train(f"{dp3_config}:cpu", out / "dp3"), *named, *overrides]
    yield [*_train(f"{policy_config}:cpu", out / "still"), start, still, *named, *overrides]
    yield [*_train(f"{dp3_config}:cpu_sample", out / "dp3_sample"), *named, *overrides]
    policies = {"3PoinTr": "threepointr", "DP3": "dp3", "3PoinTr, tracks that stand still": "still"}
    policies |= {"DP3, normalised as 3PoinTr": "dp3_sample"}
    yield [
        *("rollout", "--task", TASK, "--episodes", str(args.episodes), "--first_seed", str(FIRST_ROLLOUT)),
        *(f"--checkpoint={name}={out / folder}" for name, folder in policies.items()),
        *("--renderer", "rays", "--films", "1", "--out", str(out / "rollout")),
    ]


def _train(config: str, workdir: Path) -> list[str]:
    from t2p.cli.demo import config_file

    name, _, variant = config.partition(":")
    return ["train", "--config", f"{config_file(name)}:{variant}", "--workdir", str(workdir)]
