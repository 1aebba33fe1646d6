"""ATM's released files: names, shapes, settings, and `t2p convert`."""

import json

import jax
import numpy as np
import pytest

from t2p import checkpoint
from t2p.cli.main import main
from t2p.convert.atm import track_transformer_rows, track_transformer_settings
from t2p.convert.base import constants, to_official, to_variables
from t2p.io import UserError
from t2p.models.atm import VARIANTS, TrackTransformer
from t2p.models.layers import sincos_2d

SETTINGS = {
    "dim": 16,
    "depth": 2,
    "heads": 3,
    "head_dim": 4,
    "image_size": (8, 32),
    "patch": 4,
    "frames": 2,
    "track_steps": 8,
    "track_patch": 2,
    "text_hidden": 10,
    "text_layers": 3,
}


def shapes_of(settings, text_width):
    model = TrackTransformer(**settings)
    x = {"images": np.zeros((1, settings["frames"], *settings["image_size"], 3)), "points": np.zeros((1, 2, 2))}
    return jax.eval_shape(lambda: model.init(jax.random.key(0), **x, text=np.zeros((1, text_width)))["params"])


def official_arrays(settings=SETTINGS, text_width=12, seed=0):
    """A made-up official file; the image table is the sin-cos one, as always."""
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda s: rng.standard_normal(s.shape, np.float32), shapes_of(settings, text_width))
    (h, w), patch = settings["image_size"], settings["patch"]
    params["image_table"] = sincos_2d(h // patch, w // patch, settings["dim"])[None]
    rows = track_transformer_rows(settings)
    return to_official(rows, params) | constants(rows)


def test_names_and_shapes_are_the_official_ones_at_paper_size(shared):
    official = json.loads((shared / "golden/atm/param_shapes_full.json").read_text())["track_transformer"]
    settings = {**VARIANTS["paper"], "text_layers": 1}
    zeros = jax.tree.map(lambda s: np.broadcast_to(np.float32(0), s.shape), shapes_of(settings, 768))
    ours = to_official(track_transformer_rows(settings), zeros)
    assert {name: list(x.shape) for name, x in ours.items()} == official["parameters"]
    frozen = [name for name, trained in official["requires_grad"].items() if not trained]
    assert frozen == ["img_embed"]
    assert sum(x.size for x in ours.values()) == 13_032_200


def test_there_and_back():
    official = official_arrays()
    rows = track_transformer_rows(SETTINGS)
    params = to_variables(rows, official)
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda s: s.shape, shapes_of(SETTINGS, 12))
    for name, value in (to_official(rows, params) | constants(rows)).items():
        np.testing.assert_array_equal(value, official[name])


def test_settings_are_read_from_shapes():
    assert track_transformer_settings(official_arrays()) == SETTINGS
    one_layer = {**SETTINGS, "text_layers": 1, "text_hidden": 128, "image_size": (24, 12), "depth": 1}
    assert track_transformer_settings(official_arrays(one_layer)) == one_layer


def test_a_foreign_image_table_needs_the_size():
    official = official_arrays()
    official["img_embed"] = official["img_embed"] + 0.1
    with pytest.raises(UserError, match="--image_size"):
        track_transformer_settings(official)
    assert track_transformer_settings(official, (16, 16))["image_size"] == (16, 16)


def test_a_moved_norm_is_refused():
    official = official_arrays()
    official["transformer.layers.1.0.norm.beta"] = np.ones(16, np.float32)
    with pytest.raises(UserError, match=r"transformer\.layers\.1\.0\.norm\.beta"):
        to_variables(track_transformer_rows(SETTINGS), official)


def test_convert_writes_a_checkpoint(tmp_path, capsys):
    official = official_arrays()
    wrapped = {f"_forward_module.{name}": value for name, value in official.items()}
    np.savez(tmp_path / "model_best.npz", **wrapped)
    out = str(tmp_path / "out")
    command = ["convert", "--from", "atm.track_transformer", str(tmp_path / "model_best.npz"), "--out", out]
    assert main([*command, "--text_encoder", "hashed", "--views", "agentview"]) == 0
    assert "parameters" in capsys.readouterr().out
    variables, meta = checkpoint.load(out)
    want = to_variables(track_transformer_rows(SETTINGS), official)
    jax.tree.map(np.testing.assert_array_equal, variables["params"], want)
    config = meta["config"]
    assert config["stage"] == "atm.track_transformer" and config["window"]["views"] == ["agentview"]
    assert config["text"] == {"encoder": "hashed", "path": "", "width": 12}
    assert meta["shapes"]["images"]["any"] == [1, 2, 8, 32, 3]
    assert main([*command]) == 2  # the directory already holds one
    assert "already holds" in capsys.readouterr().err


def test_a_converted_checkpoint_predicts(tmp_path):
    """The stage restored from it computes what the weights compute, in t2p's coordinates."""
    from t2p.eval.restore import restore
    from t2p.types import Batch, Tracks

    official = official_arrays()
    np.savez(tmp_path / "w.npz", **official)
    main(["convert", "--from", "atm.track_transformer", str(tmp_path / "w.npz"), "--out", str(tmp_path / "out")])
    restored = restore(tmp_path / "out")
    rng = np.random.default_rng(1)
    images, points = rng.integers(0, 256, (1, 2, 8, 32, 3), np.uint8), rng.random((1, 1, 5, 2), np.float32)
    text = rng.standard_normal((1, 12)).astype(np.float32)
    tracks = Tracks(points, np.ones((1, 1, 5), bool))
    batch = Batch(images={"any": images}, tracks={restored.stage.track_set: {"any": tracks}}, text=text)
    got = jax.jit(restored.stage.predict)(restored.variables, batch, jax.random.key(0)).tracks.points
    half = np.array([0.5 / 32, 0.5 / 8], np.float32)
    model, params = TrackTransformer(**SETTINGS), to_variables(track_transformer_rows(SETTINGS), official)
    want = jax.jit(model.apply)({"params": params}, images, points[:, 0] - half, text)[0] + half
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


def test_convert_names_what_is_wrong(tmp_path, capsys):
    command = ["convert", "--from", "atm.track_transformer", str(tmp_path / "w.npz"), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert "does not exist" in capsys.readouterr().err
    official = official_arrays()
    del official["track_decoder.bias"]
    np.savez(tmp_path / "w.npz", **official, extra=np.zeros(1))
    assert main(command) == 2
    message = capsys.readouterr().err
    assert "Missing (1): track_decoder.bias." in message and "Unknown (1): extra." in message
    np.savez(tmp_path / "w.npz", **official_arrays() | {"track_decoder.weight": np.zeros((5, 16), np.float32)})
    assert main(command) == 2
    assert "track_head/kernel (16, 5), expected (16, 4)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
