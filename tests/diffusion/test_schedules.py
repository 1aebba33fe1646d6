"""Noise schedules: tables against the papers' implementations, and what training takes from them."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2p.diffusion.schedules import Schedule, add_noise, leading_timesteps, respace, strided_timesteps, target
from t2p.io import UserError

LINEAR = Schedule(1000, "linear", prediction="epsilon", variance="learned_range", clip=False)
COSINE = replace(LINEAR, rule="squaredcos_cap_v2")
CHAINS = {
    "full1000": LINEAR,
    "respaced250": LINEAR,
    "respaced_sample": LINEAR,
    "respaced_sections": LINEAR,
    "ddim25": LINEAR,
    "cosine_respaced20": COSINE,
}


@pytest.fixture(scope="module")
def tables(shared):
    return dict(np.load(shared / "golden/track2act/diffusion/schedules.npz"))


@pytest.mark.parametrize("name", CHAINS)
def test_chains_of_guided_diffusion(tables, name):
    """All chains of the recorded float64 tables, which run forwards where ours run backwards."""
    want = {key.split("/")[1]: value[::-1] for key, value in tables.items() if key.startswith(f"{name}/")}
    chain = respace(CHAINS[name], want["timestep_map"])
    got = {
        "betas": chain.betas,
        "alphas_cumprod": chain.alphas,
        "alphas_cumprod_prev": chain.previous,
        "posterior_variance": chain.posterior_variance,
        "posterior_log_variance_clipped": chain.log_variance_range[0],
        "posterior_mean_coef1": chain.posterior_mean[0],
        "posterior_mean_coef2": chain.posterior_mean[1],
    }
    for key, value in got.items():
        assert value.dtype == np.float64
        np.testing.assert_allclose(value, want[key], rtol=1e-9, atol=1e-15, err_msg=key)
    np.testing.assert_allclose(chain.log_variance_range[1], np.log(want["betas"]), rtol=1e-9)


def test_spacings_of_guided_diffusion(tables):
    for name, steps, count in (
        ("respaced250", 1000, 250),
        ("respaced_sample", 1000, 10),
        ("cosine_respaced20", 1000, 20),
    ):
        np.testing.assert_array_equal(strided_timesteps(steps, count), tables[f"{name}/timestep_map"][::-1])
    np.testing.assert_array_equal(leading_timesteps(1000, 25), tables["ddim25/timestep_map"][::-1])


FROZEN = {"betas": [0.0006312816, 0.001116937, 0.0315463394], "alphas": [0.9993687184, 0.9982524865, 0.4782646329]}


def test_frozen_tables():
    """Recorded when they agreed with diffusers 0.42.1 to float32's precision."""
    schedule = Schedule()
    assert schedule.betas.dtype == np.float64 and schedule.betas[-1] == 0.999
    np.testing.assert_allclose(schedule.betas[[0, 1, 50]], FROZEN["betas"], rtol=1e-6)
    np.testing.assert_allclose(schedule.alphas_cumprod[[0, 1, 50]], FROZEN["alphas"], rtol=1e-6)
    np.testing.assert_allclose(Schedule(4, "linear").betas, [1e-4, 0.0067333333, 0.0133666667, 0.02], rtol=1e-6)


def test_spacings():
    assert leading_timesteps(100, 16).tolist() == list(range(90, -1, -6))
    assert leading_timesteps(100, 4, offset=3).tolist() == [78, 53, 28, 3]
    assert strided_timesteps(100, 4).tolist() == [99, 66, 33, 0]
    assert leading_timesteps(7, 7).tolist() == strided_timesteps(7, 7).tolist() == [6, 5, 4, 3, 2, 1, 0]
    chain = respace(Schedule(), leading_timesteps(100, 4, offset=3), final_alpha=0.9999)
    np.testing.assert_array_equal(chain.previous[:-1], Schedule().alphas_cumprod[[53, 28, 3]])
    assert chain.previous[-1] == 0.9999


def test_a_single_step_has_a_finite_learned_range():
    assert np.isfinite(respace(LINEAR, np.array([999])).log_variance_range).all()


@pytest.mark.parametrize("rule", ["linear", "squaredcos_cap_v2"])
def test_noise_covers_the_signal_in_steps(rule):
    schedule = Schedule(50, rule)
    assert np.all(np.diff(schedule.alphas_cumprod) < 0) and np.all((schedule.betas > 0) & (schedule.betas < 1))


def test_add_noise_and_targets_fit_together():
    """Sample and noise come back from x_t and each target: x0 = sqrt(a) x - sqrt(1-a) v and so on."""
    rng = np.random.default_rng(0)
    x0, noise = rng.standard_normal((2, 5, 3, 4), np.float32)
    t = np.array([0, 3, 40, 70, 99])
    x = add_noise(Schedule(), x0, noise, t)
    assert x.dtype == jnp.float32
    a = Schedule().alphas_cumprod[t][:, None, None]
    np.testing.assert_allclose(x, np.sqrt(a) * x0 + np.sqrt(1 - a) * noise, atol=1e-6)
    v = target(Schedule(prediction="v"), x0, noise, t)
    np.testing.assert_allclose(np.sqrt(a) * x - np.sqrt(1 - a) * v, x0, atol=1e-5)
    np.testing.assert_allclose(np.sqrt(1 - a) * x + np.sqrt(a) * v, noise, atol=1e-5)
    assert target(Schedule(), x0, noise, t) is noise and target(Schedule(prediction="sample"), x0, noise, t) is x0


def test_a_scalar_timestep_is_everyones():
    rng = np.random.default_rng(0)
    x0, noise = rng.standard_normal((2, 3, 4), np.float32)
    for f in (add_noise, target):
        one, all_ = (f(Schedule(prediction="v"), x0, noise, t) for t in (np.array(7), np.full(3, 7)))
        np.testing.assert_array_equal(one, all_)


def test_a_schedule_is_a_static_argument():
    corrupt = jax.jit(add_noise, static_argnums=0)
    x = np.ones((2, 3), np.float32)
    got = [corrupt(Schedule(prediction=p), x, x, jnp.array([1, 2])) for p in ("v", "v", "epsilon")]
    np.testing.assert_array_equal(got[0], got[2])
    assert corrupt._cache_size() == 2 and hash(Schedule()) == hash(Schedule())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Schedule(rule="cosine"), "'cosine'; expected one of squaredcos_cap_v2, linear"),
        (lambda: Schedule(prediction="x0"), "'x0'; expected one of epsilon, sample, v"),
        (lambda: Schedule(variance="fixed_large"), "fixed_small, learned_range"),
        (lambda: Schedule(0), "steps = 0"),
        (lambda: Schedule(rule="linear", beta_start=0.5, beta_end=0.1), "beta_start"),
        (lambda: leading_timesteps(10, 11), "11 steps of a chain of 10"),
        (lambda: strided_timesteps(10, 0), "expected 1 .. 10"),
        (lambda: respace(Schedule(), np.array([0, 50])), "falling"),
        (lambda: respace(Schedule(), np.array([100, 50])), "99 .. 0"),
        (lambda: respace(Schedule(), np.array([50.0, 0.0])), "integers"),
        (lambda: respace(Schedule(), np.array([], int)), "integers"),
        (lambda: respace(Schedule(), leading_timesteps(100, 100, offset=1)), "99 .. 0"),
        (lambda: respace(Schedule(), np.array([50, 10]), final_alpha=0.5), "final_alpha is 0.5"),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(UserError, match=words):
        make()
