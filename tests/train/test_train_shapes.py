"""Shapes told without data are those of the data; what is left to the data is refused in words."""

from __future__ import annotations

from dataclasses import replace

import jax
import pytest
from train_atm import atm_config, write_clips

from t2p.data import pipeline
from t2p.io import UserError
from t2p.methods.registry import make_stage
from t2p.train.plan import describe
from t2p.train.shapes import window_shapes
from t2p.types import FieldWindow, WindowSpec


def test_a_batch_of_shapes_is_what_the_pipeline_gives(tmp_path):
    config = atm_config(write_clips(tmp_path / "data", count=1))
    window = make_stage(config).window
    text = {s: jax.numpy.zeros(config.text.width) for s in pipeline.sentences(config.data)}
    real = pipeline.example_batch(config.data, window, 3, text)
    told = window_shapes(window, config.text.width, 3)
    assert jax.tree.structure(told) == jax.tree.structure(real)
    for a, b in zip(jax.tree.leaves(told), jax.tree.leaves(real), strict=True):
        assert a.shape == b.shape and a.dtype == jax.dtypes.canonicalize_dtype(b.dtype)


WINDOW = WindowSpec(
    views=("front", "wrist"),
    images=FieldWindow((-1, 0)),
    goal=FieldWindow(("goal",)),
    track_set="exact/grid",
    tracks=FieldWindow((0, 1, 2)),
    num_points=5,
    actions=FieldWindow((0, 1)),
    proprio=FieldWindow((0,)),
    proprio_keys=("tool",),
    text=True,
    cameras=True,
    image_size=(8, 6),
    space="camera",
    widths={"actions": 7, "proprio/tool": 9},
)


def test_every_field_has_its_shape():
    tracks = {"points": [4, 3, 5, 3], "visible": [4, 3, 5], "valid": [4, 3]}
    assert describe(window_shapes(WINDOW, 11, 4)) == {
        "images": {v: [4, 2, 8, 6, 3] for v in WINDOW.views},
        "goal": {v: [4, 8, 6, 3] for v in WINDOW.views},
        "tracks": {"exact/grid": {v: tracks for v in WINDOW.views}},
        "text": [4, 11],
        "proprio": {"tool": [4, 1, 9]},
        "actions": [4, 2, 7],
        "action_valid": [4, 2],
        "has": {f: [4] for f in ("images", "goal", "tracks", "actions", "proprio", "cameras", "text")},
        "index": [4],
    }
    assert [x.shape for x in window_shapes(WINDOW, 11, 4).cameras["wrist"]] == [(4, 3, 3), (4, 4, 4)]


@pytest.mark.parametrize(
    ("missing", "word"),
    [({"image_size": None}, "pictures of any size"), ({"num_points": None}, "any number of points")]
    + [({"widths": {"actions": 7}}, "'proprio/tool'")],
)
def test_what_the_window_leaves_to_the_data_is_named(missing, word):
    with pytest.raises(UserError, match=word):
        window_shapes(replace(WINDOW, **missing), 11, 4)
