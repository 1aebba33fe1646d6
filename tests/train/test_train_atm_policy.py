"""ATM's policy through the training loop, on a track transformer, on cached tracks, and without tracks."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from amplify_episodes import episode

import t2p
from t2p import checkpoint
from t2p.data.pipeline import make_loader
from t2p.data.store import Dataset, finish, write_shard
from t2p.io import UserError
from t2p.methods import language
from t2p.methods.instructed import instruct
from t2p.methods.registry import make_stage
from t2p.train.defaults import source_config
from t2p.train.evals import Eval
from t2p.train.features import Job, cache_features
from t2p.train.loop import train
from t2p.train.plan import make_plan
from t2p.train.statistics import with_statistics
from t2p.types import Batch

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SENTENCE = "put the blue cube on the green one"
LENGTH, SIZE = 6, 64


def config(name: str, data: Path, tracker: Path | None = None) -> Any:
    spec = importlib.util.spec_from_file_location(f"config_{name}", CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    c = module.get_config("debug")
    for part in (c.data.sources, c.data.validation):
        for source in part:
            part[source] = source_config(str(data))
    c.steps, c.batch_size, c.log.tensorboard, c.log.every = 4, 2, False, 1
    c.optimizer.warmup_steps = 1
    c.eval.update({"every": 4, "batches": 1})
    c.checkpoint.every = 2
    if tracker is not None:
        c.init_from.track_transformer.path = str(tracker)
    return c


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Demonstrations in d and a track transformer, not trained, in tracker."""
    folder = tmp_path_factory.mktemp("atm_policy")
    write_shard(folder / "d", "train", 0, (episode(n, LENGTH, SIZE, SENTENCE) for n in range(3)))
    finish(folder / "d", shards={"train": 1})
    stage = make_stage(with_statistics(config("atm/policy", folder / "d"), blank=True))
    rng = np.random.default_rng(5)
    params = jax.tree.map(lambda x: 0.2 * rng.standard_normal(x.shape, np.float32), stage.tracker.blank()["params"])
    made = {"params": params, "batch_stats": {}, "frozen": {}}
    checkpoint.export(str(folder / "tracker"), made, {"config": {"stage": "atm.track_transformer"}})
    return folder


@pytest.fixture(scope="module")
def run(where: Path) -> Path:
    """Four steps, interrupted after two."""

    def crash(variables: Any, step: int, rng: Any) -> dict[str, float]:
        raise ZeroDivisionError

    c = config("atm/policy", where / "d", where / "tracker")
    with pytest.raises(ZeroDivisionError):
        train(c, where / "run", [Eval("crash", 3, crash)])
    train(c, where / "run")
    return where / "run"


@pytest.fixture(scope="module")
def cached(where: Path) -> Path:
    """Demonstrations with the track transformer's tracks beside them."""
    job = Job(str(where / "d"), "tracks", dtype="float32")
    assert cache_features(config("atm/policy", where / "d", where / "tracker"), job) == 1
    return where


def equal(a: Any, b: Any) -> bool:
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))


def test_debug_trains_and_resumes_on_a_frozen_track_transformer(where: Path, run: Path) -> None:
    variables, meta = checkpoint.load(str(run), "latest")
    assert meta["step"] == meta["position"] == 4 and {"val/loss", "val/l1"} <= set(meta["metrics"])
    tracker, _ = checkpoint.load(str(where / "tracker"))
    assert equal(variables["frozen"]["track_transformer"]["params"], tracker["params"])
    mean = variables["batch_stats"]["stem_0"]["conv_norm"]["norm"]["mean"]
    assert np.abs(mean).max() > 1e-3  # running statistics have moved from 0


def test_the_policy_acts_in_the_actions_own_units(run: Path) -> None:
    trained = t2p.load(str(run), which="latest")
    rng = np.random.default_rng(0)
    obs = Batch(
        images={view: rng.integers(0, 256, (2, 1, SIZE, SIZE, 3), np.uint8) for view in ("front", "wrist")},
        proprio={"tool": np.zeros((2, 1, 9), np.float32), "gripper": np.zeros((2, 1, 1), np.float32)},
    )
    policy, told = instruct(trained.policy, trained.variables, trained.config.text, SENTENCE)
    keys = jax.random.split(jax.random.key(0), 2)
    action, state, aux = jax.jit(policy.act)(told, policy.reset(told, obs, keys), obs, keys)
    limits = trained.config.statistics.actions
    assert action.shape == (2, 10) and aux["tracks"].shape == (2, 2, 16, 8, 2)
    assert aux["attention"].shape == (2, 1, 2, 4, 4) and state["count"].tolist() == [1, 1]
    assert (action >= np.array(limits.min) - 1e-4).all() and (action <= np.array(limits.max) + 1e-4).all()


def test_cached_tracks_are_those_that_would_be_predicted(cached: Path) -> None:
    where = cached
    c = with_statistics(config("atm/policy", where / "d", where / "tracker"))
    text = language.embed(c.text, [SENTENCE])
    found = []
    for features in ("", "tracks"):
        c.data.features = features
        stage = make_stage(c)
        batch = next(make_loader(c.data, stage.window, batch_size=2, seed=0, text=text))
        assert bool(batch.features) == bool(features)
        variables = {"frozen": {"track_transformer": checkpoint.load(str(where / "tracker"))[0]}}
        _, tracks, _, _ = jax.jit(stage.inputs)(variables, batch)
        found.append(tracks)
    assert found[0].shape == (2, 2, 3, 16, 8, 2) and np.ptp(found[0]) > 0.1
    np.testing.assert_allclose(*found, atol=1e-5)


def test_cached_tracks_go_with_augmented_pictures(cached: Path) -> None:
    """As the released variant trains on them: tracks are those of the pictures as they are."""
    c = config("atm/policy", cached / "d", cached / "tracker")
    c.data.features = "tracks"
    c.data.augment.update({"probability": 1.0, "brightness": 0.3, "shift": 4})
    plan = make_plan(c)
    assert set(plan.example.features) == set(plan.example.images) == {"front", "wrist"} and not plan.example.clean
    c.window.tracks_see = "augmented"
    with pytest.raises(UserError, match=r"window.tracks_see is 'augmented'"):
        make_plan(c)


def test_features_of_another_track_transformer_are_refused(cached: Path, tmp_path: Path) -> None:
    c = config("atm/policy", cached / "d")
    variables, meta = checkpoint.load(str(cached / "tracker"))
    variables["params"]["track_table"] = variables["params"]["track_table"] + 1
    checkpoint.export(str(tmp_path / "other"), variables, meta)
    c.init_from.track_transformer.path, c.data.features = str(tmp_path / "other"), "tracks"
    with pytest.raises(UserError, match=r"'tracks' of .* are of another encoder \(weights"):
        train(c, tmp_path / "run")


def test_tracks_of_several_sentences_are_not_cached(where: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    write_shard(tmp_path / "d", "train", 0, [replace(episode(0, LENGTH, SIZE, SENTENCE), language=("a", "b"))])
    finish(tmp_path / "d", shards={"train": 1})
    c = config("atm/policy", tmp_path / "d", where / "tracker")
    with pytest.raises(UserError, match="has 2 sentences"):
        cache_features(c, Job(str(tmp_path / "d"), "tracks"))


def test_tracks_are_predicted_in_pictures_without_augmentation(where: Path) -> None:
    """The policy sees augmented pictures, its track transformer the stored ones; off, the same for both."""
    c = with_statistics(config("atm/policy", where / "d"))
    text = language.embed(c.text, [SENTENCE])
    assert not make_stage(c).window.clean  # nothing is augmented
    c.data.augment.update({"probability": 1.0, "brightness": 0.3, "shift": 4})
    stage = make_stage(c)
    batch = next(make_loader(c.data, stage.window, batch_size=4, seed=0, text=text))
    stored = Dataset(str(where / "d"), "train")
    frames = np.stack([stored.frames(n, "front", range(LENGTH)) for n in range(3)]).reshape(-1, SIZE, SIZE, 3)
    for picture in batch.clean["front"].reshape(-1, SIZE, SIZE, 3):
        assert (frames == picture).all((1, 2, 3)).any()
    assert batch.clean["front"].shape == batch.images["front"].shape
    assert (batch.clean["front"] != batch.images["front"]).mean() > 0.5
    c.window.tracks_see = "augmented"
    assert not make_stage(c).window.clean
