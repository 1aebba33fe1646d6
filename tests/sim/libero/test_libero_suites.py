"""LIBERO's suites, and its catalogue of objects against the files that they are made of."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

from t2p.io import UserError
from t2p.sim.libero.assets import Assets
from t2p.sim.libero.catalog import CATEGORIES
from t2p.sim.libero.suites import SUITES, TASK_ORDERS, TaskName, find_task, language, tasks


def test_130_tasks_and_21_orders() -> None:
    assert {suite: len(set(names)) for suite, names in SUITES.items()} == {
        "libero_spatial": 10,
        "libero_object": 10,
        "libero_goal": 10,
        "libero_90": 90,
        "libero_10": 10,
    }
    assert len(set(TASK_ORDERS)) == 21
    assert all(sorted(order) == list(range(10)) for order in TASK_ORDERS)
    assert TASK_ORDERS[0] == tuple(range(10))


def test_they_are_the_originals(facts: dict[str, Any]) -> None:
    assert {suite: list(names) for suite, names in SUITES.items()} == facts["suites"]
    assert [list(order) for order in TASK_ORDERS] == facts["task_orders"]


def test_tasks_are_found_by_name_and_by_index() -> None:
    by_name = find_task("libero_object/pick_up_the_milk_and_place_it_in_the_basket")
    assert by_name == find_task("libero_object/7") and by_name.index == 7
    assert str(by_name) == "libero_object/pick_up_the_milk_and_place_it_in_the_basket"
    for suite, names in SUITES.items():
        assert [find_task(f"{suite}/{i}") for i in range(len(names))] == [TaskName(suite, name) for name in names]


def test_a_policy_is_told_the_sentence_of_the_file_name(facts: dict[str, Any]) -> None:
    assert language("KITCHEN_SCENE10_close_the_top_drawer_of_the_cabinet") == "close the top drawer of the cabinet"
    index = facts["task_index"]
    assert sum(find_task(key).language != task["language_bddl"] for key, task in index.items()) == 29


def test_orders() -> None:
    assert tasks("libero_goal") == SUITES["libero_goal"]
    assert tasks("libero_goal", 1)[0] == SUITES["libero_goal"][4]
    with pytest.raises(UserError, match="libero_goal has the task orders 0 to 20; got 21"):
        tasks("libero_goal", 21)
    with pytest.raises(UserError, match="libero_90 has the task orders 0 to 0; got 1"):
        tasks("libero_90", 1)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("libero_objects/0", "unknown LIBERO suite 'libero_objects'.*did you mean 'libero_object'"),
        ("libero_object", "unknown task 'libero_object'; expected libero_object/NAME or libero_object/INDEX"),
        ("libero_object/10", "unknown task 'libero_object/10'.* from 0 to 9"),
        ("libero_object/-1", "unknown task 'libero_object/-1'"),
        ("libero_goal/turn_on_stove", "did you mean 'libero_goal/turn_on_the_stove'"),
    ],
)
def test_unknown_tasks_are_named(task: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_task(task)


def test_the_catalogue_is_the_originals(facts: dict[str, Any]) -> None:
    want = {name: value for name, value in facts["categories"].items() if "xml" in value}
    assert CATEGORIES.keys() == want.keys()
    for name, value in want.items():
        ours, rotation = CATEGORIES[name], value["rotation"]
        angles = rotation if isinstance(rotation, dict) else {value["rotation_axis"]: rotation}
        assert dict(ours.rotation) == {axis: tuple(limits) for axis, limits in angles.items()}
        articulation = {key.split("_")[1]: tuple(r) for key, r in (value["articulation"] or {}).items() if r}
        assert (ours.kind, ours.articulation) == (value["kind"], articulation)
        assert [f"X_{site}" for site in (*ours.sites, "default_site")] == value["sites"]
        assert [f"X_{joint}" for joint in ours.joints] == value["joints"]


@pytest.mark.parametrize("name", sorted(CATEGORIES))
def test_the_catalogue_agrees_with_the_model_files(assets: Assets, name: str) -> None:
    category = CATEGORIES[name]
    outer = ElementTree.parse(assets.model(category.xml)).find("worldbody/body")
    assert outer is not None
    inner = outer.find("body[@name='object']")
    assert inner is not None
    places = {site.get("name"): [float(x) for x in site.get("pos", "").split()] for site in outer.findall("site")}
    assert places == {
        "bottom_site": [0, 0, category.bottom],
        "top_site": [0, 0, category.top],
        "horizontal_radius_site": [category.radius, category.radius, 0],
    }
    assert {site.get("name") for site in inner.iter("site")} == set(category.sites)
    joints = category.joints if category.kind == "fixture" else ()
    assert [joint.get("name") for joint in inner.iter("joint")] == list(joints)
