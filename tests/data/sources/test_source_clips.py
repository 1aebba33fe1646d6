"""Clip tables: spans, rates, sentences, and what is wrong with a row."""

from __future__ import annotations

import json
import pickle

import pytest
from recordings import clip, grays, pictures

from t2p.data.sources import SourceError, open_source
from t2p.data.sources.clips import ClipSource
from t2p.io import UserError


def _table(folder, text, name="clips.csv"):
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_rows_become_clips(tmp_path):
    clip(tmp_path / "videos/a.mp4", 40)
    pictures(tmp_path / "frames/b", 20)
    table = _table(
        tmp_path,
        "\ufeffpath,start,stop,fps,text,id,recorded_fps,noun\n"
        'videos/a.mp4,1.0,2.0,,"stir, slowly",,,pot\n'
        "videos/a.mp4,00:00:02.5,0:03.5,5,cut,cutting,,\n"
        "videos/a.mp4,,,,,,,\n"
        "frames/b,1,3,2.5,,,5,\n",
    )
    source = pickle.loads(pickle.dumps(open_source(table, size=(24, 32))))
    keys = source.keys()
    assert keys == ["videos/a.mp4@1.00-2.00", "cutting", "videos/a.mp4", "frames/b@1.00-3.00"]
    episodes = [source.read(key) for key in keys]
    shown = [grays(e.frames["front"]) for e in episodes]
    assert shown == [list(range(10, 20)), [25, 27, 29, 31, 33], list(range(40)), [5, 7, 9, 11, 13]]
    assert [e.fps for e in episodes] == [10, 5, 10, 2.5]
    assert [e.language for e in episodes] == [("stir, slowly",), ("cut",), (), ()]
    assert episodes[0].info == {"noun": "pot"} and episodes[0].frames["front"].shape[1:] == (24, 32, 3)
    assert [e.id for e in episodes] == keys


def test_json_lines(tmp_path):
    clip(tmp_path / "videos/a.webm", 24, fps=12, codec="libvpx-vp9")
    rows = [
        {"path": "a.webm", "text": ["push it", "shove it"], "task": "push"},
        {"path": "a.webm", "start": 1, "id": 7},
    ]
    table = _table(tmp_path, "\n".join(json.dumps(row) for row in rows) + "\n\n", "clips.jsonl")
    source = open_source(table, root=tmp_path / "videos", fps=6)
    assert source.keys() == ["a.webm", "7"]
    first, second = source.read("a.webm"), source.read("7")
    assert first.language == ("push it", "shove it") and first.task == "push"
    assert (grays(second.frames["front"]), second.fps) == ([12, 14, 16, 18, 20, 22], 6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,start\na.mp4,1\n", "has no column path"),
        ("path\n", "has no rows; expected columns path, start"),
        ("path,start,stop\na.mp4,5,5\n", r"line 2: expected 0 <= start < stop in seconds, got '5' and '5'"),
        ("path,start\na.mp4,soon\n", "line 2: start must be seconds or HH:MM:SS.s, got 'soon'"),
        ("path,fps\na.mp4,-1\n", "line 2: fps must be positive"),
        ("path,fps\na.mp4,fast\n", "line 2: fps must be a number"),
        ("path,text\na.mp4,put, then push\n", "line 2: more cells than columns; put text with commas in quotes"),
        ("path,text\na.mp4,x\na.mp4,y\n", "line 3: a second clip is called 'a.mp4'; name them in a column id"),
        ("path,text\n,x\n", "line 2: path must be a file or folder"),
    ],
)
def test_bad_tables(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        open_source(_table(tmp_path, text))


@pytest.mark.parametrize(("text", "message"), [("{'path'", "line 1: not JSON"), ("[1]", "expected an object")])
def test_bad_json_tables(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        open_source(_table(tmp_path, text, "clips.jsonl"))


def test_broken_clips_are_reported_one_by_one(tmp_path):
    clip(tmp_path / "a.mp4", 20)
    pictures(tmp_path / "b", 3)
    rows = "path,start,stop\na.mp4,0,1\na.mp4,60,61\ngone.mp4,,\nb,,\n"
    source = open_source(_table(tmp_path, rows))
    reasons = []
    for key in source.keys()[1:]:
        with pytest.raises(SourceError) as e:
            source.read(key)
        reasons.append(e.value.reason)
    assert "a.mp4: the video has no frames between 60 s and 61.0 s" in reasons[0]
    assert "gone.mp4: there is no file" in reasons[1]
    assert "b: a folder of frames has no frame rate: give it in a column recorded_fps" in reasons[2]
    assert len(source.read(source.keys()[0]).frames["front"]) == 10


def test_a_quoted_cell_may_hold_line_breaks(tmp_path):
    table = tmp_path / "clips.csv"
    table.write_bytes(b'path,text\na.mp4,"push the cup\nto the left"\n')
    (found,) = ClipSource(table)._clips.values()
    assert found.text == ("push the cup\nto the left",)
