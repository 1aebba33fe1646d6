"""Diffusion Policy's U-Net: frozen numbers, size, and what its two conditions do."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from t2p.io import UserError
from t2p.models.unet1d import VARIANTS, ConditionalUnet1D, Conv1d, Upsample, step_sinusoids

SMALL = {"input_dim": 3, "step_dim": 8, "down_dims": (8, 16, 24), "kernel_size": 3, "groups": 4}
GLOBAL = {**SMALL, "global_dim": 5}
LOCAL = {**SMALL, "local_dim": 2, "film_scale": False}

FROZEN = {
    "global": ([-0.049016, 0.304041, -0.256198, 0.159387], 0.303611),
    "local": ([0.01403, 0.369235, -0.121307, 0.193288], 0.178117),
}


def inputs(model, seed=0, batch=2, length=8):
    rng = np.random.default_rng(seed)
    x = {"x": rng.standard_normal((batch, length, 3), np.float32), "step": np.array([3, 70])[:batch]}
    if model.global_dim:
        x["global_cond"] = rng.standard_normal((batch, model.global_dim), np.float32)
    if model.local_dim:
        x["local_cond"] = rng.standard_normal((batch, length, model.local_dim), np.float32)
    return x


def numpy_params(model, seed=1):
    """Weights that NumPy makes from a seed, the same on every machine and with every JAX."""
    shapes = flatten_dict(jax.eval_shape(lambda: model.init(jax.random.key(0), **inputs(model)))["params"])
    rng = np.random.default_rng(seed)
    return unflatten_dict({k: 0.3 * rng.standard_normal(shapes[k].shape, np.float32) for k in sorted(shapes)})


@partial(jax.jit, static_argnums=0)
def apply(model, params, x):
    return model.apply({"params": params}, **x)


@pytest.fixture(scope="module")
def small():
    models = {"global": ConditionalUnet1D(**GLOBAL), "local": ConditionalUnet1D(**LOCAL)}
    return {name: (model, numpy_params(model)) for name, model in models.items()}


@pytest.mark.parametrize("name", FROZEN)
def test_frozen_numbers(small, name):
    """Recorded when the network agreed with the official implementation to 1e-5."""
    model, params = small[name]
    y, _ = apply(model, params, inputs(model))
    assert y.shape == (2, 8, 3) and y.dtype == jnp.float32
    values, mean = FROZEN[name]
    np.testing.assert_allclose(np.ravel(y)[[0, 10, 30, 47]], values, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(np.abs(y).mean(), mean, atol=1e-4, rtol=1e-4)


def test_published_size():
    model = ConditionalUnet1D(input_dim=10, global_dim=256, **VARIANTS["low_dim"])
    x = jnp.zeros((1, 16, 10)), jnp.zeros(1, int), jnp.zeros((1, 256))
    params = jax.eval_shape(model.init, jax.random.key(0), *x)["params"]
    assert sum(p.size for p in jax.tree.leaves(params)) == 68_894_218


def test_step_sinusoids():
    got = step_sinusoids(jnp.array([0, 7]), 6)
    np.testing.assert_array_equal(got[0], [0, 0, 0, 1, 1, 1])
    angle = 7 * np.array([1, 0.01, 0.0001])
    np.testing.assert_allclose(got[1], np.concatenate([np.sin(angle), np.cos(angle)]), atol=1e-6)


@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_is_pytorchs(stride):
    """y[t, o] = bias[o] + sum over k, c of w[k, c, o] x[stride t + k - 1, c], zeros outside."""
    rng = np.random.default_rng(0)
    x, w, b = (rng.standard_normal(s, np.float32) for s in ((1, 6, 2), (3, 2, 4), (4,)))
    padded = np.pad(x[0], ((1, 1), (0, 0)))
    want = [np.einsum("kc,kco->o", padded[t : t + 3], w) + b for t in range(0, 6, stride)]
    got = Conv1d(4, 3, stride).apply({"params": {"kernel": w, "bias": b}}, x)
    np.testing.assert_allclose(got[0], want, atol=1e-5)


def test_upsampling_is_pytorchs():
    """ConvTranspose1d(kernel 4, stride 2, padding 1): x[t] is spread over y[2t - 1 .. 2t + 2] by the kernel, which is
    stored backwards here."""
    rng = np.random.default_rng(0)
    x, w, b = (rng.standard_normal(s, np.float32) for s in ((1, 5, 2), (4, 2, 2), (2,)))
    want = np.zeros((12, 2)) + b
    for t in range(5):
        want[2 * t : 2 * t + 4] += np.einsum("c,kco->ko", x[0, t], w[::-1])
    got = Upsample().apply({"params": {"kernel": w, "bias": b}}, x)
    np.testing.assert_allclose(got[0], want[1:11], atol=1e-5)


@pytest.mark.parametrize(("layer", "inputs_of_a_sum"), [(Conv1d(8, 3), 3 * 16), (Upsample(), 4 * 16)])
def test_initial_weights_are_pytorchs(layer, inputs_of_a_sum):
    params = layer.init(jax.random.key(0), np.zeros((1, 4, 16)))["params"]
    limit = inputs_of_a_sum**-0.5
    for values in params.values():
        assert 0.7 * limit < np.abs(values).max() <= limit and np.min(values) < 0


def test_a_scalar_step_is_everyones(small):
    model, params = small["global"]
    x = inputs(model)
    one = apply(model, params, {**x, "step": np.array(3)})[0]
    np.testing.assert_allclose(one, apply(model, params, {**x, "step": np.array([3, 3])})[0], atol=1e-6)
    assert np.abs(one - apply(model, params, x)[0])[1].max() > 1e-2


def test_items_of_a_batch_do_not_mix(small):
    for model, params in small.values():
        x = inputs(model)
        alone = apply(model, params, {k: v[1:] for k, v in x.items()})[0]
        np.testing.assert_allclose(alone, apply(model, params, x)[0][1:], atol=1e-5)


def test_conditions_act(small):
    for name, key in (("global", "global_cond"), ("local", "local_cond")):
        model, params = small[name]
        x = inputs(model)
        moved = apply(model, params, {**x, key: x[key] + 1})[0]
        assert np.abs(moved - apply(model, params, x)[0]).max() > 1e-2


@pytest.mark.parametrize("name", FROZEN)
def test_all_weights_but_the_second_local_block_learn(small, name):
    model, params = small[name]
    x = inputs(model)
    loss = jax.jit(jax.grad(lambda p: jnp.square(model.apply({"params": p}, **x)[0]).sum()))
    idle = {k for k, g in flatten_dict(loss(params), sep="/").items() if not np.any(g)}
    block = {f"local_1/{k}" for k in flatten_dict(params.get("local_1", {}), sep="/")}
    assert idle == block and (name == "global" or len(block) == 12)


def test_without_scale_film_only_shifts(small):
    shapes = {name: params["mid_0"]["film"]["bias"].shape for name, (_, params) in small.items()}
    assert shapes == {"global": (48,), "local": (24,)}


def test_the_last_norm_has_8_groups():
    """Whatever `groups` is: a large input of the last norm in its first group leaves the other seven as they are."""
    model = ConditionalUnet1D(**{**GLOBAL, "down_dims": (16,), "groups": 1})
    params = numpy_params(model)
    params["final_conv"]["kernel"] = np.eye(16, 3, k=-2, dtype=np.float32)[None]  # shows channels 2 .. 4
    want = apply(model, params, inputs(model))[0]
    params["final_block"]["conv"]["bias"][0] += 50
    np.testing.assert_allclose(apply(model, params, inputs(model))[0], want, atol=1e-4)


def test_one_level_and_any_length():
    model = ConditionalUnet1D(**{**GLOBAL, "down_dims": (8,)})
    assert apply(model, numpy_params(model), inputs(model, length=5))[0].shape == (2, 5, 3)


def test_bfloat16_keeps_output_and_parameters_in_float32(small):
    model, params = small["global"]
    half, x = ConditionalUnet1D(**GLOBAL, dtype=jnp.bfloat16), inputs(model)
    y, aux = apply(half, params, x)
    assert y.dtype == aux["step"].dtype == jnp.float32 and aux["mid"].dtype == jnp.bfloat16
    want = apply(model, params, x)[0]
    np.testing.assert_allclose(y, want, atol=0.1 * np.abs(want).max())
    made = jax.eval_shape(lambda: half.init(jax.random.key(0), **x))["params"]
    assert {p.dtype for p in jax.tree.leaves(made)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("settings", "change", "words"),
    [
        (GLOBAL, {"x": np.zeros((2, 6, 3))}, "a multiple of 4, 3.*Pad it"),
        (GLOBAL, {"x": np.zeros((2, 8, 4))}, r"\(2, 8, 4\)"),
        (GLOBAL, {"global_cond": None}, r"global_cond has shape None; this model expects \(2, 5\)"),
        (GLOBAL, {"global_cond": np.zeros((2, 8, 5))}, r"expects \(2, 5\)"),
        (GLOBAL, {"local_cond": np.zeros((2, 8, 2))}, "local_cond .* expects none"),
        (LOCAL, {"local_cond": np.zeros((2, 2))}, r"expects \(2, 8, 2\)"),
        ({**GLOBAL, "down_dims": (12, 16)}, {}, "the first of 8"),
        ({**GLOBAL, "down_dims": (16, 18)}, {}, "multiples of groups = 4"),
        ({**GLOBAL, "step_dim": 2}, {}, "step_dim is 2"),
        ({**GLOBAL, "kernel_size": 4}, {}, "odd"),
    ],
)
def test_what_does_not_fit_is_refused(settings, change, words):
    model = ConditionalUnet1D(**settings)
    with pytest.raises(UserError, match=words):
        jax.eval_shape(lambda: model.init(jax.random.key(0), **{**inputs(model), **change}))
