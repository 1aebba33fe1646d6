"""Checkpoints without training: export and load, damage, what is kept."""

from __future__ import annotations

import json

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from t2p import __version__, checkpoint
from t2p.checkpoint import Checkpoints, DamagedCheckpoint, match_layers
from t2p.io import UserError

META = {"config": {"stage": "x", "checkpoint": {"best": "val/loss", "mode": "max"}}}


def variables(seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    params = {
        "dense": {"kernel": rng.normal(size=(8, 4)).astype(np.float32), "scale": np.float32(rng.normal())},
        "half": rng.normal(size=6).astype(ml_dtypes.bfloat16),
        "table": rng.integers(0, 9, 5).astype(np.int32),
        "flags": np.array([True, False]),
    }
    return {"params": params, "batch_stats": {"norm": {"mean": np.zeros(3, np.float32)}}}


def assert_equal(a, b):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for k in a:
            assert_equal(a[k], b[k])
    else:
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_exported_variables_come_back_with_meta_and_frozen(tmp_path):
    whole = {**variables(), "frozen": {"earlier": variables(1)}}
    checkpoint.export(tmp_path / "c", whole, META)
    found, meta = checkpoint.load(tmp_path / "c")
    assert_equal(found, whole)
    assert meta["config"] == META["config"] and meta["step"] == 0
    assert meta["versions"]["mujoco"]
    with pytest.raises(UserError, match="already holds checkpoints \\[0\\]"):
        checkpoint.export(tmp_path / "c", whole, META)


def test_variables_may_lack_statistics_and_frozen(tmp_path):
    checkpoint.export(tmp_path, {"params": {"w": np.ones(2, np.float32)}}, META)
    found, _ = checkpoint.load(tmp_path)
    assert found["batch_stats"] == {} and found["frozen"] == {}


@pytest.mark.parametrize("damage", ["cut", "flip", "missing item", "meta"])
def test_damage_is_found_and_named(tmp_path, damage):
    big = {"params": {"w": np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)}}
    checkpoint.export(tmp_path, big, META)
    step = tmp_path / "checkpoints/0"
    biggest = max((step / "variables").rglob("d/*"), key=lambda p: p.stat().st_size)
    data = bytearray(biggest.read_bytes())
    if damage == "cut":
        biggest.write_bytes(data[: len(data) // 2])
    elif damage == "flip":
        data[len(data) // 2] ^= 4
        biggest.write_bytes(data)
    elif damage == "missing item":
        (step / "variables").rename(tmp_path / "gone")
    else:
        (step / "meta/metadata").write_text('{"config": {')
    with pytest.raises(DamagedCheckpoint, match=f"{step}"):
        checkpoint.load(tmp_path)


def test_an_unfinished_checkpoint_does_not_count(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, {"variables": variables()}, META, {})
    checkpoints.close()
    (tmp_path / "checkpoints/3").rename(tmp_path / "checkpoints/7.orbax-checkpoint-tmp")
    with pytest.raises(UserError, match="no finished checkpoint"):
        checkpoint.load(tmp_path)


def test_what_is_half_written_is_gone_before_anything_new_is_written(tmp_path):
    left = tmp_path / "checkpoints/7.orbax-checkpoint-tmp"
    left.mkdir(parents=True)
    Checkpoints(tmp_path, read_only=True).close()
    assert left.is_dir()
    checkpoints = Checkpoints(tmp_path)
    assert not left.exists()
    checkpoints.close()


def test_directories_without_checkpoints_are_named(tmp_path):
    with pytest.raises(UserError, match=f"no checkpoint in {tmp_path}"):
        checkpoint.load(tmp_path)


def test_latest_and_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1, best="val/loss", mode="max")
    for step, metrics in ((1, {"val/loss": 1.0}), (2, {"val/loss": 4.0}), (3, {}), (4, {"val/loss": 3.0}), (5, {})):
        assert checkpoints.better(metrics) == (step in (1, 2))
        checkpoints.save(step, {"variables": variables(step), "ema": variables(step + 10)["params"]}, META, metrics)
    checkpoints.close()
    again = Checkpoints(tmp_path, keep=1, best="val/loss", mode="max")
    assert again.steps == [2, 5] and (again.best_step, again.best_value) == (2, 4.0)
    again.close()
    best, meta = checkpoint.load(tmp_path)
    assert meta["step"] == 2
    assert_equal(best["params"], variables(12)["params"])  # the averaged ones
    assert checkpoint.load(tmp_path, "latest")[1]["step"] == 5


def rewrite_meta(directory, change):
    path = directory / "checkpoints/0/meta/metadata"
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))


def test_checkpoints_from_before_schemas_had_numbers_are_read(tmp_path):
    checkpoint.export(tmp_path, variables(), META)
    assert checkpoint.load(tmp_path)[1]["schema"] == checkpoint.SCHEMA == 1
    rewrite_meta(tmp_path, lambda meta: meta.pop("schema"))
    found, meta = checkpoint.load(tmp_path)
    assert_equal(found["params"], variables()["params"])
    assert "schema" not in meta


@pytest.mark.parametrize("schema", [2, 0, "one", None])
def test_another_schema_is_refused_by_name_and_left_where_it_is(tmp_path, schema):
    """Not taken for damage, which training would set aside."""
    checkpoint.export(tmp_path, variables(), META)
    rewrite_meta(tmp_path, lambda meta: (meta.update(schema=schema), meta["versions"].update(t2p="9.1")))
    for attempt in (checkpoint.load, Checkpoints):
        with pytest.raises(UserError) as e:
            attempt(tmp_path)
        assert not isinstance(e.value, DamagedCheckpoint)
        assert f"checkpoints/0 has schema {schema!r}, as t2p 9.1 writes it; this is t2p {__version__}" in str(e.value)
        assert "use t2p 9.1 or newer (pip install -U t2p)" in str(e.value)


def test_sums_are_of_the_bits():
    tree = variables()
    on_device = {"params": {k: v for k, v in tree["params"].items()}}
    host = checkpoint.checksums(tree["params"])
    assert host == checkpoint.checksums({k: jax_tree(v) for k, v in on_device["params"].items()})
    words = tree["params"]["dense"]["kernel"].view(np.uint32).astype(np.uint64)
    assert host["dense/kernel"] == int(words.sum() % 2**32)


def jax_tree(x):
    return {k: jnp.asarray(v) for k, v in x.items()} if isinstance(x, dict) else jnp.asarray(x)


def test_layers_are_stacked_and_taken_apart():
    rng = np.random.default_rng(0)
    layers = {f"block_{i}": {"a": {"kernel": rng.random((2, 3))}, "b": rng.random(4)} for i in range(11)}
    params = {**layers, "head": np.ones(3)}
    stacked = match_layers(params, {"blocks": None})
    assert set(stacked) == {"blocks", "head"}
    np.testing.assert_array_equal(stacked["blocks"]["b"][10], layers["block_10"]["b"])  # not in order of names
    back = match_layers(stacked, params)
    assert set(back) == set(params)
    np.testing.assert_array_equal(back["block_2"]["a"]["kernel"], layers["block_2"]["a"]["kernel"])
    assert set(match_layers(params, params)) == set(params)


@pytest.mark.parametrize("told", [True, False])
def test_a_failed_save_is_told_once(tmp_path, monkeypatch, told):
    """Orbax may tell again, when it is closed, what it told when it was waited for."""
    checkpoints = Checkpoints(tmp_path)
    close = checkpoints._manager.close

    def full() -> None:
        close()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints._manager, "close", full)
    if told:
        checkpoints.failed(tmp_path / "6", OSError(28, "No space left on device"))
        checkpoints.close()
    else:
        with pytest.raises(checkpoint.SaveFailed, match="No space left on device"):
            checkpoints.close()
