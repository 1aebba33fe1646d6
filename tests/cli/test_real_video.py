"""Real video, end to end in small: recordings, tracks, AMPLIFY's first two stages, their measures (docs/amplify.md)."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from t2p.cli.main import main
from t2p.data.store import Dataset

ROOT = Path(__file__).resolve().parents[2]
SHORT = ["--config.steps=6", "--config.batch_size=4", "--config.eval.every=6", "--config.checkpoint.every=6"]
SHORT += ["--config.optimizer.warmup_steps=2", "--config.log.tensorboard=False"]


def run(*command: str) -> None:
    assert main(list(command)) == 0


def learned(folder: Path, data: Path, views: tuple[str, ...], *window: str) -> dict[str, Any]:
    """{stage: what `t2p eval` measured} after a few steps of each on the dataset's splits."""
    sources = [f"--config.data.sources.videos.path={data}", f"--config.data.validation.held_out.path={data}"]
    common = [
        *sources,
        "--config.window.track_set=dis/amplify",
        "--config.data.validation.held_out.split=val",
        f"--config.window.views={views}",
        *window,
        *SHORT,
    ]
    weights = f"--config.loss.weights={(1.0,) * len(views)}"
    more = {
        "motion_tokenizer": [weights],
        "forward_dynamics": [f"--config.init_from.tokenizer.path={folder / 'motion_tokenizer'}"],
    }
    found = {}
    for stage, own in more.items():
        config = f"{ROOT / 'configs/amplify' / stage}.py:debug"
        run("train", "--config", config, "--workdir", str(folder / stage), *common, *own)
        run("eval", "--checkpoint", str(folder / stage), "--which", "latest")
        found[stage] = json.loads((folder / stage / "eval/metrics.json").read_text())
        assert "<video" in (folder / stage / "eval/report.html").read_text()
    return found


def check(found: dict[str, Any], rows: int, views: tuple[str, ...]) -> None:
    for metrics in found.values():
        assert metrics["examples"] == rows and metrics["trained_on"] == []
        for of_views in metrics["measures"]["table 2"].values():
            assert set(of_views) == {"all views", *views}
            assert all(math.isfinite(value) for measures in of_views.values() for value in measures.values())
        still = metrics["measures"]["table 2"]["no motion"]["all views"]
        assert still["mse"] > 0 and still["pixel accuracy"] < 1  # something moves
    rows_of = [metrics["measures"]["table 2"]["no motion"] for metrics in found.values()]
    assert rows_of[0] == rows_of[1]  # both stages are measured on the same examples


@pytest.mark.long
def test_episodes_of_an_rlds_dataset(shared: Path, tmp_path: Path) -> None:
    """Ten steps at 5 Hz, 64 x 64, several cameras, sentences; four frames become sixteen."""
    source, data, views = (
        shared / "realdata/octo_bridge_debug/bridge_dataset",
        tmp_path / "data",
        ("image_0", "image_1"),
    )
    recordings = ["--input", str(source), "--out", str(data), "--source.split=train", f"--source.views={list(views)}"]
    run("data", "import", *recordings, "--held_out", "0.25")
    tracker = ["--tracker", "dis", "--short_side", "64", "--workers", "1"]
    run("annotate", "--input", str(data), "--out", str(data), "--layout", "amplify", "--side", "3", *tracker)
    held_out = Dataset(data, "val").infos
    assert all(info.language and set(info.views) == set(views) and info.length == 10 for info in held_out)
    window = ["--config.window.horizon=4", "--config.window.steps=16", "--config.window.method=spline"]
    window.append("--config.window.image_size=(64, 64)")
    check(learned(tmp_path, data, views, *window), 10 * len(held_out), views)


@pytest.mark.long
def test_clips_of_videos_shorter_than_a_window(shared: Path, tmp_path: Path) -> None:
    """Clips of a video file and of a folder of frames, with sentences, some of fewer frames than a window has."""
    videos = shared / "realdata"
    for split, start in (("train", 0.0), ("val", 2.0)):
        with open(tmp_path / f"{split}.csv", "w", newline="") as f:
            rows = csv.writer(f)
            rows.writerow(["path", "start", "stop", "text", "recorded_fps"])
            rows.writerow(["cotracker_videos/bear.mp4", start, start + 0.5, "a bear walks", ""])
            rows.writerow(["avdc_thor/thor_dataset/Bread/000/frames", start / 2, start / 2 + 0.4, "to the bread", 10])
        place = ["--input", str(tmp_path / f"{split}.csv"), "--out", str(tmp_path / "data"), "--split", split]
        grid = ["--layout", "amplify", "--side", "3", "--size", "64", "64", f"--source.root={videos}"]
        run("annotate", *place, *grid, "--tracker", "dis", "--short_side", "64", "--workers", "1")
    lengths = [info.length for info in Dataset(tmp_path / "data", "val").infos]
    assert min(lengths) < 16
    window = ["--config.window.horizon=16", "--config.window.steps=16", "--config.window.image_size=(64, 64)"]
    check(learned(tmp_path, tmp_path / "data", ("front",), *window), sum(lengths), ("front",))
