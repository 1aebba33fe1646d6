"""LIBERO's task files: what is read from them, and what is said of those that cannot be read."""

from __future__ import annotations

from typing import Any

import pytest

from t2p.io import UserError
from t2p.sim.libero.assets import Assets, load_problem
from t2p.sim.libero.bddl import Problem, Region, parse
from t2p.sim.libero.scene import things

TEXT = """; a scene
(define (problem LIBERO_Floor_Manipulation)
  (:domain robosuite)
  (:language Put the Bowl in the basket) ; not in the tray
  (:regions
    (bin (:target floor)
      (:ranges ((-0.1 0.2 0.1 3e-1) (0 0 1 1))) (:yaw_rotation ((0.0 1.5))) (:rgba (1 0 0 0.5)))
    (contain_region (:target basket_1))
    (left_over (:target drainer_1)))
  (:fixtures floor - floor cabinet_1 - cabinet)
  (:objects bowl_1 bowl_2 - bowl basket_1 - basket bowl_3 - bowl)
  (:obj_of_interest bowl_1 basket_1)
  (:init (On bowl_1 floor_bin) (Open cabinet_1))
  (:goal (And (In bowl_1 basket_1_contain_region) (Close cabinet_1))))
"""


def test_a_file_is_read() -> None:
    assert parse(TEXT) == Problem(
        kind="libero_floor_manipulation",
        language="put the bowl in the basket",
        regions={
            "floor_bin": Region(
                "floor_bin", "floor", ((-0.1, 0.2, 0.1, 0.3), (0.0, 0.0, 1.0, 1.0)), (0.0, 1.5), (1.0, 0.0, 0.0, 0.5)
            ),
            "basket_1_contain_region": Region("basket_1_contain_region", "basket_1"),
            "drainer_1_left_over": Region("drainer_1_left_over", "drainer_1"),
        },
        fixtures=(("floor", "floor"), ("cabinet_1", "cabinet")),
        # A category's names stand together: the order of bodies in the model, and so of the state.
        objects=(("bowl_1", "bowl"), ("bowl_2", "bowl"), ("bowl_3", "bowl"), ("basket_1", "basket")),
        interest=("bowl_1", "basket_1"),
        init=(("on", "bowl_1", "floor_bin"), ("open", "cabinet_1")),
        goal=(("in", "bowl_1", "basket_1_contain_region"), ("close", "cabinet_1")),
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("(Open cabinet_1)", "(Ajar cabinet_1)", "line 13: unknown predicate 'ajar'"),
        ("(Open cabinet_1)", "(Open cabinet_1 bowl_1)", "line 13: open takes 1 names"),
        ("(Open cabinet_1)", "(Open cabinet_2)", "cabinet_2 is no object, fixture or region; did you mean cabinet_1"),
        ("(Open cabinet_1)", "(On bowl_1 drainer_1_left_over)", "drainer_1_left_over is no object, fixture or region"),
        ("(Open cabinet_1)", "()", "line 13: an empty list"),
        ("(Open cabinet_1)", "Open", "line 13: a list in brackets was expected, not 'open'"),
        ("-0.1 0.2 0.1 3e-1", "-0.1 0.2 0.1", "line 7: .* has 3 values, expected 4"),
        ("3e-1", "pi/2", "line 7: .* must be 4 numbers"),
        ("(:target floor)", "", "line 6: region bin has no :target"),
        ("(:rgba", "(:colour", "line 6: region bin has unknown field :colour"),
        ("basket_1 - basket bowl_3 - bowl", "basket_1 - basket bowl_3", "line 11: :objects: bowl_3 has no category"),
        ("bowl_1 bowl_2 - bowl", "bowl_1 bowl_1 - bowl", "line 11: :objects gives a name twice"),
        ("(:domain robosuite)", "(:metric 1)", "line 3: unknown group :metric"),
        ("(:domain robosuite)", "(:language again)", "line 4: :language appears twice"),
        ("(:obj_of_interest bowl_1 basket_1)", "", "line 2: the task file has no :obj_of_interest"),
        ("(And (In", "(Or (In", "line 14: the goal must be one"),
        ("(define", "(defined", "line 2: the file must be one"),
        ("(Close cabinet_1))))", "(Close cabinet_1)))", "line 2: the list that begins here is never closed"),
        ("(Close cabinet_1))))", "(Close cabinet_1)))) x", "line 14: 'x' follows after the end"),
        (TEXT, "; nothing", "is empty"),
        (TEXT, "define", "line 1: 'define' stands outside"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(UserError, match=message):
        parse(TEXT.replace(old, new))


def test_all_task_files_are_read_as_the_original_reads_them(assets: Assets, facts: dict[str, Any]) -> None:
    assert len(facts["task_index"]) == 130
    for key, want in facts["task_index"].items():
        problem = load_problem(assets, *key.split("/"))
        objects = [name for name, _ in problem.objects]
        assert (problem.kind, problem.language, objects) == (want["problem"], want["language_bddl"], want["objects"])
        assert [name for name, _ in things(problem)] == objects + want["fixtures"]
        for name in ("init", "goal"):
            assert [list(atom) for atom in getattr(problem, name)] == want[name]
        assert list(problem.interest) == want["obj_of_interest"]
        assert list(problem.regions) == list(want["regions"])
        for name, region in want["regions"].items():
            ours = problem.regions[name]
            assert (ours.target, [list(r) for r in ours.ranges]) == (region["target"], region["ranges"])
            assert (list(ours.yaw), list(ours.rgba)) == (region["yaw_rotation"], region["rgba"])
