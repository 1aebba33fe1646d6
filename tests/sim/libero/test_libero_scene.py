"""LIBERO's scenes: equal to the recorded originals, alike in motion for every profile, and built for all 130 tasks."""

from __future__ import annotations

import functools
import gzip
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import libero_scenes as scenes
import mujoco
import numpy as np
import pytest

from t2p.io import UserError
from t2p.sim.environment import PLAIN, Observe
from t2p.sim.libero.assets import Assets, initial_states, load_problem, split_state
from t2p.sim.libero.environment import LiberoEnvironment
from t2p.sim.libero.names import handles
from t2p.sim.libero.protocols import STILL
from t2p.sim.libero.quirks import Quirks
from t2p.sim.libero.scene import VIEWS, build
from t2p.sim.libero.suites import SUITES

ALL = [(suite, task) for suite, names in SUITES.items() for task in names]
COUNTS = ("nq", "nv", "nu", "nbody", "njnt", "ngeom", "nsite", "nmesh", "ntex", "nmat", "ncam", "nsensor")
OPTIONS = ("timestep", "impratio", "cone", "solver", "integrator", "tolerance", "iterations", "density", "viscosity")
KINDS = ("body", "joint", "actuator", "site", "geom", "camera", "sensor")
# The order of these in memory is MuJoCo's; room for contacts is no longer set by a number of them.
MEMORY = ("adr", "names", "map", "paths", "nbuffer", "narena", "njmax", "nconmax")
STEPS = 10  # of the policy, in which a scene settles


def named(model: mujoco.MjModel, kind: str) -> list[str | None]:
    numbers = {"joint": model.njnt, "camera": model.ncam, "actuator": model.nu}
    count = numbers.get(kind) or getattr(model, f"n{kind}")
    return [getattr(model, kind)(i).name or None for i in range(count)]


def arrays(model: mujoco.MjModel) -> dict[str, np.ndarray]:
    """All numbers of a model but addresses into names and files."""
    found = {
        name: getattr(model, name) for name in dir(model) if not name.startswith("_") and not name.endswith(MEMORY)
    }
    for part in ("opt", "stat"):
        group = getattr(model, part)
        found |= {f"{part}.{name}": getattr(group, name) for name in dir(group) if not name.startswith("_")}
    return {name: np.asarray(value) for name, value in found.items() if isinstance(value, (int, float, np.ndarray))}


@functools.lru_cache(maxsize=1)
def build_golden(assets: Assets, name: str) -> mujoco.MjModel:
    return build(load_problem(assets, *name.split("__")), assets).compile()


def test_a_scene_equals_the_recorded_one(assets: Assets, golden: Path) -> None:
    """The scene that robosuite merged from the same files, compiled here: every number of both models is the same."""
    ours = build_golden(assets, golden.name)
    xml = gzip.decompress((golden / "model_merged.xml.gz").read_bytes()).decode()
    for place, folder in (("LIBERO_ASSETS", assets.libero / "assets"), ("ROBOSUITE_ASSETS", assets.robosuite)):
        xml = xml.replace(place, str(folder))
    theirs = mujoco.MjModel.from_xml_string(xml)
    assert [named(ours, kind) for kind in KINDS] == [named(theirs, kind) for kind in KINDS]
    want, got = arrays(theirs), arrays(ours)
    want["site_rgba"] = want["site_rgba"] * np.array([1, 1, 1, -1], np.float32)  # hidden, as by robosuite's reset
    assert got.keys() == want.keys()
    for name in [name for name in want if "numeric" in name]:  # ours says which groups are drawn
        want.pop(name)
    want.pop("tex_colorspace", None)  # newer MuJoCo: linear, as MuJoCo 2.3.7 drew
    assert [name for name in want if not np.array_equal(got[name], want[name], equal_nan=True)] == []


def test_a_scene_has_the_recorded_names_and_numbers(assets: Assets, golden: Path) -> None:
    """Numbers out of MuJoCo 2.3.7."""
    ours = build_golden(assets, golden.name)
    summary = json.loads((golden / "model_summary.json").read_text())
    assert [getattr(ours, count) for count in COUNTS] == [summary[count] for count in COUNTS]
    assert [getattr(ours.opt, option) for option in OPTIONS] == [summary[option] for option in OPTIONS]
    assert [named(ours, kind) for kind in KINDS] == [summary[f"{kind}_names"] for kind in KINDS]
    problem = load_problem(assets, *golden.name.split("__"))
    fixtures = [ours.body(f"{name}_main").id for name in summary["fixtures"]]
    # Meshes are turned into principal axes that MuJoCo finds anew in each release, which changes neither picture nor
    # contacts; a stove's alpha tells whether it was turned on; fixtures lie where the recording's reset put them.
    meshes = ours.geom_type == mujoco.mjtGeom.mjGEOM_MESH
    burners = [site for site, _ in handles(ours, problem).burners]
    aside = {"geom_quat": meshes, "geom_size": meshes}
    aside |= {"body_pos": fixtures, "body_quat": fixtures, "site_rgba": burners}
    for name, want in np.load(golden / "model_arrays.npz").items():
        got = getattr(ours, name).copy()
        assert got.shape == want.shape, name
        if name in aside:
            got[aside[name]] = want[aside[name]]
        atol = 0 if want.dtype.kind in "iu" else 2e-6 if name == "geom_pos" else 1e-6
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=atol, err_msg=name)


def test_handles_are_the_recorded_ones(assets: Assets, golden: Path) -> None:
    problem = load_problem(assets, *golden.name.split("__"))
    summary = json.loads((golden / "model_summary.json").read_text())
    for profile in ("faithful", "physics"):
        model = build(problem, assets, profile).compile()
        found = handles(model, problem)
        assert list(found.instances) == summary["objects"] + summary["fixtures"]
        for name, geoms in summary["contact_geoms"].items():
            assert [model.geom(i).name for i in found.instances[name].geoms] == geoms
        addresses = [i for one in found.instances.values() for i in (*one.free, *one.qpos)]
        assert [*found.arm.qpos, *found.arm.fingers, *addresses] == list(range(model.nq))
        addresses = [i for one in found.instances.values() for i in (*one.free_dofs, *one.dofs)]
        assert [*found.arm.dofs, *found.arm.finger_dofs, *addresses] == list(range(model.nv))
        assert set(found.sites) == set(summary["sites"])
        assert [model.site(i).name for i in found.sites.values()] == list(found.sites)
        assert [*found.arm.torques, *found.arm.grip] == list(range(model.nu))
        assert (model.site(found.arm.site).name, model.body(found.arm.hand).name) == (
            "gripper0_grip_site",
            "robot0_right_hand",
        )


def test_recorded_torques_move_it_as_recorded(assets: Assets, golden: Path) -> None:
    """Physics alone under the controls that the original's controller gave, until the robot touches something.

    Objects are compared as with another MuJoCo: 2.3.7 finds a fifth contact now and then where a box comes down flat on
    a box, which moves it by up to 8 micrometres; later releases find the four that there are. Releases that let boxes
    touch twice as deep bring objects to rest alike; what moves is not compared there."""
    problem = load_problem(assets, *golden.name.split("__"))
    model = build(problem, assets, "physics").compile()
    hand, data = np.isin(np.arange(model.ngeom), handles(model, problem).arm.geoms), mujoco.MjData(model)
    recorded = np.load(golden / "traj_smooth.npz")
    tolerance = json.loads((golden / "meta.json").read_text())["compare"]
    atol = np.full(model.nq, tolerance["other_mujoco_resting_objects"]["atol"])
    atol[:9] = tolerance["arm_qpos_free_motion"]["atol"]
    model.body_pos[:], model.body_quat[:] = recorded["body_pos"], recorded["body_quat"]
    states = split_state(recorded["states"], model.nq, model.nv)[1]
    things = np.split(np.arange(model.nq), model.jnt_qposadr[9:])[1:]
    compared = scenes.compared(states, things, things)
    _, data.qpos[:], data.qvel[:] = split_state(recorded["init_state"], model.nq, model.nv)
    for step, controls in enumerate(recorded["substep_ctrl"][: 25 * 40].reshape(40, 25, model.nu)):
        for data.ctrl[:] in controls:
            mujoco.mj_step(model, data)
        if (hand[data.contact.geom].sum(1) == 1).any():
            break
        off = np.abs(data.qpos - states[step + 1]) > atol
        assert not (off & compared[step + 1]).any(), f"step {step}"
    assert step >= 10 and compared[: step + 1].mean(axis=0).min() > 0.5


def test_handles_of_another_task_are_refused(assets: Assets) -> None:
    model = scenes.model(assets, "libero_object", SUITES["libero_object"][0])
    with pytest.raises(UserError, match="the model has no body 'akita_black_bowl_1_main': is it another task's"):
        handles(model, load_problem(assets, "libero_goal", "turn_on_the_stove"))


def run(model: mujoco.MjModel, states: np.ndarray, steps: int) -> np.ndarray:
    """States under torques that throw the arm about."""
    data, rng, seen = mujoco.MjData(model), np.random.default_rng(0), []
    for state in states:
        mujoco.mj_resetData(model, data)
        _, data.qpos[:], data.qvel[:] = split_state(state, model.nq, model.nv)
        for i in range(steps):
            if i % 25 == 0:
                data.ctrl[:] = rng.uniform(*model.actuator_ctrlrange.T) * 0.6
            mujoco.mj_step(model, data)
            seen.append(np.concatenate([data.qpos, data.qvel, data.sensordata, [data.ncon]]))
    return np.array(seen)


@pytest.mark.parametrize(
    ("suite", "task"),
    [
        ("libero_goal", "open_the_middle_drawer_of_the_cabinet"),
        ("libero_10", "KITCHEN_SCENE6_put_the_yellow_and_white_mug_in_the_microwave_and_close_it"),
    ],
)
def test_what_is_only_looked_at_moves_nothing(assets: Assets, suite: str, task: str) -> None:
    states = initial_states(assets, suite, task)[:2]
    looks = scenes.model(assets, suite, task, "faithful")
    bare = scenes.model(assets, suite, task, "physics")
    want, got = run(looks, states, 150), run(bare, states, 150)
    np.testing.assert_array_equal(got, want)
    assert np.ptp(want[:, -1]) > 5, "contacts come and go"
    assert bare.ntex == bare.nmat == bare.nlight == 0 and bare.ngeom < 0.8 * looks.ngeom
    assert named(bare, "body") == named(looks, "body") and named(bare, "site") == named(looks, "site")


def test_fast_to_draw_is_the_same_world(assets: Assets) -> None:
    problem = load_problem(assets, "libero_goal", "turn_on_the_stove")
    looks, fast = (build(problem, assets, profile) for profile in ("faithful", "fast"))
    assert (looks.visual.quality.shadowsize, looks.visual.quality.offsamples) == (4096, 4)
    assert (fast.visual.quality.shadowsize, fast.visual.quality.offsamples) == (1024, 0)
    model = looks.compile()
    assert model.nlight and not model.light_castshadow.any()  # so that its shadow map's size does not show
    want, got = arrays(model), arrays(fast.compile())
    assert [name for name in want if not np.array_equal(got[name], want[name], equal_nan=True)] == ["mat_reflectance"]


def test_what_is_unknown_or_missing_is_named(assets: Assets, tmp_path: Path) -> None:
    problem = load_problem(assets, "libero_goal", "turn_on_the_stove")
    with pytest.raises(UserError, match="unknown problem class 'libero_cave'; expected one of libero_tabletop"):
        build(replace(problem, kind="libero_cave"), assets)
    with pytest.raises(UserError, match="bowl_9 is of the unknown category 'bowl'; expected one of akita_black_bowl"):
        build(replace(problem, objects=(("bowl_9", "bowl"),)), assets)
    with pytest.raises(UserError, match="unknown profile 'fancy'; expected one of faithful, fast, physics"):
        build(problem, assets, "fancy")  # type: ignore[arg-type]
    with pytest.raises(
        UserError, match=r"libero_tabletop_base_style.xml is missing. Name its place by T2P_LIBERO_ROOT"
    ):
        build(problem, Assets(tmp_path, assets.robosuite))
    with pytest.raises(UserError, match=r"robot.xml is missing. Name its place by T2P_ROBOSUITE_ROOT"):
        build(problem, Assets(assets.libero, tmp_path))


def test_a_file_that_a_scene_needs_is_named(assets: Assets, tmp_path: Path) -> None:
    """Physics alone needs no picture; a model file of another robosuite is noticed."""
    for folder in ("assets", "robosuite"):
        source = assets.libero / "assets" if folder == "assets" else assets.robosuite
        shutil.copytree(source, tmp_path / folder, ignore=shutil.ignore_patterns("*.png", "*.msh", "*.obj"))
    suite, task = "libero_goal", "turn_on_the_stove"
    bare, problem = Assets(tmp_path, tmp_path / "robosuite"), load_problem(assets, suite, task)
    assert build(problem, bare, "physics").compile().ngeom == scenes.model(assets, suite, task).ngeom
    with pytest.raises(
        UserError, match=r"\d+ files of the scene are missing: .*martin_novak_wood_table.png, .*T2P_LIBERO"
    ):
        build(problem, bare)
    gripper = tmp_path / "robosuite/grippers/panda_gripper.xml"
    gripper.write_text(gripper.read_text().replace("right_gripper", "right_hand"))
    with pytest.raises(UserError, match=r"panda_gripper.xml has no body 'right_gripper'"):
        build(problem, bare)
    gripper.write_text("<mujoco><worldbody>")
    with pytest.raises(UserError, match=r"panda_gripper.xml is not a model that MuJoCo"):
        build(problem, bare)


@pytest.mark.parametrize("shard", range(2))
def test_tasks_have_the_recorded_layout(assets: Assets, facts: dict[str, Any], shard: int) -> None:
    """A tenth of the tasks; the sweep below takes all."""
    for suite, task in ALL[shard * 5 :: 10]:
        check_layout(assets, facts["task_index"][f"{suite}/{task}"], suite, task)
        with made(assets, suite, task) as environments:
            settle(environments[:2], 2)


def check_layout(assets: Assets, want: dict[str, Any], suite: str, task: str) -> None:
    problem = load_problem(assets, suite, task)
    assert len(build(problem, assets).geoms) == want["ngeom"]
    model = scenes.model(assets, suite, task)
    assert (model.nq, model.nv, named(model, "joint")) == (want["nq"], want["nv"], want["joints"])
    assert set(want["sites"]) == set(handles(model, problem).sites)
    assert initial_states(assets, suite, task).shape[1] == 1 + model.nq + model.nv


def settle(environments: Sequence[LiberoEnvironment], states: int) -> None:
    """Starts from the first published states, so many at a time as there are environments, and takes ten policy steps
    of no motion from each."""
    for first in range(0, states, len(environments)):
        group = environments[: states - first]
        for seed, one in enumerate(group, first):
            one.reset(seed)
        for _ in range(STEPS):
            for one in group:
                one.begin(np.array(STILL))
            LiberoEnvironment.advance_all(group)
            for one in group:
                one.finish()
        for seed, one in enumerate(group, first):
            assert one.failure is None, f"{one.task.name}, initial state {seed}: {one.failure}"
            assert one.steps == STEPS and np.abs(one.data.qpos).max() < 10, (
                f"{one.task.name}, {seed}: something flew off"
            )


@contextmanager
def made(assets: Assets, suite: str, task: str, observe: Observe = PLAIN) -> Iterator[list[LiberoEnvironment]]:
    """Ten environments of a task; the first owns what they share."""
    libero = scenes.task(assets, f"{suite}/{task}", quirks=Quirks(settle=False))
    first = LiberoEnvironment(libero, observe)
    try:
        yield [first, *(LiberoEnvironment(libero, observe, scene=first.scene) for _ in range(9))]
    finally:
        first.close()


@pytest.mark.long
@pytest.mark.parametrize("shard", range(13))
def test_all_tasks_build_settle_and_are_drawn(assets: Assets, facts: dict[str, Any], shard: int) -> None:
    for suite, task in ALL[shard::13]:
        check_layout(assets, facts["task_index"][f"{suite}/{task}"], suite, task)
        with made(assets, suite, task, Observe(tuple(VIEWS), size=(64, 64))) as environments:
            settle(environments, len(initial_states(assets, suite, task)))
            seen = environments[-1].observe()
            for view in VIEWS:
                assert seen["images", view].std() > 5, f"{task}: {view} sees nothing"
