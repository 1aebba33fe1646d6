"""Where LIBERO's things are when an episode starts: drawn at every reset, number for number as the original draws them.

The original draws from NumPy's global legacy stream; here the stream is an argument (`random_stream`). A reset draws
the arm's noise, the fixtures' joints, then a place and a rotation for each thing: those on the arena's surface first,
then those on a region of another thing, in one, and on another thing, each in the order of the task file. Sources:
LIBERO 8f1084e (envs/bddl_base_domain, envs/regions), robosuite 1.4.1 (placement samplers, robots), released code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import mujoco
import numpy as np

from t2p.geometry.rotations import quaternion_to_matrix
from t2p.io import UserError
from t2p.sim.libero import rounding
from t2p.sim.libero.bddl import Atom, Problem, Rectangle
from t2p.sim.libero.catalog import ARENAS, ARM_HOME, CATEGORIES, FINGERS_HOME, Category, Range
from t2p.sim.libero.names import Handles, handles, moving_joints
from t2p.sim.libero.quirks import Pose, Quirks
from t2p.sim.libero.scene import things
from t2p.types import InitialState

ATTEMPTS = 5000  # to find a free place for one thing before all starts again
RESTARTS = 50  # the original would never give up
CLEARANCE = 0.01  # m, between a thing and what it is put on
_POINT: Rectangle = (0.0, 0.0, 0.0, 0.0)
_AXES = "xyz"


Stream = np.random.RandomState | np.random.Generator


def random_stream(seed: int, quirks: Quirks) -> Stream:
    """What the reset of a seed draws from (Quirks.random_stream)."""
    return np.random.RandomState(seed) if quirks.random_stream == "legacy" else np.random.default_rng(seed)


@dataclass(frozen=True)
class Spot:
    """Where one thing may start. body: its root's number; free: [7] where its pose is in qpos, empty for a fixture;
    ranges: rectangles, one of which is drawn; offset: [3], added; target: the thing relative to whose position it is,
    site: relative to one of the target's sites instead; apart: whether it keeps away from what was placed before it;
    yaw: a fixture's; given: a fixture's pose that is used whatever is drawn."""

    name: str
    category: Category
    body: int
    free: np.ndarray
    ranges: tuple[Rectangle, ...]
    offset: np.ndarray
    target: str | None = None
    site: int | None = None
    apart: bool = False
    yaw: Range = (0.0, 0.0)
    given: Pose | None = None


@dataclass(frozen=True)
class Placement:
    """How the starts of one task are drawn. home: the state before anything is placed, arm at `arm` [7] in qpos;
    articulations: (addresses in qpos, range) in the order of drawing; spots: likewise; arm_noise: standard deviation,
    rad; repeated: Quirks.repeated_articulation."""

    model: mujoco.MjModel
    home: InitialState
    arm: np.ndarray
    articulations: tuple[tuple[np.ndarray, Range], ...]
    spots: tuple[Spot, ...]
    arm_noise: float
    repeated: bool


@dataclass(frozen=True)
class _Placed:
    position: np.ndarray
    quaternion: np.ndarray
    category: Category


class _NoRoom(Exception):
    """A thing found no free place."""


def reset(placement: Placement, random: Stream, loads: int = 1) -> tuple[InitialState, int]:
    """The state after a reset of an environment whose scene was loaded `loads` times before, and that number after it:
    every reset loads the scene once, and once more whenever it finds no room for something and starts again.

    The original's constructor is the first reset (loads=0), so by default this is what it returns to a user who seeds
    and resets a fresh environment. UserError where no start has room for everything."""
    for attempt in range(1, RESTARTS + 1):
        try:
            return _draw(placement, random, loads + attempt), loads + attempt
        except _NoRoom as e:
            name = str(e)
    raise UserError(
        f"no free place is found for {name} in {RESTARTS} times {ATTEMPTS} attempts: are the task's regions too small?"
    )


def _draw(placement: Placement, random: Stream, loads: int) -> InitialState:
    home = placement.home
    qpos, body_pos, body_quat = home.qpos.copy(), home.body_pos.copy(), home.body_quat.copy()
    qpos[placement.arm] += placement.arm_noise * random.standard_normal(len(placement.arm))
    for _ in range(loads if placement.repeated else 1):
        for joints, (low, high) in placement.articulations:
            qpos[joints] = random.uniform(low, high)
    placed: dict[str, _Placed] = {}
    offsets = _site_offsets(placement, qpos)
    for spot in placement.spots:
        pose = placed[spot.name] = _place(spot, placed, offsets, random)
        if len(spot.free):
            qpos[spot.free] = *pose.position, *pose.quaternion
        else:
            body_pos[spot.body], body_quat[spot.body] = pose.position, pose.quaternion
    return replace(home, qpos=qpos, body_pos=body_pos, body_quat=body_quat)


def _site_offsets(placement: Placement, qpos: np.ndarray) -> dict[int, np.ndarray]:
    """[3] of each site that things are placed by: where it is while its thing lies as in the model file, drawers
    already drawn."""
    sites = [spot.site for spot in placement.spots if spot.site is not None]
    if not sites:
        return {}
    model, data = placement.model, mujoco.MjData(placement.model)
    data.qpos[:] = qpos
    mujoco.mj_kinematics(model, data)
    offsets = {}
    for site in sites:
        root = model.body_rootid[model.site_bodyid[site]]
        local = data.xmat[root].reshape(3, 3).T @ (data.site_xpos[site] - data.xpos[root])
        home = placement.home
        offsets[site] = home.body_pos[root] + quaternion_to_matrix(home.body_quat[root]) @ local
    return offsets


def _place(spot: Spot, placed: Mapping[str, _Placed], offsets: Mapping[int, np.ndarray], random: Stream) -> _Placed:
    origin = spot.offset
    if spot.target:
        target = placed[spot.target]
        origin = origin + target.position
        if spot.site is not None:
            origin = origin + rounding.quaternion_to_matrix(target.quaternion[None])[0] @ offsets[spot.site]
    for _ in range(ATTEMPTS):
        x0, y0, x1, y1 = spot.ranges[random.choice(len(spot.ranges))]
        position = origin + (random.uniform(x0, x1), random.uniform(y0, y1), 0.0)
        if not spot.apart or _is_free(position, spot.category, placed):
            break
    else:
        raise _NoRoom(spot.name)
    quaternion = _object_rotation(spot.category, random) if len(spot.free) else _yaw(random.uniform(*spot.yaw))
    if spot.given:
        position, quaternion = (np.array(part, float) for part in spot.given)
    return _Placed(position, quaternion, spot.category)


def _is_free(position: np.ndarray, category: Category, placed: Mapping[str, _Placed]) -> bool:
    for other in placed.values():
        x, y, z = position - other.position
        near = np.hypot(x, y) <= other.category.radius + category.radius
        if near and z <= other.category.top - category.bottom:
            return False
    return True


def _yaw(angle: float) -> np.ndarray:
    return np.array([np.cos(angle / 2), 0.0, 0.0, np.sin(angle / 2)])


def _object_rotation(category: Category, random: Stream) -> np.ndarray:
    """[4] (w, x, y, z). The original draws a quaternion (x, y, z, w) and stores it as if it were (w, x, y, z); the
    categories' rotations are such that things stand upright because of it."""
    quaternion = np.array([1.0, 0.0, 0.0, 0.0])
    for axis, (low, high) in category.rotation:
        angle = random.uniform(low, high)
        turn = np.zeros(4)
        turn[0], turn[1 + _AXES.index(axis)] = np.cos(angle / 2), np.sin(angle / 2)
        mujoco.mju_mulQuat(quaternion, turn, quaternion.copy())
    return np.roll(quaternion, -1)


# From the task file


def find_placement(
    model: mujoco.MjModel, problem: Problem, quirks: Quirks | None = None, arm_noise: float = 0.0
) -> Placement:
    """Looks a problem's start up in its model, freshly compiled. arm_noise: standard deviation of the arm's joints
    round their home, rad; 0.02 in the published initial states, 0 in LIBERO's environments.

    UserError for an atom that nothing can be drawn from, such as one about a thing that has no place itself."""
    quirks = quirks or Quirks()
    found = handles(model, problem)
    home = model.qpos0.copy()
    home[found.arm.qpos], home[found.arm.fingers] = ARM_HOME, FINGERS_HOME
    return Placement(
        model=model,
        home=InitialState(0.0, home, np.zeros(model.nv), model.body_pos.copy(), model.body_quat.copy()),
        arm=found.arm.qpos,
        articulations=tuple(_articulation(model, problem, found, a) for a in problem.init if len(a) == 2),
        spots=_spots(model, problem, found, quirks),
        arm_noise=arm_noise,
        repeated=quirks.repeated_articulation,
    )


def _articulation(model: mujoco.MjModel, problem: Problem, found: Handles, atom: Atom) -> tuple[np.ndarray, Range]:
    predicate, name = atom
    thing, joints = moving_joints(model, problem, found, name)
    ranges = CATEGORIES[dict(things(problem))[thing]].articulation if thing in found.instances else {}
    if predicate not in ranges or not len(joints):
        raise _refused(atom, f"nothing of {name} starts {predicate}")
    return joints, ranges[predicate]


def _refused(atom: Atom, why: str) -> UserError:
    return UserError(f"the task's start ({' '.join(atom)}) can't be drawn: {why}")


def _spots(model: mujoco.MjModel, problem: Problem, found: Handles, quirks: Quirks) -> tuple[Spot, ...]:
    atoms = [atom for atom in problem.init if len(atom) == 3]
    given = _given(quirks, [a[1] for a in atoms if a[1] in found.instances and not len(found.instances[a[1]].free)])
    spots: dict[str, Spot] = {}
    for atom in sorted(atoms, key=lambda a: _stage(problem, found, a)):
        if atom[1] not in found.instances or atom[1] in spots:
            raise _refused(atom, f"{atom[1]} is no thing" if atom[1] in found.sites else f"{atom[1]} is placed twice")
        spot = _spot(model, problem, found, quirks, atom)
        if spot.target and spot.target not in spots:
            raise _refused(atom, f"{spot.target} has no place itself before {atom[1]} needs it")
        spots[spot.name] = replace(spot, given=given.get(spot.name, spot.given))
    return tuple(spots.values())


def _stage(problem: Problem, found: Handles, atom: Atom) -> int:
    """Surface regions, regions of things, insides, things: things of one stage keep their order."""
    if atom[2] in found.instances:
        return 3
    return 0 if problem.regions[atom[2]].target not in found.instances else 1 + (atom[0] == "in")


def _spot(model: mujoco.MjModel, problem: Problem, found: Handles, quirks: Quirks, atom: Atom) -> Spot:
    predicate, name, place = atom
    categories, instance = dict(things(problem)), found.instances[name]
    region = problem.regions.get(place)
    target = region.target if region else place
    category = CATEGORIES[categories[name]]
    spot = Spot(name, category, instance.body, instance.free, (_POINT,), np.zeros(3), target)
    if target not in found.instances:
        return _on_surface(problem, quirks, atom, replace(spot, target=None))
    if category.kind == "fixture":
        raise _refused(atom, "a fixture can only start on the arena's surface")
    top = CATEGORIES[categories[target]].top
    if region is None:
        return replace(spot, offset=np.array([0, 0, top + CLEARANCE - category.bottom]))
    if place not in found.sites:
        raise _refused(atom, f"{target}'s model has no site {place}")
    spot = replace(spot, site=found.sites[place], apart=True)
    if predicate == "in":
        return replace(spot, offset=np.array([0, 0, -category.bottom]))
    x, y = model.site_size[found.sites[place], :2] / 2
    ranges = (_shrunk((-x, -y, x, y), category.radius, quirks),)
    return replace(spot, ranges=ranges, offset=np.array([0, 0, top - category.bottom]))


def _on_surface(problem: Problem, quirks: Quirks, atom: Atom, spot: Spot) -> Spot:
    arena, region = ARENAS[problem.kind], problem.regions[atom[2]]
    if atom[0] != "on" or not region.ranges:
        raise _refused(atom, f"{atom[2]} is no range of the arena's surface for something to be on")
    fixture = spot.category.kind == "fixture"
    lift = (arena.fixture_z if fixture else CLEARANCE) - spot.category.bottom
    offset = np.array(arena.offset) + (0, 0, lift)
    if not fixture:
        radius = spot.category.radius if arena.shrink else 0.0
        ranges = tuple(_shrunk(r, radius, quirks) for r in region.ranges)
        return replace(spot, ranges=ranges, offset=offset, apart=True)
    given: Pose | None = None
    if quirks.fixture_poses == "centre":
        x0, y0, x1, y1 = region.ranges[0]
        centre = offset + ((x0 + x1) / 2, (y0 + y1) / 2, 0)
        given = tuple(centre), tuple(_yaw(sum(region.yaw) / 2))
    return replace(spot, ranges=region.ranges, offset=offset, yaw=region.yaw, given=given)


def _shrunk(rectangle: Rectangle, radius: float, quirks: Quirks) -> Rectangle:
    """Less the radius on all sides: a side that is too short for it turns inside out, or becomes its middle."""
    x0, y0, x1, y1 = rectangle
    low, high = np.array([x0, y0]) + radius, np.array([x1, y1]) - radius
    if not quirks.inverted_ranges:
        middle = (low + high) / 2
        low, high = np.minimum(low, middle), np.maximum(high, middle)
    return low[0], low[1], high[0], high[1]


def _given(quirks: Quirks, fixtures: Sequence[str]) -> Mapping[str, Pose]:
    if isinstance(quirks.fixture_poses, str):
        return {}
    poses = dict(quirks.fixture_poses)
    if set(poses) != set(fixtures):
        raise UserError(
            f"fixture_poses gives poses of {', '.join(poses) or 'nothing'}; this task needs those of "
            f"{', '.join(fixtures) or 'nothing'}"
        )
    return poses
