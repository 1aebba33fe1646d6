"""The pieces that networks share, against plain NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2p.io import UserError
from t2p.models import layers


def reference_attention(q, k, v, mask=None):
    """softmax(q k^T / sqrt(d)) v in float64, one query head after the other."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros_like(q)
    for h in range(q.shape[2]):
        g = h * k.shape[2] // q.shape[2]
        logits = np.einsum("bnd,bmd->bnm", q[:, :, h], k[:, :, g]) / np.sqrt(q.shape[-1])
        if mask is not None:
            logits = np.where(np.broadcast_to(mask, (len(q), q.shape[2], *logits.shape[1:]))[:, h], logits, -np.inf)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        out[:, :, h] = np.einsum("bnm,bmd->bnd", weights / weights.sum(-1, keepdims=True), v[:, :, g])
    return out


def heads(rng, kv_heads):
    q = rng.standard_normal((2, 5, 6, 8)).astype(np.float32)
    k, v = rng.standard_normal((2, 2, 7, kv_heads, 8)).astype(np.float32)
    return q, k, v


@pytest.mark.parametrize("implementation", ["matmul", "xla"])
@pytest.mark.parametrize("kv_heads", [1, 2, 6])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_the_softmax_of_scaled_products(implementation, kv_heads, masked):
    rng = np.random.default_rng(0)
    q, k, v = heads(rng, kv_heads)
    mask = rng.random((2, 6, 5, 7)) < 0.7 if masked else None
    if masked:
        mask[..., 0] = True
    got = layers.attention(q, k, v, implementation=implementation, mask=mask)
    np.testing.assert_allclose(got, reference_attention(q, k, v, mask), atol=2e-6)


def test_attention_masks_broadcast():
    q, k, v = heads(np.random.default_rng(1), 6)
    mask = np.arange(7) < np.array([4, 7])[:, None]
    got = layers.attention(q, k, v, implementation="matmul", mask=mask[:, None, None])
    np.testing.assert_allclose(got, reference_attention(q, k, v, mask[:, None, None]), atol=2e-6)


def test_attention_dropout_zeroes_weights_and_keeps_the_mean():
    q, k, _ = heads(np.random.default_rng(2), 1)
    v = np.ones((2, 7, 1, 8), np.float32)

    def run(key):
        return layers.attention(q, k, v, implementation="xla", dropout_rate=0.5, dropout_rng=key)

    samples = jax.vmap(run)(jax.random.split(jax.random.key(0), 400))
    assert np.asarray(samples).std() > 0.1
    np.testing.assert_allclose(np.asarray(samples).mean(), 1.0, atol=0.02)


@pytest.mark.parametrize(
    ("length", "kv_heads", "masked"), [(4, 6, ""), (7, 1, "each"), (11, 2, "keys")]
)  # blocks of 4: one, one and a part, two and a part
def test_blockwise_attention_and_its_gradients_equal_those_of_matrix_products(length, kv_heads, masked, monkeypatch):
    monkeypatch.setattr(layers, "BLOCK", 4)
    rng = np.random.default_rng(3)
    q, out = rng.standard_normal((2, 2, length, 6, 8)).astype(np.float32)
    k, v = rng.standard_normal((2, 2, 9, kv_heads, 8)).astype(np.float32)
    shapes = {"": None, "keys": (2, 1, 1, 9), "each": (2, 1, length, 9)}
    mask = None if shapes[masked] is None else rng.random(shapes[masked]) < 0.6
    if mask is not None:
        mask[..., 0] = True

    @partial(jax.jit, static_argnums=0)
    def run(implementation, *inputs):
        y, pull = jax.vjp(lambda *x: layers.attention(*x, implementation=implementation, mask=mask), *inputs)
        return y, *pull(out)

    for x, y in zip(run("blockwise", q, k, v), run("matmul", q, k, v), strict=True):
        np.testing.assert_allclose(x, y, atol=3e-6)


def test_blockwise_attention_never_holds_a_whole_matrix(monkeypatch):
    monkeypatch.setattr(layers, "BLOCK", 32)
    n, heads = 512, 2

    def temporary(implementation):
        """In matrices of float32, forward and backward."""
        x = jax.ShapeDtypeStruct((1, n, heads, 8), jnp.float32)
        grad = jax.grad(lambda q, k: layers.attention(q, k, k, implementation=implementation).sum(), (0, 1))
        return jax.jit(grad).lower(x, x).compile().memory_analysis().temp_size_in_bytes / (4 * heads * n * n)

    assert temporary("matmul") > 2 and temporary("blockwise") < 0.5


@pytest.mark.parametrize(
    ("choice", "dtype", "platform", "head_dim", "length", "expected"),
    [
        ("auto", "float32", "cpu", 48, 193, "matmul"),
        ("auto", "float32", "cpu", 64, 2048, "matmul"),
        ("auto", "bfloat16", "tpu", 48, 193, "xla"),
        ("auto", "float32", "tpu", 64, 2048, "blockwise"),
        ("auto", "bfloat16", "gpu", 48, 193, "cudnn"),
        ("auto", "bfloat16", "gpu", 64, 2048, "cudnn"),
        ("auto", "float32", "gpu", 48, 193, "xla"),
        ("auto", "bfloat16", "gpu", 20, 193, "xla"),
        ("xla", "float32", "cpu", 48, 193, "xla"),
        ("blockwise", "float32", "cpu", 48, 193, "blockwise"),
    ],
)
def test_resolve_attention(choice, dtype, platform, head_dim, length, expected):
    assert layers.resolve_attention(choice, dtype, platform, head_dim, length) == expected


@pytest.mark.parametrize(("choice", "word"), [("cudnn", "GPU"), ("flash", "expected one of auto")])
def test_resolve_attention_refuses_what_cannot_run(choice, word):
    with pytest.raises(UserError, match=word):
        layers.resolve_attention(choice, "float32", "cpu", 48, 193)


def test_dropout_scales_what_it_keeps():
    x = np.full((200, 300), 2.0, np.float32)
    y = np.asarray(layers.dropout(jnp.asarray(x), 0.2, jax.random.key(0)))
    np.testing.assert_allclose(np.unique(y), [0.0, 2.0 * 256 / 205], rtol=1e-6)  # 51 of 256 are dropped
    np.testing.assert_allclose(y.mean(), 2.0, atol=0.02)
    np.testing.assert_allclose((y == 0).mean(), 0.2, atol=0.01)
    assert layers.dropout(x, 0.0, None) is x
    for rate in (-0.1, 0.001, 0.999, 1.0):
        with pytest.raises(ValueError, match="1/256"):
            layers.dropout(x, rate, jax.random.key(0))


def test_dropout_differs_along_every_axis():
    keep = np.asarray(layers.dropout(jnp.ones((40, 6, 40)), 0.5, jax.random.key(1))) > 0
    for axis in range(3):
        a, b = keep.take(range(0, keep.shape[axis] - 1), axis), keep.take(range(1, keep.shape[axis]), axis)
        np.testing.assert_allclose((a == b).mean(), 0.5, atol=0.03)


def test_linear_starts_as_pytorch_does():
    x = jnp.ones((1, 400))
    params = layers.Linear(500).init(jax.random.key(0), x)["params"]
    for name in ("kernel", "bias"):
        assert 0.97 / 20 < np.abs(params[name]).max() <= 1 / 20  # uniform in +-1/sqrt(400)
        np.testing.assert_allclose(params[name].std(), 1 / 20 / np.sqrt(3), rtol=0.1)


def test_linear_keeps_parameters_in_float32():
    linear = layers.Linear(3, dtype=jnp.bfloat16)
    variables = linear.init(jax.random.key(0), jnp.ones((2, 4)))
    assert variables["params"]["kernel"].dtype == jnp.float32
    assert linear.apply(variables, jnp.ones((2, 4))).dtype == jnp.bfloat16


def test_layer_norm():
    x = np.random.default_rng(0).standard_normal((3, 10)).astype(np.float32) * 4 + 2
    wide = x.astype(np.float64)
    expected = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-2)
    scale, bias = np.arange(10.0), np.ones(10)
    norm = layers.LayerNorm(1e-2)
    got = norm.apply({"params": {"scale": scale, "bias": bias}}, x)
    np.testing.assert_allclose(got, expected * scale + bias, atol=1e-5)
    only = layers.LayerNorm(1e-2, use_bias=False)
    assert set(only.init(jax.random.key(0), x)["params"]) == {"scale"}


def test_sincos_tables():
    table = layers.sincos_1d(5, 8)
    np.testing.assert_allclose(table[3, 1], np.sin(3 * 10000 ** (-1 / 4)), atol=1e-6)
    np.testing.assert_allclose(table[3, 4 + 2], np.cos(3 * 10000 ** (-2 / 4)), atol=1e-6)
    grid = layers.sincos_2d(3, 5, 16).reshape(3, 5, 16)
    np.testing.assert_array_equal(grid[2, 4, :8], table[4])  # column first
    np.testing.assert_array_equal(grid[2, 4, 8:], table[2])


def test_another_initialisation_of_a_linear_layer_starts_its_bias_at_zero():
    x = jnp.ones((1, 50))
    xavier = layers.Linear(200, kernel_init=jax.nn.initializers.glorot_uniform()).init(jax.random.key(0), x)["params"]
    assert not np.any(xavier["bias"])
    assert 0.9 < np.abs(xavier["kernel"]).max() / np.sqrt(6 / 250) <= 1
    stock = layers.Linear(200).init(jax.random.key(0), x)["params"]
    for value in stock.values():
        assert 0.9 < np.abs(value).max() * np.sqrt(50) <= 1
