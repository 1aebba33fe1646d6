"""The simulated tasks by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import fields
from typing import Any, cast

from t2p.io import UserError
from t2p.sim.libero.suites import SUITES, find_task
from t2p.sim.libero.task import LiberoTask
from t2p.sim.tabletop.block_stack import BlockStack
from t2p.sim.tabletop.open_microwave import OpenMicrowave
from t2p.sim.tabletop.right_glass import RightGlass
from t2p.sim.task import ScriptedTask, Task

SCRIPTED: dict[str, Callable[..., ScriptedTask]] = {
    BlockStack.name: BlockStack,
    OpenMicrowave.name: OpenMicrowave,
    RightGlass.name: RightGlass,
}
TASKS: dict[str, Callable[..., Task]] = {
    **SCRIPTED,
    **{f"{suite}/{task}": LiberoTask for suite, tasks in SUITES.items() for task in tasks},
}


def names() -> tuple[str, ...]:
    """The names that `make_task` knows."""
    return tuple(TASKS)


def suite(name: str) -> tuple[str, ...]:
    """The tasks whose names begin with `name`/; UserError where there are none."""
    found = tuple(task for task in names() if task.startswith(f"{name}/"))
    if not found:
        known = dict.fromkeys(task.partition("/")[0] for task in names())
        raise UserError(f"unknown suite {name!r}; expected one of {', '.join(known)}")
    return found


def make_task(name: str, **options: Any) -> Task:
    """The task of a name (LIBERO's: also suite/index). options: the task's fields. UserError for a name, an option or a
    value that it lacks."""
    if name.partition("/")[0] in SUITES:
        name = str(find_task(name))
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"unknown task {name!r}; expected one of {', '.join(_shown())}{hint}")
    known = [field.name for field in fields(TASKS[name]) if field.name != "name"]  # type: ignore[arg-type]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UserError(f"{name} has no option {', '.join(unknown)}; its options are {', '.join(known)}")
    return LiberoTask(name, **options) if TASKS[name] is LiberoTask else TASKS[name](**options)


def make_scripted_task(name: str, **options: Any) -> ScriptedTask:
    """`make_task` for those that have a script of waypoints; UserError for others."""
    task = make_task(name, **options)
    if name not in SCRIPTED:
        raise UserError(f"{name} has no script of waypoints; tasks that have one are {', '.join(SCRIPTED)}")
    return cast(ScriptedTask, task)


def _shown() -> list[str]:
    """Names for a message: of LIBERO the suites alone."""
    return [name for name in TASKS if TASKS[name] is not LiberoTask] + [f"{suite}/..." for suite in SUITES]
