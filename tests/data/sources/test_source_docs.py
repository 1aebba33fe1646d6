"""The recipes and the table of options in docs/data.md are true."""

from __future__ import annotations

import csv
import importlib
import inspect
import json
import re
from pathlib import Path

import pytest
from recordings import clip, grays

from t2p.data.sources import KINDS, open_source

DOCS = (Path(__file__).resolve().parents[3] / "docs/data.md").read_text()
SOURCES = DOCS[DOCS.index("\n## Sources") :]


def _recipe(makes):
    """The Python block that writes the named table."""
    return next(block for block in re.findall(r"```python\n(.*?)```", SOURCES, re.S) if f'"{makes}"' in block)


def _run(makes, monkeypatch, folder):
    monkeypatch.chdir(folder)
    exec(compile(_recipe(makes), makes, "exec"), {})  # our own documentation
    return folder / makes


def test_options_are_listed():
    listed = dict(re.findall(r"^\| `(\w+)` \|[^|]*\| (.*) \|$", SOURCES, re.M))
    assert set(listed) == set(KINDS)
    for kind, (module, name) in KINDS.items():
        if kind == "synthetic":
            continue
        taken = list(inspect.signature(getattr(importlib.import_module(module), name)).parameters)
        assert re.findall(r"`(\w+)`", listed[kind]) == [o for o in taken if o not in ("path", "size")], kind


def test_something_something(tmp_path, monkeypatch):
    (tmp_path / "labels").mkdir()
    row = {"id": "78687", "label": "holding potato next to bottle, twice", "template": "Holding [something]"}
    (tmp_path / "labels/train.json").write_text(json.dumps([row]))
    clip(tmp_path / "20bn-something-something-v2/78687.webm", 24, fps=12, codec="libvpx-vp9")
    source = open_source(_run("ssv2_train.csv", monkeypatch, tmp_path))
    episode = source.read(source.keys()[0])
    assert grays(episode.frames["front"]) == list(range(24)) and episode.fps == 12
    assert episode.language == (row["label"],) and episode.task == row["template"]


@pytest.fixture
def epic(tmp_path):
    """Annotated actions of one video: 1 s, 40 s (too long for ARM4R) and 3 s long."""
    columns = ["narration_id", "participant_id", "video_id", "start_timestamp", "stop_timestamp", "verb", "noun"]
    rows = [
        ["P01_01_0", "P01", "P01_01", "00:00:00.50", "00:00:01.50", "take", "pan"],
        ["P01_01_1", "P01", "P01_01", "00:00:10.00", "00:00:50.00", "stir", "soup"],
        ["P01_01_2", "P01", "P01_01", "00:01:00.00", "00:01:03.00", "put-down", "tap:water"],
    ]
    with open(tmp_path / "EPIC_100_train.csv", "w", newline="") as f:
        csv.writer(f).writerows([columns, *rows])
    clip(tmp_path / "EPIC-KITCHENS/P01/videos/P01_01.MP4", 40, fps=20)
    return tmp_path


def test_epic_kitchens_as_arm4r(epic, monkeypatch):
    source = open_source(_run("epic_arm4r.csv", monkeypatch, epic), root=epic / "EPIC-KITCHENS", size=(24, 32))
    assert source.keys() == ["P01_01_0", "P01_01_2"]
    episode = source.read("P01_01_0")
    assert (episode.fps, episode.language) == (10, ("take pan",))
    assert grays(episode.frames["front"]) == list(range(10, 30, 2))


def test_epic_kitchens_as_track2act(epic, monkeypatch):
    source = open_source(_run("epic_track2act.csv", monkeypatch, epic), root=epic / "EPIC-KITCHENS")
    keys = source.keys()
    spans = [key.split("@")[1] for key in keys]
    assert spans == [f"{4.5 * k:.2f}-{4.5 * (k + 1):.2f}" for k in (*range(2, 11), 13)]
