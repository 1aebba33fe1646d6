"""Surface points: clouds on their bodies, exact motion, and visibility."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
from drawing import away_from_silhouettes, scene

from t2p.io import UserError
from t2p.sim import points, render, world
from t2p.types import Camera

SIZE = (96, 128)


@pytest.fixture(scope="module")
def seen() -> tuple[mujoco.MjModel, mujoco.MjData, render.Frame, Camera]:
    model, data = scene()
    frame = render.make_renderer(model, "rays").render(data, "front", SIZE)
    return model, data, frame, render.camera_of(model, data, "front", SIZE)


def test_named_bodies_bring_what_hangs_on_them() -> None:
    model, _ = scene()
    post, top, green = (model.body(name).id for name in ("post", "top", "green"))
    assert points.body_ids(model, ["world", "green"]).tolist() == [0, green]
    assert points.body_ids(model, ["post"]).tolist() == [post, top]
    assert points.body_ids(model, []).tolist() == []
    robot = points.body_ids(model, ["robot/link_base"])
    assert {model.body("robot/hand").id, model.body("robot/left_finger").id} <= set(robot.tolist())
    with pytest.raises(UserError, match=r"no body 'grene'.*there are: world, green, blue"):
        points.body_ids(model, ["grene"])


def test_cloud_lies_on_the_kept_bodies(seen: tuple) -> None:
    model, data, frame, camera = seen
    kept = points.body_ids(model, ["world", "green"])
    cloud = points.cloud(frame, camera.K, kept)
    assert (cloud.points.dtype, cloud.colors.dtype) == (np.float32, np.uint8)
    assert len(cloud.points) == np.isin(frame.bodies, kept).sum()
    assert set(cloud.bodies.tolist()) == set(kept.tolist())
    in_world = points.from_camera(cloud.points, camera)
    np.testing.assert_allclose(in_world[cloud.bodies == 0][:, 2], 0, atol=1e-6)  # the floor
    cube = in_world[cloud.bodies == kept[1]] - data.body("green").xpos
    np.testing.assert_allclose(np.abs(cube).max(axis=1), 0.05, atol=1e-6)  # the cube's surface
    assert (cloud.colors[cloud.bodies == kept[1]].argmax(axis=1) == 1).all()


def test_cloud_leaves_out_the_void() -> None:
    model, data = scene()
    frame = render.make_renderer(model, "rays").render(data, "side", SIZE)
    everything = points.cloud(frame, render.camera_of(model, data, "side", SIZE).K, np.arange(-1, model.nbody))
    assert np.isfinite(everything.points).all()
    assert len(everything.points) == (frame.bodies >= 0).sum() < frame.bodies.size


def test_points_follow_a_thrown_box_exactly(seen: tuple) -> None:
    model, data, frame, camera = seen
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    blue = model.body("blue").id
    cloud = points.cloud(frame, camera.K, np.array([0, blue]))
    start = points.from_camera(cloud.points, camera)
    attached = points.attach(model, data, start, cloud.bodies)
    np.testing.assert_allclose(attached.positions(data), start, atol=1e-12)
    data.joint("blue").qvel = (0.3, -0.2, 3.0, 4.0, 5.0, -6.0)
    before = data.body("blue").xpos.copy(), data.body("blue").xmat.reshape(3, 3).copy()
    mujoco.mj_step(model, data, nstep=150)
    mujoco.mj_forward(model, data)
    moved, own = attached.positions(data), cloud.bodies == blue
    np.testing.assert_allclose(moved[~own], start[~own], atol=1e-12)  # the floor rests
    rotation = data.body("blue").xmat.reshape(3, 3) @ before[1].T
    expected = (start[own] - before[0]) @ rotation.T + data.body("blue").xpos
    np.testing.assert_allclose(moved[own], expected, atol=1e-12)
    assert np.linalg.norm(moved[own] - start[own], axis=1).min() > 0.1
    np.testing.assert_allclose(points.from_camera(points.to_camera(moved, camera), camera), moved, atol=1e-12)


def test_what_is_seen_is_visible_and_projects_to_its_pixel(seen: tuple) -> None:
    model, _, frame, camera = seen
    cloud = points.cloud(frame, camera.K, np.arange(model.nbody))
    rows, columns = np.nonzero(frame.bodies >= 0)
    centers = np.stack([(columns + 0.5) / SIZE[1], (rows + 0.5) / SIZE[0]], axis=-1)
    np.testing.assert_allclose(points.to_image(cloud.points, camera), centers, atol=1e-6)
    assert points.visible(cloud.points, cloud.bodies, frame.depth, frame.bodies, camera).all()
    behind = cloud.points * np.float32(1.03)  # 1.5 to 3 cm behind what is seen, on the same rays
    edge = ~away_from_silhouettes(frame.bodies)[rows, columns]
    assert not points.visible(behind, cloud.bodies, frame.depth, frame.bodies, camera)[~edge].all()
    assert not points.visible(behind, np.full(len(behind), -2), frame.depth, frame.bodies, camera).any()


def surface(model: mujoco.MjModel, data: mujoco.MjData, body: str, rng: np.random.Generator, n: int) -> np.ndarray:
    """Points all over a cube's surface, world frame."""
    half = model.geom(body).size
    local = rng.uniform(-1, 1, (n, 3))
    local[np.arange(n), rng.integers(3, size=n)] = rng.choice([-1, 1], n)
    return local * half @ data.body(body).xmat.reshape(3, 3).T + data.body(body).xpos


@pytest.mark.parametrize("camera_name", ["front", "side"])
def test_visibility_of_a_cube_is_that_of_its_faces(camera_name: str) -> None:
    """A convex body alone in the way: a point is seen exactly if its face looks towards the camera."""
    model, data = scene()
    size, rng = (256, 200), np.random.default_rng(1)
    camera = render.camera_of(model, data, camera_name, size)
    frame = render.make_renderer(model, "rays").render(data, camera_name, size)
    green = model.body("green").id
    on_cube = surface(model, data, "green", rng, 4000)
    outward = (on_cube - data.body("green").xpos) / 0.05
    outward = np.where(np.abs(outward) > 1 - 1e-9, outward, 0)
    faces = np.einsum("nd,nd->n", outward, camera.T_base_cam[:3, 3] - on_cube) > 0
    in_camera = points.to_camera(on_cube, camera)
    found = points.visible(in_camera, np.full(4000, green), frame.depth, frame.bodies, camera)
    column, row = (points.to_image(in_camera, camera) * (size[1], size[0])).astype(int).T
    away = away_from_silhouettes(frame.bodies)[row, column]  # from silhouettes
    assert (frame.bodies[row, column][found & away] == green).all()
    on_own = away & (frame.bodies[row, column] == green)
    assert on_own.sum() > 2000 and 0.2 < faces[on_own].mean() < 0.8
    assert (found != faces)[on_own].mean() < 0.01  # within the tolerance of an edge


def test_grazing_surfaces_are_visible() -> None:
    """From 15 cm above the floor, its depth changes by centimetres per pixel: its points are visible all the same."""
    spec = world.new_world("plain")
    world.add_floor(spec)
    world.add_camera(spec.worldbody, "low", (-1.5, 0, 0.15), (0, -1, 0), (0.1, 0, 1))
    model = spec.compile()
    data, size, rng = mujoco.MjData(model), (32, 48), np.random.default_rng(2)
    mujoco.mj_forward(model, data)
    camera = render.camera_of(model, data, "low", size)
    frame = render.make_renderer(model, "rays").render(data, "low", size)
    floor = np.concatenate([rng.uniform(-1.5, 1.5, (4000, 2)), np.zeros((4000, 1))], axis=1)
    in_camera = points.to_camera(floor, camera)
    place = points.to_image(in_camera, camera)
    inside = ((place > 0) & (place < 1)).all(axis=1) & (in_camera[:, 2] > 0)
    column, row = (place[inside] * (48, 32)).astype(int).T
    clear = (away_from_silhouettes(frame.bodies) & (frame.bodies == 0))[row, column]
    found = points.visible(in_camera[inside], np.zeros(inside.sum(), int), frame.depth, frame.bodies, camera)
    off = np.abs(frame.depth[row, column] - in_camera[inside, 2])[clear]
    assert len(off) > 500 and np.median(off) > 0.02
    assert found[clear].all()


def test_outside_and_behind_are_not_visible(seen: tuple) -> None:
    _, _, frame, camera = seen
    strange = np.array([[0, 0, -0.5], [0, 0, 0], [5, 0, 0.5], [0, -5, 0.5]], dtype=np.float32)
    assert not points.visible(strange, np.zeros(4, int), frame.depth, frame.bodies, camera).any()
    with pytest.raises(UserError, match="depth has"):
        points.visible(strange, np.zeros(4, int), frame.depth.T, frame.bodies.T, camera)


def test_bad_attachments_are_told(seen: tuple) -> None:
    model, data, _, _ = seen
    with pytest.raises(UserError, match=r"\[N, 3\]"):
        points.attach(model, data, np.zeros((4, 2)), np.zeros(4, int))
    with pytest.raises(UserError, match="body numbers"):
        points.attach(model, data, np.zeros((1, 3)), np.array([-1]))
