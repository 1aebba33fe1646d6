"""LIBERO's five suites: which 130 tasks they hold and in which orders lifelong learning meets them.

Source: LIBERO's benchmark lists (released code, benchmark/libero_suite_task_map and benchmark/__init__).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from t2p.io import UserError

_BOWL_AT = (
    "between the plate and the ramekin",
    "next to the ramekin",
    "from table center",
    "on the cookie box",
    "in the top drawer of the wooden cabinet",
    "on the ramekin",
    "next to the cookie box",
    "on the stove",
    "next to the plate",
    "on the wooden cabinet",
)
_GROCERIES = (
    "alphabet soup",
    "cream cheese",
    "salad dressing",
    "bbq sauce",
    "ketchup",
    "tomato sauce",
    "butter",
    "milk",
    "chocolate pudding",
    "orange juice",
)
_GOALS = (
    "open the middle drawer of the cabinet",
    "put the bowl on the stove",
    "put the wine bottle on top of the cabinet",
    "open the top drawer and put the bowl inside",
    "put the bowl on top of the cabinet",
    "push the plate to the front of the stove",
    "put the cream cheese in the bowl",
    "turn on the stove",
    "put the bowl on the plate",
    "put the wine bottle on the rack",
)
# By scene: the scene is part of the task's name.
_NINETY: dict[str, tuple[str, ...]] = {
    "KITCHEN_SCENE10": (
        "close the top drawer of the cabinet",
        "close the top drawer of the cabinet and put the black bowl on top of it",
        "put the black bowl in the top drawer of the cabinet",
        "put the butter at the back in the top drawer of the cabinet and close it",
        "put the butter at the front in the top drawer of the cabinet and close it",
        "put the chocolate pudding in the top drawer of the cabinet and close it",
    ),
    "KITCHEN_SCENE1": (
        "open the bottom drawer of the cabinet",
        "open the top drawer of the cabinet",
        "open the top drawer of the cabinet and put the bowl in it",
        "put the black bowl on the plate",
        "put the black bowl on top of the cabinet",
    ),
    "KITCHEN_SCENE2": (
        "open the top drawer of the cabinet",
        "put the black bowl at the back on the plate",
        "put the black bowl at the front on the plate",
        "put the middle black bowl on the plate",
        "put the middle black bowl on top of the cabinet",
        "stack the black bowl at the front on the black bowl in the middle",
        "stack the middle black bowl on the back black bowl",
    ),
    "KITCHEN_SCENE3": (
        "put the frying pan on the stove",
        "put the moka pot on the stove",
        "turn on the stove",
        "turn on the stove and put the frying pan on it",
    ),
    "KITCHEN_SCENE4": (
        "close the bottom drawer of the cabinet",
        "close the bottom drawer of the cabinet and open the top drawer",
        "put the black bowl in the bottom drawer of the cabinet",
        "put the black bowl on top of the cabinet",
        "put the wine bottle in the bottom drawer of the cabinet",
        "put the wine bottle on the wine rack",
    ),
    "KITCHEN_SCENE5": (
        "close the top drawer of the cabinet",
        "put the black bowl in the top drawer of the cabinet",
        "put the black bowl on the plate",
        "put the black bowl on top of the cabinet",
        "put the ketchup in the top drawer of the cabinet",
    ),
    "KITCHEN_SCENE6": (
        "close the microwave",
        "put the yellow and white mug to the front of the white mug",
    ),
    "KITCHEN_SCENE7": (
        "open the microwave",
        "put the white bowl on the plate",
        "put the white bowl to the right of the plate",
    ),
    "KITCHEN_SCENE8": (
        "put the right moka pot on the stove",
        "turn off the stove",
    ),
    "KITCHEN_SCENE9": (
        "put the frying pan on the cabinet shelf",
        "put the frying pan on top of the cabinet",
        "put the frying pan under the cabinet shelf",
        "put the white bowl on top of the cabinet",
        "turn on the stove",
        "turn on the stove and put the frying pan on it",
    ),
    "LIVING_ROOM_SCENE1": (
        "pick up the alphabet soup and put it in the basket",
        "pick up the cream cheese box and put it in the basket",
        "pick up the ketchup and put it in the basket",
        "pick up the tomato sauce and put it in the basket",
    ),
    "LIVING_ROOM_SCENE2": (
        "pick up the alphabet soup and put it in the basket",
        "pick up the butter and put it in the basket",
        "pick up the milk and put it in the basket",
        "pick up the orange juice and put it in the basket",
        "pick up the tomato sauce and put it in the basket",
    ),
    "LIVING_ROOM_SCENE3": (
        "pick up the alphabet soup and put it in the tray",
        "pick up the butter and put it in the tray",
        "pick up the cream cheese and put it in the tray",
        "pick up the ketchup and put it in the tray",
        "pick up the tomato sauce and put it in the tray",
    ),
    "LIVING_ROOM_SCENE4": (
        "pick up the black bowl on the left and put it in the tray",
        "pick up the chocolate pudding and put it in the tray",
        "pick up the salad dressing and put it in the tray",
        "stack the left bowl on the right bowl and place them in the tray",
        "stack the right bowl on the left bowl and place them in the tray",
    ),
    "LIVING_ROOM_SCENE5": (
        "put the red mug on the left plate",
        "put the red mug on the right plate",
        "put the white mug on the left plate",
        "put the yellow and white mug on the right plate",
    ),
    "LIVING_ROOM_SCENE6": (
        "put the chocolate pudding to the left of the plate",
        "put the chocolate pudding to the right of the plate",
        "put the red mug on the plate",
        "put the white mug on the plate",
    ),
    "STUDY_SCENE1": (
        "pick up the book and place it in the front compartment of the caddy",
        "pick up the book and place it in the left compartment of the caddy",
        "pick up the book and place it in the right compartment of the caddy",
        "pick up the yellow and white mug and place it to the right of the caddy",
    ),
    "STUDY_SCENE2": (
        "pick up the book and place it in the back compartment of the caddy",
        "pick up the book and place it in the front compartment of the caddy",
        "pick up the book and place it in the left compartment of the caddy",
        "pick up the book and place it in the right compartment of the caddy",
    ),
    "STUDY_SCENE3": (
        "pick up the book and place it in the front compartment of the caddy",
        "pick up the book and place it in the left compartment of the caddy",
        "pick up the book and place it in the right compartment of the caddy",
        "pick up the red mug and place it to the right of the caddy",
        "pick up the white mug and place it to the right of the caddy",
    ),
    "STUDY_SCENE4": (
        "pick up the book in the middle and place it on the cabinet shelf",
        "pick up the book on the left and place it on top of the shelf",
        "pick up the book on the right and place it on the cabinet shelf",
        "pick up the book on the right and place it under the cabinet shelf",
    ),
}
_TEN = (
    ("LIVING_ROOM_SCENE2", "put both the alphabet soup and the tomato sauce in the basket"),
    ("LIVING_ROOM_SCENE2", "put both the cream cheese box and the butter in the basket"),
    ("KITCHEN_SCENE3", "turn on the stove and put the moka pot on it"),
    ("KITCHEN_SCENE4", "put the black bowl in the bottom drawer of the cabinet and close it"),
    ("LIVING_ROOM_SCENE5", "put the white mug on the left plate and put the yellow and white mug on the right plate"),
    ("STUDY_SCENE1", "pick up the book and place it in the back compartment of the caddy"),
    ("LIVING_ROOM_SCENE6", "put the white mug on the plate and put the chocolate pudding to the right of the plate"),
    ("LIVING_ROOM_SCENE1", "put both the alphabet soup and the cream cheese box in the basket"),
    ("KITCHEN_SCENE8", "put both moka pots on the stove"),
    ("KITCHEN_SCENE6", "put the yellow and white mug in the microwave and close it"),
)


def _task(sentence: str, scene: str = "") -> str:
    return "_".join((*filter(None, [scene]), *sentence.split()))


SUITES: dict[str, tuple[str, ...]] = {
    "libero_spatial": tuple(_task(f"pick up the black bowl {at} and place it on the plate") for at in _BOWL_AT),
    "libero_object": tuple(_task(f"pick up the {thing} and place it in the basket") for thing in _GROCERIES),
    "libero_goal": tuple(map(_task, _GOALS)),
    "libero_90": tuple(_task(sentence, scene) for scene, sentences in _NINETY.items() for sentence in sentences),
    "libero_10": tuple(_task(sentence, scene) for scene, sentence in _TEN),
}

# The lifelong-learning experiments' 21 orders of a suite of ten tasks; libero_90 has only its own.
_ORDERS = """
0123456789 4687312095 6350429187 7430812596 4563802719 1230695748 3781629405
4297685130 1854096723 8364951207 6905712834 6831025974 8069417325 3864250719
7156328940 2095368714 3596248710 7659034281 2509316487 3512786049 3419768205
"""
TASK_ORDERS: tuple[tuple[int, ...], ...] = tuple(tuple(map(int, order)) for order in _ORDERS.split())


@dataclass(frozen=True)
class TaskName:
    """One of the 130 tasks. name: its file's name without suffix; index: its place in the suite. str(): suite/name."""

    suite: str
    name: str

    def __str__(self) -> str:
        return f"{self.suite}/{self.name}"

    @property
    def index(self) -> int:
        return SUITES[self.suite].index(self.name)

    @property
    def language(self) -> str:
        """The sentence that policies are given; see `language`."""
        return language(self.name)


def language(task: str) -> str:
    """The sentence in a task's file name, without its scene: what LIBERO's benchmark and later evaluations give to
    policies. The task file's own sentence (bddl.Problem.language) differs from it in 29 tasks."""
    return re.sub(r"^.*SCENE\d+_", "", task).replace("_", " ")


def find_task(task: str) -> TaskName:
    """The task that `suite/name` or `suite/index` names; UserError with the nearest name where there is none."""
    suite, _, name = task.partition("/")
    names = tasks(suite)
    if name.isdecimal() and int(name) < len(names):
        return TaskName(suite, names[int(name)])
    if name not in names:
        raise UserError(
            f"unknown task {task!r}; expected {suite}/NAME or {suite}/INDEX with an index from 0 to {len(names) - 1}"
            f"{_nearest(name, names, suite + '/')}"
        )
    return TaskName(suite, name)


def tasks(suite: str, order: int = 0) -> tuple[str, ...]:
    """A suite's task names in one of its TASK_ORDERS (0: as listed); UserError for an unknown suite or order."""
    if suite not in SUITES:
        raise UserError(f"unknown LIBERO suite {suite!r}; expected one of {', '.join(SUITES)}{_nearest(suite, SUITES)}")
    names = SUITES[suite]
    orders = len(TASK_ORDERS) if len(names) == len(TASK_ORDERS[0]) else 1
    if not 0 <= order < orders:
        raise UserError(f"{suite} has the task orders 0 to {orders - 1}; got {order}")
    return tuple(names[i] for i in TASK_ORDERS[order]) if order else names


def _nearest(name: str, names: Iterable[str], prefix: str = "") -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    return f"; did you mean {prefix + near[0]!r}?" if near else ""
