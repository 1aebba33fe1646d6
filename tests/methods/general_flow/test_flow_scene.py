"""Queries drawn, scenes moved, chunks cut and joined."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2p.methods.general_flow.scene import Augment, draw_queries, from_chunks, in_chunks, move, take_paths


def test_moving_a_scene_keeps_its_shape():
    rng = np.random.default_rng(0)
    paths = jnp.asarray(rng.standard_normal((3, 5, 4, 3)), jnp.float32)
    centre = jnp.asarray(rng.standard_normal((3, 3)), jnp.float32)
    drawn = Augment().draw(jax.random.key(0), 3)
    moved = move(paths, centre, drawn)
    lengths, want = (np.linalg.norm(np.diff(p, axis=2), axis=-1) for p in (moved, paths))
    np.testing.assert_allclose(lengths, want * np.asarray(drawn["factor"])[:, None, None], rtol=1e-4)
    start = move(jnp.broadcast_to(centre[:, None], (3, 1, 3)), centre, drawn)
    np.testing.assert_allclose(start[:, 0], drawn["shift"], atol=1e-6)
    turn = np.linalg.det(drawn["rotation"])
    np.testing.assert_allclose(turn, 1, atol=1e-5)


def test_draws_stay_in_their_ranges():
    drawn = Augment((0.0, 0.0, 0.3), (0.8, 1.1), 0.05).draw(jax.random.key(1), 400)
    assert 0.8 <= drawn["factor"].min() < 0.81 and 1.09 < drawn["factor"].max() <= 1.1
    assert 0.045 < np.abs(drawn["shift"]).max() <= 0.05
    angle = np.arctan2(drawn["rotation"][:, 1, 0], drawn["rotation"][:, 0, 0])
    assert 0.29 < np.abs(angle).max() <= 0.3 and np.allclose(drawn["rotation"][:, 2, 2], 1)


def test_queries_are_whole_tracks_while_there_are_any():
    whole = np.zeros((2, 20), bool)
    whole[0, 3:9] = whole[1, ::2] = True
    index = np.asarray(draw_queries(jax.random.key(0), jnp.asarray(whole), 8))
    assert all(len(set(row)) == 8 for row in index)
    assert whole[0][index[0]].sum() == 6 and whole[1][index[1]].all()
    assert (np.asarray(draw_queries(jax.random.key(1), jnp.asarray(whole), 8)) != index).any()
    paths = np.random.default_rng(0).standard_normal((2, 20, 4, 3))
    np.testing.assert_array_equal(take_paths(paths, index)[1, 2], paths[1, index[1, 2]])


@pytest.mark.parametrize("size", [1, 4, 6, 7, 13])
def test_chunks_are_joined_in_order(size):
    queries = jnp.arange(2 * 13 * 3.0).reshape(2, 13, 3)
    chunks = in_chunks(queries, size)
    assert chunks.shape == (-(-13 // size), 2, size, 3)
    np.testing.assert_array_equal(from_chunks(chunks, 13), queries)
    deeper = jnp.stack([chunks, chunks + 1], axis=2)
    np.testing.assert_array_equal(from_chunks(deeper, 13)[:, 1], queries + 1)
