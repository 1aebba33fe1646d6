"""A LIBERO scene as one MuJoCo model, put together from LIBERO's and robosuite's model files as the originals do it.

The order of bodies is arena, robot, objects, fixtures, and with it the layout of the state: the arm's seven joints, two
fingers, each object's pose, the fixtures' joints. Sources: robosuite 1.4.1 (models/), LIBERO (envs/bddl_base_domain,
envs/arenas, envs/objects), released code.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args
from xml.etree import ElementTree

import mujoco
import numpy as np

from t2p.io import UserError
from t2p.sim.libero.assets import GET_LIBERO, GET_ROBOSUITE, Assets
from t2p.sim.libero.bddl import Named, Problem
from t2p.sim.libero.catalog import ARENAS, CATEGORIES, Arena, Table
from t2p.sim.render.common import DRAWN
from t2p.sim.robots.base import set_damping
from t2p.sim.world import Rgba

# What the model is for: `faithful` is drawn as the original is; `fast` is drawn in software several times faster;
# `physics` has nothing that is only looked at. All three move alike, bit for bit.
Profile = Literal["faithful", "fast", "physics"]


@dataclass(frozen=True)
class Drawing:
    """What drawing costs. shadow_map: pixels of its side (no light of LIBERO's own scenes casts shadows); samples: per
    pixel; reflections: each reflecting plane or box that is seen has the scene drawn once more."""

    shadow_map: int
    samples: int
    reflections: bool


DRAWINGS = {"faithful": Drawing(4096, 4, True), "fast": Drawing(1024, 0, False)}

ROBOT, GRIPPER, MOUNT = "robot0_", "gripper0_", "mount0_"

# Cameras of the observations by the names that demonstrations have for them.
VIEWS = {"agentview": "agentview", "eye_in_hand": "robot0_eye_in_hand"}
_GROUP_COLLISION, _GROUP_VISUAL = 0, 1
_SHOWN_GROUPS = (0, 1, 1, 0, 0, 0)  # robosuite's pictures leave out what collides
# robosuite colours what collides, which is not drawn, by whose it is.
_ARENA_COLOUR, _ROBOT_COLOUR, _GRIPPER_COLOUR = (0.5, 0.5, 0.0, 1.0), (0.0, 0.5, 0.0, 1.0), (0.0, 0.0, 0.5, 1.0)
_MOUNT_HEIGHT = 0.01  # of the mount's frame over the robot's
_OBJECT_DAMPING = 0.0005


def build(problem: Problem, assets: Assets, profile: Profile = "faithful") -> mujoco.MjSpec:
    """The scene of a problem. Fixtures lie at the origin: reset places them (model.body_pos, model.body_quat).

    UserError for a problem class, category or profile that is not known and for a file that is missing."""
    if profile not in get_args(Profile):
        raise UserError(f"unknown profile {profile!r}; expected one of {', '.join(get_args(Profile))}")
    arena = _arena(problem)
    spec = _surroundings(problem, arena, assets)
    _add_robot(spec, arena, assets)
    for name, category in things(problem):
        _add_thing(spec, name, category, assets)
    _set_options(spec)
    spec.add_numeric(name=DRAWN, data=_SHOWN_GROUPS, size=len(_SHOWN_GROUPS))
    for site in spec.sites:  # a negative alpha hides, as in robosuite, and 1 - alpha shows again
        site.rgba[3] *= -1
    if profile == "physics":
        _strip(spec)
    else:
        _set_drawing(spec, DRAWINGS[profile])
    _check_files(spec, assets)
    return spec


def things(problem: Problem) -> Named:
    """(name, category) of all objects and of all fixtures but the arena's own surface, in the model's order."""
    surface = _arena(problem).surface
    return problem.objects + tuple(fixture for fixture in problem.fixtures if fixture[1] != surface)


def _arena(problem: Problem) -> Arena:
    if problem.kind not in ARENAS:
        raise UserError(f"unknown problem class {problem.kind!r}; expected one of {', '.join(ARENAS)}")
    return ARENAS[problem.kind]


def _set_options(spec: mujoco.MjSpec) -> None:
    """robosuite's base model."""
    spec.option.timestep = 0.002
    spec.option.impratio = 20
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.density, spec.option.viscosity = 1.2, 2e-5
    spec.visual.map.znear = 0.001
    for texture in spec.textures:
        if hasattr(texture, "colorspace"):  # newer MuJoCo would draw pictures that are tagged sRGB darker
            texture.colorspace = mujoco.mjtColorSpace.mjCOLORSPACE_LINEAR


def _set_drawing(spec: mujoco.MjSpec, drawing: Drawing) -> None:
    spec.visual.quality.shadowsize, spec.visual.quality.offsamples = drawing.shadow_map, drawing.samples
    if not drawing.reflections:
        for material in spec.materials:
            material.reflectance = 0


def _read(path: Path) -> mujoco.MjSpec:
    """A model file, to be changed: it knows its files wherever it is attached, and counts inertia as robosuite's base
    model does, from collision geoms alone."""
    return _parsed(path, path.stat().st_mtime_ns).copy()


@functools.lru_cache(maxsize=64)
def _parsed(path: Path, changed: int) -> mujoco.MjSpec:
    try:
        root = ElementTree.parse(path).getroot()
        _tidy(root)
        spec = mujoco.MjSpec.from_string(ElementTree.tostring(root, "unicode"))
    except (ElementTree.ParseError, ValueError) as e:
        raise UserError(f"{path} is not a model that MuJoCo {mujoco.__version__} reads: {e}") from e
    spec.compiler.degree = False
    spec.compiler.autolimits = True
    spec.compiler.inertiagrouprange = (_GROUP_COLLISION, _GROUP_COLLISION)
    for mesh in spec.meshes:
        mesh.file = _absolute(path.parent / spec.meshdir, mesh.file)
    for texture in spec.textures:
        texture.file = _absolute(path.parent / spec.texturedir, texture.file)
    spec.meshdir = spec.texturedir = ""
    return spec


def _tidy(root: ElementTree.Element) -> None:
    """Of assets of one name the first counts, as in robosuite (flat_stove.xml names two textures alike, which newer
    MuJoCo does not read); how much room contacts need is the whole scene's matter."""
    seen: set[tuple[str, str]] = set()
    for group in root.findall("asset"):
        for element in list(group):
            name = element.get("name", "")
            if name and (element.tag, name) in seen:
                group.remove(element)
            seen.add((element.tag, name))
    for size in root.findall("size"):
        root.remove(size)


def _check_files(spec: mujoco.MjSpec, assets: Assets) -> None:
    files = dict.fromkeys(element.file for element in (*spec.meshes, *spec.textures) if element.file)
    missing = [file for file in files if not Path(file).is_file()]
    if missing:
        robots = all(Path(file).is_relative_to(assets.robosuite) for file in missing)
        get = GET_ROBOSUITE if robots else GET_LIBERO
        raise UserError(f"{len(missing)} files of the scene are missing: {', '.join(missing)}. {get}")


def _absolute(folder: Path, file: str) -> str:
    return str(folder / file) if file else ""


def _delete(spec: mujoco.MjSpec, element: object) -> None:
    if hasattr(element, "delete"):
        element.delete()
    else:  # newer MuJoCo
        spec.delete(element)


# The arena


def _surroundings(problem: Problem, arena: Arena, assets: Assets) -> mujoco.MjSpec:
    spec = _read(assets.model(arena.xml))
    styles = {"texplane": arena.floor, "tex-wall": arena.wall}
    for texture in spec.textures:
        if texture.name in styles:
            texture.file = str(assets.models / "textures" / styles[texture.name])
    if arena.table:
        _resize_table(spec, arena.table)
    _colour(spec.geoms, _ARENA_COLOUR)
    _add_zones(spec.body(arena.body), problem, arena)
    for name, view in arena.views.items():
        camera = spec.camera(name) or spec.worldbody.add_camera(name=name)
        camera.pos, camera.quat = view.position, view.quaternion
    return spec


def _resize_table(spec: mujoco.MjSpec, table: Table) -> None:
    """robosuite's TableArena with the legs in its corners."""
    x, y, z = table.half_size
    leg = (table.top - z) / 2
    spec.body("table").pos = (0, 0, table.top - z)
    for name in ("table_collision", "table_visual"):
        spec.geom(name).size = table.half_size
    spec.geom("table_collision").friction = table.friction
    spec.site("table_top").pos = (0, 0, z)
    for i, (sx, sy) in enumerate(((1, 1), (-1, 1), (-1, -1), (1, -1)), 1):
        geom = spec.geom(f"table_leg{i}_visual")
        geom.pos = (sx * (x - 0.1), sy * (y - 0.1), -leg)
        geom.size = (0.025, leg, 0)


def _add_zones(body: mujoco.MjsBody, problem: Problem, arena: Arena) -> None:
    """A flat box site for each region of the surface: its first range."""
    surfaces = {name for name, category in problem.fixtures if category == arena.surface}
    for region in problem.regions.values():
        if region.target not in surfaces or not region.ranges:
            continue
        x0, y0, x1, y1 = region.ranges[0]
        body.add_site(
            name=region.name,
            type=mujoco.mjtGeom.mjGEOM_BOX,
            pos=np.array([(x0 + x1) / 2, (y0 + y1) / 2, 0.0]) + arena.zone,
            size=[(x1 - x0) / 2, (y1 - y0) / 2, 0.007],
            rgba=region.rgba,
        )


def _colour(geoms: Iterable[mujoco.MjsGeom], rgba: Rgba) -> None:
    for geom in geoms:
        if geom.group == _GROUP_COLLISION:
            geom.rgba = rgba


# The robot


def _add_robot(spec: mujoco.MjSpec, arena: Arena, assets: Assets) -> None:
    """The Panda at its place, its gripper on its hand, and the mount under it."""
    arm = _part(assets.robot("robots/panda/robot.xml"), "base")
    base = arm.body("base")
    unnamed = [geom for geom in base.find_all("geom") if not geom.name]
    for i, geom in enumerate(unnamed):
        geom.name = f"g{i}_{'vis' if geom.group == _GROUP_VISUAL else 'col'}"
    for i, joint in enumerate(base.find_all("joint")):
        set_damping(joint, 0.1 if i < 5 else 0.01)
        joint.frictionloss = 0.1
        joint.armature = 5.0 / (i + 1)
    base.pos = arena.base
    _attach(spec.worldbody, arm, "base", ROBOT, _ROBOT_COLOUR)
    under = spec.body(f"{ROBOT}base")
    if arena.mounted:
        mount = _part(assets.robot("mounts/rethink_mount.xml"), "base")
        mount.body("base").pos = (0, 0, _MOUNT_HEIGHT)
        _attach(under, mount, "base", MOUNT, _ARENA_COLOUR)
    else:  # robosuite's null mount
        under.add_body(name=f"{MOUNT}base")
    gripper = _part(assets.robot("grippers/panda_gripper.xml"), "right_gripper")
    _attach(spec.body(f"{ROBOT}right_hand"), gripper, "right_gripper", GRIPPER, _GRIPPER_COLOUR)


def _part(path: Path, root: str) -> mujoco.MjSpec:
    """A model file, to be changed and attached by its body `root`."""
    spec = _read(path)
    if spec.body(root) is None:
        raise UserError(f"{path} has no body {root!r}: is it LIBERO's, or robosuite 1.4's?")
    return spec


def _attach(parent: mujoco.MjsBody, part: mujoco.MjSpec, root: str, prefix: str, colour: Rgba | None = None) -> None:
    body = part.body(root)
    if colour:
        _colour(body.find_all("geom"), colour)
    parent.add_frame().attach_body(body, prefix, "")


# Objects and fixtures


def _add_thing(spec: mujoco.MjSpec, name: str, category: str, assets: Assets) -> None:
    if category not in CATEGORIES:
        raise UserError(f"{name} is of the unknown category {category!r}; expected one of {', '.join(CATEGORIES)}")
    known = CATEGORIES[category]
    part = _part(assets.model(known.xml), "object")
    body = part.body("object")
    body.name = "main"
    for i, geom in enumerate(body.find_all("geom")):
        geom.name = geom.name or f"g{i}"
        if geom.group not in (_GROUP_COLLISION, _GROUP_VISUAL):
            _delete(part, geom)
    if known.kind == "object":
        set_damping(body.add_joint(name="joint0", type=mujoco.mjtJoint.mjJNT_FREE), _OBJECT_DAMPING)
    body.add_site(name="default_site", size=[0.002] * 3, rgba=[1, 0, 0, 0])
    _attach(spec.worldbody, part, "main", f"{name}_")


# The model for physics alone


def _strip(spec: mujoco.MjSpec) -> None:
    """Removes what is only looked at: geoms that touch nothing and weigh nothing, their meshes, all that colours."""
    for geom in list(spec.geoms):
        if geom.group != _GROUP_COLLISION and not geom.contype and not geom.conaffinity:
            _delete(spec, geom)
        else:
            geom.material = ""
    used = {geom.meshname for geom in spec.geoms}
    unused = [mesh for mesh in spec.meshes if mesh.name not in used]
    for element in (*unused, *spec.materials, *spec.textures, *spec.lights):
        _delete(spec, element)
