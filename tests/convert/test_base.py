"""The table of names and layouts, in both directions."""

import numpy as np
import pytest

from t2p.convert.base import (
    Constant,
    Row,
    chain,
    constants,
    linear,
    permute,
    reshape,
    strip_prefix,
    to_official,
    to_variables,
)
from t2p.io import UserError

ROWS = [
    *linear("fc", "mlp/fc"),
    Row("conv.weight", "conv/kernel", chain(permute(2, 1, 0), reshape((4, 2, 3), (8, 3)))),
    Constant("fc.buffer", np.zeros(2)),
]


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"fc.weight": (5, 2), "fc.bias": (5,), "conv.weight": (3, 2, 4)}
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()} | constants(ROWS)


def test_to_variables_and_back():
    official = arrays()
    params = to_variables(ROWS, official)
    np.testing.assert_array_equal(params["mlp"]["fc"]["kernel"], official["fc.weight"].T.astype(np.float32))
    np.testing.assert_array_equal(params["conv"]["kernel"][3 * 2 + 1, 2], np.float32(official["conv.weight"][2, 1, 3]))
    assert params["conv"]["kernel"].dtype == np.float32
    back = to_official(ROWS, params)
    assert set(back) == set(official) - {"fc.buffer"}
    for name, value in back.items():
        np.testing.assert_array_equal(value, official[name].astype(np.float32))


def test_all_names_that_do_not_fit_are_listed():
    official = arrays()
    del official["fc.bias"], official["conv.weight"]
    official |= {"head.weight": np.zeros(1), "head.bias": np.zeros(1)}
    with pytest.raises(UserError) as e:
        to_variables(ROWS, official)
    assert "Missing (2): fc.bias, conv.weight." in str(e.value) and "Unknown (2): head.bias, head.weight." in str(
        e.value
    )


def test_constants_must_hold():
    with pytest.raises(UserError, match=r"fc\.buffer"):
        to_variables(ROWS, arrays() | {"fc.buffer": np.array([0.0, 1e-6])})


def test_parameters_that_do_not_fit_are_refused():
    params = to_variables(ROWS, arrays())
    del params["mlp"]["fc"]["bias"]
    with pytest.raises(UserError, match="mlp/fc/bias"):
        to_official(ROWS, params)


def test_wrappers_before_names_are_taken_off():
    official = arrays()
    for prefix in ("", "module.", "_forward_module.module.", "state/model."):
        wrapped = {prefix + name: value for name, value in official.items()}
        if prefix:
            wrapped["optimizer.step"] = np.zeros(1)
        assert set(strip_prefix(wrapped, "fc.weight")) == set(official)
    with pytest.raises(UserError, match="no array called 'gc'"):
        strip_prefix(official, "gc")
    with pytest.raises(UserError, match="2 arrays called 'w'"):
        strip_prefix({"a.w": np.zeros(1), "b.w": np.zeros(1)}, "w")
