"""ATM's released policies: names, shapes, settings, and `t2p convert`."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2p import checkpoint
from t2p.cli.main import main
from t2p.convert.atm_policy import all_rows, policy_arrays, policy_settings
from t2p.models.atm import VARIANTS as TRACKERS
from t2p.models.atm import TrackTransformer
from t2p.models.atm_policy import VARIANTS, Depth, TrackPolicy
from t2p.models.layers import sincos_2d

TRACKER = {
    "dim": 16,
    "depth": 1,
    "heads": 2,
    "head_dim": 8,
    "image_size": (16, 32),
    "patch": 8,
    "frames": 1,
    "track_steps": 8,
    "track_patch": 4,
    "text_hidden": 128,
    "text_layers": 1,
}
SETTINGS = {
    "views": 2,
    "image_size": (16, 32),
    "dim": 24,
    "temporal_dim": 12,
    "patch": 4,
    "patch_width": 0,
    "patch_bias": True,
    "spatial": Depth(depth=2, heads=8, head_dim=3, mlp=20),
    "temporal": Depth(depth=1, heads=6, head_dim=2, mlp=10),
    "states": (7, 2),
    "state_hidden": 128,
    "state_layers": 0,
    "actions": 7,
    "track_steps": 4,
    "track_points": 32,
    "track_patch": 2,
    "text_hidden": 9,
    "text_layers": 2,
    "head_hidden": 11,
    "head_layers": 1,
}
WIDTH = 6


def shapes_of(settings, tracker, width):
    """{"params", "batch_stats", "frozen"} as the stage has them."""
    net, transformer = TrackPolicy(**settings), TrackTransformer(**tracker)
    size, views, steps = settings["image_size"], settings["views"], settings["track_steps"]
    x = jnp.zeros((1, views, 1, *size, 3)), jnp.zeros((1, views, 1, steps, 32, 2)), jnp.zeros((1, width))
    states = tuple(jnp.zeros((1, 1, d)) for d in settings["states"])
    own = jax.eval_shape(lambda: net.init(jax.random.key(0), *x, states))
    clip, points = jnp.zeros((1, tracker["frames"], *tracker["image_size"], 3)), jnp.zeros((1, 2, 2))
    theirs = jax.eval_shape(lambda: transformer.init(jax.random.key(0), clip, points, jnp.zeros((1, width))))
    return {**own, "frozen": {"track_transformer": theirs}}


def made_up(settings=SETTINGS, tracker=TRACKER, seed=0):
    """Variables, and the official file of them."""
    rng = np.random.default_rng(seed)
    found = jax.tree.map(lambda s: rng.standard_normal(s.shape, np.float32), shapes_of(settings, tracker, WIDTH))
    (h, w), patch = tracker["image_size"], tracker["patch"]
    table = sincos_2d(h // patch, w // patch, tracker["dim"])[None]
    found["frozen"]["track_transformer"]["params"]["image_table"] = table
    return found, policy_arrays(all_rows(settings, tracker), found)


def test_names_shapes_and_size_are_the_official_ones(shared):
    official = json.loads((shared / "golden/atm/param_shapes_full.json").read_text())["policy"]
    settings, tracker = {**VARIANTS["released"], "text_layers": 1, "head_layers": 2}, TRACKERS["paper"]
    tracker = {**tracker, "text_layers": 1}
    zeros = jax.tree.map(lambda s: np.broadcast_to(np.float32(0), s.shape), shapes_of(settings, tracker, 768))
    arrays = policy_arrays(all_rows(settings, tracker), zeros)
    assert set(arrays) == set(official["state_dict_order"])
    for name, shape in {**official["parameters"], **official["buffers"]}.items():
        assert list(arrays[name].shape) == shape, name
    del zeros["batch_stats"]
    assert sum(x.size for x in jax.tree.leaves(zeros)) == official["total_parameters"] == 21_936_879
    assert sum(x.size for x in jax.tree.leaves(zeros["params"])) == official["trainable_parameters"] == 8_904_679


def test_settings_are_read_from_shapes():
    assert policy_settings(made_up()[1], (16, 32)) == SETTINGS
    other = {**SETTINGS, "temporal_dim": 0, "patch_bias": False, "text_layers": 1, "text_hidden": 128, "states": (7,)}
    assert policy_settings(made_up(other)[1], (16, 32)) == other
    other = {**SETTINGS, "patch": 3, "patch_width": 5, "state_layers": 2, "state_hidden": 9}  # 16 x 32: with a rest
    assert policy_settings(made_up(other)[1], (16, 32)) == other


def test_hidden_layers_of_the_state_have_the_official_names():
    """Linear, (Linear, ReLU) layers - 1 times, Linear, numbered together; the last part is there twice."""
    names = made_up({**SETTINGS, "state_layers": 3, "state_hidden": 9})[1]
    found = {name.removeprefix("extra_encoder.") for name in names if name.startswith("extra_encoder")}
    layers = {f"{i}.{part}" for i in (0, 1, 3, 5) for part in ("weight", "bias")}
    assert found == {f"{place}.{x}" for place in ("encoders.0", "encoders.1", "proprio_mlp") for x in layers}


@pytest.mark.parametrize("changes", [{}, {"patch": 3, "patch_width": 5, "state_layers": 1, "state_hidden": 9}])
@pytest.mark.parametrize("model", ["atm.policy", "bc.policy"])
def test_convert_writes_a_checkpoint(model, changes, tmp_path, capsys):
    variables, arrays = made_up(SETTINGS | changes)
    np.savez(tmp_path / "model_final.npz", **{f"_forward_module.{name}": x for name, x in arrays.items()})
    command = ["convert", "--from", model, str(tmp_path / "model_final.npz"), "--out", str(tmp_path / "out")]
    assert main([*command, "--text_encoder", "hashed", "--views", "left", "right"]) == 0
    assert "parameters" in capsys.readouterr().out
    found, meta = checkpoint.load(str(tmp_path / "out"))
    cloned = model == "bc.policy"
    want = {**variables, "frozen": {} if cloned else variables["frozen"]}
    jax.tree.map(np.testing.assert_array_equal, found, want)
    config = meta["config"]
    assert config["stage"] == "atm.policy" and config["window"]["views"] == ["left", "right"]
    assert config["model"]["tracks"] == ("zero" if cloned else "predicted")
    assert config["model"]["net"]["spatial_text"] == config["model"]["net"]["temporal_text"] == cloned
    assert config["text"] == {"encoder": "hashed", "path": "", "width": WIDTH}
    assert meta["shapes"]["images"]["left"] == [1, 10, 16, 32, 3]


def test_a_changed_copy_and_foreign_waves_are_refused(tmp_path, capsys):
    _, arrays = made_up()
    command = ["convert", "--from", "atm.policy", str(tmp_path / "w.npz"), "--out", str(tmp_path / "out")]
    for name, message in (
        ("extra_encoder.proprio_mlp.0.weight", "these differ: extra_encoder.proprio_mlp.0.weight"),
        ("temporal_position_encoding_fn.inv_freq", "keeps these arrays constant, but here they differ: temporal_pos"),
    ):
        np.savez(tmp_path / "w.npz", **{**arrays, name: 2 * arrays[name]})
        assert main(command) == 2
        assert message in capsys.readouterr().err
    np.savez(tmp_path / "w.npz", **{k: v for k, v in arrays.items() if not k.startswith("track.")})
    assert main(command) == 2
    assert "lacks" in capsys.readouterr().err and not (tmp_path / "out").exists()
