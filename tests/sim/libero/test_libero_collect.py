"""Scripted demonstrations of LIBERO's tasks: which seeds become one, and what is written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from t2p import collect_libero as collecting
from t2p.cli.collect import LIBERO_OPTIONS, TABLETOP_OPTIONS
from t2p.cli.main import main
from t2p.collect_libero import FAILURES, Actor, LiberoCollection, collect_libero, recordings
from t2p.data.libero_file import ATTRIBUTES, OBSERVED, LiberoDemo, write_libero_hdf5
from t2p.data.sources import open_source
from t2p.data.store import Dataset
from t2p.io import UserError
from t2p.sim.batch import BatchedSim
from t2p.sim.libero.assets import ROBOSUITE_ROOT, ROOT, Assets
from t2p.sim.libero.scene import VIEWS
from t2p.sim.libero.task import LiberoTask
from t2p.sim.render import why_not

TASK = "libero_object/pick_up_the_alphabet_soup_and_place_it_in_the_basket"


@pytest.mark.skipif(why_not("egl") is not None, reason="pictures need EGL")
def test_a_demonstration_is_written_twice_and_solves_the_task(assets: Assets, tmp_path: Path) -> None:
    options = (("libero_root", str(assets.libero)),)
    what = LiberoCollection("libero_object/0", 1, seed=3, size=(24, 32), profile="fast", options=options)
    assert what.names() == (TASK,)
    done: list[int] = []
    failures = collect_libero(what, tmp_path, progress=done.append)
    assert set(failures) == {TASK} and done == [1]
    file = tmp_path / "hdf5" / f"{TASK}_demo.hdf5"
    stored = open_source(file).read(f"{file.stem}/demo_0")
    ours, length = Dataset(tmp_path, "train"), len(stored.columns["actions"])
    assert ours.infos[0].length == length - 1 and ours.infos[0].language == (LiberoTask(TASK).instruction,)
    assert ours.frames(0, "agentview", [0]).shape == (1, 24, 32, 3)
    np.testing.assert_allclose(ours.column(0, "actions"), stored.columns["actions"][1:], atol=1e-6)
    # The same actions from the same start reach the goal.
    task = LiberoTask(TASK, libero_root=str(assets.libero))
    with BatchedSim(task, 1) as sim:
        sim.reset([3])
        results = [sim.step(action[None]) for action in stored.columns["actions"]]
        assert results[-1].success[0]
    before = file.read_bytes()
    assert collect_libero(what, tmp_path) == {} and file.read_bytes() == before


def demo_of(seed: int) -> LiberoDemo:
    """Told from others by its actions."""
    return LiberoDemo(
        actions=np.full((2, 7), seed / 100),
        states=np.zeros((2, 5)),
        frames={view: np.full((2, 4, 6, 3), seed, np.uint8) for view in VIEWS},
        observed={name: np.zeros((2, 3)) for name in OBSERVED},
        robot_states=np.zeros((2, 9)),
        model_file="<mujoco/>",
        init_state=np.zeros(5),
    )


def seeds_of(demos: Iterable[LiberoDemo]) -> list[int]:
    return [round(100 * demo.actions[0, 0]) for demo in demos]


def test_failed_starts_are_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tried: list[int] = []

    def act(what: LiberoCollection, name: str, seed: int) -> LiberoDemo | None:
        tried.append(seed)
        return None if seed % 3 == 0 else demo_of(seed)

    monkeypatch.setattr(collecting, "_act", act)
    what, failures, done = LiberoCollection(TASK, 3), {TASK: 0}, []
    found = seeds_of(collecting._wanted(what, TASK, tmp_path, 0, failures, done.append))
    assert found == [1, 2, 4] and tried == [0, 1, 2, 3, 4]
    assert failures == {TASK: 2} and done == [1, 1, 1]


def test_a_task_that_was_cut_off_keeps_what_was_made(
    assets: Assets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def act(what: LiberoCollection, name: str, seed: int) -> LiberoDemo | None:
        tried.append(seed)
        if len(tried) == 3:
            raise KeyboardInterrupt
        return None if seed == 0 else demo_of(seed)

    monkeypatch.setattr(collecting, "_act", act)
    what = LiberoCollection(TASK, 3, options=(("libero_root", str(assets.libero)),))
    with pytest.raises(KeyboardInterrupt):
        collect_libero(what, tmp_path)
    assert not list(tmp_path.rglob("*.hdf5"))
    with pytest.raises(UserError, match="episodes 3, now 2"):
        collect_libero(replace(what, episodes=2), tmp_path)
    monkeypatch.setenv(ROOT, str(assets.libero))
    assert collect_libero(replace(what, options=()), tmp_path) == {TASK: 1}
    assert tried == [0, 1, 2, 2, 3] and not list(tmp_path.rglob("*.npz"))
    file = tmp_path / "hdf5" / f"{TASK}_demo.hdf5"
    source = open_source(file)
    stored = [source.read(f"{file.stem}/demo_{k}") for k in range(3)]
    for seed, episode in enumerate(stored, start=1):
        np.testing.assert_array_equal(episode.columns["actions"], np.float32(demo_of(seed).actions))
        np.testing.assert_array_equal(episode.frames["agentview"], demo_of(seed).frames["agentview"])
    with h5py.File(file) as written_file:
        assert written_file["data/demo_0"].attrs["model_file"] == "<mujoco/>"


def test_a_script_that_always_fails_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(collecting, "_act", lambda what, name, seed: None)
    with pytest.raises(UserError, match=rf"the script failed in {2 * FAILURES} of the starts"):
        list(collecting._wanted(LiberoCollection(TASK, 2), TASK, tmp_path, 0, {TASK: 0}, lambda n: None))


def test_what_cannot_be_collected() -> None:
    assert len(LiberoCollection("libero_goal", 1).names()) == 10
    with pytest.raises(UserError, match="episodes 0"):
        LiberoCollection("libero_goal", 0).names()
    with pytest.raises(UserError, match="noise is 2"):
        LiberoCollection("libero_goal", 1, noise=2).names()
    with pytest.raises(UserError, match="unknown task 'libero_goal/turn_on_the_stov'"):
        LiberoCollection("libero_goal/turn_on_the_stov", 1).names()


def written(path: Path, task: LiberoTask, model_file: str) -> Path:
    """A recording in which nothing happens, as LIBERO's file."""
    state, steps = task.published(0), 3
    demo = LiberoDemo(
        actions=np.zeros((steps, 7)),
        states=np.tile(state, (steps, 1)),
        frames={view: np.zeros((steps, 8, 8, 3), np.uint8) for view in VIEWS},
        observed={name: np.zeros((steps, 3)) for name in OBSERVED},
        robot_states=np.zeros((steps, 9)),
        model_file=model_file,
        init_state=state,
    )
    write_libero_hdf5(path, [demo], dict.fromkeys(ATTRIBUTES, ""))
    return path


def test_recordings_that_cannot_be_adapted(assets: Assets, tmp_path: Path) -> None:
    options = (("libero_root", str(assets.libero)),)
    task = LiberoTask(TASK, libero_root=str(assets.libero))
    whole = written(tmp_path / f"{TASK}_demo.hdf5", task, "<mujoco/>")
    what = LiberoCollection(TASK, 1, options=options, renderer="rays", adapt=str(whole))
    with pytest.raises(UserError, match=r"in none of the 1 demonstrations of libero_object/.* does the goal hold"):
        Actor(what, TASK)
    with h5py.File(whole, "a") as file:
        del file["data/demo_0/states"]
    with pytest.raises(UserError, match="demo_0 has no states or no model_file"):
        recordings(whole, TASK)
    with pytest.raises(UserError, match=r"holds no files \.hdf5"):
        recordings(tmp_path / "nothing", TASK)


@pytest.mark.long
@pytest.mark.skipif(why_not("egl") is not None, reason="pictures need EGL")
def test_demonstrations_are_adapted_from_recorded_ones(assets: Assets, tmp_path: Path) -> None:
    options = (("libero_root", str(assets.libero)),)
    what = LiberoCollection("libero_object/0", 1, seed=3, size=(24, 32), profile="fast", options=options)
    collect_libero(what, tmp_path / "first")
    (first,) = (tmp_path / "first/hdf5").rglob("*.hdf5")
    collect_libero(replace(what, seed=11, adapt=str(first)), tmp_path / "second")
    (second,) = (tmp_path / "second/hdf5").rglob("*.hdf5")
    (old,), (new,) = recordings(first, TASK), recordings(second, TASK)
    assert not np.array_equal(old.states[0], new.states[0]) and set(old.fixtures) == set(new.fixtures)
    assert Dataset(tmp_path / "second", "train").infos[0].length == len(new.actions) - 1
    with pytest.raises(UserError, match="has no demonstrations of libero_goal/turn_on_the_stove: expected a file turn"):
        recordings(first, "libero_goal/turn_on_the_stove")


def test_files_of_other_settings_are_not_gone_on_with(
    assets: Assets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it was cut off before anything was imported."""
    monkeypatch.setattr(collecting, "import_collected", lambda *args, **options: None)
    made: list[Path] = []

    def write(path: Path, demos: object, attributes: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        made.append(path)

    monkeypatch.setattr(collecting, "write_libero_hdf5", write)
    what = LiberoCollection(TASK, 2, options=(("libero_root", str(assets.libero)),))
    collect_libero(replace(what, seed=7), tmp_path)
    made[0].unlink()  # of which nothing came
    assert collect_libero(what, tmp_path) == {TASK: 0} and collect_libero(what, tmp_path) == {}
    for changes, message in (
        ({"episodes": 3}, r"\(episodes 2, now 3\)"),
        ({"seed": 9, "noise": 0.1}, r"\(noise 0.0, now 0.1; seed 0, now 9\)"),
    ):
        with pytest.raises(UserError, match=f"collected with other settings {message}"):
            collect_libero(replace(what, **changes), tmp_path)
    with pytest.raises(UserError, match="split 'train', now 'val'"):
        collect_libero(what, tmp_path, split="val")
    (tmp_path / "hdf5" / collecting.NOTE).unlink()
    with pytest.raises(UserError, match=r"no collection\.json that tells how they were made"):
        collect_libero(what, tmp_path)
    assert len(made) == 2


def test_what_is_missing_is_told_before_anything_begins(
    assets: Assets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in (ROOT, ROBOSUITE_ROOT):
        monkeypatch.delenv(variable, raising=False)
    root, out = str(assets.libero), str(tmp_path / "out")
    for task, options, message in (
        (TASK, ["--libero_root", str(tmp_path)], f"assets are not found in {tmp_path}"),
        ("libero_90/0", ["--libero_root", root], "there is no script for the goal (close"),
        (TASK, ["--libero_root", root, "--adapt", str(tmp_path)], "holds no files .hdf5"),
        (TASK, ["--libero_root", root, "--renderer", "none"], "unknown renderer 'none'"),
        (TASK, ["--fps", "10", "--depth"], "--fps, --depth: for tabletop tasks only"),
        ("tabletop/block_stack", ["--libero_root", root], "--libero_root: for LIBERO's tasks only"),
    ):
        assert main(["collect", task, "--episodes", "1", "--out", out, *options]) == 2
        told = capsys.readouterr().err
        assert message in told and told.count("\n") == 1, told
    assert not Path(out).exists()


OPTIONS = {"action_free": [], "depth": [], "views": ["front"], "sets": ["grid"], "control": ["osc_delta"]}


@pytest.mark.parametrize("name", TABLETOP_OPTIONS)
def test_options_of_tabletop_tasks_are_not_libero_s(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collect", TASK, "--episodes", "1", "--out", "no", f"--{name}", *OPTIONS.get(name, ["5"])]) == 2
    assert f"--{name}: for tabletop tasks only" in capsys.readouterr().err


@pytest.mark.parametrize("name", LIBERO_OPTIONS)
def test_options_of_libero_are_not_tabletop_tasks(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collect", "tabletop/block_stack", "--episodes", "1", "--out", "no", f"--{name}", "0"]) == 2
    assert f"--{name}: for LIBERO's tasks only" in capsys.readouterr().err
