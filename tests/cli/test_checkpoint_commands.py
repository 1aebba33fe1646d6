"""Commands that read checkpoints: what they refuse, and evaluation where there is one clip only."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2p.cli.main import main

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "train"))
from train_atm import atm_config, write_clips

from t2p.train.loop import train


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(atm_config(write_clips(folder / "d", count=2), steps=2), folder / "w")
    return folder / "w"


@pytest.fixture
def picture(tmp_path) -> Path:
    path = tmp_path / "p.png"
    Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(path)
    return path


def error(capsys, command: list[str]) -> str:
    assert main(command) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--grid", "0"], "--grid is 0; expected at least 1"),
        (["--grid", "-1"], "--grid is -1; expected at least 1"),
        (["--points", "nan,0.5"], "expected numbers between 0 and 1"),
        (["--points", "0.5,inf"], "expected numbers between 0 and 1"),
        (["--out", "/missing/p.png"], "there is no folder '/missing'"),
        (["--out", "/missing/p.mp4"], "there is no folder '/missing'"),
    ],
)
def test_predict_refuses_what_it_cannot_draw(picture, options, message, capsys):
    command = ["predict", str(picture), "push it", "--checkpoint", "unused", *options]
    assert message in error(capsys, command)


def test_predict_refuses_what_is_no_picture(picture, tmp_path, capsys):
    cut = tmp_path / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(cut)
    cut.write_bytes(cut.read_bytes()[:2000])
    text = tmp_path / "text.png"
    text.write_text("no picture")
    for path in (tmp_path, cut, text, tmp_path / "none.png"):
        said = error(capsys, ["predict", str(path), "push it", "--checkpoint", "unused"])
        assert f"cannot read {path} as a picture" in said and "expected a PNG or JPEG file" in said


def test_predict_draws_and_says_what_cannot_be_written(workdir, picture, tmp_path, capsys):
    command = ["predict", str(picture), "push it", "--checkpoint", str(workdir), "--points", "0.5,0.5", "--out"]
    assert main([*command, str(tmp_path / "drawn.png")]) == 0
    assert Image.open(tmp_path / "drawn.png").size == (480, 320)
    (tmp_path / "folder.png").mkdir()
    assert "cannot write --out" in error(capsys, [*command, str(tmp_path / "folder.png")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batches", "-2"], "--batches is -2; expected at least 0"),
        (["--batch_size", "0"], "--batch_size is 0; expected at least 1"),
    ],
)
def test_eval_refuses_numbers_out_of_bounds(options, message, capsys):
    assert message in error(capsys, ["eval", "--checkpoint", "unused", *options])


def test_eval_of_one_clip_leaves_out_what_needs_another(workdir, tmp_path, capsys):
    found = {}
    for count in (1, 2):
        data, out = write_clips(tmp_path / f"d{count}", count=count), tmp_path / f"out{count}"
        command = ["eval", "--checkpoint", str(workdir), "--data", data, "--split", "train", "--batch_size", "8"]
        assert main([*command, "--out", str(out)]) == 0
        said, page = capsys.readouterr().out, (out / "report.html").read_text()
        found[count] = json.loads((out / "metrics.json").read_text())
        for text in (said, page):
            assert ("one clip only" in text) == (count == 1)
            assert ("model, image of another clip" in text) == (count == 2)
            assert ("cues / model" in text) == (count == 2)
    assert set(found[1]["measures"]) == {"model", "no motion", "constant velocity"}
    assert "another clip's cues / model" in found[2]["ratios"] and "note" not in found[2]


def test_convert_refuses_unknown_text_encoders(tmp_path, capsys):
    command = ["convert", "--from", "atm.track_transformer", "none.pt", "--out", str(tmp_path / "c")]
    said = error(capsys, [*command, "--text_encoder", "foo"])
    assert said == "t2p convert: --text_encoder is 'foo'; expected one of hashed, precomputed, bert, bert_mean, t5\n"
    assert "none.pt does not exist" in error(capsys, command)
