"""Where things are in a compiled LIBERO model: the ids and addresses behind the originals' names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import mujoco
import numpy as np

from t2p.io import UserError
from t2p.sim.libero.bddl import Problem
from t2p.sim.libero.scene import GRIPPER, ROBOT, things


@dataclass(frozen=True)
class Instance:
    """An object or a fixture. body: of its root, `{name}_main`; geoms: [g] that count as its contacts (group 0);
    free: [7] where its pose is in qpos (position, quaternion w x y z) and free_dofs: [6] in qvel, both empty for a
    fixture; joints: [j] of its own joints in the model's order, qpos and dofs: [j] their addresses."""

    body: int
    geoms: np.ndarray
    free: np.ndarray
    free_dofs: np.ndarray
    joints: np.ndarray
    qpos: np.ndarray
    dofs: np.ndarray


@dataclass(frozen=True)
class Arm:
    """The Panda. qpos, dofs: [7]; fingers, finger_dofs: [2], addresses in qpos and qvel; torques, grip: [7] and [2]
    actuators; site: of the grip, which is controlled; hand: body `right_hand`, whose frame is observed; geoms: [g] of
    arm, hand and fingers that collide."""

    qpos: np.ndarray
    dofs: np.ndarray
    fingers: np.ndarray
    finger_dofs: np.ndarray
    torques: np.ndarray
    grip: np.ndarray
    site: int
    hand: int
    geoms: np.ndarray


@dataclass(frozen=True)
class Handles:
    """instances: objects, then fixtures, by name; sites: id by a region's full name, of those that the model has;
    burners: (site, address in qpos of its knob) of stoves, for a site that glows while its knob is turned on."""

    arm: Arm
    instances: Mapping[str, Instance]
    sites: Mapping[str, int]
    burners: tuple[tuple[int, int], ...]


def handles(model: mujoco.MjModel, problem: Problem) -> Handles:
    """The handles of a problem's model, whatever it was built for; UserError where it is another problem's."""
    instances = {name: _instance(model, name) for name, _ in things(problem)}
    stoves = [name for name, category in things(problem) if category == "flat_stove"]
    sites = {name: mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_SITE, name) for name in problem.regions}
    return Handles(
        arm=_arm(model),
        instances=instances,
        sites={name: site for name, site in sites.items() if site >= 0},
        burners=tuple((_id(model, "SITE", f"{name}_burner"), int(instances[name].qpos[0])) for name in stoves),
    )


def moving_joints(model: mujoco.MjModel, problem: Problem, found: Handles, name: str) -> tuple[str, np.ndarray]:
    """Whose state (open, turned on ...) a thing's or region's name stands for, and the addresses in qpos of the joints
    that tell it: all of a thing's own joints, or those of the body that holds a region's site."""
    if name in found.instances:
        return name, found.instances[name].qpos
    thing = problem.regions[name].target
    if thing not in found.instances:
        return thing, np.zeros(0, int)
    held = model.jnt_bodyid[found.instances[thing].joints] == model.site_bodyid[found.sites[name]]
    return thing, found.instances[thing].qpos[held]


def _id(model: mujoco.MjModel, kind: str, name: str) -> int:
    number = mujoco.mj_name2id(model, mujoco.mjtObj.__members__[f"mjOBJ_{kind}"], name)
    if number < 0:
        raise UserError(f"the model has no {kind.lower()} {name!r}: is it another task's?")
    return number


def _ids(model: mujoco.MjModel, kind: str, names: Iterable[str]) -> np.ndarray:
    return np.array([_id(model, kind, name) for name in names])


def _below(model: mujoco.MjModel, root: int) -> np.ndarray:
    """[nbody] whether a body is `root` or hangs on it; parents come before their children."""
    inside = np.zeros(model.nbody, bool)
    for body in range(root, model.nbody):
        inside[body] = body == root or inside[model.body_parentid[body]]
    return inside


def _instance(model: mujoco.MjModel, name: str) -> Instance:
    body = _id(model, "BODY", f"{name}_main")
    inside = _below(model, body)
    joints = np.flatnonzero(inside[model.jnt_bodyid])
    free = model.jnt_type[joints] == mujoco.mjtJoint.mjJNT_FREE
    own = joints[~free]
    start, dof = (table[joints[free]][:, None] for table in (model.jnt_qposadr, model.jnt_dofadr))
    return Instance(
        body=body,
        geoms=_contact_geoms(model, inside),
        free=(start + np.arange(7)).ravel(),
        free_dofs=(dof + np.arange(6)).ravel(),
        joints=own,
        qpos=model.jnt_qposadr[own].copy(),
        dofs=model.jnt_dofadr[own].copy(),
    )


def _contact_geoms(model: mujoco.MjModel, inside: np.ndarray) -> np.ndarray:
    return np.flatnonzero(inside[model.geom_bodyid] & (model.geom_group == 0))


def _arm(model: mujoco.MjModel) -> Arm:
    joints = _ids(model, "JOINT", (f"{ROBOT}joint{i}" for i in range(1, 8)))
    fingers = _ids(model, "JOINT", (f"{GRIPPER}finger_joint{i}" for i in (1, 2)))
    return Arm(
        qpos=model.jnt_qposadr[joints].copy(),
        dofs=model.jnt_dofadr[joints].copy(),
        fingers=model.jnt_qposadr[fingers].copy(),
        finger_dofs=model.jnt_dofadr[fingers].copy(),
        torques=_ids(model, "ACTUATOR", (f"{ROBOT}torq_j{i}" for i in range(1, 8))),
        grip=_ids(model, "ACTUATOR", (f"{GRIPPER}gripper_finger_joint{i}" for i in (1, 2))),
        site=_id(model, "SITE", f"{GRIPPER}grip_site"),
        hand=_id(model, "BODY", f"{ROBOT}right_hand"),
        geoms=_contact_geoms(model, _below(model, _id(model, "BODY", f"{ROBOT}link0"))),
    )
