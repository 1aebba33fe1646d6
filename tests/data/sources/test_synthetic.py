"""Synthetic clips: exact tracks, motion that follows what is seen and said, and the difficulty that is promised."""

import itertools
import pickle
import time

import numpy as np
import pytest

from t2p.data.sources import synthetic_motion as motion
from t2p.data.sources.synthetic import OUTLINES, VIEW, Layer, SyntheticSource, held_out
from t2p.data.sources.synthetic_textures import BACKGROUNDS, TEXTURES

EXTENT = (1.0, 1.0)


def moving(points: np.ndarray, side: int, pixels: float = 2.0) -> np.ndarray:
    """points [T, N, 2] -> [N]: travels more than `pixels` from its first place."""
    return np.linalg.norm((points - points[:1]) * side, axis=-1).max(0) > pixels


def test_a_clip_depends_on_seed_and_index_alone():
    few, many = SyntheticSource(3, seed=5), pickle.loads(pickle.dumps(SyntheticSource(9, seed=5)))
    assert few.keys() == many.keys()[:3] == ["train-5-000000", "train-5-000001", "train-5-000002"]
    many.read(many.keys()[7])
    one, again = few.read(few.keys()[1]), many.read(few.keys()[1])
    np.testing.assert_array_equal(one.frames[VIEW], again.frames[VIEW])
    np.testing.assert_array_equal(one.tracks["exact/atm"][VIEW].points, again.tracks["exact/atm"][VIEW].points)
    other = SyntheticSource(3, seed=6)
    assert (other.read(other.keys()[1]).frames[VIEW] != one.frames[VIEW]).any()


def test_shapes_and_types():
    source = SyntheticSource(1, size=(48, 80), num_frames=5, grid=4, num_points=30)
    episode = source.read(source.keys()[0])
    assert episode.frames[VIEW].shape == (5, 48, 80, 3) and episode.frames[VIEW].dtype == np.uint8
    assert episode.language == (motion.sentence(episode.info["program"], episode.info["manner"]),)
    for name, count in (("exact/grid", 16), ("exact/atm", 30)):
        tracks = episode.tracks[name][VIEW]
        assert tracks.points.shape == (5, count, 2) and tracks.points.dtype == np.float32
        assert tracks.visible.shape == (5, count) and tracks.queries.shape == (count, 3)
        frames = tracks.queries[:, 0].astype(int)
        at_query = tracks.points[frames, np.arange(count)]
        np.testing.assert_allclose(at_query, tracks.queries[:, 1:], atol=1e-6)
        assert tracks.visible[frames, np.arange(count)].all()
    np.testing.assert_allclose(episode.tracks["exact/grid"][VIEW].points[0, 1], [0.375, 0.125], atol=1e-6)


def test_what_a_point_shows_stays_the_same():
    """Visible points keep their colour along their track, and would not if the tracks were half a pixel off."""
    import cv2

    def change(shift: float) -> float:
        total = []
        for seed in range(4):
            source = SyntheticSource.benchmark(seed, num_frames=6)
            episode = source.read(source.keys()[0])
            tracks = episode.tracks["exact/grid"][VIEW]
            use = moving(tracks.points, 256) & tracks.visible.all(0)
            colors = []
            for frame, points in zip(episode.frames[VIEW], tracks.points[:, use], strict=True):
                place = (points * 256 - 0.5).astype(np.float32)
                place += 0 if not colors else shift
                sampled = cv2.remap(frame.astype(np.float32), place[:, 0], place[:, 1], cv2.INTER_CUBIC)
                colors.append(sampled[:, 0])
            total.append(np.median(np.abs(np.array(colors[1:]) - colors[0]), axis=(0, 1)).mean())
        return float(np.mean(total))

    exact = change(0.0)
    assert exact < 2.5  # of 255
    assert change(0.5) > 1.5 * exact


def test_a_drawn_shape_lies_where_its_pose_says():
    """The centre of mass of drawn pixels against the polygon's, to a fiftieth of a pixel."""
    from t2p.data.sources.synthetic import Scene

    poses = np.array([[0.4 + 0.0137 * t, 0.53 - 0.009 * t, 0.0, 0.15] for t in range(5)])
    layer = Layer(OUTLINES["square"], poses, np.full((60, 60, 3), 200, np.float32))
    frames = Scene((100, 100), np.zeros((200, 200, 3), np.float32), (layer,)).draw()[..., 0].astype(float)
    ticks = np.arange(100) + 0.5
    for frame, pose in zip(frames, poses, strict=True):
        center = np.array([(frame.sum(0) * ticks).sum(), (frame.sum(1) * ticks).sum()]) / frame.sum()
        np.testing.assert_allclose(center, pose[:2] * 100, atol=0.02)
        assert frame.sum() / 200 == pytest.approx(2 * (1.15 * 15) ** 2, rel=0.01)  # the square's area


def test_covered_points_are_invisible_and_come_back():
    from t2p.data.sources.synthetic import Scene

    def layer(x: np.ndarray) -> Layer:
        poses = np.stack([x, np.full(5, 0.5), np.zeros(5), np.full(5, 0.1)], -1)
        return Layer(OUTLINES["square"], poses, np.zeros((8, 8, 3), np.float32))

    still, passing = layer(np.full(5, 0.5)), layer(np.linspace(0.1, 0.9, 5))
    scene = Scene((64, 64), np.zeros((128, 128, 3), np.float32), (still, passing))
    points, visible = scene.track(np.array([[0, 0.5, 0.5], [0, 0.1, 0.5], [0, 0.3, 0.5], [4, 0.5, 0.5]]))
    np.testing.assert_array_equal(visible[:, 0], [1, 1, 0, 1, 1])  # on the still one
    np.testing.assert_array_equal(visible[:, 1], [1, 1, 1, 1, 1])  # on the one that passes in front
    np.testing.assert_array_equal(visible[:, 2], [1, 0, 1, 1, 1])  # on the background
    np.testing.assert_allclose(points[:, 1, 0], [0.1, 0.3, 0.5, 0.7, 0.9], atol=1e-6)
    np.testing.assert_allclose(points[:, 3], 0.5, atol=1e-6)


def test_the_future_follows_from_one_frame():
    """The oracle: from the pose, the outline, the colour and the sentence at frame t, the rest of the clip."""
    for program, shape in itertools.product(motion.PROGRAMS, motion.SHAPE_PACE):
        rate = motion.pace(shape, "red", "gently")
        whole = motion.roll_out((0.35, 0.6, 0.4, 0.15), program, rate, EXTENT, 20)
        for t in (3, 11):
            again = motion.roll_out(tuple(whole[t]), program, rate, EXTENT, 20 - t)
            np.testing.assert_array_equal(again, whole[t:])


def test_every_cue_changes_the_motion():
    def path(program: str = "left", shape: str = "star", color: str = "red", manner: str = "gently") -> np.ndarray:
        return motion.roll_out((0.6, 0.4, 0.2, 0.15), program, motion.pace(shape, color, manner), EXTENT, 16)

    by_program = [path(program=p) for p in motion.PROGRAMS]
    assert min(np.abs(a - b).max() for a, b in itertools.combinations(by_program, 2)) > 0.02
    for name, choices in (
        ("shape", motion.SHAPE_PACE),
        ("color", motion.COLOR_PACE),
        ("manner", motion.MANNERS),
    ):
        paths = [path(**{name: choice}) for choice in choices]
        assert min(np.abs(a - b).max() for a, b in itertools.combinations(paths, 2)) > 0.01, name
    sentences = {motion.sentence(p, m) for p in motion.PROGRAMS for m in motion.MANNERS}
    assert len(motion.PROGRAMS) >= 8 and 16 <= len(sentences) <= 30


@pytest.mark.parametrize("program", motion.PROGRAMS)
def test_every_program_accelerates(program):
    """Constant velocity from frames t - 2, t - 1 misses by at least half of the distance that no motion misses."""
    rest, velocity = [], []
    corners = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]]) * 0.8
    for x, y in itertools.product((0.25, 0.5, 0.75), repeat=2):
        poses = motion.roll_out((x, y, 0.3, 0.14), program, motion.pace("star", "red", "quickly"), EXTENT, 24)
        world = Layer(OUTLINES["star"], poses, np.zeros((1, 1, 3))).to_world(corners, np.arange(24)[:, None])
        for t in (2, 5, 8):
            future = world[t : t + 16]
            steps = np.arange(len(future))[:, None, None]
            rest.append(((future - future[0]) ** 2).mean())
            velocity.append(((future - world[t] - steps * (world[t - 1] - world[t - 2])) ** 2).mean())
    assert np.mean(velocity) > 0.5**2 * np.mean(rest)


def test_validation_holds_out_combinations_but_no_texture_background_or_start():
    def combinations(split: str) -> set[tuple[int, int, int]]:
        source = SyntheticSource(400, split=split)
        plans = [source._plan(np.random.default_rng([0, i, split == "val"])) for i in range(source.count)]
        return {
            (TEXTURES.index(o["texture"]), BACKGROUNDS.index(plan["background"]), o["cell"])
            for plan in plans
            for o in plan["objects"]
        }

    train, val = combinations("train"), combinations("val")
    assert not train & val
    assert all(held_out(*c) for c in val) and not any(held_out(*c) for c in train)
    for axis, count in ((0, len(TEXTURES)), (1, len(BACKGROUNDS)), (2, 9)):
        assert {c[axis] for c in train} == {c[axis] for c in val} == set(range(count))


def test_the_tracking_benchmark_is_as_hard_as_it_says():
    """Seeds 0-31, 16 frames, 256 x 256: at least three textured shapes, mean motion at least 8 px, about 10 %
    occluded, and no motion within 1 .. 10 px for at most 0.30 of the moving points."""
    from t2p.metrics.tracks import track2act_delta

    travel, hidden, still = [], [], []
    for seed in range(32):
        source = SyntheticSource.benchmark(seed)
        plan = source._plan(rng := np.random.default_rng([seed, 0, 0]))
        scene = source._scene(plan, rng)
        assert source.size == (256, 256) and scene.length == 16 and len(plan["objects"]) >= 3
        y, x = np.meshgrid(*[(np.arange(24) + 0.5) / 24] * 2)
        points, visible = scene.track(np.stack([0 * x.ravel(), x.ravel(), y.ravel()], -1))
        use = moving(points, 256)
        points, visible = points[:, use] * 256, visible[:, use]
        travel.append(np.linalg.norm(points - points[:1], axis=-1).max(0).mean())
        hidden.append(1 - visible.mean())
        still.append(track2act_delta(np.broadcast_to(points[:1], points.shape)[1:], points[1:], visible[1:]))
    assert min(travel) >= 8
    assert 0.07 <= np.mean(hidden) <= 0.14
    assert np.mean(still) <= 0.30


def test_atm_points_move_more_than_the_grid():
    source = SyntheticSource(12)
    share = {"exact/grid": [], "exact/atm": []}
    keys = source.keys()
    for key in keys:
        for name, views in source.read(key).tracks.items():
            share[name].append(moving(views[VIEW].points, 64).mean())
    assert np.mean(share["exact/atm"]) > 2 * np.mean(share["exact/grid"]) > 0.05


def test_a_core_draws_150_small_frames_a_second():
    source = SyntheticSource(6)
    source.read(source.keys()[0])
    start = time.process_time()
    for key in source.keys()[1:]:
        source.read(key)
    assert 5 * source.num_frames / (time.process_time() - start) > 150


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match='"test"'):
        SyntheticSource(1, split="test")
    with pytest.raises(ValueError, match="num_objects must be 1 to"):
        SyntheticSource(1, num_objects=20)
