"""`t2p fetch`: what is asked, downloaded, unpacked and converted; by hand where the network does not help."""

from __future__ import annotations

import io
import re
import stat
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from local_server import LOCAL

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "convert"))
from test_atm_weights import official_arrays

import t2p
from t2p.cli import fetch as command
from t2p.cli.main import main
from t2p.hub.download import Client
from t2p.hub.fetch import fetch, unpack
from t2p.hub.load import checkpoint_directory
from t2p.hub.table import TABLE, UNKNOWN, Conversion, Entry, File, find, listing, size_bounds, total_size
from t2p.io import UserError, cache_folder

DOCS = Path(__file__).resolve().parents[2] / "docs/hub.md"


def archive(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def entry(served, *names: str, **changes) -> Entry:
    files = tuple(File(n, f"{served.url}/{n}") for n in names)
    return replace(Entry("it", "something", "https://a.page", "MIT", "read by nobody"), files=files, **changes)


def test_the_table_is_whole():
    for name, e in TABLE.items():
        assert name == e.name and e.what and e.licence and e.use and e.page.startswith("https://")
        for f in e.files:
            assert f.url == "" or f.url.startswith("https://")
            assert not f.sha256 or re.fullmatch("[0-9a-f]{64}", f.sha256)
            assert not f.size or size_bounds(f.size)[0] > 0
        assert e.convert is None or e.convert.text in TABLE
    assert total_size(TABLE["t5-small"]) == "243 MB" and total_size(TABLE["tapir"]) == UNKNOWN
    assert total_size(TABLE["arm4r"]) == total_size(TABLE["amplify"]) == UNKNOWN


def test_the_page_names_every_entry_with_its_facts():
    page = DOCS.read_text()
    for e in TABLE.values():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{e.name}` |"))
        for fact in (e.licence.split(" (")[0].split(";")[0], total_size(e), e.page):
            assert fact in row, (e.name, fact)


def test_list_and_unknown_names(capsys):
    assert main(["fetch"]) == 0
    assert capsys.readouterr().out.strip() == listing()
    assert main(["fetch", "bootstapr"]) == 2
    assert "did you mean 'bootstapir'?" in capsys.readouterr().err
    with pytest.raises(UserError, match="nothing published is called 'zzz'"):
        find("zzz")


def test_licence_and_size_come_first_and_nothing_is_downloaded_unasked(served, tmp_path, capsys, monkeypatch):
    served.files["/a.bin"] = b"abc"
    it = entry(served, "a.bin", licence="CC-BY-NC-4.0")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(UserError, match="`t2p fetch it --yes`"):
        command.get("it", str(tmp_path), False, {"it": it}, LOCAL)
    said = capsys.readouterr().out
    assert "CC-BY-NC-4.0" in said and UNKNOWN in said and served.asked == []
    command.get("it", str(tmp_path), True, {"it": it}, LOCAL)
    assert (tmp_path / "it/a.bin").read_bytes() == b"abc"
    command.get("it", str(tmp_path), False, {"it": it}, LOCAL)  # nothing is left to ask for
    assert len(served.asked) == 1


def test_offline_it_says_what_to_put_where_and_works_from_that(served, tmp_path):
    served.files["/a.zip"] = archive(tmp_path / "a.zip", {"d/x.hdf5": b"data"}).read_bytes()
    it = entry(served, "a.zip", "b.zip", unpack=True)
    place = tmp_path / "hub/it"
    with pytest.raises(UserError) as said:
        fetch(it, tmp_path / "hub", LOCAL)
    assert "404" in str(said.value) and f"{served.url}/b.zip" in str(said.value) and f"{place}/b.zip" in str(said.value)
    assert f"{place}/a.zip" not in str(said.value)  # that one came
    archive(place / "b.zip", {"d/y.hdf5": b"more"})
    asked = len(served.asked)
    assert fetch(it, tmp_path / "hub", LOCAL) == place
    assert {p.name: p.read_bytes() for p in place.glob("unpacked/d/*")} == {"x.hdf5": b"data", "y.hdf5": b"more"}
    for name in ("a.zip", "b.zip"):
        (place / name).unlink()  # to save room
    fetch(it, tmp_path / "hub", LOCAL)
    assert len(served.asked) == asked


def test_files_put_there_by_hand_are_verified(served, tmp_path):
    it = entry(served, "a.bin")
    it = replace(it, files=(replace(it.files[0], sha256="0" * 64),))
    (tmp_path / "it").mkdir()
    (tmp_path / "it/a.bin").write_bytes(b"something else")
    with pytest.raises(UserError, match=r"is not the published a\.bin"):
        fetch(it, tmp_path, LOCAL)
    assert (tmp_path / "it/a.bin").exists()  # it is the user's


def test_what_needs_a_browser_says_so(tmp_path, capsys):
    assert main(["fetch", "amplify", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert TABLE["amplify"].page in said and f"{tmp_path}/amplify/" in said and "browser" in said
    (tmp_path / "amplify").mkdir()
    (tmp_path / "amplify/libero.pt").write_bytes(b"x")
    assert main(["fetch", "amplify", "--out", str(tmp_path)]) == 0
    assert main(["fetch", "atm", "--out", str(tmp_path)]) == 2
    assert f"{tmp_path}/atm/atm_release_checkpoints.zip" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../x", "/tmp/t2p_x", "d/../../x", "d/../../../x"])
def test_archives_cannot_write_outside(name, tmp_path):
    bad = archive(tmp_path / "in/a.zip", {"fine": b"1", name: b"2"})
    with pytest.raises(UserError, match="is not a file below the archive's folder"):
        unpack([bad], tmp_path / "in/unpacked")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.zip", "in"]


def test_archives_hold_no_links_and_are_whole(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(link, "/etc")
        file.writestr("link/x", "1")
    with pytest.raises(UserError, match="member 'link'"):
        unpack([tmp_path / "a.zip"], tmp_path / "unpacked")
    whole = archive(tmp_path / "b.zip", {"x": bytes(1000)}).read_bytes()
    for broken in (whole[:500], whole.replace(bytes(900), b"1" * 900)):
        (tmp_path / "b.zip").write_bytes(broken)
        with pytest.raises(UserError, match="cannot be unpacked"):
            unpack([tmp_path / "b.zip"], tmp_path / "unpacked")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip", "b.zip"]


def test_the_default_folder_is_the_cache_directory(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere/cache")
    assert cache_folder() == Path("/somewhere/cache/t2p")
    monkeypatch.setenv("HOME", "/home/me")
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder() == Path("/home/me/.cache/t2p")


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> bytes:
    """An archive laid out like ATM's, with weights of two track transformers and a policy."""
    members = {"out/policy/atm-policy_a/model_best.npz": b"of another kind"}
    for i, suite in enumerate("ab"):
        weights = npz(**official_arrays(seed=i))
        members[f"out/track_transformer/libero_track_transformer_libero-{suite}/model_best.npz"] = weights
    return archive(tmp_path_factory.mktemp("atm") / "a.zip", members).read_bytes()


def test_fetched_weights_are_converted_and_load_by_name(served, released, tmp_path, capsys, monkeypatch):
    """As t2p convert does it; a second call converts nothing again."""
    served.files["/a.zip"] = released
    pattern = TABLE["atm"].convert.pattern.replace(".ckpt", ".npz")
    conversion = Conversion("atm.track_transformer", pattern, "bert-base-cased")
    table = {**TABLE, "atm": entry(served, "a.zip", name="atm", unpack=True, convert=conversion)}
    command.get("atm", str(tmp_path), True, table, LOCAL)
    said = capsys.readouterr().out
    parts = [f"libero_track_transformer_libero-{s}" for s in "ab"]
    assert all(f"t2p.load('atm/{part}')" in said for part in parts)
    assert "t2p fetch bert-base-cased" in said
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "atm/converted").rglob("*")}
    command.get("atm", str(tmp_path), False, table, LOCAL)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "atm/converted").rglob("*")} == before
    trained = t2p.load(f"atm/{parts[1]}", folder=tmp_path)
    np.testing.assert_array_equal(trained.variables["params"]["mask_token"], official_arrays(seed=1)["mask_token"])
    assert trained.config.text.to_dict() == {
        "encoder": "bert",
        "path": str(tmp_path / "bert-base-cased"),
        "width": 12,
    }
    with pytest.raises(UserError, match="has 2 checkpoints; expected one of atm/libero_track_transformer_libero-a, "):
        t2p.load("atm", folder=tmp_path)
    with pytest.raises(UserError, match="has no 'c'"):
        t2p.load("atm/c", folder=tmp_path)
    with pytest.raises(UserError, match=r"stage 'atm\.track_transformer' is no policy"):
        _ = trained.policy


def test_a_conversion_that_fails_leaves_nothing_that_looks_converted(served, tmp_path):
    arrays = official_arrays()
    del arrays["track_decoder.bias"]
    served.files["/a.zip"] = archive(tmp_path / "a.zip", {"p/w.npz": npz(**arrays)}).read_bytes()
    conversion = Conversion("atm.track_transformer", "**/w.npz", "bert-base-cased")
    table = {**TABLE, "atm": entry(served, "a.zip", name="atm", unpack=True, convert=conversion)}
    with pytest.raises(UserError, match="Missing"):
        command.get("atm", str(tmp_path), True, table, LOCAL)
    with pytest.raises(UserError, match="`t2p fetch atm --out"):
        t2p.load("atm", folder=tmp_path)
    conversion = replace(conversion, pattern="**/other.npz")
    table["atm"] = replace(table["atm"], convert=conversion)
    with pytest.raises(UserError, match=r"holds no \*\*/other.npz"):
        command.get("atm", str(tmp_path), True, table, LOCAL)


def test_loading_says_what_is_wrong(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=rf"'atm' is not in {tmp_path}/cache/t2p/atm: `t2p fetch atm` gets"):
        t2p.load("atm")
    with pytest.raises(UserError, match="is no checkpoint that t2p loads: read by `t2p annotate --tracker bootstapir"):
        t2p.load("bootstapir")
    with pytest.raises(UserError, match="did you mean 'amplify'"):
        t2p.load("amplfy")
    with pytest.raises(UserError, match="there is no directory runs/policy"):
        t2p.load("runs/policy")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=rf"no checkpoint in {tmp_path}/empty: expected a folder checkpoints/"):
        t2p.load(tmp_path / "empty")
    assert checkpoint_directory(tmp_path / "empty") == tmp_path / "empty"
    assert checkpoint_directory("gs://bucket/run") == "gs://bucket/run"


def test_https_alone_in_the_command(served, tmp_path):
    it = entry(served, "a.bin")
    with pytest.raises(UserError, match="only addresses that begin with https://"):
        fetch(it, tmp_path)
    assert served.asked == [] and Client().schemes == ("https",)
