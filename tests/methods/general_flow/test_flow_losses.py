"""General Flow's loss by hand."""

import numpy as np
import pytest

from t2p.methods.general_flow.losses import LossWeights, divergence, flow_losses

SHAPES = {"direction": (2, 4, 3, 3), "scale": (2, 4, 1), "mean": (2, 4, 5), "log_variance": (2, 4, 5)}


def case(seed=0):
    rng = np.random.default_rng(seed)
    outputs = {name: rng.standard_normal(shape, np.float32) for name, shape in SHAPES.items()}
    direction, scale = rng.standard_normal((2, 4, 3, 3), np.float32), rng.random((2, 4, 1), np.float32)
    return outputs, direction, scale, rng.standard_normal((2, 4, 3, 3), np.float32)


def test_parts_by_hand():
    outputs, direction, scale, moved = case()
    got = flow_losses(outputs, direction, scale, moved, np.ones((2, 4)), LossWeights(25.0, 2.0, 3.0))
    places = np.cumsum(outputs["direction"] * outputs["scale"][..., None], axis=2)
    want = {
        "step_loss": np.square(outputs["direction"] - direction).sum() / 8,
        "scale_loss": np.square(outputs["scale"] - scale).mean(),
        "kl_loss": divergence(outputs["mean"], outputs["log_variance"]).mean(),
        "place_loss": np.square(places - moved).sum() / 8,
    }
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5)
    total = want["step_loss"] + 25 * want["scale_loss"] + 2 * want["kl_loss"] + 3 * want["place_loss"]
    np.testing.assert_allclose(got["loss"], total, rtol=1e-5)


def test_the_truth_costs_nothing():
    _, direction, scale, _ = case()
    outputs = {"direction": direction, "scale": scale, "mean": np.zeros((2, 4, 5)), "log_variance": np.zeros((2, 4, 5))}
    moved = np.cumsum(direction * scale[..., None], axis=2)
    got = flow_losses(outputs, direction, scale, moved, np.ones((2, 4)), LossWeights())
    assert all(abs(value) < 1e-9 for value in got.values())


def test_divergence():
    assert divergence(np.zeros(3), np.zeros(3)) == 0
    assert divergence(np.full(3, 2.0), np.zeros(3)) == pytest.approx(6)
    assert divergence(np.zeros(1), np.log(np.full(1, 4.0))) == pytest.approx(1.5 - 0.5 * np.log(4), rel=1e-5)


def test_queries_of_weight_0_do_not_count():
    outputs, direction, scale, moved = case()
    counted = np.array([[1, 1, 0, 1], [1, 0, 0, 1.0]])
    got = flow_losses(outputs, direction, scale, moved, counted, LossWeights())
    moved, direction = moved.copy(), direction.copy()
    moved[:, 2] = direction[1, 1:3] = 99.0
    assert got == flow_losses(outputs, direction, scale, moved, counted, LossWeights())
    nothing = flow_losses(outputs, direction, scale, moved, 0 * counted, LossWeights())
    assert nothing["loss"] == 0
