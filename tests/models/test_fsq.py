"""Finite scalar quantisation: codes, indices, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2p.io import UserError
from t2p.models import fsq

TABLES = list(fsq.LEVELS.values())


@pytest.mark.parametrize("levels", TABLES, ids=str)
def test_every_index_has_its_own_code_and_comes_back(levels):
    indices = jnp.arange(fsq.codebook_size(levels))
    codes = fsq.to_codes(indices, levels)
    assert len(np.unique(np.asarray(codes), axis=0)) == len(indices)
    assert np.abs(codes).max() <= 1
    np.testing.assert_array_equal(fsq.to_indices(codes, levels), indices)


@pytest.mark.parametrize("levels", TABLES, ids=str)
def test_every_level_is_reached_and_none_beyond(levels):
    z = jnp.linspace(-12, 12, 4001)[:, None] * jnp.ones(len(levels))
    steps = np.round(np.asarray(fsq.quantize(z, levels)) * (np.asarray(levels) // 2))
    for number, count in zip(steps.T, levels, strict=True):
        assert np.all(np.diff(number) >= 0)  # in order
        assert set(number) == set(np.arange(count) - count // 2)


def test_the_first_number_counts_fastest_and_the_last_wraps():
    levels = (8, 8, 6, 5)
    first = fsq.to_codes(jnp.array([0, 1, 8, 64]), levels)
    np.testing.assert_allclose(first[1] - first[0], [0.25, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(first[2] - first[0], [0, 0.25, 0, 0], atol=1e-6)
    np.testing.assert_allclose(first[3] - first[0], [0, 0, 1 / 3, 0], atol=1e-6)
    np.testing.assert_array_equal(
        fsq.to_codes(jnp.array([1920, 2047]), levels), fsq.to_codes(jnp.array([0, 127]), levels)
    )


def test_the_gradient_is_that_of_the_bound():
    levels, z = (8, 5), jnp.array([[0.3, -1.2], [2.0, 0.1]])
    got = jax.grad(lambda z: fsq.quantize(z, levels).sum())(z)
    half = np.array([4, 2])
    want = jax.grad(lambda z: (fsq.bound(z, levels) / half).sum())(z)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert (np.asarray(got) > 0).all()


def test_half_precision_comes_in_float32_is_computed():
    z = jnp.linspace(-3, 3, 64).reshape(16, 4).astype(jnp.bfloat16)
    codes = fsq.quantize(z, (8, 8, 6, 5))
    assert codes.dtype == jnp.float32
    np.testing.assert_array_equal(codes, fsq.quantize(z.astype(jnp.float32), (8, 8, 6, 5)))


def test_a_size_that_is_not_there_is_named():
    with pytest.raises(UserError, match="codebook's size is 32; expected one of 16, 64"):
        fsq.levels_of(32)
