"""LIBERO's tasks by name: what can be said of them without their files, what their files say, wrong options."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
from libero_scenes import STOVE, task

from t2p.io import UserError
from t2p.sim.libero.assets import ROOT, Assets, initial_states
from t2p.sim.libero.placement import Placement, find_placement
from t2p.sim.libero.protocols import PROTOCOLS
from t2p.sim.libero.quirks import Quirks
from t2p.sim.libero.task import LiberoTask
from t2p.sim.registry import make_task, names, suite

BOWL = "libero_spatial/pick_up_the_black_bowl_on_the_stove_and_place_it_on_the_plate"


@pytest.fixture(scope="module")
def found(assets: Assets) -> Placement:
    libero = task(assets)
    return find_placement(libero.build("physics").compile(), libero.problem)


def test_all_tasks_are_known_without_their_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ROOT, "/nowhere")
    libero = [name for name in names() if name.startswith("libero_")]
    assert len(libero) == 130 == len({*libero})
    assert len(suite("libero_object")) == 10 and len(suite("libero_90")) == 90
    one = make_task(BOWL, protocol="openpi")
    assert make_task("libero_spatial/7", protocol="openpi") == one
    assert one.name == BOWL and one.instruction == "pick up the black bowl on the stove and place it on the plate"
    assert (one.limit, one.settle, one.action.dim) == (220, 10, 7) and list(one.views) == ["agentview", "eye_in_hand"]
    assert pickle.loads(pickle.dumps(one)) == one
    with pytest.raises(UserError, match="/nowhere does not exist"):
        one.build()


def test_importing_the_registry_reads_no_files() -> None:
    """Nor does it import what draws or what LIBERO was built on."""
    code = """
import sys, builtins
from pathlib import Path
import t2p.sim.registry as registry
opened = []
sys.addaudithook(lambda name, args: opened.append(str(args[0])) if name == "open" else None)
tasks = [registry.make_task(name) for name in registry.names() if name.startswith("libero_")]
assert len(tasks) == 130 and not opened, opened
assert not {"robosuite", "libero", "bddl", "torch", "jax"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_a_seed_stands_for_the_protocols_state(assets: Assets, found: Placement, protocol: str) -> None:
    libero = task(assets, protocol=protocol)
    states = initial_states(assets, *libero.name.split("/"))
    for seed in (0, 1, 7, 51):
        start = libero.start(found, seed)
        row = np.concatenate([[start.time], start.qpos, start.qvel])
        if protocol == "reset":
            assert not (row == states).all(1).any()
        else:
            np.testing.assert_array_equal(row, states[libero.rules.state(seed)])


def test_fixtures_stand_by_the_seed_or_in_the_middle(assets: Assets, found: Placement) -> None:
    libero, model = task(assets), found.model
    stove = model.body("flat_stove_1_main").id
    places = np.array([libero.start(found, seed).body_pos for seed in (0, 1, 0)])
    moved = np.flatnonzero(np.abs(places[1] - places[0]).max(1))
    assert moved.tolist() == [stove]
    np.testing.assert_array_equal(places[0], places[2])
    centre = task(assets, quirks=Quirks(fixture_poses="centre"))
    fixed = find_placement(libero.build("physics").compile(), libero.problem, centre.quirks)
    middle = [centre.start(fixed, seed) for seed in (0, 1)]
    np.testing.assert_array_equal(middle[0].body_pos, middle[1].body_pos)
    np.testing.assert_array_equal(middle[0].qpos, libero.start(found, 0).qpos)


def test_states_may_be_named_or_given(assets: Assets, found: Placement) -> None:
    libero, states = task(assets), initial_states(assets, *task(assets).name.split("/"))
    named, given = libero.start(found, 3, 17), libero.start(found, 3, states[17])
    for start in (named, given):
        np.testing.assert_array_equal(start.qpos, states[17, 1 : 1 + found.model.nq])
        np.testing.assert_array_equal(start.body_pos, libero.start(found, 3).body_pos)
    with pytest.raises(UserError, match=r"this model needs \d+ \(time, \d+ positions, \d+ velocities\)"):
        libero.start(found, 3, states[17, :-1])
    with pytest.raises(UserError, match="has the initial states 0 to 49; got 50"):
        libero.start(found, 3, 50)


def test_published_states_and_those_that_a_reset_draws(assets: Assets, found: Placement) -> None:
    import mujoco

    libero, model = task(assets), found.model
    data, states = mujoco.MjData(model), initial_states(assets, *task(assets).name.split("/"))
    stored = libero.stored(model, data, 49)
    np.testing.assert_array_equal(stored.qpos, states[49, 1 : 1 + model.nq])
    np.testing.assert_array_equal(stored.body_pos, model.body_pos)
    one, again, other = (task(assets, protocol="reset").start(found, seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one.qpos, again.qpos)
    assert (one.qpos != other.qpos).any() and (one.body_pos != other.body_pos).any()


def test_sentences_of_file_name_and_file_differ(assets: Assets) -> None:
    name = "libero_object/pick_up_the_alphabet_soup_and_place_it_in_the_basket"
    usual, other = task(assets, name), task(assets, name, quirks=Quirks(language="bddl"))
    assert usual.instruction == "pick up the alphabet soup and place it in the basket"
    assert other.instruction == other.problem.language != usual.instruction


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("libero_spatia/0", {}, "unknown task.*libero_spatial"),
        ("libero_object/pick_up_the_milk", {}, "did you mean"),
        ("libero_object/10", {}, "index from 0 to 9"),
        (STOVE, {"control": "setpoint_pose"}, "controlled by 'osc_delta'; got 'setpoint_pose'"),
        (STOVE, {"protocol": "mine"}, "unknown protocol 'mine'; expected one of atm"),
        (STOVE, {"proprio": "all"}, "must be demonstrations or observables; got 'all'"),
        (STOVE, {"profile": "slow"}, "unknown profile 'slow'; expected one of faithful"),
        (STOVE, {"embodiment": "hand"}, "has no option embodiment; its options are control, protocol"),
    ],
)
def test_wrong_names_and_options_are_refused(name: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_task(name, **options)


def test_a_name_is_completed() -> None:
    assert LiberoTask("libero_object/7").name == "libero_object/pick_up_the_milk_and_place_it_in_the_basket"
