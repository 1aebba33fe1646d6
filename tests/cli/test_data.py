"""`t2p data`: import, check and show, from the command line."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from PIL import Image

from t2p.cli.main import main
from t2p.data import importing
from t2p.data.samples import samples
from t2p.data.sources import SourceError, open_source
from t2p.data.store import Dataset, finish, read_manifest, write_shard
from t2p.io import UserError
from t2p.types import Episode, TrackSet

OPTIONS = ["--source.count=5", "--source.num_frames=4", "--source.grid=4", "--source.num_points=6"]


def run(*args) -> int:
    return main(["data", *map(str, args)])


def importing_to(out, *more) -> list:
    return ["import", "--source", "synthetic", *OPTIONS, "--size", 32, 48, "--out", out, *more]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "d"
    assert run(*importing_to(out, "--episodes_per_shard", 2, "--codec", "png", "--licence", "CC0")) == 0
    return out


def test_import_writes_what_the_source_holds(dataset):
    source = open_source("", "synthetic", count=5, num_frames=4, grid=4, num_points=6, size=(32, 48))
    data = Dataset(dataset, "train")
    assert [i.id for i in data.infos] == source.keys() and len(data.manifest["splits"]["train"]["shards"]) == 3
    expected, found = source.read(source.keys()[3]), data.read(3)
    for view, frames in expected.frames.items():
        np.testing.assert_array_equal(found.frames[view], frames)
    for name, views in expected.tracks.items():
        for view, tracks in views.items():
            np.testing.assert_array_equal(found.tracks[name][view].points, tracks.points)
    assert data.manifest["licence"] == "CC0"


def test_import_goes_on_where_it_stopped_and_refuses_other_settings(dataset, tmp_path, capsys):
    (tmp_path / "d").mkdir()
    for path in dataset.iterdir():
        (tmp_path / "d" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "d" / "manifest.json").unlink()
    (tmp_path / "d" / "train-00001.episodes.json").unlink()
    kept = (tmp_path / "d" / "train-00000.episodes.array_record").stat().st_mtime_ns
    arguments = importing_to(tmp_path / "d", "--episodes_per_shard", 2, "--codec", "png", "--licence", "CC0")
    assert run(*arguments) == 0
    assert read_manifest(tmp_path / "d") == read_manifest(dataset)
    assert (tmp_path / "d" / "train-00000.episodes.array_record").stat().st_mtime_ns == kept
    assert run(*arguments[:-4], "--codec", "jpeg") == 2
    assert "was begun as another import of split train (codec differ" in capsys.readouterr().err


def test_an_import_of_which_nothing_came_binds_nobody(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("as if killed")

    with monkeypatch.context() as m:
        m.setattr(importing, "write_shard", fail)
        with pytest.raises(RuntimeError):
            run(*importing_to(tmp_path / "d", "--codec", "jpeg"))
    assert run(*importing_to(tmp_path / "d", "--codec", "png")) == 0
    assert read_manifest(tmp_path / "d")["splits"]["train"]["episodes"] == 5


def test_check_and_its_exit_codes(dataset, tmp_path, capsys):
    assert run("check", dataset) == 0
    assert "no faults" in capsys.readouterr().out
    assert run("check", tmp_path) == 2
    (tmp_path / "d").mkdir()
    for path in dataset.iterdir():
        (tmp_path / "d" / path.name).write_bytes(path.read_bytes()[: -5 if "grid.array_record" in path.name else None])
    assert run("check", tmp_path / "d") == 1
    out = capsys.readouterr().out
    assert "train-00000.tracks.exact+grid, field file: has" in out and "3 faults" in out


def test_show_prints_contents_and_draws_samples(dataset, tmp_path, capsys):
    assert run("show", dataset, "--out", tmp_path / "sheet.png", "--samples", 2, "--tracks", "exact/grid") == 0
    out = capsys.readouterr().out
    for text in ("split train: 5 episodes, 20 frames", "front 48x32 (5)", "exact/grid: global, 16 points", "CC0"):
        assert text in out
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape[0] > 2 * 320 and sheet.shape[1] > 4 * 480
    assert run("show", dataset, "--out", tmp_path / "b.png", "--tracks", "dis/atm") == 2
    assert "no episode with tracks 'dis/atm'; it has ['exact/atm', 'exact/grid']" in capsys.readouterr().err


def window_episode(name: str, space: str, dims: int) -> Episode:
    points = np.full((3, 4, 2, dims), 0.5, np.float32)
    tracks = TrackSet("window", points, np.ones((3, 4, 2), bool), np.zeros((2, 3), np.float32), "a", "1", space)
    return Episode(name, 5.0, {"top": np.full((3, 40, 40, 3), 90, np.uint8)}, tracks={f"a/{space}": {"top": tracks}})


def test_show_draws_windows_and_depth_but_no_metres(tmp_path, capsys):
    episodes = [window_episode("flat", "image", 2), window_episode("deep", "image_depth", 3)]
    write_shard(tmp_path, "train", 0, [*episodes, window_episode("metres", "camera", 3)], codec="png")
    finish(tmp_path, shards={"train": 1})
    data = Dataset(tmp_path, "train")
    for label, looks in samples(data, 3):
        drawn = looks[0].points is not None
        assert len(looks) == 3 and drawn == ("metres" not in label) and ("no tracks" in label) != drawn
        assert not drawn or looks[1].points.shape == (4, 2, 2)
    assert run("show", tmp_path, "--out", tmp_path / "a.png") == 0
    assert "a/image_depth: window of 4 steps, 2 points in image_depth" in capsys.readouterr().out
    assert run("show", tmp_path, "--out", tmp_path / "b.png", "--tracks", "a/camera") == 2
    assert "camera coordinates" in capsys.readouterr().err


def test_wrong_usage_is_told(tmp_path, capsys):
    assert run("import", "--out", tmp_path / "d") == 2
    assert "--input" in capsys.readouterr().err
    assert run(*importing_to(tmp_path / "d", "--source.colour")) == 2
    assert "NAME=VALUE" in capsys.readouterr().err
    assert run(*importing_to(tmp_path / "d", "--source.colour=red")) == 2
    assert "no option 'colour'" in capsys.readouterr().err
    assert run("check", tmp_path, "--fast") == 2
    assert "--fast" in capsys.readouterr().err


class Broken:
    """Every third recording cannot be read; another cannot be stored."""

    def __init__(self, count: int):
        self.good = open_source("", "synthetic", count=count, num_frames=2, grid=2, num_points=4, size=(16, 16))

    def keys(self) -> list[str]:
        return self.good.keys()

    def read(self, key: str):
        number = self.keys().index(key)
        if number % 3 == 0:
            raise SourceError(key, "not a video")
        episode = self.good.read(key)
        if number == 4:
            episode.frames["front"].resize((0, 16, 16, 3), refcheck=False)
        return episode


def test_broken_recordings_are_reported_and_the_rest_goes_on(tmp_path):
    done = []
    options = {"settings": {}, "episodes_per_shard": 3, "progress": done.append}
    skipped = importing.import_source(Broken(8), tmp_path, **options)
    assert [(s.key[-1], s.reason) for s in skipped if s.reason == "not a video"] == [(k, "not a video") for k in "036"]
    assert [s.key[-1] for s in skipped] == ["0", "3", "4", "6"] and sum(done) == 8
    assert [i.id[-1] for i in Dataset(tmp_path, "train").infos] == ["1", "2", "5", "7"]
    assert importing.import_source(Broken(8), tmp_path, **options) == skipped  # told again, nothing read again
    with pytest.raises(UserError, match="none of the 1 recordings could be read"):
        importing.import_source(Broken(1), tmp_path / "b", settings={})


class Deadly(Broken):
    """Reading takes the process with it."""

    def read(self, key: str):
        os._exit(9)


def test_a_process_that_dies_while_importing_is_told(tmp_path):
    with pytest.raises(UserError, match="a worker process was killed, or out of memory; the same command goes on"):
        importing.import_source(Deadly(2), tmp_path, settings={}, workers=1)
    assert not list(tmp_path.glob("*.episodes.json"))
    with pytest.raises(UserError, match="workers is -1; expected a number of processes"):
        importing.import_source(Broken(2), tmp_path, settings={}, workers=-1)


def test_held_out_recordings_are_chosen_by_their_names_alone(tmp_path):
    def splits(count: int, out) -> dict[str, set[str]]:
        source = open_source("", "synthetic", count=count, num_frames=2, grid=2, num_points=4, size=(16, 16))
        importing.import_source(source, out, settings={}, held_out=0.4)
        return {split: {i.id for i in Dataset(out, split).infos} for split in ("train", "val")}

    few, many = splits(6, tmp_path / "a"), splits(10, tmp_path / "b")
    assert not many["train"] & many["val"] and len(many["train"] | many["val"]) == 10
    assert few["train"] <= many["train"] and few["val"] <= many["val"] and few["val"]
    assert set(json.loads((tmp_path / "b" / "manifest.json").read_text())["splits"]) == {"train", "val"}
    with pytest.raises(UserError, match="share between 0 and 1"):
        importing.import_source(Broken(2), tmp_path / "c", settings={}, held_out=1.5)
