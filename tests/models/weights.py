"""Weights made without JAX's random numbers, and models run under jit."""

from functools import partial

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict


def numpy_variables(model, *x, seed=1):
    """Variables of `model`, initialised by x: kernels that keep the size of what passes them, scales and variances
    above 0, other numbers of about 0.3."""
    shapes = flatten_dict(jax.eval_shape(lambda: model.init(jax.random.key(0), *x)), sep="/")
    rng = np.random.default_rng(seed)
    values = {k: rng.standard_normal(shapes[k].shape, np.float32) for k in sorted(shapes)}
    return unflatten_dict({k: _sized(k, v) for k, v in values.items()}, sep="/")


def _sized(name, value):
    if name.endswith("/kernel"):
        return value * np.float32(np.sqrt(2 / value.shape[0]))
    return np.abs(value) * 0.3 + 0.6 if name.endswith(("/scale", "/var")) else 0.3 * value


@partial(jax.jit, static_argnames=("model", "method", "train"))
def run(model, variables, *x, method="__call__", **options):
    return model.apply(variables, *x, method=method, **options)
