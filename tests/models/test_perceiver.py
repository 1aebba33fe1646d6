"""The decoder block against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import erf

from t2p.models.perceiver import DecoderBlock

WIDTH, HEADS = 12, 3


def numpy_params(model, *x, seed=1):
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *x))["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: 0.4 * rng.standard_normal(s.shape), shapes)


def norm(p, x):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def attend(q, k, v):
    """One sample, head after head: [n, d], [m, d], [m, d] -> [n, d]."""
    out = []
    for s in range(0, WIDTH, WIDTH // HEADS):
        part = slice(s, s + WIDTH // HEADS)
        logits = np.exp(q[:, part] @ k[:, part].T / np.sqrt(WIDTH // HEADS))
        out.append(logits / logits.sum(-1, keepdims=True) @ v[:, part])
    return np.concatenate(out, -1)


def reference(p, x, memory):
    qkv = norm(p["self_norm"], x) @ p["self"]["qkv"]["kernel"]
    y = attend(qkv[:, :WIDTH], qkv[:, WIDTH : 2 * WIDTH], qkv[:, 2 * WIDTH :])
    x = x + y @ p["self"]["out"]["kernel"] + p["self"]["out"]["bias"]
    if memory is not None:
        memory, cross = norm(p["memory_norm"], memory), p["cross"]
        query = norm(p["cross_norm"], x) @ cross["query"]["kernel"]
        y = attend(query, memory @ cross["key"]["kernel"], memory @ cross["value"]["kernel"])
        x = x + y @ cross["out"]["kernel"] + cross["out"]["bias"]
    y = norm(p["mlp_norm"], x) @ p["mlp"]["fc1"]["kernel"] + p["mlp"]["fc1"]["bias"]
    y = y * (1 + erf(y / np.sqrt(2))) / 2
    return x + y @ p["mlp"]["fc2"]["kernel"] + p["mlp"]["fc2"]["bias"]


def test_the_block_is_what_it_says():
    rng = np.random.default_rng(0)
    x, memory = (rng.standard_normal((2, n, WIDTH)).astype(np.float32) for n in (5, 7))
    block = DecoderBlock(HEADS)
    for given in (memory, None):
        params = numpy_params(block, x, given)
        got = block.apply({"params": params}, jnp.asarray(x), given)
        for i in range(2):
            want = reference(params, x[i], None if given is None else given[i])
            np.testing.assert_allclose(got[i], want, atol=1e-4, rtol=1e-4)
        assert ("cross" in params) == ("memory_norm" in params) == (given is not None)


def test_it_starts_as_released():
    """Xavier-uniform kernels (the packed projection as one matrix), biases 0, norms 1 and 0."""
    x = jnp.zeros((1, 2, 64))
    params = DecoderBlock(4).init(jax.random.key(0), x, x)["params"]
    for path, limit in (("qkv", np.sqrt(6 / (4 * 64))), ("out", np.sqrt(6 / 128))):
        assert 0.95 < np.abs(params["self"][path]["kernel"]).max() / limit <= 1
    assert "bias" not in params["self"]["qkv"] and "bias" not in params["cross"]["query"]
    assert not np.any(params["mlp"]["fc1"]["bias"]) and not np.any(params["cross"]["out"]["bias"])
    assert 0.95 < np.abs(params["mlp"]["fc1"]["kernel"]).max() / np.sqrt(6 / 320) <= 1
