"""The parity harness and its command, on a tiny linear model."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from t2p.cli import main
from t2p.io import UserError, load_arrays
from t2p.parity import harness, registry

ADAPTER = """
import jax.numpy as jnp
import numpy as np

def run(meta, inputs, checkpoint):
    assert set(meta) >= {"fixture", "compare"} and not any("y" == name for name in inputs)
    if meta.get("raise"):
        raise {"ValueError": ValueError, "ImportError": ImportError, "FileNotFoundError": FileNotFoundError}[
            meta["raise"]]("the weights of x")
    if not np.array_equal(checkpoint.get("constant", 1), 1):
        raise ValueError("constant is not 1")
    y = inputs["x"] @ checkpoint["w"] + checkpoint["table"][inputs["row"]] + meta.get("bias", 0.0)
    outputs = {"y": jnp.asarray(y), "sign": np.asarray(y > 0), "count": np.asarray(y.shape, np.int64)}
    return {name: value for name, value in outputs.items() if name not in meta.get("drop", ())}
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Registers an adapter and returns a function that writes a fixture folder and returns its path."""
    (tmp_path / "fake_adapter.py").write_text(ADAPTER)
    monkeypatch.syspath_prepend(tmp_path)
    fakes = {"linear": "fake_adapter:run", "absent": "t2p_no_such_module:run"}
    monkeypatch.setitem(registry.ADAPTERS, "fake", fakes)
    rng = np.random.default_rng(0)
    inputs = {"x": rng.normal(size=(4, 3)).astype(np.float32), "row": np.array(2)}
    weights = {
        "w": rng.normal(size=(3, 5)).astype(np.float32),
        "table": rng.normal(size=(9, 5)).astype(np.float32),
        "idle": np.ones(3, np.float32),
        "constant": np.ones((), np.float32),
        "empty": np.zeros(0, np.float32),
        "steps": np.array(7),
    }
    y = inputs["x"] @ weights["w"] + weights["table"][2]

    def write(name="a", outputs=(), **meta):
        folder = tmp_path / "fixtures" / name
        folder.mkdir(parents=True)
        base = {"fixture": "fake/linear", "compare": {"atol": 1e-4, "rtol": 1e-4}}
        (folder / "meta.json").write_text(json.dumps(base | meta))
        np.savez(folder / "inputs.npz", **inputs)
        np.savez(folder / "checkpoint.npz", **weights)
        default = {"y": y, "sign": y > 0, "count": np.array([4, 5])}
        np.savez(folder / "outputs.npz", **(default | dict(outputs)))
        return folder

    return write


def run(*args):
    return main.main(["parity", *(str(a) for a in args)])


def test_ok_prints_a_line_per_array(fake, capsys):
    assert run(fake()) == 0
    out = capsys.readouterr().out
    for name in ("y", "sign", "count"):
        (line,) = [row for row in out.splitlines() if row.split()[0] == name]
        assert line.endswith("ok") and "error" in line and "tolerance" in line
    assert "1 fixtures: 1 ok" in out


@pytest.mark.parametrize(
    ("meta", "outputs", "words"),
    [
        ({"bias": 1e-2}, {}, "error 0.01"),
        ({"drop": ["sign"]}, {}, "not produced"),
        ({"bias": float("inf")}, {}, "20 values are not finite"),
        ({}, {"count": np.array([4, 6])}, "1 of 2 differ"),
        ({}, {"count": np.array([4.0, 5.0])}, "ok"),  # floats of the fixture compare with tolerance
        ({}, {"sign": np.ones((4, 5), np.int64)}, "bool, expected int64"),
        ({}, {"y": np.zeros((4, 6))}, "shape (4, 5), expected (4, 6)"),
        ({}, {"y": np.full((4, 5), np.nan)}, "error nan"),
        ({"raise": "ValueError"}, {}, "ValueError: the weights of x"),
        ({"compare": {"atol": 1e9}, "bias": float("nan")}, {}, "not finite"),
    ],
)
def test_failures(fake, capsys, meta, outputs, words):
    code = run(fake(outputs=outputs, **meta))
    out = capsys.readouterr().out
    assert words in out
    assert code == (0 if words == "ok" else 1)
    assert ("FAIL" in out) == (code == 1)


def test_unreadable_weights_fail(fake, capsys):
    folder = fake()
    (folder / "checkpoint.npz").write_bytes(b"PK\x03\x04 cut off")
    assert run(folder) == 1
    assert "checkpoint.npz is not a whole .npz" in capsys.readouterr().out


def test_exit_codes_in_order_of_precedence(fake, capsys, tmp_path):
    good, bad = fake("good"), fake("bad", bias=1.0)
    unknown = fake("unknown", fixture="fake/other")
    absent = fake("absent", fixture="fake/absent")
    missing = fake("missing", **{"raise": "FileNotFoundError"})
    assert run(good, absent) == 3
    assert run(good, missing) == 3
    assert run(good, absent, unknown) == 2
    assert run(good, absent, unknown, bad) == 1
    assert run(tmp_path / "nowhere") == 3
    out = capsys.readouterr().out
    assert "t2p_no_such_module" in out and "the weights of x" in out and "nowhere does not exist" in out
    assert "no adapter is registered for fake/other" in out
    assert "1 ok, 1 FAIL, 1 no adapter, 1 could not run" in out


def test_files_in_a_glob_are_skipped_by_name_and_folders_are_searched(fake, capsys, tmp_path):
    a = fake("a")
    fake("group/b")
    (tmp_path / "fixtures" / "README.md").write_text("hello")
    assert run(*sorted((tmp_path / "fixtures").iterdir())) == 0
    out = capsys.readouterr().out
    assert "README.md: skipped" in out and "2 fixtures: 2 ok" in out
    assert run(tmp_path / "fixtures", a) == 0
    assert "2 fixtures: 2 ok" in capsys.readouterr().out
    assert run(tmp_path / "fixtures" / "README.md") == 3
    assert run(a, "--precision", "low") == 2


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "outputs.npz").unlink(), "no outputs.npz"),
        (lambda f: (f / "outputs.npz").write_bytes(b"PK"), "outputs.npz is not a whole"),
        (lambda f: (f / "meta.json").write_text("[1]"), "holds a list"),
        (lambda f: (f / "meta.json").write_text("{"), "not valid JSON"),
        (lambda f: (f / "meta.json").write_text('{"fixture": "fake/linear"}'), '"compare"'),
        (lambda f: (f / "meta.json").write_text('{"compare": {"atol": 1}}'), 'no "fixture"'),
        (lambda f: np.savez(f / "checkpoint.npy.npz", w=1), "several checkpoints"),
        (lambda f: (f / "meta.json").write_text('{"fixture": "fake/linear", "compare": {}}'), "the tolerance of y"),
    ],
)
def test_damaged_fixtures_could_not_run(fake, capsys, spoil, words):
    folder = fake()
    spoil(folder)
    assert run(folder) == 3
    assert words in capsys.readouterr().out


@pytest.mark.parametrize("fault", ["{}['suite']", "[][1]", "'' + 1", "(1).upper"])
def test_a_reader_that_stumbles_leaves_the_next_fixture_alone(fake, capsys, tmp_path, monkeypatch, fault):
    (tmp_path / "fake_reader.py").write_text(f"def read(directory, meta):\n    return {fault}\n")
    monkeypatch.setitem(registry.ADAPTERS, "odd", "fake_adapter:run")
    monkeypatch.setitem(registry.READERS, "odd", "fake_reader:read")
    monkeypatch.delitem(sys.modules, "fake_reader", raising=False)
    assert run(fake("odd", fixture="odd/one"), fake("whole")) == 3
    out = capsys.readouterr().out
    assert "odd cannot be read (" in out and "2 fixtures: 1 ok, 1 could not run" in out


def test_what_cannot_be_run_here_does_not_hide_what_is_wrong(fake):
    for bias, status in ((0.0, "could not run"), (1.0, "FAIL")):
        fixture = replace(harness.read(fake(f"bias {bias}", bias=bias)), not_run={"sign": "no ruler here"})
        found = harness.lines(
            fixture, harness.run_adapter(registry.load("fake_adapter:run"), fixture, load_arrays(fixture.checkpoint))
        )
        assert harness._status(found) == status
        assert [line.note for line in found if line.not_run] == ["no ruler here"]


def test_all_forms_of_tolerance():
    compare = {
        "atol": 1e-4,
        "rtol": 1e-3,
        "per_array": {"a": {"relative_to_max": 1e-2}, "b": {"atol": 1.0}, "c/d": "exact"},
        "image": {"mean_abs": 0.3},
        "predicates": "exact",
        "rule": "words for people",
    }
    form = harness.Tolerance
    expected = {
        "other": form(atol=1e-4, rtol=1e-3),
        "a": form(relative_to_max=1e-2),
        "b": form(atol=1.0),
        "c/d": form(exact=True),
        "image/front": form(mean_abs=0.3),
        "predicates": form(exact=True),
        "rule": form(atol=1e-4, rtol=1e-3),
    }
    assert {name: harness.tolerance(compare, name) for name in expected} == expected
    for bad in ({"atol": -1.0}, {"tol": 1.0}, {"atol": "small"}, {}):
        with pytest.raises(harness.CannotRun, match="tolerance of x"):
            harness.tolerance({"per_array": {"x": bad}}, "x")


@pytest.mark.parametrize(
    ("allowed", "got", "ok"),
    [
        ({"atol": 0.1, "rtol": 0.1}, [1.19, 0.09], True),
        ({"atol": 0.1, "rtol": 0.1}, [1.21, 0.0], False),
        ({"atol": 0.1, "rtol": 0.1}, [1.0, 0.11], False),  # relative to each value, not to the largest
        ({"relative_to_max": 0.1}, [1.0, 0.09], True),
        ({"relative_to_max": 0.1}, [1.0, 0.11], False),
        ({"mean_abs": 0.3}, [1.5, 0.0], True),
        ({"mean_abs": 0.3}, [1.7, 0.0], False),
        ({"exact": True}, [1.0, 0.0], True),
        ({"exact": True}, [1.0, 1e-30], False),
    ],
)
def test_comparison(allowed, got, ok):
    line = harness.compare("x", np.array(got), np.array([1.0, 0.0]), harness.Tolerance(**allowed))
    assert line.ok == ok


@pytest.mark.parametrize("got", [np.array(["a", "b"]), np.array([None, "b"], object), np.array([1.0, 2.0], object)])
def test_what_is_no_number_is_not_close(got):
    assert not harness.compare("x", got, np.array([1.0, 2.0]), harness.Tolerance(atol=1.0)).ok
    objects = np.array([None, "b"], object)
    assert not harness.compare("x", objects, objects, harness.Tolerance(atol=1.0)).ok


def test_large_integers_compare_exactly():
    want = np.array([2**62], np.int64)
    assert harness.compare("x", want, want, harness.Tolerance(atol=10)).ok
    assert not harness.compare("x", want + 1, want, harness.Tolerance(atol=10)).ok


def test_self_test_finds_used_weights_and_idle_tensors(fake, capsys):
    folder = fake()
    fixture, adapter = harness.open_fixture(folder)
    expected = {"w": "noticed", "table": "noticed", "idle": "no effect", "constant": "noticed"}
    assert dict(harness.self_test(fixture, adapter)) == expected
    assert run("--self-test", folder) == 0
    loose = fake("loose", compare={"atol": 1e6, "rtol": 0}, outputs={"sign": np.zeros(()), "count": np.zeros(())})
    np.savez(loose / "outputs.npz", y=np.zeros((4, 5)))
    assert run("--self-test", loose) == 1
    assert "w: MISSED" in capsys.readouterr().out
    assert run("--self-test", fake("bad", bias=1.0)) == 3


def test_adapters_are_found_by_the_part_before_the_slash_then_the_rest(monkeypatch):
    table = {"one": "m:f", "many": {"a": "m:a", "a_b": "m:ab"}}
    monkeypatch.setattr(registry, "ADAPTERS", table)
    names = {"one/x": "m:f", "one": "m:f", "many/a": "m:a", "many/a_c": "m:a", "many/a_b_c": "m:ab"}
    names |= {"many/ab": None, "many": None, "other/a": None, "": None}
    assert {name: registry.find(name) for name in names} == names


def test_registered_adapters_can_be_imported():
    for entry in registry.ADAPTERS.values():
        for target in [entry] if isinstance(entry, str) else entry.values():
            assert callable(registry.load(target))


def test_the_adapter_cannot_touch_the_fixture(fake):
    fixture, _ = harness.open_fixture(fake())

    def greedy(meta, inputs, checkpoint):
        meta["compare"]["atol"] = 1e9
        inputs.clear()
        checkpoint.clear()
        return {}

    harness.run_adapter(greedy, fixture, {"w": np.ones(1)})
    assert fixture.meta["compare"]["atol"] == 1e-4 and "x" in fixture.inputs


def test_all_recorded_tolerances_are_understood(shared):
    for path in sorted(shared.glob("golden/*/*/meta.json")):
        meta = json.loads(path.read_text())
        names = [n for n, v in meta["compare"].items() if isinstance(v, dict) and n != "per_array"]
        names += [*meta["compare"].get("per_array", {}), *(["x"] if "atol" in meta["compare"] else [])]
        assert names and all(isinstance(harness.tolerance(meta["compare"], n), harness.Tolerance) for n in names), path


def test_errors_of_the_user_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="unknown arguments --x"):
        from t2p.cli import parity

        parity.run(None, ["--x"])
