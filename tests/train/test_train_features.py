"""AMPLIFY on cached features: the same losses as on pictures, and no features of another encoder."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from amplify_episodes import episode

from t2p import checkpoint
from t2p.cli.config import load_config
from t2p.cli.main import main
from t2p.data.features import FeatureSet
from t2p.data.pipeline import make_loader
from t2p.data.store import Dataset, finish, write_shard
from t2p.io import UserError
from t2p.methods.registry import make_stage
from t2p.methods.restored import rebuild
from t2p.train.defaults import source_config
from t2p.train.features import Job, cache_features, check_features
from t2p.train.loop import train
from t2p.train.shapes import window_shapes
from t2p.types import Batch

CONFIGS = Path(__file__).resolve().parents[2] / "configs/amplify"
SIZE, LENGTH = 24, 5
TEXT = {"push": np.ones(64, np.float32)}


def config(stage: str, where: Path, features: str = "", **images: Any) -> Any:
    """Of a frozen encoder of the debug variant's size, with batch norm."""
    c = load_config(f"{CONFIGS}/{stage}.py:debug").unlock()
    c.model.images.update({"trained": False, "norm": "batch", "size": (48, 48), **images})
    for part in (c.data.sources, c.data.validation):
        for name in part:
            part[name] = source_config(str(where / "d"))
    c.data.features = features
    if stage == "inverse_dynamics":
        c.model.seen = "shared"
        c.init_from.forward_dynamics.path = str(where / "forward")
        for limits in c.statistics.values():
            limits.update({"min": (-1.0,), "max": (1.0,)})
        return shorten(c)
    c.init_from.images = {"path": str(where / "images"), "rules": ()}
    if stage == "motion_tokenizer":
        c.model.images.update({"joint": True, "stem": 16})
    else:
        c.init_from.tokenizer.path = str(where / "tokenizer")
    return shorten(c)


def shorten(c: Any) -> Any:
    c.steps, c.batch_size, c.log.tensorboard = 2, 2, False
    c.optimizer.warmup_steps = 1
    c.eval.update({"every": 2, "batches": 1})
    c.checkpoint.every = 2
    return c


def fresh(stage: Any, c: Any) -> Any:
    """Variables that NumPy draws."""
    rng = np.random.default_rng(1)

    def draw(path: Any, x: Any) -> np.ndarray:
        ones = jax.tree_util.keystr(path[-1:]) in ("['scale']", "['var']")
        return np.ones(x.shape, np.float32) if ones else 0.2 * rng.standard_normal(x.shape, np.float32)

    shapes = window_shapes(stage.window, c.text.width, 2)
    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(stage.init, jax.random.key(0), shapes))


def export(path: Path, variables: Any) -> None:
    checkpoint.export(str(path), {"params": {}, "batch_stats": {}, "frozen": {}, **variables}, {"config": {}})


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """d: episodes in two shards, with features "half" and "whole"; images, tokenizer, forward: checkpoints."""
    folder = tmp_path_factory.mktemp("cached")
    write_data(folder / "d", range(4))
    c = config("forward_dynamics", folder)
    stage = make_stage(c)
    variables = fresh(stage, c)
    export(folder / "images", variables["frozen"]["images"])
    export(folder / "tokenizer", variables["frozen"]["tokenizer"])
    export(folder / "forward", variables)
    for name, dtype in (("half", "float16"), ("whole", "float32")):
        assert cache_features(c, Job(str(folder / "d"), name, dtype=dtype)) == 2
    return folder


def write_data(folder: Path, numbers: Any) -> None:
    for shard, part in enumerate(np.split(np.array(numbers), 2)):
        write_shard(folder, "train", shard, (episode(n, LENGTH, SIZE, "push") for n in part), codec="png")
    finish(folder, shards={"train": 2})


@partial(jax.jit, static_argnums=0)
def loss(stage: Any, variables: Any, batch: Batch) -> Any:
    """Of a training step, with dropout."""
    return stage.loss(variables, batch, jax.random.key(3), True)[0]


def step_loss(name: str, where: Path, features: str) -> float:
    """Of the first batch, with the encoder that made the features."""
    c = config(name, where, features)
    stage = make_stage(c)
    with make_loader(c.data, stage.window, batch_size=2, seed=0, text=TEXT) as loader:
        batch = next(loader)
    assert set(batch.images) == (set() if features else {"front", "wrist"})
    assert set(batch.features) == ({"front", "wrist"} if features else set())
    variables = fresh(stage, c)
    variables["frozen"]["images"] = images_of(where)
    batch = batch.replace(features={view: x.astype(np.float32) for view, x in batch.features.items()})  # one program
    return float(loss(stage, variables, batch))


def images_of(where: Path) -> Any:
    found = checkpoint.load(str(where / "images"))[0]
    return {name: found[name] for name in ("params", "batch_stats")}


def test_a_step_on_cached_features_is_the_step_on_pictures(where: Path) -> None:
    pictures = step_loss("forward_dynamics", where, "")
    assert abs(step_loss("forward_dynamics", where, "whole") - pictures) < 1e-6 * pictures
    assert 0 < abs(step_loss("forward_dynamics", where, "half") - pictures) < 1e-3 * pictures


@pytest.mark.long
def test_so_it_is_for_a_tokenizer_that_looks_at_pictures(where: Path) -> None:
    """On the same features, which forward dynamics made."""
    c = config("motion_tokenizer", where, "whole")
    check_features(c, make_stage(c), {"images": images_of(where)})
    pictures = step_loss("motion_tokenizer", where, "")
    assert abs(step_loss("motion_tokenizer", where, "whole") - pictures) < 1e-5 * pictures


@pytest.mark.long
def test_so_it_is_for_inverse_dynamics(where: Path) -> None:
    pictures = step_loss("inverse_dynamics", where, "")
    assert abs(step_loss("inverse_dynamics", where, "whole") - pictures) < 1e-5 * pictures


def test_cached_tokens_are_the_encoders(where: Path) -> None:
    """Of every frame of every episode, also where a shard's pictures are not a multiple of those encoded at once."""
    c = config("forward_dynamics", where)
    data, encoder = Dataset(where / "d", "train"), make_stage(c).encoder
    whole, half = FeatureSet(data, "whole"), FeatureSet(data, "half")
    own = images_of(where)
    for number in (0, 3):
        want = jax.jit(encoder.encode)(own, data.frames(number, "wrist", range(LENGTH)))
        np.testing.assert_allclose(whole.read(number, "wrist", range(LENGTH)), want, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(half.read(number, "wrist", range(LENGTH)), want, rtol=1e-3, atol=1e-3)
    assert encoder.shape == want.shape[1:] == whole.made.shape and np.ptp(want) > 0.1


@pytest.mark.long
def test_training_takes_them_and_what_comes_out_sees_pictures(where: Path) -> None:
    c = config("forward_dynamics", where, "half")
    state = train(c, where / "run")
    assert int(state.step) == 2
    variables, meta = checkpoint.load(str(where / "run"), "latest")
    assert meta["config"]["data"]["features"] == "half" and "features" in meta["shapes"]
    restored = rebuild(variables, meta)
    assert restored.stage.window.images is not None and restored.stage.window.feature_set is None
    train(c, where / "run")  # resumes: the restored weights are checked too


def test_features_of_other_weights_are_refused_before_anything_is_written(where: Path, tmp_path: Path) -> None:
    c = config("forward_dynamics", where, "half")
    weights = images_of(where)
    export(tmp_path / "images", jax.tree.map(lambda x: x * 1.001, weights))
    c.init_from.images.path = str(tmp_path / "images")
    with pytest.raises(UserError, match=r"'half' of .* are of another encoder \(weights: [0-9a-f]{12}\.\.\. there, "):
        train(c, tmp_path / "run")
    assert not (tmp_path / "run/config.json").exists() and not (tmp_path / "run/frozen").exists()


def test_other_settings_are_named(where: Path) -> None:
    weights = images_of(where)
    for changes, message in (
        ({"normalise": True}, "normalise: False there, True here"),
        ({"size": (40, 40)}, r"size: \[48, 48\] there, \[40, 40\] here"),
    ):
        c = config("forward_dynamics", where, "half", **changes)
        with pytest.raises(UserError, match=message):
            check_features(c, make_stage(c), {"images": weights})
    c = config("forward_dynamics", where, "half")
    c.dtype = "bfloat16"
    with pytest.raises(UserError, match="compute: 'float32' there, 'bfloat16' here"):
        check_features(c, make_stage(c), {"images": weights})
    c.dtype = "float32"
    check_features(c, make_stage(c), {"images": weights})


def test_a_dataset_that_changed_is_refused_and_cached_again_where_it_did(where: Path, tmp_path: Path) -> None:
    write_data(tmp_path / "d", range(4))
    c = config("forward_dynamics", where, "f")
    job = Job(str(tmp_path / "d"), "f", dtype="float32")
    assert cache_features(c, Job(job.data, "f", dtype="float32", part=(1, 2))) == 1  # one of two machines
    for source in (*c.data.sources.values(), *c.data.validation.values()):
        source.path = job.data
    window = make_stage(c).window
    with pytest.raises(UserError, match=r"source 'videos': .* are not finished: 1 of 2 shards are missing"):
        make_loader(c.data, window, batch_size=2, seed=0, text=TEXT)
    assert cache_features(c, job) == 1 and cache_features(c, job) == 0
    (tmp_path / "d/manifest.json").unlink()
    write_data(tmp_path / "d", (0, 1, 2, 7))
    with pytest.raises(UserError, match="are stale"):
        make_loader(c.data, window, batch_size=2, seed=0, text=TEXT)
    assert cache_features(c, job) == 1
    make_loader(c.data, window, batch_size=2, seed=0, text=TEXT).close()


def test_what_cannot_use_a_cache_is_refused_at_the_door(where: Path) -> None:
    c = config("forward_dynamics", where, "half")
    c.data.augment.probability = 0.5
    with pytest.raises(UserError, match=r"data.augment.probability is 0.5 and data.features 'half'"):
        train(c, where / "no")
    with pytest.raises(UserError, match=r"data.features is 'half', and the image encoder is trained"):
        make_stage(config("forward_dynamics", where, "half", trained=True))
    c = config("inverse_dynamics", where, "half")
    c.model.seen = "own"
    with pytest.raises(UserError, match="the image encoder is trained"):
        make_stage(c)
    c = load_config(f"{CONFIGS}/motion_tokenizer.py:debug", ["--config.data.features=half"])
    for part in (c.data.sources, c.data.validation):
        for source in part.values():
            source.path = str(where / "d")
    with pytest.raises(UserError, match=r"the stage amplify.motion_tokenizer reads none"):
        train(c, where / "no")
    with pytest.raises(UserError, match="this stage has none"):
        cache_features(c, Job(str(where / "d"), "x"))
    with pytest.raises(UserError, match=r"trains its image encoder"):
        cache_features(config("forward_dynamics", where, trained=True), Job(str(where / "d"), "x"))


def test_the_command_writes_what_training_reads(where: Path, tmp_path: Path, capsys: Any) -> None:
    write_data(tmp_path / "d", (0, 1))
    (tmp_path / "small.py").write_text(
        "from t2p.cli.config import load_config\n"
        "VARIANTS = ('debug',)\n"
        "def get_config(variant='debug'):\n"
        f"    c = load_config('{CONFIGS}/forward_dynamics.py:debug').unlock()\n"
        "    c.model.images.update({'trained': False, 'norm': 'batch', 'size': (48, 48)})\n"
        "    c.init_from.images = {'path': '', 'rules': ()}\n"
        "    return c\n"
    )
    command = ["cache-features", "--config", f"{tmp_path}/small.py", "--data", str(tmp_path / "d")]
    assert main(command) == 2
    assert "--config.init_from.images.path=DIR" in capsys.readouterr().err
    images = f"--config.init_from.images.path={where / 'images'}"
    assert main([*command, images]) == 0
    assert "--config.data.features=resnet18" in capsys.readouterr().out
    made = json.loads((tmp_path / "d/features/resnet18/encoder.json").read_text())
    assert made["dtype"] == "float16" and made["views"] == ["front", "wrist"]
    here, there = (FeatureSet(Dataset(x / "d", "train"), n) for x, n in ((tmp_path, "resnet18"), (where, "half")))
    np.testing.assert_array_equal(here.read(0, "front", range(LENGTH)), there.read(0, "front", range(LENGTH)))
    assert main([*command, images, "--config.model.images.pooled=True"]) == 2
    assert "holds features of another encoder (encoder.pooled: False there, True here" in capsys.readouterr().err
    assert main([*command, images, "--name", "x", "--config.window.views=('top',)"]) == 2
    assert "without ['top']" in capsys.readouterr().err
    assert main([*command, images, "--split", "val"]) == 2
    assert "has no split 'val'" in capsys.readouterr().err


def test_inverse_dynamics_finds_the_encoder_that_forward_dynamics_was_built_on(where: Path, tmp_path: Path) -> None:
    write_data(tmp_path / "d", (0, 1))
    cache_features(config("inverse_dynamics", where), Job(str(tmp_path / "d"), "f"))
    there, here = (FeatureSet(Dataset(x / "d", "train"), n).made for x, n in ((where, "half"), (tmp_path, "f")))
    assert there == here
