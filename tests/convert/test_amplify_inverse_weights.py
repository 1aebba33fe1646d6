"""The table of names of AMPLIFY's inverse dynamics: the release's own list, and there and back."""

import json

import jax
import numpy as np
import pytest

from t2p.convert.amplify_inverse import (
    FLOW,
    SOLVER,
    inverse_dynamics_parameters,
    inverse_dynamics_rows,
    inverse_dynamics_settings,
)
from t2p.convert.base import to_official, to_variables
from t2p.convert.gpt import without_buffers
from t2p.io import UserError
from t2p.models.inverse_dynamics import make_inverse_dynamics

SMALL = {"width": 8, "depth": 2, "heads": 2, "actions": (4, 3), "parts": ("image", "text", "proprio", "codes")}
CASES = {
    "gaussian": {"kind": "gaussian", "spread": "fixed", "learned_scale": False},
    "learned": {"kind": "gaussian", "spread": "scalar", "learned_scale": True},
    "diffusion": {"kind": "diffusion", "condition": 7},
    "flow": {"kind": "flow"},
}


def official_arrays(settings, sizes):
    """Arrays of one value each under official names, of a model's shapes."""
    net = make_inverse_dynamics(**settings)
    x = {part: np.zeros((1, n, c), np.float32) for part, (n, c) in sizes.items()}
    noisy = () if settings["kind"] == "gaussian" else (np.zeros((1, *settings["actions"]), np.float32), np.zeros(1))
    shapes = jax.eval_shape(net.init, jax.random.key(0), x, *noisy)["params"]
    values = iter(np.arange(10000, dtype=np.float32))
    params = jax.tree.map(lambda s: np.broadcast_to(next(values), s.shape), shapes)
    rows = inverse_dynamics_rows(settings)
    official = to_official(rows, params)
    return rows, params, official


@pytest.mark.parametrize("kind", ["gaussian", "diffusion", "flow"])
def test_names_and_shapes_of_the_release(shared, kind):
    found = json.loads((shared / "golden/amplify/param_shapes_full.json").read_text())[f"inverse_dynamics_{kind}"]
    settings = {"kind": kind, "width": 768, "depth": 4, "heads": 8, "actions": (16, 7)}
    settings |= {"parts": ("image", "proprio", "codes"), **({"condition": 65} if kind == "diffusion" else {})}
    _, _, official = official_arrays(settings, {"image": (49, 1024), "proprio": (1, 9), "codes": (15, 768)})
    assert {name: list(value.shape) for name, value in official.items()} == without_buffers(found["params"])


@pytest.mark.parametrize("case", CASES)
def test_there_and_back(case):
    settings = {**SMALL, **CASES[case]}
    rows, params, official = official_arrays(
        settings, {"image": (4, 5), "text": (1, 6), "proprio": (1, 9), "codes": (1, 8)}
    )
    jax.tree.map(np.testing.assert_array_equal, to_variables(rows, official), params)
    assert inverse_dynamics_settings(official, heads=2, steps=4) == settings


def flow_file():
    arrays = {f"{FLOW}.proj_in.weight": np.ones((8, 3)), f"{SOLVER}.proj_in.weight": np.ones((8, 3))}
    return {**arrays, f"{FLOW}.transformer_blocks.0.pos_embed.pe": np.zeros((1, 512, 8))}


def test_copies_and_tables_are_left_out():
    assert set(inverse_dynamics_parameters(flow_file())) == {f"{FLOW}.proj_in.weight"}


@pytest.mark.parametrize("changed", [SOLVER, FLOW])
def test_copies_that_differ_are_refused(changed):
    arrays = flow_file()
    arrays[f"{changed}.proj_in.weight"] = np.zeros((8, 3))
    with pytest.raises(UserError, match=r"these copies differ: head.policy.solver.*proj_in.weight"):
        inverse_dynamics_parameters(arrays)


def test_another_file_is_refused():
    with pytest.raises(UserError, match="not AMPLIFY's inverse dynamics: it has none of head"):
        inverse_dynamics_settings({"sos_token": np.zeros(3)})
