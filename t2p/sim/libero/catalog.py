"""What LIBERO's code knows of its objects and arenas beside their model files, as tables.

Sources: LIBERO's object classes (released code, envs/objects), its problem classes (envs/problems: table offsets,
cameras, styles) and robosuite 1.4's Panda and Rethink mount. Lengths in metres, angles in radians.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import pi
from typing import Literal

Range = tuple[float, float]


@dataclass(frozen=True)
class Category:
    """A kind of thing. kind: an object moves freely, a fixture stays where reset puts it. xml: in the assets' folder.
    rotation: about these axes in this order, each angle drawn from its range. bottom, top: heights of the placement
    sites over the origin; radius: for placement. sites, joints: names in the model file. articulation: by predicate of
    a task's start, the range that the joints' positions are drawn from."""

    kind: Literal["object", "fixture"]
    xml: str
    rotation: tuple[tuple[str, Range], ...]
    bottom: float
    top: float
    radius: float
    sites: tuple[str, ...] = ()
    joints: tuple[str, ...] = ()
    articulation: Mapping[str, Range] = field(default_factory=dict)


_QUARTER = (("x", (pi / 2, pi / 2)),)
_QUARTER_Z = (("z", (pi / 2, pi / 2)),)
_NONE = (("x", (0.0, 0.0)),)
_BOOK = (("x", (-pi / 2, -pi / 4)),)
_MUG = (("x", (-pi / 2, -pi / 2)),)
_BOTTLE = (("x", (pi / 2, pi / 2)), ("z", (pi / 2, pi / 2)))
_CABINET = (("x", (pi / 4, pi / 2)),)

_Rotation = tuple[tuple[str, Range], ...]


def _object(
    source: str, name: str, rotation: _Rotation, bottom: float = -0.06, top: float = 0.04, radius: float = 0.025
) -> tuple[str, Category]:
    sites = ("contain_region",) if name in ("basket", "wooden_tray") else ()
    return name, Category("object", _xml(source, name), rotation, bottom, top, radius, sites, ("joint0",))


def _shelf(name: str, *sites: str) -> tuple[str, Category]:
    return name, Category("fixture", _xml("turbosquid", name), _NONE, -0.06, 0.04, 0.025, sites)


def _cabinet(name: str) -> tuple[str, Category]:
    sites = ("top_side", "top_region", "middle_region", "bottom_region")
    joints = ("top_level", "middle_level", "bottom_level")
    ranges = {"open": (-0.16, -0.14), "close": (0.0, 0.005)}
    return name, Category("fixture", _articulated(name), _CABINET, -0.045, 0.045, 0.045, sites, joints, ranges)


def _xml(source: str, name: str) -> str:
    return f"{source}_objects/{name}/{name}.xml"


def _articulated(name: str) -> str:
    return f"articulated_objects/{name}.xml"


CATEGORIES: Mapping[str, Category] = dict(
    (
        _object("stable_scanned", "akita_black_bowl", _QUARTER),
        _object("stable_hope", "alphabet_soup", _QUARTER_Z, -0.04),
        _object("stable_scanned", "basket", _QUARTER),
        _object("stable_hope", "bbq_sauce", _QUARTER, -0.06, 0.06, 0.015),
        _object("turbosquid", "black_book", _BOOK),
        _object("stable_hope", "butter", _NONE, -0.02, 0.02, 0.02),
        _object("stable_scanned", "chefmate_8_frypan", _QUARTER),
        _object("stable_hope", "chocolate_pudding", _NONE),
        _object("stable_hope", "cookies", _QUARTER),
        _object("stable_hope", "cream_cheese", _NONE, -0.025, 0.025, 0.03),
        _object("stable_scanned", "glazed_rim_porcelain_ramekin", _QUARTER),
        _object("stable_hope", "ketchup", _BOTTLE),
        _object("stable_hope", "milk", _BOTTLE, radius=0.03),
        _object("turbosquid", "moka_pot", _NONE),
        _object("stable_hope", "new_salad_dressing", _BOTTLE),
        _object("stable_hope", "orange_juice", _BOTTLE),
        _object("stable_scanned", "plate", _QUARTER),
        _object("turbosquid", "porcelain_mug", _MUG),
        _object("turbosquid", "red_coffee_mug", _MUG),
        _object("stable_hope", "salad_dressing", _BOTTLE),
        _object("stable_hope", "tomato_sauce", _QUARTER_Z),
        _object("stable_scanned", "white_bowl", _QUARTER),
        _object("turbosquid", "white_yellow_mug", _MUG),
        _object("turbosquid", "wine_bottle", _NONE),
        _object("turbosquid", "wooden_tray", _NONE),
        _object("turbosquid", "yellow_book", _BOOK),
        _shelf(
            "desk_caddy",
            "right_contain_region",
            "left_contain_region",
            "back_contain_region",
            "front_contain_region",
        ),
        _shelf("wine_rack", "top_region"),
        _shelf("wooden_two_layer_shelf", "top_side", "top_region", "bottom_region"),
        _cabinet("white_cabinet"),
        _cabinet("wooden_cabinet"),
        (
            "microwave",
            Category(
                kind="fixture",
                xml=_articulated("microwave"),
                rotation=_CABINET,
                bottom=-0.06,
                top=0.06,
                radius=0.015,
                sites=("top_side", "heating_region"),
                joints=("microjoint",),
                articulation={"open": (-2.094, -1.3), "close": (-0.005, 0.0)},
            ),
        ),
        (
            "flat_stove",
            Category(
                kind="fixture",
                xml=_articulated("flat_stove"),
                rotation=(("y", (0.0, 0.0)),),
                bottom=-0.045,
                top=0.045,
                radius=0.045,
                sites=("cook_region", "burner"),
                joints=("button",),
                articulation={"turnon": (0.5, 2.1), "turnoff": (-0.005, 0.0)},
            ),
        ),
    )
)


@dataclass(frozen=True)
class View:
    """Where a camera stands. position: [3]; quaternion: (w, x, y, z), not normalised where LIBERO's is not."""

    position: tuple[float, float, float]
    quaternion: tuple[float, float, float, float]


@dataclass(frozen=True)
class Table:
    """The box that LIBERO resizes an arena's table to: half its size, its sliding friction, its top's height."""

    half_size: tuple[float, float, float]
    friction: tuple[float, float, float]
    top: float


@dataclass(frozen=True)
class Arena:
    """The surroundings of a problem class. xml: in the assets' folder; floor, wall: pictures in its textures/.
    surface: category of the fixture that is the arena's own surface, in body `body`; base: the robot's; mounted: on the
    Rethink mount. offset: of placement; fixture_z: added for fixtures; shrink: whether objects keep their radius from a
    range's border; zone: (x, y, z) in the body's frame that the regions' sites are moved by."""

    xml: str
    floor: str
    wall: str
    surface: str
    body: str
    base: tuple[float, float, float]
    mounted: bool
    offset: tuple[float, float, float]
    fixture_z: float
    shrink: bool
    zone: tuple[float, float, float]
    views: Mapping[str, View]
    table: Table | None = None


_Q1 = (0.6380177736282349, 0.3048497438430786, 0.30484986305236816, 0.6380177736282349)
_Q2 = (0.6182166934013367, 0.3432307541370392, 0.3432314395904541, 0.6182177066802979)
_FRONT = (0.56, 0.43, 0.43, 0.56)
_GALLERY = View(
    (2.844547668904445, 2.1279684793440667, 3.128616846013882),
    (0.42261379957199097, 0.23374411463737488, 0.41646939516067505, 0.7702690958976746),
)
_PAPER = (0.513, 0.353, 0.443, 0.645)


def _views(
    agent: tuple[float, float, float],
    quaternion: tuple[float, float, float, float],
    front: tuple[float, float, float],
    paper: tuple[float, float, float] | None = None,
) -> Mapping[str, View]:
    views = {"agentview": View(agent, quaternion), "frontview": View(front, _FRONT), "galleryview": _GALLERY}
    return views | ({"paperview": View(paper, _PAPER)} if paper else {})


ARENAS: Mapping[str, Arena] = {
    "libero_tabletop_manipulation": Arena(
        xml="scenes/libero_tabletop_base_style.xml",
        floor="light-gray-floor-tile.png",
        wall="light-gray-plaster.png",
        surface="table",
        body="table",
        base=(-0.66, 0.0, 0.912),
        mounted=True,
        offset=(0.0, 0.0, 0.90),
        fixture_z=-0.04,
        shrink=True,
        zone=(0.0, 0.0, 0.02),
        views=_views((0.6586131746834771, 0.0, 1.6103500240372423), _Q1, (1.0, 0.0, 1.48)),
        table=Table((0.5, 0.6, 0.025), (0.6, 0.005, 0.0001), 0.90),
    ),
    "libero_kitchen_tabletop_manipulation": Arena(
        xml="scenes/libero_kitchen_tabletop_base_style.xml",
        floor="gray_ceramic_tile.png",
        wall="yellow_linen_wall_texture.png",
        surface="kitchen_table",
        body="table",
        base=(-0.66, 0.0, 0.912),
        mounted=True,
        offset=(0.0, 0.0, 0.90),
        fixture_z=-0.04,
        shrink=False,
        zone=(0.0, 0.0, 0.0),
        views=_views((0.6586131746834771, 0.0, 1.6103500240372423), _Q1, (1.0, 0.0, 1.48), (2.1, 0.535, 2.075)),
        table=Table((0.5, 0.6, 0.025), (1.0, 0.005, 0.0001), 0.90),
    ),
    "libero_study_tabletop_manipulation": Arena(
        xml="scenes/libero_study_base_style.xml",
        floor="light-gray-floor-tile.png",
        wall="light-gray-plaster.png",
        surface="study_table",
        body="study_table",
        base=(-0.75, 0.0, 0.912),
        mounted=True,
        offset=(-0.2, 0.0, 0.867),
        fixture_z=-0.04,
        shrink=False,
        zone=(-0.2, 0.0, 0.867),
        # Its views for looking on are those of the kitchen, also in the original.
        views=_views((0.4586131746834771, 0.0, 1.6103500240372423), _Q1, (1.0, 0.0, 1.48), (2.1, 0.535, 2.075)),
    ),
    "libero_living_room_tabletop_manipulation": Arena(
        xml="scenes/libero_living_room_tabletop_base_style.xml",
        floor="seamless_wood_planks_floor.png",
        wall="light-gray-plaster.png",
        surface="living_room_table",
        body="living_room_table",
        base=(-0.51, 0.0, 0.42),
        mounted=False,
        offset=(0.0, 0.0, 0.41),
        fixture_z=-0.014,
        shrink=False,
        zone=(0.0, 0.0, 0.41),
        views=_views((0.6065773716836134, 0.0, 0.96), _Q2, (1.5, 0.0, 0.9), (2.1, 0.735, 1.875)),
    ),
    "libero_floor_manipulation": Arena(
        xml="scenes/libero_floor_base_style.xml",
        floor="light-gray-floor-tile.png",
        wall="light-gray-plaster.png",
        surface="floor",
        body="floor",
        base=(-0.6, 0.0, 0.0),
        mounted=False,
        offset=(0.0, 0.0, -0.035),
        fixture_z=-0.025,
        shrink=True,
        zone=(0.0, 0.0, 0.02),
        views=_views((0.8965773716836134, 5.216182733499864e-07, 0.65), _Q2, (1.0, 0.0, 0.65)),
    ),
}

# The arm's posture at reset, and the fingers' (robosuite's Panda).
ARM_HOME = (0.0, -0.161037389, 0.0, -2.44459747, 0.0, 2.2267522, pi / 4)
FINGERS_HOME = (0.020833, -0.020833)
