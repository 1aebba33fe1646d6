"""Finding LIBERO's files, unpacking them safely, and initial states out of files that are not trusted."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from t2p.io import UserError
from t2p.sim.libero import assets as module
from t2p.sim.libero.assets import Assets, find_assets, initial_states, load_problem, split_state
from t2p.sim.libero.scene import build
from t2p.sim.libero.suites import SUITES

SUITE, TASK = "libero_goal", "turn_on_the_stove"
BUNDLE = ("assets/scenes/room.xml", "bddl_files/libero_goal/turn_on_the_stove.bddl")
ROBOTS = ("robots/panda/robot.xml", "grippers/panda_gripper.xml", "mounts/rethink_mount.xml")


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No assets but those that a test lays out."""
    for name in ("T2P_LIBERO_ROOT", "T2P_ROBOSUITE_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def lay(folder: Path, *files: str) -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("here")
    return folder


def bundle(folder: Path) -> Path:
    return lay(folder, *BUNDLE, *(f"robosuite/{file}" for file in ROBOTS))


@pytest.mark.parametrize("inside", ["", "libero_assets", "libero/libero"])
def test_a_root_may_be_a_bundle_or_a_checkout(tmp_path: Path, inside: str) -> None:
    folder = bundle(tmp_path / "root" / inside)
    found = find_assets(tmp_path / "root")
    assert found == Assets(folder, folder / "robosuite")
    assert found.model("scenes/room.xml").read_text() == found.task_file(SUITE, TASK).read_text() == "here"
    with pytest.raises(UserError, match=r"scenes/hall.xml is missing. Name its place by T2P_LIBERO_ROOT"):
        found.model("scenes/hall.xml")
    with pytest.raises(
        UserError, match=r"null_mount.xml is missing. Name its place by T2P_ROBOSUITE_ROOT: robosuite 1.4"
    ):
        found.robot("mounts/null_mount.xml")


def test_the_environment_names_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(tmp_path / "checkout", *(f"libero/libero/{file}" for file in BUNDLE))
    lay(tmp_path / "robosuite", *(f"robosuite/models/assets/{file}" for file in ROBOTS))
    monkeypatch.setenv("T2P_LIBERO_ROOT", str(tmp_path / "checkout"))
    with pytest.raises(UserError, match=r"robosuite's models \(robots/panda/robot.xml.*--no-deps robosuite==1.4.1"):
        find_assets()
    monkeypatch.setenv("T2P_ROBOSUITE_ROOT", str(tmp_path / "robosuite"))
    assert find_assets().robosuite == tmp_path / "robosuite/robosuite/models/assets"
    assert find_assets(bundle(tmp_path / "given")).libero == tmp_path / "given"  # an argument goes before


def test_installed_packages_are_found_and_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(tmp_path, *(f"libero/libero/{file}" for file in BUNDLE))
    lay(tmp_path, *(f"robosuite/models/assets/{file}" for file in ROBOTS))
    for package in ("libero", "robosuite"):
        (tmp_path / package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_assets() == Assets(tmp_path / "libero/libero", tmp_path / "robosuite/models/assets")


def test_an_installed_hf_libero_has_its_models_in_a_folder_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its wheel holds task files and initial states; it downloads the models to ~/.cache/libero/assets."""
    package = lay(tmp_path / "site/libero/libero", BUNDLE[1], f"init_files/{SUITE}/{TASK}.pruned_init")
    lay(tmp_path / "site", *(f"robosuite/models/assets/{file}" for file in ROBOTS))
    lay(tmp_path / "site/libero", "__init__.py")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    models = tmp_path / "home/.cache/libero/assets"
    with pytest.raises(UserError, match=rf"{package}/assets and, .*{models}. hf-libero downloads.*get_assets_path\(\)"):
        find_assets()
    lay(models, "articulated_objects/stove.xml")  # an interrupted download
    with pytest.raises(UserError, match="get_assets_path"):
        find_assets(tmp_path / "site/libero")
    lay(models, "scenes/room.xml")
    for found in (find_assets(), find_assets(tmp_path / "site/libero")):
        assert found.model("scenes/room.xml") == models / "scenes/room.xml"
        assert found.task_file(SUITE, TASK).is_file() and found.states_file(SUITE, TASK).is_file()
    lay(package, BUNDLE[0])  # what lies beside the task files goes before
    assert find_assets().model("scenes/room.xml") == package / BUNDLE[0]


def test_scenes_are_built_of_models_in_a_folder_of_their_own(
    assets: Assets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/bddl_files").symlink_to(assets.libero / "bddl_files")
    (tmp_path / "home/.cache/libero").mkdir(parents=True)
    (tmp_path / "home/.cache/libero/assets").symlink_to(assets.libero / "assets")
    monkeypatch.setenv("T2P_ROBOSUITE_ROOT", str(assets.robosuite))
    found = find_assets(tmp_path / "root")
    assert found.models == assets.models
    spec = build(load_problem(found, SUITE, TASK), found)
    assert any(str(found.models / "textures") in texture.file for texture in spec.textures)


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_installed", lambda package: [])
    with pytest.raises(UserError, match=r"not found; no package that holds them is installed. .*T2P_LIBERO_ROOT"):
        find_assets()
    with pytest.raises(UserError, match="nowhere does not exist"):
        find_assets(tmp_path / "nowhere")
    with pytest.raises(UserError, match=f"not found in {tmp_path}"):
        find_assets(tmp_path)
    (tmp_path / "notes.txt").write_text("no archive")
    with pytest.raises(UserError, match=r"notes.txt cannot be unpacked"):
        find_assets(tmp_path / "notes.txt")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "libero_assets.tar.xz"
    with tarfile.open(path, "w:xz") as tar:
        tar.add(bundle(tmp_path / "packed"), "libero_assets")
    return path


def test_an_archive_is_unpacked_once(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []
    unpack = module._unpack

    def counted(path: Path, target: Path) -> None:
        calls.append(path)
        unpack(path, target)

    monkeypatch.setattr(module, "_unpack", counted)
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(find_assets, [archive] * 8))
    assert len(found) == len(calls) == 1
    assert found.pop().model("scenes/room.xml").read_text() == "here"
    assert find_assets(archive) and len(calls) == 1


def test_half_an_archive_leaves_nothing(archive: Path, tmp_path: Path) -> None:
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot be unpacked"):
        find_assets(archive)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.suffix != ".lock" and not path.is_dir()]


def test_an_archive_writes_nowhere_else(tmp_path: Path) -> None:
    path = tmp_path / "evil.tar"
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("../../../../escaped")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"evil"))
    with pytest.raises(UserError, match="cannot be unpacked"):
        find_assets(path)
    assert not list(tmp_path.rglob("escaped"))


# Initial states


def save_pruned(path: Path, payload: bytes) -> None:
    """As torch.save lays out what LIBERO gives it: an array of NumPy's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", payload)
        archive.writestr("archive/version", b"3\n")


@pytest.fixture
def stored(tmp_path: Path) -> Callable[[Any], Assets]:
    """Assets whose task has initial states with a value or, given bytes, with that pickle."""
    folder = bundle(tmp_path / "root")

    def store(value: Any) -> Assets:
        payload = value if isinstance(value, bytes) else pickle.dumps(value, protocol=2)
        save_pruned(folder / f"init_files/{SUITE}/{TASK}.pruned_init", payload)
        return find_assets(folder)

    return store


def test_pruned_init_files_are_read(stored: Callable[[Any], Assets]) -> None:
    states = np.random.default_rng(0).normal(size=(50, 12))
    read = initial_states(stored(states), SUITE, TASK)
    assert read.dtype == np.float64
    np.testing.assert_array_equal(read, states)


def test_npz_files_are_read(tmp_path: Path) -> None:
    assets = find_assets(bundle(tmp_path / "root"))
    with pytest.raises(UserError, match=rf"{TASK}.pruned_init is missing"):
        initial_states(assets, SUITE, TASK)
    path = tmp_path / f"root/init_states/{SUITE}/{TASK}.npz"
    path.parent.mkdir(parents=True)
    np.savez(path, states=np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(initial_states(assets, SUITE, TASK), [[0, 1, 2], [3, 4, 5]])


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return Path.touch, (self.marker,)


def test_a_pruned_init_that_would_run_code_is_refused(stored: Callable[[Any], Assets], tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    with pytest.raises(UserError, match=r"turn_on_the_stove.pruned_init is refused: it asks for"):
        initial_states(stored(Evil(marker)), SUITE, TASK)
    with pytest.raises(UserError, match=r"it asks for (posix|nt|os).system"):
        initial_states(stored(b"cposix\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR."), SUITE, TASK)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros(12), r"a row for each initial state; it holds float64 of shape \(12,\)"),
        (np.zeros((0, 12)), "it holds float64"),
        (np.zeros((2, 12), int), "it holds int64"),
        ({"states": [1.0]}, "it holds dict"),
        (np.full((2, 12), np.nan), "numbers that are not finite"),
        (b"\x80\x02]", "is not a whole pickle"),
    ],
    ids=["vector", "empty", "integers", "dict", "nan", "cut"],
)
def test_other_content_is_named(stored: Callable[[Any], Assets], value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        initial_states(stored(value), SUITE, TASK)


def test_states_are_split_and_their_length_is_checked() -> None:
    time, qpos, qvel = split_state(np.arange(12.0).reshape(2, 6), 3, 2)
    assert (time.tolist(), qpos.tolist(), qvel.tolist()) == ([0, 6], [[1, 2, 3], [7, 8, 9]], [[4, 5], [10, 11]])
    with pytest.raises(UserError, match=r"have 6 numbers each, this model needs 7 \(time, 3 positions, 3 velocities\)"):
        split_state(np.zeros((2, 6)), 3, 3)


def test_unknown_suites_and_bad_task_files_are_named(tmp_path: Path) -> None:
    assets = find_assets(bundle(tmp_path / "root"))
    for read in (initial_states, load_problem):
        with pytest.raises(UserError, match=r"unknown LIBERO suite 'libero_gaol'.*did you mean 'libero_goal'"):
            read(assets, "libero_gaol", TASK)
    with pytest.raises(UserError, match=r"turn_on_the_stove.bddl: task file, line 1: 'here' stands outside"):
        load_problem(assets, SUITE, TASK)


def test_all_tasks_have_their_states(assets: Assets, facts: dict[str, Any]) -> None:
    for suite, names in SUITES.items():
        for name in names:
            task = facts["task_index"][f"{suite}/{name}"]
            states = initial_states(assets, suite, name)
            assert states.shape == (50, 1 + task["nq"] + task["nv"])
