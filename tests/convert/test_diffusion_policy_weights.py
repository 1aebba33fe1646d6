"""Diffusion Policy's official files: names, settings from shapes, and the way back."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from t2p.convert.base import strip_prefix, to_official, to_variables
from t2p.convert.diffusion_policy import ANCHOR, unet1d_rows, unet1d_settings
from t2p.io import UserError
from t2p.models.unet1d import ConditionalUnet1D

SETTINGS = {
    "input_dim": 3,
    "global_dim": 5,
    "local_dim": 0,
    "step_dim": 8,
    "down_dims": (8, 16, 24),
    "kernel_size": 3,
    "groups": 4,
    "film_scale": True,
}
CASES = {
    "global": SETTINGS,
    "local": {**SETTINGS, "global_dim": 0, "local_dim": 2, "film_scale": False},
    "no shortcuts where widths agree": {**SETTINGS, "input_dim": 8, "local_dim": 8, "down_dims": (8, 8)},
    "one level": {**SETTINGS, "down_dims": (16,)},
}


def params_of(settings, seed=0):
    model = ConditionalUnet1D(**settings)
    x = [np.zeros((1, 4, settings["input_dim"])), np.zeros(1, int)]
    x.append(np.zeros((1, settings["global_dim"])) if settings["global_dim"] else None)
    x.append(np.zeros((1, 4, settings["local_dim"])) if settings["local_dim"] else None)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *x)["params"])
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: rng.standard_normal(s.shape, np.float32), shapes)


@pytest.mark.parametrize("name", CASES)
def test_there_and_back(name):
    settings = CASES[name]
    params = params_of(settings)
    official = to_official(unet1d_rows(settings), params)
    assert unet1d_settings(official, groups=4) == settings
    back = to_variables(unet1d_rows(unet1d_settings(official)), official)
    want = flatten_dict(params)
    assert flatten_dict(back).keys() == want.keys()
    for key, value in flatten_dict(back).items():
        np.testing.assert_array_equal(value, want[key])


def test_official_layouts():
    official = to_official(unet1d_rows(SETTINGS), params := params_of(SETTINGS))
    assert official["down_modules.1.0.blocks.0.block.0.weight"].shape == (16, 8, 3)
    assert official["down_modules.1.0.residual_conv.weight"].shape == (16, 8, 1)
    assert official["up_modules.0.0.blocks.0.block.0.weight"].shape == (16, 48, 3)
    assert "down_modules.2.2.conv.weight" not in official and "up_modules.2.2.conv.weight" not in official
    transposed, kernel = official["up_modules.1.2.conv.weight"], params["up_1_upsample"]["kernel"]
    assert transposed[2, 5, 0] == kernel[3, 2, 5]  # [in, out, k] backwards


def test_official_names(shared):
    for name in ("dp_unet1d", "dp_unet1d_local"):
        arrays = dict(np.load(shared / "golden/baselines" / name / "checkpoint.npz"))
        rows = unet1d_rows(unet1d_settings(arrays))
        assert sorted(row.official for row in rows) == sorted(arrays)
        for official, value in to_official(rows, to_variables(rows, arrays)).items():
            np.testing.assert_array_equal(value, arrays[official])


def test_a_whole_policys_file():
    official = to_official(unet1d_rows(SETTINGS), params_of(SETTINGS))
    wrapped = {f"model.{k}": v for k, v in official.items()} | {"normalizer.params_dict.action.scale": np.ones(3)}
    assert strip_prefix(wrapped, ANCHOR).keys() == official.keys()


def test_what_is_missing_or_unknown_is_named():
    official = to_official(unet1d_rows(SETTINGS), params_of(SETTINGS))
    lacking = {k: v for k, v in official.items() if k != "mid_modules.1.blocks.0.block.1.bias"}
    with pytest.raises(UserError, match=r"mid_modules\.1\.blocks\.0\.block\.1\.bias.*extra"):
        to_variables(unet1d_rows(SETTINGS), lacking | {"extra": np.ones(1)})
    with pytest.raises(UserError, match=rf"lacks {ANCHOR}, down_modules"):
        unet1d_settings({"track_embed": np.ones(3)})
