"""Training on real data: resuming with other workers, damaged records."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from train_atm import CONFIG, arguments, atm_config, write_clips
from train_fakes import numpy_variables

from t2p import checkpoint
from t2p.cli.main import main
from t2p.data.statistics import to_json
from t2p.data.store import DamagedRecord, Dataset
from t2p.train.evals import Eval
from t2p.train.loop import train


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> str:
    return write_clips(tmp_path_factory.mktemp("clips") / "d")


def losses(workdir: Path) -> dict[int, list[float]]:
    """{step: every training metric of the model}, which tell batches apart."""
    records = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    names = ("loss", "track_loss", "image_loss", "distance_px", "grad_norm")
    return {r["step"]: [r[f"train/{n}"] for n in names] for r in records if "train/loss" in r}


def test_resuming_with_other_workers_changes_no_bit(clips, tmp_path):
    def crash(variables, step, rng):
        raise ZeroDivisionError

    whole = train(atm_config(clips), tmp_path / "whole")
    with pytest.raises(ZeroDivisionError):
        train(atm_config(clips), tmp_path / "parts", [Eval("crash", 3, crash)])
    parts = train(atm_config(clips, data__workers=1), tmp_path / "parts")
    expected = numpy_variables(whole)
    for path, value in numpy_variables(parts).items():
        np.testing.assert_array_equal(value, expected[path], err_msg=path)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert len({tuple(v) for v in losses(tmp_path / "whole").values()}) == 6
    _, meta = checkpoint.load(tmp_path / "parts", "latest")
    assert meta["shapes"]["images"]["any"][-3:] == [32, 32, 3]
    assert meta["statistics"] == {"clips": {}}


def test_checkpoints_hold_the_statistics_of_the_training_data(tmp_path):
    actions = np.random.default_rng(0).normal(size=(18, 3)).astype(np.float32)
    data = write_clips(tmp_path / "d", count=2, columns={"actions": actions})
    train(atm_config(data, steps=2), tmp_path / "w")
    _, meta = checkpoint.load(tmp_path / "w", "latest")
    found = Dataset(data, "train").statistics
    assert meta["statistics"] == {"clips": {"actions": to_json(found["actions"])}}
    assert found["actions"].count == 36
    np.testing.assert_allclose(meta["statistics"]["clips"]["actions"]["mean"], actions.mean(0), rtol=1e-5)


def damage_one_picture(data: str) -> None:
    """Changes bytes inside a record; the file can still be opened."""
    shard = next(Path(data).glob("*.episodes.array_record"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:30000] + bytes(b ^ 255 for b in whole[30000:30004]) + whole[30004:])
    with pytest.raises(DamagedRecord, match="frames/front"):
        Dataset(data, "train").frames(1, "front", range(18))


def test_damaged_records_stop_training_or_are_skipped_and_counted(tmp_path, capsys):
    data = write_clips(tmp_path / "d", count=2)
    damage_one_picture(data)
    command = ["train", "--config", f"{CONFIG}:debug", "--workdir", str(tmp_path / "w"), *arguments(data)]
    assert main([*command]) == 2
    assert "t2p train: shard train-00000" in capsys.readouterr().err
    assert main([*command, "--skip_damaged", "--config.eval.batches=0"]) == 0
    records = [json.loads(line) for line in (tmp_path / "w/metrics.jsonl").open()]
    assert max(r.get("train/skipped_examples", 0) for r in records) > 0
    assert max(r.get("val/skipped_examples", 0) for r in records) > 0
    assert re.search(
        r"skipped as damaged in this run: [1-9]\d* examples; in the last validation: [1-9]", capsys.readouterr().out
    )
