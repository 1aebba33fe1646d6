"""Diffusion Policy's U-Net and samplers against the recorded outputs of the originals."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest

from t2p.diffusion.schedules import Schedule
from t2p.io import UserError
from t2p.parity import baselines, harness

LINES = {
    "dp_unet1d": 4,
    "dp_unet1d_local": 4,
    "ddpm_scheduler": 8,
    "ddim_scheduler": 7,
    "ddim_scheduler_eta": 7,
    "ddim_scheduler_sample_pred": 7,
}


@pytest.mark.parametrize("name", LINES)
def test_every_recorded_array_is_reproduced(shared, name):
    report = harness.check(shared / "golden/baselines" / name)
    assert report.status == "ok" and len(report.lines) == LINES[name], report
    assert max(line.error for line in report.lines) < 2e-5  # the fixture allows 1e-4


@pytest.mark.parametrize("name", LINES)
def test_a_wrong_number_in_the_checkpoint_is_noticed(shared, name):
    """What the local conditions' second block holds does not matter: the original never adds it."""
    fixture, adapter = harness.open_fixture(shared / "golden/baselines" / name)
    weights = dict(np.load(fixture.checkpoint))
    for tensor in ("betas", "up_modules.0.2.conv.weight", "local_cond_encoder.1.cond_encoder.1.bias"):
        if tensor in weights:
            changed = np.array(weights[tensor])
            changed.flat[changed.size // 2] += 1.0
            outputs, _ = harness.attempt(adapter, fixture, weights | {tensor: changed})
            ok = all(line.ok for line in harness.lines(fixture, outputs))
            assert ok == tensor.startswith("local_cond_encoder.1"), tensor


def test_settings_follow_the_configuration(shared):
    def config(name, **changes):
        return json.loads((shared / f"golden/baselines/{name}/meta.json").read_text())["config"] | changes

    unet = baselines.unet1d_settings(config("dp_unet1d_local", n_groups=4, global_cond_dim=7))
    assert unet["groups"] == 4 and unet["global_dim"] == 7 and unet["local_dim"] == 5 and not unet["film_scale"]
    changes = {"beta_schedule": "linear", "prediction_type": "v_prediction", "clip_sample": False}
    schedule = baselines.scheduler_settings(config("ddim_scheduler", **changes))
    assert schedule == Schedule(100, "linear", prediction="v", clip=False)
    for key, value in (("prediction_type", "x0"), ("variance_type", "fixed_large"), ("beta_schedule", "scaled")):
        with pytest.raises(UserError, match=value):
            baselines.scheduler_settings(config("ddpm_scheduler", **{key: value}))


def test_ends_and_offsets_follow_the_configuration(shared):
    folder = shared / "golden/baselines/ddim_scheduler"
    meta = json.loads((folder / "meta.json").read_text())
    inputs = dict(np.load(folder / "inputs.npz"))
    meta["config"] |= {"set_alpha_to_one": False, "steps_offset": 2, "num_inference_steps": 8}
    got = baselines.ddim_scheduler(meta, inputs | {"noise": inputs["noise"][:8]}, None)
    assert got["timesteps"].tolist() == list(range(86, 0, -12))
    np.testing.assert_allclose(got["final_alpha_cumprod"], got["alphas_cumprod"][0])
    assert np.abs(got["samples"][-1] - got["pred_original_sample"][-1]).max() > 1e-4


def test_tables_of_another_schedule_are_refused():
    schedule = Schedule(10)
    baselines.check_tables(schedule, {"betas": schedule.betas.astype(np.float32)})
    baselines.check_tables(schedule, None)
    for wrong in ({"betas": Schedule(10, "linear").betas}, {"alphas_cumprod": np.ones(9)}, {"sigmas": np.ones(10)}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            baselines.check_tables(schedule, wrong)


def test_formulas():
    x, t = jnp.array([0.5, -2.0]), jnp.array(3)
    got = baselines.formula("1.4*tanh(0.9*x) - 0.2*cos(0.05*t)/(x**2 + 1)  (t is the integer timestep as float)")(x, t)
    np.testing.assert_allclose(got, 1.4 * np.tanh(0.9 * x) - 0.2 * np.cos(0.15) / (x**2 + 1), atol=1e-6)
    np.testing.assert_allclose(baselines.formula("-x")(x, t), -x)
    for text in ("y + 1", "open(x)", "x.T", "x @ x", "tanh(x, t)", "'a'"):
        with pytest.raises(UserError, match="cannot read"):
            baselines.formula(text)(x, t)
