"""The sampler: recorded numbers, and what the methods promise of each other."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2p.diffusion.sampling import sample, sample_and_noise
from t2p.diffusion.schedules import Schedule, add_noise, leading_timesteps, respace, strided_timesteps, target
from t2p.io import UserError

SHAPE = (2, 3, 4)


def draws(steps, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(SHAPE, np.float32), rng.standard_normal((steps, *SHAPE), np.float32)


def toy(x, t):
    return 0.8 * jnp.tanh(1.3 * x) + 0.2 * jnp.cos(0.1 * t) * x


def oracle(schedule, x0):
    """A network that knows the sample: from x_t, the noise in it."""

    def denoise(x, t):
        a = jnp.asarray(schedule.alphas_cumprod, jnp.float32)[t]
        return target(schedule, x0, (x - jnp.sqrt(a) * x0) / jnp.sqrt(1 - a), jnp.broadcast_to(t, x.shape[:1]))

    return denoise


FROZEN = {
    "ddpm": [-0.203735, 0.185712, 0.554463, 0.16516],
    "ddim": [0.797062, -0.025146, 0.458004, 0.001255],
    "eta": [0.019372, 0.162818, 0.263982, 0.109653],
    "sample": [0.904767, -0.207883, 0.8471, 0.01074],
    "v": [0.390154, 0.075832, 0.334268, 0.110607],
    "learned": [0.524095, 0.109789, 0.70161, 0.187982],
}


@pytest.mark.parametrize("name", ["ddpm", "ddim", "eta", "sample", "v", "learned"])
def test_frozen_numbers(name):
    """Recorded when the sampler agreed with diffusers 0.42.1 (and with Track2Act's tables) to 1e-5."""
    schedule, options = {
        "ddpm": (Schedule(20), {}),
        "ddim": (Schedule(20), {"method": "ddim", "timesteps": leading_timesteps(20, 6)}),
        "eta": (Schedule(20), {"method": "ddim", "timesteps": leading_timesteps(20, 6, 1), "eta": 0.6}),
        "sample": (Schedule(20, prediction="sample"), {"method": "ddim", "timesteps": strided_timesteps(20, 6)}),
        "v": (Schedule(20, "linear", prediction="v"), {"timesteps": strided_timesteps(20, 6)}),
        "learned": (Schedule(20, "linear", variance="learned_range", clip=False), {}),
    }[name]
    x_T, noise = draws(len(options.get("timesteps", range(20))))
    learned = schedule.variance == "learned_range"
    x, _ = sample(schedule, lambda x, t: (toy(x, t), jnp.sin(x)) if learned else toy(x, t), x_T, noise, **options)
    np.testing.assert_allclose(np.ravel(x)[[0, 5, 12, 23]], FROZEN[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v"])
@pytest.mark.parametrize("method", ["ddpm", "ddim"])
def test_a_network_that_knows_the_sample_leads_to_it(prediction, method):
    schedule = Schedule(20, "linear", prediction=prediction)
    x0 = np.random.default_rng(1).uniform(-0.9, 0.9, SHAPE).astype(np.float32)
    x_T, noise = draws(20)
    x, steps = sample(schedule, oracle(schedule, x0), x_T, noise, method=method, eta=0.5 * (method == "ddim"))
    np.testing.assert_allclose(x, x0, atol=1e-5)
    assert {k: v.shape for k, v in steps.items()} == dict.fromkeys(("output", "x0", "x"), (20, *SHAPE))
    np.testing.assert_array_equal(steps["x"][-1], x)


def test_ddim_from_the_sample_retraces_the_corruption():
    """With eta 0 and the right noise, each step lands on the noised sample of the next timestep."""
    schedule = Schedule(30, "linear")
    x0, epsilon = np.random.default_rng(1).uniform(-0.9, 0.9, (2, *SHAPE)).astype(np.float32)
    t = leading_timesteps(30, 5, offset=2)
    x_T = add_noise(schedule, x0, epsilon, np.array(t[0]))
    _, steps = sample(schedule, lambda x, t: epsilon, x_T, None, timesteps=t, method="ddim")
    for x, i in zip(steps["x"][:-1], t[1:], strict=True):
        np.testing.assert_allclose(x, add_noise(schedule, x0, epsilon, np.array(i)), atol=1e-5)


@pytest.mark.parametrize("count", [20, 7])
def test_ddim_with_eta_1_is_ddpm(count):
    """Song et al., section 4.1: the same process, if nothing is clipped."""
    schedule = Schedule(20, "linear", clip=False)
    x_T, noise = draws(count)
    run = partial(sample, schedule, toy, x_T, noise, timesteps=strided_timesteps(20, count))
    np.testing.assert_allclose(run(method="ddim", eta=1.0)[0], run()[0], atol=1e-4)


def test_the_network_sees_trained_timesteps_and_the_caller_the_noise_level():
    seen, imposed = [], []
    t = strided_timesteps(1000, 4)
    x_T, noise = draws(4)

    def denoise(x, t):
        jax.debug.callback(lambda t: seen.append(int(t)), t, ordered=True)
        return x

    def project(x, t):
        jax.debug.callback(lambda t: imposed.append(int(t)), t, ordered=True)
        return x.at[:, 0].set(0.25)

    x, steps = sample(Schedule(1000, "linear"), denoise, x_T, noise, project, timesteps=t)
    jax.effects_barrier()
    assert seen == [999, 666, 333, 0] and imposed == [999, 666, 333, 0, -1]
    np.testing.assert_array_equal(steps["x"][:, :, 0], 0.25)
    np.testing.assert_array_equal(steps["output"][0][:, 0], 0.25)  # already in what the first call sees
    assert np.any(np.asarray(x)[:, 1:] != 0.25)


@pytest.mark.parametrize("variance", ["fixed_small", "learned_range"])
def test_the_last_ddpm_step_adds_no_noise(variance):
    schedule = Schedule(20, variance=variance)
    x_T, noise = draws(20)

    @jax.jit
    def run(noise):
        return sample(schedule, lambda x, t: toy(x, t) if variance == "fixed_small" else (toy(x, t), x), x_T, noise)[0]

    last, first = noise.copy(), noise.copy()
    last[-1] += 100
    first[0] += 0.1
    np.testing.assert_array_equal(run(last), run(noise))
    assert np.any(run(first) != run(noise))


@pytest.mark.parametrize("logit", [-1.0, 0.0, 1.0])
def test_a_learned_variance_lies_between_the_posterior_and_beta(logit):
    schedule = Schedule(1000, "linear", variance="learned_range", clip=False)
    t = strided_timesteps(1000, 10)
    chain = respace(schedule, t)
    x_T, noise = draws(10)

    def denoise(x, t):
        return x, jnp.full_like(x, logit)

    _, loud = sample(schedule, denoise, x_T, noise, timesteps=t)
    _, quiet = sample(schedule, denoise, x_T, 0 * noise, timesteps=t)
    variance = {-1.0: chain.posterior_variance[0], 1.0: chain.betas[0]}
    variance[0.0] = np.sqrt(variance[-1.0] * variance[1.0])
    got = (loud["x"][0] - quiet["x"][0]) / noise[0]
    np.testing.assert_allclose(got, np.sqrt(variance[logit]), rtol=1e-4)


def test_track2act_chain(shared):
    """Replays a recorded run with a learned variance: the recorded samples x0 and the variances that they imply,
    which must lie in the learned range, reproduce the states and the known channels."""
    folder = shared / "golden/track2act/diffusion"
    given, want = (dict(np.load(folder / f"{name}.npz")) for name in ("inputs", "outputs"))
    x0, states = (want[f"sample_point_conditioned_{name}"] for name in ("pred_xstart", "trajectory"))
    schedule = Schedule(1000, "linear", prediction="sample", variance="learned_range", clip=False)
    t = strided_timesteps(1000, len(states))
    before = np.concatenate([given["init_noise"][None], states[:-1]]).astype(np.float64)
    before[:, :, :2] = given["p0"]
    shares = _shares(respace(schedule, t), x0[:-1], before[:-1], states[:-1], given["step_noise"][:-1])
    assert np.all(np.abs(np.median(shares[:, :, 2:], axis=(1, 2, 3)) - 0.5) < 0.1)  # a network that was not trained
    logits = jnp.asarray(np.append(2 * shares - 1, np.zeros_like(shares[:1]), 0), jnp.float32)

    def denoise(x, i):
        k = jnp.argmax(jnp.asarray(t) == i)
        return jnp.asarray(x0)[k], logits[k]

    def project(x, t):
        return x.at[:, :2].set(given["p0"])

    x, steps = sample(schedule, denoise, given["init_noise"], given["step_noise"], project, timesteps=t)
    np.testing.assert_allclose(steps["x"], states, atol=1e-4 * np.abs(states).max())
    np.testing.assert_allclose(x, want["sample_point_conditioned_final"], atol=1e-4)


def _shares(chain, x0, before, after, noise):
    """Where between the smallest and largest variance each step's noise lay, 0 .. 1; 0.5 where it tells nothing."""
    column = (slice(0, len(x0)), None, None, None)
    of_x0, of_x = (f[column] for f in chain.posterior_mean)
    low, high = (f[column] for f in chain.log_variance_range)
    sigma = (after - of_x0 * x0 - of_x * before) / np.where(np.abs(noise) < 1e-2, np.nan, noise)
    assert np.nanmin(sigma[:, :, 2:]) > 0
    return np.nan_to_num((2 * np.log(np.abs(sigma)) - low) / (high - low), nan=0.5)


def test_predictions_are_three_views_of_one():
    rng = np.random.default_rng(0)
    x0, epsilon = rng.standard_normal((2, *SHAPE), np.float32)
    signal, spread = np.float32(0.8), np.float32(0.6)
    x = signal * x0 + spread * epsilon
    for prediction, output in {"epsilon": epsilon, "sample": x0, "v": signal * epsilon - spread * x0}.items():
        got = sample_and_noise(prediction, output, x, signal, spread)
        np.testing.assert_allclose(got, (x0, epsilon), atol=1e-6)


def test_clipping_leaves_the_noise_of_the_unclipped_sample():
    """With clipped samples but their own noise, DDIM's next state is sqrt(a') clip(x0) + sqrt(1 - a') epsilon."""
    schedule = Schedule(20, "linear", prediction="sample")
    x_T, _ = draws(1)
    t = np.array([19, 5])
    _, steps = sample(schedule, lambda x, t: 3.0 * jnp.ones_like(x), x_T, None, timesteps=t, method="ddim")
    a, b = schedule.alphas_cumprod[t]
    epsilon = (x_T - np.sqrt(a) * 3) / np.sqrt(1 - a)
    np.testing.assert_array_equal(steps["x0"], 1.0)
    np.testing.assert_allclose(steps["x"][0], np.sqrt(b) + np.sqrt(1 - b) * epsilon, atol=1e-5)


def test_compiled_and_differentiable():
    schedule = Schedule(8)
    x_T, noise = draws(8)

    @partial(jax.jit, static_argnums=0)
    def run(schedule, gain):
        return sample(schedule, lambda x, t: gain * toy(x, t), x_T, noise)[0]

    np.testing.assert_allclose(run(schedule, 1.0), sample(schedule, toy, x_T, noise)[0], atol=1e-5)
    gradient = jax.grad(lambda g: run(schedule, g).sum())(1.0)
    numeric = (run(schedule, 1.001).sum() - run(schedule, 0.999).sum()) / 0.002
    assert abs(gradient - numeric) < 0.05 * abs(numeric)


@pytest.mark.parametrize(
    ("options", "noise", "words"),
    [
        ({"method": "euler"}, (8, *SHAPE), "'euler'; expected one of ddpm, ddim"),
        ({"method": "ddim", "eta": 1.5}, (8, *SHAPE), "eta is 1.5"),
        ({"eta": 0.5}, (8, *SHAPE), "eta is 0.5 with method 'ddpm'"),
        ({"final_alpha": 0.9999}, (8, *SHAPE), "ends at 1"),
        ({}, None, r"give step_noise of shape \(8, 2, 3, 4\)"),
        ({"method": "ddim", "eta": 0.1}, None, "give step_noise"),
        ({"timesteps": leading_timesteps(8, 4)}, (8, *SHAPE), r"expected \(4, 2, 3, 4\), one row a step"),
        ({"timesteps": np.array([8])}, (1, *SHAPE), "timesteps"),
    ],
)
def test_what_cannot_be_sampled_is_refused(options, noise, words):
    z = None if noise is None else np.zeros(noise, np.float32)
    with pytest.raises(UserError, match=words):
        sample(Schedule(8, "linear"), toy, np.zeros(SHAPE, np.float32), z, **options)
