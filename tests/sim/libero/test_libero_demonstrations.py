"""Recorded demonstrations shown again: the original's states and fixtures, written as LIBERO's file and read back, give
the original's pictures, and points stay on what they were seen on."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from t2p.cli.main import main
from t2p.data.importing import import_source
from t2p.data.libero_file import ATTRIBUTES, OBSERVED, LiberoDemo, write_libero_hdf5
from t2p.data.sources import open_source
from t2p.data.store import Dataset
from t2p.io import UserError
from t2p.sim.libero.assets import ROBOSUITE_ROOT, ROOT, Assets
from t2p.sim.libero.demonstrations import VIEWS, demonstration
from t2p.sim.points import body_ids
from t2p.sim.record import Replay, ReplaySource
from t2p.sim.render import choose_renderer

TASKS = (
    "libero_spatial__pick_up_the_black_bowl_between_the_plate_and_the_ramekin_and_place_it_on_the_plate",
    "libero_10__KITCHEN_SCENE6_put_the_yellow_and_white_mug_in_the_microwave_and_close_it",
)
LAST = 60  # the recorded step whose pictures are compared; the demonstration's steps are the eight before it
STEPS = slice(LAST - 9, LAST)
SIZE = (128, 128)


@pytest.fixture(scope="module", params=TASKS, ids=("spatial", "kitchen"))
def file(request, shared: Path, tmp_path_factory) -> Path:
    """A piece of a recorded trajectory as LIBERO's file; its last frame shows the state of step LAST - 1."""
    folder = shared / "golden/libero" / request.param
    suite, task = request.param.split("__")
    recorded = np.load(folder / "traj_smooth.npz")
    model = gzip.decompress((folder / "model_compiled.xml.gz").read_bytes()).decode()
    states = recorded["states"][STEPS]
    demo = LiberoDemo(
        actions=recorded["actions"][STEPS],
        states=states,
        frames={view: np.zeros((len(states), *SIZE, 3), np.uint8) for view in VIEWS},
        observed={name: np.zeros((len(states), 3)) for name in OBSERVED},
        robot_states=np.zeros((len(states), 9)),
        model_file=model,
        init_state=recorded["init_state"],
    )
    path = tmp_path_factory.mktemp("demos") / f"{suite}/{task}_demo.hdf5"
    write_libero_hdf5(path, [demo], dict.fromkeys(ATTRIBUTES, ""))
    return path


@pytest.fixture(scope="module")
def dataset(file: Path) -> Dataset:
    return imported(file)


def imported(file: Path, align: str = "causal") -> Dataset:
    out = file.parent / align
    import_source(open_source(file.parent, align=align), out, settings={}, codec="png")
    return Dataset(out, "train")


@pytest.fixture(scope="module")
def shown(dataset: Dataset, assets: Assets):
    replay = demonstration(dataset, 0, assets=assets)
    yield replay
    replay.renderer.close()


def test_pictures_are_the_originals(shown: Replay, dataset: Dataset, shared: Path) -> None:
    """A fixture out of its place by a centimetre, or a shape that collides drawn, would change many pixels."""
    if choose_renderer() == "rays":
        pytest.skip("needs OpenGL: rays draw otherwise than the original")
    suite, _, task = dataset.infos[0].task.partition("/")
    recorded = np.load(shared / f"golden/libero/{suite}__{task}/traj_smooth.npz")
    shown.qpos = np.concatenate([shown.qpos, recorded["states"][LAST : LAST + 1, 1 : 1 + shown.model.nq]])
    for view, camera in VIEWS.items():
        upside_down = recorded[f"fwd_image/{camera}/{LAST:04d}"].astype(int)
        drawn = shown.frame(len(shown) - 1, view, SIZE).rgb
        assert np.abs(drawn - upside_down[::-1]).mean() < 0.3
    shown.qpos = shown.qpos[:-1]


def test_the_world_is_that_of_the_demonstration(shown: Replay, dataset: Dataset) -> None:
    facts = dataset.info(0)["libero"]
    np.testing.assert_array_equal(shown.qpos, dataset.column(0, "states")[:, 1 : 1 + shown.model.nq])
    data = shown.show(0)
    assert shown.task.name == facts["task"] and facts["fixtures"]
    for body, pose in facts["fixtures"].items():
        np.testing.assert_allclose(data.body(body).xpos, pose["pos"], atol=1e-12)
    mask = ReplaySource({"demo": shown}).mask("demo", "agentview", SIZE)
    bodies = shown.surfaces(0, "agentview", SIZE).bodies
    robot = np.isin(bodies, body_ids(shown.model, ["robot0_base"]))
    np.testing.assert_array_equal(mask[0], robot)
    assert 0.02 < robot.mean() < 0.5


def test_points_are_annotated_from_the_states(dataset: Dataset, shown: Replay, assets: Assets, monkeypatch) -> None:
    monkeypatch.delenv(ROOT, raising=False)
    monkeypatch.setenv(ROBOSUITE_ROOT, str(assets.robosuite))
    command = ["annotate", "--input", dataset.directory, "--out", dataset.directory, "--tracker", "simulator"]
    command += ["--libero_root", str(assets.libero)]
    assert main([*command, "--layout", "grid", "--side", "16", "--workers", "1"]) == 0
    found = Dataset(dataset.directory, "train")
    length = found.infos[0].length
    tracks = found.tracks(0, "simulator/grid", "agentview", 0, length)
    places = (tracks.points[0] * SIZE[0]).astype(int)
    own = shown.surfaces(0, "agentview", SIZE).bodies[places[:, 1], places[:, 0]]
    still, robot = own == 0, np.isin(own, body_ids(shown.model, ["robot0_right_hand"]))
    assert still.sum() > 50 and robot.any()
    assert tracks.visible[0].mean() > 0.97  # the grid's points are pixels' corners: at silhouettes of another pixel
    assert np.abs(tracks.points[:, still] - tracks.points[0, still]).max() < 1e-6
    assert np.linalg.norm(tracks.points[-1, robot] - tracks.points[0, robot], axis=-1).mean() * SIZE[0] > 1
    hand = found.tracks(0, "simulator/grid", "eye_in_hand", 0, length)
    assert np.linalg.norm(hand.points[-1] - hand.points[0], axis=-1).max() * SIZE[0] > 1  # the camera moves


def test_rows_of_two_moments_are_refused(file: Path, dataset: Dataset, assets: Assets, monkeypatch, capsys) -> None:
    stored = imported(file, "stored")
    with pytest.raises(UserError, match=r"imported as it is stored: .* Import the demonstrations with --source.align="):
        demonstration(stored, 0, assets=assets)
    command = ["annotate", "--input", stored.directory, "--out", stored.directory, "--tracker", "simulator"]
    assert main([*command, "--layout", "grid", "--workers", "1"]) != 0
    assert "--source.align=causal" in capsys.readouterr().out


class Changed:
    """A dataset whose one episode says other things of itself."""

    def __init__(self, data: Dataset, columns: dict | None = None, **facts):
        self.data, self.infos, self.columns = data, data.infos, columns or {}
        self.facts = {k: v for k, v in {**data.info(0)["libero"], **facts}.items() if v is not None}

    def info(self, number: int) -> dict:
        return {"libero": self.facts}

    def column(self, number: int, name: str) -> np.ndarray:
        return self.columns.get(name, self.data.column(number, name))


def test_what_a_scene_lacks_is_told(dataset: Dataset, assets: Assets) -> None:
    for changes, message in (
        ({"fixtures": None}, r"has the poses of none; its scene has the fixtures .*_main"),
        ({"task": "libero_90/nothing"}, "unknown task 'libero_90/nothing'"),
        ({"task": "no_suite"}, "unknown LIBERO suite 'no_suite'"),
        ({"columns": {"states": np.zeros((3, 5))}}, "states have 5 numbers each, this model needs"),
    ):
        with pytest.raises(UserError, match=message):
            demonstration(Changed(dataset, **changes), 0, assets=assets)
