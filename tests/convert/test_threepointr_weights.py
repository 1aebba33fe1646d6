"""The tables of names of 3PoinTr's networks and DP3's encoder: complete for every setting, and reversible."""

import jax
import numpy as np
import pytest

from t2p.convert.base import to_official, to_variables
from t2p.convert.dp3 import dp3_encoder_rows
from t2p.convert.threepointr import readout_rows, track_net_rows
from t2p.io import UserError
from t2p.models.dp3 import Dp3Encoder
from t2p.models.threepointr import Readout, TrackNet

CLOUD = np.zeros((1, 5, 3), np.float32)


def there_and_back(model, rows, *x):
    """Random parameters -> official arrays -> the same parameters; returns the official arrays."""
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *x))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: rng.standard_normal(s.shape, np.float32), shapes)
    official = to_official(rows, params)
    jax.tree.map(np.testing.assert_array_equal, to_variables(rows, official), params)
    return official


@pytest.mark.parametrize("cross", [True, False])
def test_track_net(cross):
    net = TrackNet(width=8, depth=3, heads=2, steps=4, cross_attend_tokens=cross)
    official = there_and_back(net, track_net_rows({"depth": 3, "cross_attend_tokens": cross}), CLOUD)
    assert official["head.weight"].shape == (12, 8) and official["blocks.2.self.qkv.weight"].shape == (24, 8)
    assert ("blocks.2.cross.q.weight" in official) == ("blocks.0.norm2.bias" in official) == cross


def test_readout():
    official = there_and_back(Readout(width=8, condition=6), readout_rows({"width": 8}), np.zeros((1, 4, 5, 3)))
    assert official["query"].shape == (1, 1, 8) and official["cond.weight"].shape == (6, 8)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ["extractor.mlp.7.weight", "extractor.final_projection.1.bias", "state_mlp.2.weight"]),
        ({"colors": True}, ["extractor.mlp.9.weight"]),
        ({"layer_norm": False, "final_norm": "none"}, ["extractor.mlp.6.weight", "extractor.final_projection.weight"]),
        ({"projection": False, "state_widths": (4, 5, 6)}, ["state_mlp.4.bias"]),
    ],
)
def test_dp3_encoder(changes, names):
    settings = {"colors": False, "layer_norm": True, "final_norm": "layernorm", "projection": True}
    settings |= {"features": 9, "state_widths": (64, 64)} | changes
    cloud = np.zeros((1, 5, 6 if settings["colors"] else 3), np.float32)
    official = there_and_back(Dp3Encoder(**settings), dp3_encoder_rows(settings), cloud, np.zeros((1, 7)))
    assert set(names) <= set(official)
    assert ("extractor.mlp.1.weight" in official) == settings["layer_norm"]
    assert any("projection" in name for name in official) == settings["projection"]


def test_weights_of_other_settings_are_refused():
    net = TrackNet(width=8, depth=1, heads=2, steps=4)
    official = there_and_back(net, track_net_rows({"depth": 1, "cross_attend_tokens": True}), CLOUD)
    with pytest.raises(UserError, match=r"Missing .*blocks\.1\.self\.qkv\.weight"):
        to_variables(track_net_rows({"depth": 2, "cross_attend_tokens": True}), official)
