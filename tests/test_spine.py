"""From recordings to a report through the commands that users type: the demo's path, on clips, a video and RLDS."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2p.cli.main import main

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "atm" / "track_transformer.py"
TINY = [
    f"--config.{setting}"
    for setting in (
        *("model.dim=32", "model.depth=1", "model.heads=2", "model.head_dim=16", "batch_size=8", "steps=4"),
        *("eval.every=2", "eval.batches=2", "checkpoint.every=2", "log.every=2", "optimizer.warmup_steps=1"),
    )
]


def run(*command: str) -> None:
    assert main([str(c) for c in command]) == 0


def check_report(folder: Path) -> dict:
    metrics = json.loads((folder / "metrics.json").read_text())
    assert all(np.isfinite(v["mse (moving)"]) for v in metrics["measures"].values())
    assert "data:video/mp4" in (folder / "report.html").read_text()
    return metrics


def test_demo(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    run("demo", "tracks", "--out", out, "--clips", "6", "--held_out", "3", *TINY)
    metrics = check_report(out / "report")
    assert "constant velocity" in metrics["measures"]
    picture = tmp_path / "picture.png"
    Image.fromarray(np.full((48, 80, 3), 90, np.uint8)).save(picture)
    drawn = tmp_path / "prediction.png"
    run("predict", "--checkpoint", out / "train", "--out", drawn, "--points", "0.5,0.5", "0.1,0.9", "--", picture, "go")
    assert Image.open(drawn).size[0] >= 80
    # A second demo clears what the first one made, and nothing else.
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    assert main(["demo", "--out", str(tmp_path / "mine")]) == 2
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_demo_with_a_real_video(tmp_path: Path, shared: Path) -> None:
    out = tmp_path / "demo"
    video = shared / "realdata" / "cotracker_videos" / "apple.mp4"
    run("demo", "tracks", "--out", out, "--clips", "4", "--held_out", "2", "--video", video, *TINY)
    check_report(out / "report")


@pytest.mark.long
def test_rlds_with_a_shorter_horizon(tmp_path: Path, shared: Path) -> None:
    """Episodes of 10 steps: 4 real steps stretched to the model's 16, steps past the end masked."""
    data, train = tmp_path / "bridge", tmp_path / "train"
    source = shared / "realdata" / "octo_bridge_debug" / "bridge_dataset" / "1.0.0"
    reader = ["--source", "rlds", "--episodes_per_shard", "32", "--source.split=train"]
    run("annotate", "--input", source, "--out", data, "--tracker", "dis", "--layout", "atm", *reader)
    views = "--config.window.views=('image_0',)"
    paths = [f"--config.data.{part}.clips.path={data}" for part in ("sources", "validation")]
    override = ["--config.data.validation.clips.split=train", "--config.data.validation.clips.tracks=dis/atm"]
    horizon = ["--config.window.horizon=4", views]
    run("train", "--config", f"{CONFIG}:cpu", "--workdir", train, *paths, *override, *horizon, *TINY)
    run("eval", "--checkpoint", train, "--batches", "2", "--out", tmp_path / "report")
    check_report(tmp_path / "report")


@pytest.mark.parametrize("points", [["0.5"], ["a,b"], ["120,40"]])
def test_points_outside_the_convention_are_refused(points: list[str], capsys) -> None:
    assert main(["predict", "--checkpoint", "none", "--points", *points, "--", "image.png", "go"]) == 2
    assert "--points" in capsys.readouterr().err
