"""`t2p rollout` and `t2p eval` of 3PoinTr's stages, from checkpoint to page."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from t2p import checkpoint
from t2p.cli import rollout
from t2p.cli.config import load_config
from t2p.cli.main import main
from t2p.methods.registry import make_stage
from t2p.types import Batch, Tracks

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/methods/threepointr"))
from scenes import CAMERA, write  # noqa: E402


def export(directory: Path, name: str, **data: Path) -> Path:
    """An untrained checkpoint of a stage's `debug` variant. data: {source: its folder}, of the validation's too."""
    config = load_config(f"{ROOT / 'configs/threepointr' / name}.py:debug")
    if name == "policy":
        config.model.unet.update({"step_dim": 8, "down_dims": (8, 16)})
        config.model.diffusion.inference_steps = 2
    for source, path in data.items():
        (config.data.validation if source in config.data.validation else config.data.sources)[source].path = str(path)
    stage = make_stage(config)
    w = stage.window
    shape = (1, len(w.tracks.offsets), w.num_points)
    tracks = Tracks(np.zeros((*shape, 3), np.float32), np.ones(shape, bool), valid=np.ones(shape[:2], bool))
    camera = {"front": (CAMERA.K[None].astype(np.float32), CAMERA.T_base_cam[None].astype(np.float32))}
    batch = Batch(tracks={w.track_set: {"front": tracks}}, cameras=camera)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(stage.init, jax.random.key(0), batch)  # initialising itself would be slow
    variables = jax.tree.map(lambda x: (0.05 * rng.normal(size=x.shape)).astype(x.dtype), shapes)
    meta = {"config": config.to_dict(), "tasks": ["tabletop/block_stack"]}
    checkpoint.export(directory, variables, meta)
    return directory


@pytest.mark.long
def test_rollout_films_and_goes_on(tmp_path, capsys) -> None:
    policy, out = export(tmp_path / "policy", "policy"), tmp_path / "out"
    command = ["rollout", "--task", "tabletop/block_stack", "--checkpoint", f"mine={policy}", "--episodes", "2"]
    command += ["--num_envs", "2", "--workers", "0", "--renderer", "rays", "--films", "1", "--out", str(out)]
    assert main([*command, "--view", "--record", "1"]) == 0
    printed = capsys.readouterr().out
    assert "of 2 episodes" in printed and "report.html" in printed and "watch: http://127.0.0.1:" in printed
    assert [p.name.split("_")[0] for p in (out / "videos" / "mine").iterdir()] == ["0"]
    summary = json.loads((out / "success.json").read_text())["policies"]["mine"]
    assert summary["episodes"] == 2 and summary["times"]["policy"] > 0
    page = (out / "report.html").read_text()
    assert "<video" in page and "plotly-graph-div" in page and "mean distance" in page
    lines = (out / "episodes" / "mine.jsonl").read_text()
    assert main([*command, "--films", "0", "--episodes", "1"]) == 0
    assert (out / "episodes" / "mine.jsonl").read_text() == lines


def test_rollout_refuses_what_it_does_not_know(tmp_path, capsys) -> None:
    base = ["rollout", "--task", "tabletop/block_stack", "--out", str(tmp_path)]
    for more, words in (
        (["--checkpoint", str(tmp_path / "none")], "none"),
        (["--checkpoint", "x", "--episodes", "0"], "--episodes and --num_envs must be at least 1"),
        (["--checkpoint", "x", "--epsodes", "3"], "unknown arguments"),
        (["--checkpoint", "x", "--films", "-1"], "--first_seed, --films and --record at least 0"),
        (["--checkpoint", "x", "--record", "-1"], "--first_seed, --films and --record at least 0"),
    ):
        assert main([*base, *more]) == 2
        assert words in capsys.readouterr().err


@pytest.fixture(scope="module")
def tracks(tmp_path_factory) -> tuple[Path, Path, Path]:
    """Checkpoint, training data, held-out data."""
    root = tmp_path_factory.mktemp("tracks")
    data = write(root / "demos", 2), write(root / "held", 3, 20)
    return export(root / "tracks", "tracks", free=data[0], demos=data[0], held_out=data[1]), *data


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (["--suite", "libero_objct"], "unknown suite 'libero_objct'"),
        (["--task", "libero_object/12"], "unknown task 'libero_object/12'"),
        (["--task", "libero_object/0", "--protocol", "atm2"], "unknown protocol 'atm2'"),
        (["--suite", "libero_goal", "--embodiment", "panda"], "no option embodiment"),
        (["--task", "libero_object"], "give --suite libero_object, or one of its tasks, such as libero_object/pick_up"),
        (["--task", "tabletop"], "give --suite tabletop, or one of its tasks, such as tabletop/block_stack"),
        (["--suite", "libero_goal", "--libero_root", "no/such/folder"], "no/such/folder does not exist"),
        (["--task", "libero_goal/0", "--libero_root", str(ROOT / "docs")], f"assets are not found in {ROOT / 'docs'}"),
    ],
)
def test_what_is_not_there_is_told_before_checkpoints_are_read(wrong, told, tmp_path, capsys) -> None:
    assert main(["rollout", *wrong, "--checkpoint", str(tmp_path / "nowhere"), "--out", str(tmp_path / "o")]) == 2
    assert told in capsys.readouterr().err


def test_liberos_tasks_have_a_protocol_in_any_case() -> None:
    def asked(*words: str) -> tuple[int, str]:
        parser = argparse.ArgumentParser()
        rollout.add_arguments(parser)
        args = parser.parse_args([*words, "--checkpoint", "c", "--out", "o"])
        return rollout._episodes(args), rollout._command(args)

    assert asked("--suite", "libero_goal") == (20, "t2p rollout --suite libero_goal --protocol libero --which best")
    assert asked("--suite", "libero_90", "--protocol", "amplify")[0] == 1
    assert asked("--task", "tabletop/block_stack")[0] == 1000
    assert asked("--task", "tabletop/block_stack", "--episodes", "7")[1].startswith("t2p rollout --task tabletop/")


def test_eval_measures_tracks_in_space(tracks, tmp_path, capsys) -> None:
    assert main(["eval", "--checkpoint", str(tracks[0]), "--batch_size", "2", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "5 % ADE" in printed and "(3 samples)" in printed and "note" not in printed
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    model, still = metrics["measures"]["model"], metrics["measures"]["no motion"]
    assert metrics["examples"] == 3 and str(tracks[2]) in metrics["data"] and "seen_before" in metrics["rule"]
    assert len(model["by step"]) == 9 and model["ade"] > 0
    assert still["by step"][:2] == pytest.approx([0, 0], abs=1e-3) and still["ade (moving)"] > 100  # the cube is lifted
    page = (tmp_path / "report.html").read_text()
    assert page.count('class="plotly-graph-div"') == 3 and "held-out data" in page


def test_eval_says_so_when_it_is_given_training_data(tracks, tmp_path, capsys) -> None:
    command = ["eval", "--checkpoint", str(tracks[0]), "--out", str(tmp_path), "--split", "train"]
    assert main([*command, "--data", str(tracks[1])]) == 0
    assert "TRAINED on" in capsys.readouterr().out and "TRAINED on" in (tmp_path / "report.html").read_text()
    assert json.loads((tmp_path / "metrics.json").read_text())["trained_on"] == [str(tracks[1])]


def test_eval_of_a_policy_names_rollout(tracks, tmp_path, capsys) -> None:
    policy = export(tmp_path / "policy", "policy", demos=tracks[1], held_out=tracks[2])
    assert main(["eval", "--checkpoint", str(policy)]) == 2
    assert "t2p rollout" in capsys.readouterr().err
