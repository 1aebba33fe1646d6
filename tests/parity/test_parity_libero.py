"""LIBERO's recorded scenes against t2p, and what of a recording is compared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

from t2p.cli.main import main
from t2p.io import read_json
from t2p.parity import harness, libero
from t2p.sim.libero.task import LiberoTask
from t2p.sim.render import why_not
from t2p.types import InitialState

ARCHIVE = "libero_assets.tar.xz"
SCENES = {
    "stove": "libero_10__KITCHEN_SCENE3_turn_on_the_stove_and_put_the_moka_pot_on_it",
    "microwave": "libero_10__KITCHEN_SCENE6_put_the_yellow_and_white_mug_in_the_microwave_and_close_it",
    "living_room": "libero_90__LIVING_ROOM_SCENE6_put_the_chocolate_pudding_to_the_left_of_the_plate",
    "goal": "libero_goal__open_the_middle_drawer_of_the_cabinet",
    "object": "libero_object__pick_up_the_alphabet_soup_and_place_it_in_the_basket",
    "spatial": ("libero_spatial__pick_up_the_black_bowl_between_the_plate_and_the_ramekin_and_place_it_on_the_plate"),
}


@pytest.fixture
def golden(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("T2P_LIBERO_ROOT", str(shared / ARCHIVE))
    return shared / "golden/libero"


@pytest.mark.skipif(why_not("egl") is not None, reason="pictures need EGL")
@pytest.mark.parametrize("scene", SCENES)
def test_golden(golden: Path, scene: str) -> None:
    report = harness.check(golden / SCENES[scene])
    assert report.status == "ok", [line for line in report.lines if not line.ok]
    categories = {line.name.split("/")[0] for line in report.lines}
    assert categories == {
        *("arm_qpos_free_motion", "resting_objects", "ctrl_first_10_env_steps", "proprio_free_motion"),
        *("predicates", "success", "image", "reset_samples", "model"),
    }


def test_without_assets_it_cannot_run(shared: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("T2P_LIBERO_ROOT", str(tmp_path))
    report = harness.check(shared / "golden/libero" / SCENES["goal"])
    assert report.status == "could not run" and "T2P_LIBERO_ROOT" in report.reason
    assert harness.exit_code([report]) == 3


def test_a_wrong_trajectory_is_noticed(golden: Path) -> None:
    """The comparison alone: what was recorded passes, a joint that is 1e-6 off does not."""
    directory = golden / SCENES["object"]
    fixture = libero.read(directory, read_json(directory / "meta.json"))
    recorded = {
        f"{file}/{name}": array
        for file in ("traj_iid", "traj_smooth")
        for name, array in np.load(directory / f"{file}.npz").items()
    }

    def failing(outputs: dict[str, np.ndarray]) -> set[str]:
        lines = harness.lines(fixture, outputs)
        return {line.name for line in lines if "/traj_iid/" in line.name and not line.ok}

    assert failing(recorded) == set()
    states = recorded["traj_iid/states"].copy()
    states[60, 3] += 1e-6
    assert failing(recorded | {"traj_iid/states": states}) == {"arm_qpos_free_motion/traj_iid/states"}
    states = recorded["traj_iid/states"].copy()
    states[100, -60] += 1e-5  # a coordinate of an object that lies still
    assert failing(recorded | {"traj_iid/states": states}) == {"resting_objects/traj_iid/states"}
    assert failing(recorded | {"traj_iid/states": states[:5]}) == {
        *("arm_qpos_free_motion/traj_iid/states", "resting_objects/traj_iid/states")
    }


# The door: what a folder lacks is told before anything is built, and without assets


META = {
    "fixture": "libero/goal",
    "suite": "libero_goal",
    "task": "turn_on_the_stove",
    "compare": {
        **{name: {"atol": 1e-9} for name in ("arm_qpos_free_motion", "ctrl_first_10_env_steps", "proprio_free_motion")},
        **{name: {"atol": 1e-6} for name in ("resting_objects", "other_mujoco_resting_objects")},
        **{"predicates": "exact", "success": "exact", "image": {"mean_abs": 0.3}},
    },
}
SUMMARY = {f"{kind}_names": [] for kind in libero.NAMES} | dict.fromkeys(libero.COUNTS, 0) | {"fixtures": []}


def scene_folder(folder: Path, meta: Any = META, summary: Any = SUMMARY, **lacking: str) -> Path:
    """A folder with all files and arrays but `lacking`: {file: array}, "all" for the file."""
    folder.mkdir(exist_ok=True)
    (folder / "meta.json").write_text(json.dumps(meta))
    (folder / "model_summary.json").write_text(json.dumps({"predicate_atoms": [], **summary}))
    for file, names in libero.NEEDED.items():
        arrays = {name: np.zeros((2, 3)) for name in (*names, "init_state") if name != lacking.get(file)}
        if lacking.get(file) != "all":
            np.savez(folder / f"{file}.npz", **arrays)
    return folder


def without(mapping: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if name != key}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"meta": without(META, "suite")}, "meta.json must name suite"),
        ({"meta": META | {"task": 3}}, "meta.json must name task"),
        ({"meta": META | {"suite": "libero_gaol"}}, "unknown LIBERO suite 'libero_gaol'"),
        ({"meta": without(META, "compare")}, 'no "compare"'),
        ({"meta": META | {"compare": "x"}}, 'no "compare"'),
        ({"traj_iid": "body_pos"}, "traj_iid.npz has no body_pos"),
        ({"traj_smooth": "substep_states"}, "traj_smooth.npz has no substep_states"),
        ({"traj_success": "init_state"}, "traj_success.npz has no init_state or start_state"),
        ({"reset_samples": "body_pos"}, "reset_samples.npz has no body_pos"),
        ({"model_arrays": "geom_type"}, "model_arrays.npz has no geom_type"),
        ({"summary": without(SUMMARY, "sensor_names")}, "model_summary.json has no sensor_names"),
        (dict.fromkeys(libero.NEEDED, "all"), "nothing that could be compared: none of traj_iid.npz"),
    ],
)
def test_what_a_folder_lacks_is_told_and_the_next_one_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], told: str
) -> None:
    monkeypatch.setenv("T2P_LIBERO_ROOT", str(tmp_path / "nowhere"))
    spoilt, whole = scene_folder(tmp_path / "spoilt", **changes), scene_folder(tmp_path / "whole")
    assert main(["parity", str(spoilt), str(whole)]) == 3
    out = capsys.readouterr().out
    assert told in out and "nowhere does not exist" in out and "2 fixtures: 2 could not run" in out


def test_the_summary_is_needed(tmp_path: Path) -> None:
    folder = scene_folder(tmp_path / "a")
    (folder / "model_summary.json").unlink()
    assert "a has no model_summary.json" in harness.check(folder).reason
    (folder / "model_summary.json").write_text("[]")
    assert harness.check(folder).status == "could not run"


def test_another_mujoco_needs_a_tolerance_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libero.mujoco, "__version__", "99.1")
    meta = META | {"compare": without(META["compare"], libero.OTHER)}
    report = harness.check(scene_folder(tmp_path / "a", meta))
    assert report.status == "could not run" and f"no {libero.OTHER}" in report.reason and "99.1" in report.reason


def part_of(golden: Path, scene: str, folder: Path, *files: str) -> Path:
    folder.mkdir()
    for file in ("meta.json", "model_summary.json", *files):
        shutil.copy(golden / SCENES[scene] / file, folder)
    return folder


def test_the_files_that_are_there_are_compared(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = part_of(golden, "object", tmp_path / "part", "reset_samples.npz", "predicates.npz")
    monkeypatch.setattr(LiberoTask, "note", "MuJoCo drifts.")
    assert main(["parity", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "absent, so not compared: traj_iid.npz, traj_smooth.npz, traj_success.npz, model_arrays.npz" in out
    assert "note: MuJoCo drifts." in out
    for name in ("reset_samples/reset_samples/state", "predicates/predicates/truth", "model/summary/nq"):
        assert name in out


def test_a_category_without_a_tolerance_is_told_before_anything_is_simulated(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = part_of(golden, "object", tmp_path / "part", "predicates.npz")
    meta = read_json(folder / "meta.json")
    del meta["compare"]["predicates"]
    (folder / "meta.json").write_text(json.dumps(meta))
    monkeypatch.setattr(harness, "run_adapter", lambda *given: pytest.fail("it ran"))
    report = harness.check(folder)
    assert report.status == "could not run" and "the tolerance of predicates/predicates/" in report.reason


def test_without_opengl_all_but_pictures_is_run(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    folder = part_of(golden, "living_room", tmp_path / "part", "traj_iid.npz")
    monkeypatch.setattr(libero, "choose_renderer", lambda: "rays")
    report = harness.check(folder)
    pictures = [line for line in report.lines if line.not_run]
    assert pictures and {line.name.split("/")[0] for line in pictures} == {"image"}
    assert all(line.ok for line in report.lines if not line.not_run)
    assert report.status == "could not run" and "EGL nor OSMesa" in report.reason
    assert harness.exit_code([report]) == 3
    monkeypatch.setattr(harness, "check", lambda directory: report)
    assert main(["parity", str(folder)]) == 3
    line = next(line for line in capsys.readouterr().out.splitlines() if pictures[0].name in line)
    assert line.endswith("not run")


# What of a trajectory is compared

SLIDES = '<joint type="slide"/><joint type="slide"/><joint type="slide"/>'
CUP = f"""<mujoco><worldbody>
<body name="robot0_arm">{2 * SLIDES}<geom size="0.1"/><body name="robot0_hand">{SLIDES}<geom size="0.1"/></body></body>
<body name="cup_1_main" pos="1 0 0"><freejoint/><geom size="0.1"/></body>
<body name="pan_1_main" pos="3 0 0"><freejoint/><geom size="0.1"/></body></worldbody></mujoco>"""


def recording(states: int) -> dict[str, np.ndarray]:
    """All that moves moves in every step; the cup stands from state 3 on, the pan always."""
    model = mujoco.MjModel.from_xml_string(CUP)
    rows = np.arange(states)[:, None] * np.ones((states, 1 + model.nq + model.nv))
    rows[:, 10:17] = np.minimum(rows[:, 10:17], 3)
    rows[:, 17:24] = 0
    fine = np.zeros((15 * libero.SUBSTEPS, rows.shape[1]))
    seen = {"obs/robot0_eef_pos": rows[:, 1:4], "obs/cup_1_pos": rows[:, 10:13], "obs/cup_1_quat": rows[:, 13:17]}
    seen |= {"obs/pan_1_to_robot0_eef_pos": rows[:, 1:4], "obs/cup_1_to_robot0_eef_quat": rows[:, 1:5]}
    done = np.zeros(states - 1, bool)
    return {"states": rows, "substep_states": fine, "substep_ctrl": fine, "atoms": done, "done": done, **seen}


def test_what_is_seen_of_an_object_is_compared_while_it_rests() -> None:
    model = mujoco.MjModel.from_xml_string(CUP)
    found = list(libero._compared(recording(8), 6, model, ("cup_1", "pan_1")))
    of = {name: (category, index) for category, name, index in found if name.startswith("obs/")}
    assert of["obs/robot0_eef_pos"] == ("proprio_free_motion", (slice(6),))
    for name, rows in (("cup_1_pos", [4, 5]), ("cup_1_to_robot0_eef_quat", [4, 5])):
        category, (mask,) = of[f"obs/{name}"]
        assert category == "resting_objects"
        assert mask.all(axis=1).nonzero()[0].tolist() == mask.any(axis=1).nonzero()[0].tolist() == rows
    category, (mask,) = of["obs/pan_1_to_robot0_eef_pos"]  # what the hand does is no matter
    assert category == "resting_objects" and mask[1:6].all() and not mask[0].any() and not mask[6:].any()


@pytest.mark.parametrize(("free", "steps"), [(0, 0), (1, 0), (2, 1), (30, 7)])
def test_nothing_is_compared_of_steps_after_a_touch(free: int, steps: int) -> None:
    model, found = mujoco.MjModel.from_xml_string(CUP), recording(8)
    for category, name, (index, *_) in libero._compared(found, min(free, 8), model, ("cup_1", "pan_1")):
        if name in ("substep_ctrl", "substep_states", "done") and isinstance(index, slice):
            assert len(found[name][index]) == steps * (1 if name == "done" else libero.SUBSTEPS), (category, name)
        elif name == "substep_states":
            assert not index[max(steps * libero.SUBSTEPS, 0) :].any()


def test_what_moves_is_not_compared_as_resting() -> None:
    values = np.zeros((6, 4))
    values[3:, 1] = 0.5  # the first thing jumps once
    still = libero.at_rest(values, 5, [np.array([0, 1]), np.array([3])], [np.array([0, 1]), np.array([2, 3])], 1e-6)
    expected = np.array([[0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]], bool)
    np.testing.assert_array_equal(still, expected)


def test_states_before_a_touch() -> None:
    model = mujoco.MjModel.from_xml_string(
        """<mujoco><worldbody>
        <body name="robot0_hand"><joint type="slide" axis="1 0 0"/><geom size="0.1"/></body>
        <body name="cup_1_main" pos="1 0 0"><geom size="0.1"/></body></worldbody></mujoco>"""
    )
    states = np.array([[0, x, 0] for x in (0.0, 0.5, 0.79, 0.81, 0.9)])
    frames = model.body_pos.copy(), model.body_quat.copy()
    for _ in range(2):  # the model is as it was
        assert libero.before_touch(model, ("cup_1",), states, *frames) == 3
        assert not model.geom_margin.any()
    closer = np.array([[0, x, 0] for x in (0.0, 0.7985, 0.7995)])  # 1.5 and 0.5 mm away
    assert libero.before_touch(model, ("cup_1",), closer, *frames) == 2
    passing = np.array([[0, x, 0] for x in (0.0, 0.5, 1.5)])  # through it between two states
    assert libero.before_touch(model, ("cup_1",), passing, *frames) == 2


def test_a_step_taken_back() -> None:
    model = mujoco.MjModel.from_xml_string(
        """<mujoco><worldbody><body><freejoint/><geom size="0.1"/>
        <body pos="1 0 0"><joint damping="0.1"/><geom size="0.1"/></body></body></worldbody></mujoco>"""
    )
    data = mujoco.MjData(model)
    data.qvel[:] = range(1, 8)
    for _ in range(5):
        before = data.qpos.copy()
        mujoco.mj_step(model, data)
    state = InitialState(data.time, data.qpos, data.qvel, model.body_pos, model.body_quat)
    found = libero.step_before(model, state)
    np.testing.assert_allclose(found.qpos, before, rtol=0, atol=1e-15)
    assert np.abs(state.qpos - before).max() > 1e-3
