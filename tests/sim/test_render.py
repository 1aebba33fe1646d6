"""Renderers: what they show, that they agree with one another and with MuJoCo's rays, and how they are chosen."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import mujoco
import numpy as np
import pytest
from drawing import LACKING, PICTURES, around, away_from_silhouettes, scene

from t2p.geometry.cameras import project, transform_points, unproject
from t2p.io import UserError
from t2p.sim import render, world
from t2p.sim.render import contexts, shading

Pictures = Mapping[str, np.ndarray]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pictures]:
    """The scene's pictures by a renderer, drawn once in a process of its own (EGL and OSMesa exclude each other)."""
    done: dict[str, Pictures | str] = {}

    def draw(name: str) -> Pictures:
        if name not in done:
            out = tmp_path_factory.mktemp(name) / "pictures.npz"
            command = [sys.executable, str(Path(__file__).with_name("drawing.py")), name, str(out)]
            environment = {
                **os.environ,
                "PYTHONPATH": str(ROOT),
            }
            run = subprocess.run(command, capture_output=True, text=True, env=environment)
            assert run.returncode in (0, LACKING), run.stderr
            done[name] = run.stderr if run.returncode else dict(np.load(out))
        pictures = done[name]
        if isinstance(pictures, str):
            pytest.skip(pictures)
        return pictures

    return draw


@pytest.mark.parametrize("camera", PICTURES)
@pytest.mark.parametrize("pair", [("egl", "rays"), ("osmesa", "rays"), ("egl", "osmesa")], ids="-".join)
def test_renderers_agree(drawn: Callable[[str], Pictures], pair: tuple[str, str], camera: str) -> None:
    a, b = (drawn(name) for name in pair)
    bodies, depth = a[f"{camera}/bodies"], a[f"{camera}/depth"]
    aways = [away_from_silhouettes(picture[f"{camera}/bodies"]) for picture in (a, b)]
    away = aways[0] & aways[1]
    assert away.mean() > 0.8 and (aways[0] != aways[1]).mean() < 0.01
    np.testing.assert_array_equal(b[f"{camera}/bodies"][away], bodies[away])
    # A link of several shapes has an outline before itself, too: there depth jumps within one body.
    jumps = (bodies > 0) & (np.ptp(around(np.where(bodies >= 0, depth, 0)), axis=-1) > 0.04)
    assert (away & jumps).mean() < 0.01
    flat = away & (bodies >= 0) & ~jumps
    np.testing.assert_allclose(b[f"{camera}/depth"][flat], depth[flat], rtol=0, atol=1e-3)
    # Light and colour: the same lamps, but no shadows and highlights in the rays' picture.
    difference = np.abs(a[f"{camera}/rgb"].astype(int) - b[f"{camera}/rgb"])
    assert np.median(difference) < 25


GROUPED = """<mujoco>{says}<worldbody><camera name="eye" pos="0 0 3"/>
<body name="left" pos="-0.5 0 0"><geom type="box" size="0.3 0.3 0.1" group="0"/></body>
<body name="right" pos="0.5 0 0"><geom type="box" size="0.3 0.3 0.1" group="1"/></body>
<body name="up" pos="0 0.8 0"><site type="box" size="0.2 0.2 0.1" rgba="1 0 0 1"/></body>
<body name="hidden" pos="0 -0.8 0"><site type="box" size="0.2 0.2 0.1" rgba="1 0 0 -1"/></body>
</worldbody></mujoco>"""
SAYS = '<custom><numeric name="drawn_groups" data="0 1 1 0 0 0"/></custom>'


@pytest.mark.parametrize("says", [False, True])
@pytest.mark.parametrize("name", ["egl", "rays"])
def test_a_model_may_say_what_is_drawn(name: str, says: bool) -> None:
    """Sites are not, unless it does; and then in colour alone, by OpenGL."""
    if why := render.why_not(name):
        pytest.skip(why)
    model = mujoco.MjModel.from_xml_string(GROUPED.format(says=SAYS if says else ""))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer = render.make_renderer(model, name)
    frame = renderer.render(data, "eye", (32, 32))
    renderer.close()
    assert set(np.unique(frame.bodies).tolist()) == ({-1, 2} if says else {-1, 1, 2})
    assert (np.isinf(frame.depth) == (frame.bodies == -1)).all()
    red = (frame.rgb[..., 0] > 100) & (frame.rgb[..., 1] < 50)
    assert red[:16].any() == (says and name == "egl") and not red[16:].any()


@pytest.mark.parametrize("name", render.NAMES)
def test_pictures_show_the_scene(drawn: Callable[[str], Pictures], name: str) -> None:
    pictures, (model, data) = drawn(name), scene()
    assert pictures["name"] == name
    for camera, size in PICTURES.items():
        rgb, depth, bodies = (pictures[f"{camera}/{part}"] for part in ("rgb", "depth", "bodies"))
        assert (rgb.shape, depth.shape, bodies.shape) == ((*size, 3), size, size)
        assert (rgb.dtype, depth.dtype, bodies.dtype) == (np.uint8, np.float32, np.int32)
        np.testing.assert_array_equal(np.isinf(depth), bodies == -1)
        assert model.body("hidden").id not in bodies
        view = render.camera_of(model, data, camera, size)
        for body, channel in (("green", 1), ("blue", 2)):
            number = model.body(body).id
            center = data.body(body).xpos
            pixel, _ = project(transform_points(np.linalg.inv(view.T_base_cam), center), view.K)
            column, row = pixel.astype(int)
            assert bodies[row, column] == number
            assert rgb[row, column].argmax() == channel and rgb[row, column].max() > 50
    assert (pictures["side/bodies"] == -1).any()  # beyond the floor's drawn edge


@pytest.mark.parametrize("name", render.NAMES)
def test_renderers_of_two_worlds_do_not_disturb_each_other(drawn: Callable[[str], Pictures], name: str) -> None:
    pictures, green = drawn(name), scene()[0].body("green").id
    for part in ("rgb", "depth", "bodies"):  # each alone is what `render` gives
        np.testing.assert_array_equal(pictures[f"again/{part}"], pictures[f"front/{part}"])
    np.testing.assert_array_equal(pictures["last/rgb"], pictures["front/rgb"])
    assert (pictures["other/bodies"] == green).sum() < 0.5 * (pictures["front/bodies"] == green).sum()


@pytest.mark.parametrize("size", [(64, 64), (48, 90), (90, 48)])
def test_pixels_go_where_mujocos_rays_go(size: render.Size) -> None:
    """Depth unprojected lies on the geometry, and projecting it gives the pixel back."""
    model, data = scene()
    view = render.camera_of(model, data, "side", size)
    renderer = render.make_renderer(model, "rays")
    frame = renderer.render(data, "side", size)
    rng = np.random.default_rng(0)
    rows, columns = np.nonzero(frame.bodies > 0)
    for pick in rng.choice(len(rows), 20, replace=False):
        row, column = rows[pick], columns[pick]
        point = unproject(np.array([column + 0.5, row + 0.5]), np.float64(frame.depth[row, column]), view.K)
        np.testing.assert_allclose(project(point, view.K)[0], (column + 0.5, row + 0.5), atol=1e-9)
        target = transform_points(view.T_base_cam, point)
        origin, geom = data.camera("side").xpos, np.array([-1], dtype=np.int32)
        direction = (target - origin) / np.linalg.norm(target - origin)
        groups = np.array([1, 1, 1, 0, 0, 0], dtype=np.uint8)
        distance = mujoco.mj_ray(model, data, origin, direction, groups, 1, -1, geom)
        assert distance == pytest.approx(np.linalg.norm(target - origin), abs=1e-5)
        assert model.geom_bodyid[geom[0]] == frame.bodies[row, column]


def test_camera_relative_to_a_base() -> None:
    model, data = scene()
    base = np.eye(4)
    base[:3, :3], base[:3, 3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]], (0.1, 0.2, 0.12)
    in_world, in_base = (render.camera_of(model, data, "front", (128, 96), b) for b in (None, base))
    np.testing.assert_allclose(base @ in_base.T_base_cam, in_world.T_base_cam, atol=1e-12)
    assert in_base.size == (128, 96)
    # 45 degrees upright: half the picture's height at unit distance is tan(22.5 degrees).
    assert in_base.K[1, 1] == in_base.K[0, 0] == pytest.approx(64 / np.tan(np.pi / 8))
    np.testing.assert_allclose(in_base.K[:2, 2], (48, 64))


def test_planes_end_and_distance_ends() -> None:
    spec = world.new_world("edges")
    spec.worldbody.add_geom(name="tile", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0.2, 0.1, 0.01])
    world.add_camera(spec.worldbody, "above", (0, 0, 1), (1, 0, 0), (0, 1, 0), fovy=90)
    model = spec.compile()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer = render.make_renderer(model, "rays")
    frame = renderer.render(data, "above", (100, 100))  # 2 cm a pixel
    seen = np.zeros((100, 100), dtype=bool)
    seen[45:55, 40:60] = True
    np.testing.assert_array_equal(frame.bodies == 0, seen)
    np.testing.assert_allclose(frame.depth[seen], 1.0, atol=1e-6)
    assert not frame.rgb[~seen].any()
    model.vis.map.zfar = 0.9 / model.stat.extent
    assert (renderer.bodies(data, "above", (100, 100)) == -1).all()


@pytest.mark.parametrize(
    ("kind", "size", "point", "normal"),
    [
        ("BOX", (1, 2, 3), (1, 0.5, 0.5), (1, 0, 0)),
        ("BOX", (1, 2, 3), (0.5, -2, 1), (0, -1, 0)),
        ("SPHERE", (2, 0, 0), (0, 1.2, 1.6), (0, 0.6, 0.8)),
        ("CAPSULE", (1, 2, 0), (0.6, 0.8, -1.5), (0.6, 0.8, 0)),
        ("CAPSULE", (1, 2, 0), (0.6, 0, 2.8), (0.6, 0, 0.8)),
        ("CYLINDER", (1, 2, 0), (0.6, 0.8, 1.5), (0.6, 0.8, 0)),
        ("CYLINDER", (1, 2, 0), (0.3, 0.1, -2), (0, 0, -1)),
        ("ELLIPSOID", (1, 2, 3), (0, 0, 3), (0, 0, 1)),
        ("PLANE", (1, 1, 1), (0.3, 0.1, 0), (0, 0, 1)),
    ],
)
def test_normals(kind: str, size: tuple, point: tuple, normal: tuple) -> None:
    geom = getattr(mujoco.mjtGeom, f"mjGEOM_{kind}")
    found = shading.local_normals(geom, np.array(size, float), np.array([point], float))
    np.testing.assert_allclose(found, [normal], atol=1e-12)


def test_choice_is_logged_once_and_bad_choices_are_told(caplog: pytest.LogCaptureFixture) -> None:
    render.choose_renderer.cache_clear()
    with caplog.at_level(logging.INFO, logger="t2p.sim.render"):
        assert [render.choose_renderer("rays") for _ in range(2)] == ["rays", "rays"]
    assert [record.message for record in caplog.records] == ["renderer: rays (as asked for)"]
    with pytest.raises(UserError, match=r"unknown renderer 'glfw'; there are: auto, egl, osmesa, rays"):
        render.choose_renderer("glfw")


def test_missing_library_is_named_and_auto_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def lacking(name: str, mode: int = 0) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr("t2p.sim.render.contexts.ctypes.CDLL", lacking)
    contexts._egl.cache_clear()
    render.choose_renderer.cache_clear()
    with pytest.raises(UserError, match=r"'osmesa' does not work here: the system has no libOSMesa.*apt install"):
        render.choose_renderer("osmesa")
    with caplog.at_level(logging.INFO, logger="t2p.sim.render"):
        assert render.choose_renderer("auto") == "rays"
    assert caplog.messages[-1].startswith("renderer: rays (chosen; no egl: the system has no libEGL.so.1 (install")
    render.choose_renderer.cache_clear()


def test_bad_cameras_and_sizes_are_told() -> None:
    model, data = scene()
    renderer = render.make_renderer(model, "rays")
    with pytest.raises(UserError, match=r"no camera 'back'.*there are: front, side"):
        renderer.rgb(data, "back", (8, 8))
    with pytest.raises(UserError, match=r"\(height, width\) in pixels, both positive"):
        renderer.depth(data, "front", (0, 8))
    model.cam_sensorsize[0] = 0.01
    with pytest.raises(UserError, match="fovy"):
        render.camera_of(model, data, "front", (8, 8))
    renderer.close()
    renderer.close()
