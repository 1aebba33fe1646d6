"""What training's pipeline gives AMPLIFY's stages is what the release's loader gives its networks: tracks are clamped
before they are resampled in time, and not again."""

from pathlib import Path

import numpy as np
import pytest

from t2p.data.pipeline import evaluation_batches
from t2p.data.store import finish, write_shard
from t2p.methods.amplify.inputs import Window
from t2p.parity.amplify import network_input
from t2p.train.defaults import base_config, source_config
from t2p.types import Episode, TrackSet, WindowSpec

LENGTH, HORIZON, POINTS, SIZE = 5, 4, 9, 16
VIEWS, TRACKS = ("front", "wrist"), "simulator/amplify"


@pytest.fixture(scope="module")
def wild() -> Episode:
    """Points that leave the picture on all sides."""
    rng = np.random.default_rng(0)
    views = {}
    for view in VIEWS:
        points = rng.uniform(-0.5, 1.5, (LENGTH, HORIZON, POINTS, 2)).astype(np.float32)
        visible = np.ones(points.shape[:-1], bool)
        views[view] = TrackSet("window", points, visible, np.zeros((POINTS, 3), np.float32), "dis", "1")
    frames = {view: rng.integers(0, 256, (LENGTH, SIZE, SIZE, 3), np.uint8) for view in VIEWS}
    columns = {"actions": np.zeros((LENGTH, 7)), "proprio/joint_states": np.zeros((LENGTH, 7))}
    columns["proprio/gripper_states"] = np.zeros((LENGTH, 2))
    return Episode(id="0", fps=20.0, frames=frames, columns=columns, language=("go",), tracks={TRACKS: views})


@pytest.mark.parametrize(("steps", "method"), [(4, "linear"), (16, "linear"), (16, "spline")])
def test_tracks_are_those_of_the_releases_loader(wild: Episode, tmp_path: Path, steps: int, method: str) -> None:
    write_shard(tmp_path / "d", "train", 0, iter([wild]))
    finish(tmp_path / "d", shards={"train": 1})
    sources = base_config().data.sources
    sources.a = source_config(str(tmp_path / "d"))
    window = Window(VIEWS, TRACKS, POINTS, HORIZON, steps, method, (SIZE, SIZE))
    (batch,) = evaluation_batches(sources, WindowSpec(**window.fields()), batch_size=LENGTH)
    tracks, _ = window.tracks(batch)
    settings = {"views": VIEWS, "img_shape": (SIZE, SIZE), "true_horizon": HORIZON}
    settings |= {"track_pred_horizon": steps, "interp_method": method}
    for start in range(LENGTH):
        official = network_input(wild, settings, start)["traj"]
        np.testing.assert_allclose(tracks[start], official, atol=1e-6)
    assert (np.abs(official) > 1 + 1e-3).any() == (method == "spline")  # a spline may leave what it goes through
