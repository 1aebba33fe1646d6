"""Vectors of sentences."""

import numpy as np
import pytest

from t2p.io import UserError
from t2p.methods.language import embed, hashed


def test_hashed_vectors_are_the_same_everywhere():
    """Frozen: training and prediction may run years and machines apart."""
    signs = hashed("push", 16)
    np.testing.assert_array_equal(signs, [1, -1, 1, 1, -1, -1, 1, 1, 1, -1, -1, 1, -1, 1, 1, 1])


def test_hashed_vectors_tell_sentences_apart():
    a, b, c = (hashed(s, 256) for s in ("push the red square left", "push the red square right", "Stack the cups!"))
    for vector in (a, b, c):
        np.testing.assert_allclose(np.mean(vector**2), 1.0, rtol=1e-5)
    assert 0.4 < a @ b / 256 < 0.95 and abs(a @ c) / 256 < 0.35
    assert np.abs(hashed("red left of blue", 256) - hashed("blue left of red", 256)).max() > 0.5  # order counts
    np.testing.assert_array_equal(hashed("Push, the RED!", 64), hashed("push the red", 64))
    assert not hashed("...", 8).any()


def test_each_sentence_is_embedded_once():
    vectors = embed({"encoder": "hashed", "path": "", "width": 32}, ["b", "a", "b"])
    assert sorted(vectors) == ["a", "b"]
    assert all(v.dtype == np.float32 and v.shape == (32,) for v in vectors.values())


def test_precomputed_vectors(tmp_path):
    table = {"open the drawer": np.arange(6.0), "close it": np.ones((1, 6))}
    np.savez(tmp_path / "text.npz", **table)
    np.save(tmp_path / "text.npy", table, allow_pickle=True)
    for name in ("text.npz", "text.npy"):  # the second as the released ATM code caches its vectors
        text = {"encoder": "precomputed", "path": str(tmp_path / name), "width": 6}
        vectors = embed(text, list(table))
        np.testing.assert_array_equal(vectors["open the drawer"], np.arange(6))
        np.testing.assert_array_equal(vectors["close it"], np.ones(6))
    with pytest.raises(UserError, match=r"no vector for 1 of 2 sentences.*fly"):
        embed(text, ["close it", "fly"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"encoder": "gpt", "path": "", "width": 4}, "expected one of hashed, precomputed"),
        ({"encoder": "bert", "path": "", "width": 4}, r"needs text\.path"),
    ],
)
def test_settings_that_do_not_work(text, message):
    with pytest.raises(UserError, match=message):
        embed(text, ["a"])


def test_another_width_is_refused(tmp_path):
    np.savez(tmp_path / "t.npz", a=np.ones(5))
    with pytest.raises(UserError, match=r"shape \(5,\), but text.width is 4"):
        embed({"encoder": "precomputed", "path": str(tmp_path / "t.npz"), "width": 4}, ["a"])
