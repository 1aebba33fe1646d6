"""Fine-tuning by its one command: ten own demonstrations, frozen parts, statistics, and what can be loaded of it."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import jax
import ml_collections
import numpy as np
import pytest
from train_fakes import fake_config

import t2p
from t2p import checkpoint
from t2p.cli.config import load_config
from t2p.cli.main import main
from t2p.io import UserError
from t2p.train.finetune import finetune_config
from t2p.train.init_from import initialise
from t2p.train.loop import train
from t2p.train.plan import make_plan
from t2p.train.state import flatten
from t2p.train.statistics import with_statistics

TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS / "convert"), str(TESTS / "methods/threepointr")]
from scenes import scene  # noqa: E402
from test_atm_weights import official_arrays  # noqa: E402

FINETUNE, DP3 = (TESTS.parent / f"configs/{name}.py" for name in ("finetune", "dp3/policy"))
QUIET = ["--config.log.every=1", "--config.log.tensorboard=False"]
ATM = {
    "dim": 16,
    "depth": 1,
    "heads": 1,
    "head_dim": 16,
    "image_size": (32, 32),
    "patch": 16,
    "frames": 1,
    "track_steps": 8,
    "track_patch": 8,
    "text_hidden": 8,
    "text_layers": 1,
}


def run(checkpoint_dir: Path, demos: Path, workdir: Path, *settings: str) -> None:
    command = ["train", "--config", f"{FINETUNE}:{checkpoint_dir}", "--workdir", str(workdir), *QUIET]
    data = [f"--config.data.sources.demos.path={demos}", *(f"--config.{s}" for s in settings)]
    assert main([*command, *data]) == 0


def losses(workdir: Path) -> list[float]:
    records = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [r["train/loss"] for r in records if "train/loss" in r]


def changed(before: dict, after: dict) -> set[str]:
    """Paths of the parameters that differ."""
    a, b = flatten(before["params"]), flatten(after["params"])
    assert set(a) == set(b)
    return {path for path in a if not np.array_equal(a[path], b[path])}


def lerobot(root: Path, episodes: int = 10, length: int = 12) -> Path:
    """A LeRobot dataset (v2.1): a bright square slides over a textured table, "push it left" or "... right"."""
    import pyarrow as pa
    from PIL import Image
    from pyarrow import parquet

    number = {"dtype": "float32", "shape": [2]}
    names = ("timestamp", "frame_index", "episode_index", "index", "task_index")
    features = {"action": number, "observation.state": number, "observation.images.top": {"dtype": "image"}}
    info = {"codebase_version": "v2.1", "fps": 10, "chunks_size": 1000, "total_episodes": episodes}
    info |= {"data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet", "video_path": None}
    info["features"] = features | {name: {"dtype": "int64", "shape": [1]} for name in names}
    (root / "meta").mkdir(parents=True)
    (root / "data/chunk-000").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    tasks = [f"push it {'left' if e % 2 else 'right'}" for e in range(episodes)]
    rows = [{"episode_index": e, "tasks": [tasks[e]], "length": length} for e in range(episodes)]
    (root / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for e in range(episodes):
        rng = np.random.default_rng(e)
        table, square = rng.integers(0, 100, (32, 32, 3), np.uint8), rng.integers(120, 255, (8, 8, 3), np.uint8)
        frames = []
        for i in range(length):
            x, picture = 22 - i if e % 2 else 2 + i, table.copy()
            picture[12:20, x : x + 8] = square
            png = io.BytesIO()
            Image.fromarray(picture).save(png, "png")
            row = {"action": [1.0 - 2 * (e % 2), 0.0], "observation.state": [float(x), 0.0]}
            row |= {"observation.images.top": {"bytes": png.getvalue(), "path": None}, "timestamp": i / 10}
            frames.append({**row, "frame_index": i, "episode_index": e, "index": i, "task_index": 0})
        parquet.write_table(pa.Table.from_pylist(frames), root / f"data/chunk-000/episode_{e:06d}.parquet")
    return root


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Path:
    """What `t2p convert` makes of ATM's track transformer, at a small size."""
    root = tmp_path_factory.mktemp("converted")
    scale = {name: 1.0 if "embed" in name or "gamma" in name else 0.2 for name in official_arrays(ATM)}
    np.savez(root / "w.npz", **{name: scale[name] * x for name, x in official_arrays(ATM).items()})
    command = ["convert", "--from", "atm.track_transformer", str(root / "w.npz"), "--out", str(root / "c")]
    assert main([*command, "--text_encoder", "hashed", "--views", "top"]) == 0
    return root / "c"


def test_a_converted_checkpoint_on_ten_lerobot_demonstrations(converted, tmp_path, capsys):
    demos = tmp_path / "demos"
    raw = str(lerobot(tmp_path / "lerobot"))
    assert main(["data", "import", "--input", raw, "--out", str(demos), "--held_out", "0.2"]) == 0
    track = ["--tracker", "lk", "--layout", "grid", "--side", "6", "--workers", "1"]
    assert main(["annotate", "--input", str(demos), "--out", str(demos), *track]) == 0
    rules = "(('track_head/.*', 'fresh'), ('text/.*|block_0/attention/.*', 'freeze'), ('.*', 'load'))"
    settings = ("window.track_set=lk/grid", "window.points=16", "model.attention_dropout=0.0", "model.mlp_dropout=0.0")
    short = ("steps=60", "optimizer.learning_rate=0.003", "eval.every=30", "checkpoint.every=30")
    run(converted, demos, tmp_path / "run", f"init_from.pretrained.rules={rules}", *settings, *short)
    said = capsys.readouterr().out
    assert "params/block_0/mlp/fc1/kernel" in said and said.count("  freeze  ") == 6 and "track_head/kernel" in said
    trained = t2p.load(tmp_path / "run", "latest")
    moved = changed(checkpoint.load(converted)[0], trained.variables)
    everything = set(flatten(trained.variables["params"]))
    held = {p for p in everything if p.startswith(("block_0/attention/", "text/"))} | {"image_table"}
    assert held and moved == everything - held
    found = losses(tmp_path / "run")
    assert np.mean(found[-10:]) < 0.7 * np.mean(found[:3])
    assert trained.meta["tasks"] and trained.meta["metrics"]["val/loss"] > 0
    assert list(trained.config.departures) == [f"fine-tuned from {converted}"]
    assert trained.meta["init_from"]["pretrained"]["path"] == str(converted)


def demo(seed: int, reach: float = 1.0):
    """A demonstration as DP3 reads it; reach: how far the robot's numbers go."""
    episode = scene(seed, points=64)
    actions = episode.columns["actions"].copy()
    actions[:, :3] *= reach
    columns = {"actions": actions, "proprio/tool": actions[:, :9].copy(), "proprio/gripper": actions[:, 9:].copy()}
    return replace(episode, columns=columns)


def write_demos(folder: Path, seeds: range, reach: float) -> Path:
    from t2p.data.store import finish, write_shard

    episodes = [demo(s, reach) for s in seeds]
    write_shard(folder, "train", 0, episodes[:8])
    write_shard(folder, "val", 0, episodes[8:] or episodes[:1])
    finish(folder, shards={"train": 1, "val": 1})
    return folder


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> tuple[Path, Path]:
    """A small DP3 policy with random weights as training writes it, and ten demonstrations of another robot."""
    root = tmp_path_factory.mktemp("policy")
    theirs, ours = write_demos(root / "theirs", range(3), 1.0), write_demos(root / "ours", range(10, 20), 1.5)
    data = [f"--config.data.sources.demos.path={theirs}", f"--config.data.validation.held_out.path={theirs}"]
    plan = make_plan(
        load_config(f"{DP3}:debug", [*data, "--config.optimizer.ema=0.0", "--config.model.diffusion.inference_steps=1"])
    )
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: 0.1 * rng.standard_normal(x.shape, np.float32), plan.state.params)
    checkpoint.export(root / "run", {"params": params}, plan.meta())
    return root / "run", ours


@pytest.mark.long  # two programs with a U-Net are compiled
def test_an_own_policy_on_ten_t2p_episodes(policy, tmp_path):
    pretrained, demos = policy
    freeze = "init_from.pretrained.rules=(('encoder/.*', 'freeze'), ('.*', 'load'))"
    short = ("steps=40", "optimizer.learning_rate=0.003", "eval.every=40", "checkpoint.every=40", "eval.batches=1")
    run(pretrained, demos, tmp_path / "run", freeze, *short)
    trained = t2p.load(tmp_path / "run")
    moved = changed(checkpoint.load(pretrained)[0], trained.variables)
    assert moved == {p for p in flatten(trained.variables["params"]) if p.startswith("head/")}
    found = losses(tmp_path / "run")
    assert np.mean(found[-10:]) < 0.8 * np.mean(found[:5])
    largest = max(float(demo(s, 1.5).columns["actions"][:, 1].max()) for s in range(10, 18))
    assert trained.config.statistics.actions.max[1] == pytest.approx(largest)  # our data's, not the checkpoint's
    check_acts(trained)


def test_a_policy_is_loaded_and_acts(policy):
    check_acts(t2p.load(policy[0]))


def check_acts(trained) -> None:
    """Two environments: one action each, in the units of the demonstrations."""
    from scenes import CAMERA

    from t2p.types import Batch, Cloud

    points = np.stack([demo(s).tracks["exact/objects"]["front"].points[0] for s in (1, 2)])[:, :48]
    numbers = np.stack([demo(s, 1.5).columns["actions"][0] for s in (1, 2)])[:, None]
    camera = tuple(np.stack([np.asarray(x, np.float32)] * 2) for x in (CAMERA.K, CAMERA.T_base_cam))
    proprio = {"tool": numbers[..., :9], "gripper": numbers[..., 9:]}
    valid = np.ones(points.shape[:2], bool)
    obs = Batch(cloud=Cloud(points, None, valid), proprio=proprio, cameras={"front": camera})
    state = trained.reset(obs, jax.random.split(jax.random.key(0), 2))
    action, state, _ = trained.act(state, obs, jax.random.split(jax.random.key(1), 2))
    low, high = (np.asarray(trained.config.statistics.actions[k]) for k in ("min", "max"))
    assert action.shape == (2, 10) and state["step"].tolist() == [1, 1]
    assert (np.asarray(action)[:, :3] >= low[:3] - 1e-4).all() and (np.asarray(action)[:, :3] <= high[:3] + 1e-4).all()


def test_statistics_are_the_new_datas_or_the_checkpoints(policy):
    pretrained, demos = policy
    theirs = checkpoint.load_meta(pretrained)["config"]["statistics"]
    data = f"--config.data.sources.demos.path={demos}"
    own = with_statistics(load_config(f"{FINETUNE}:{pretrained}", [data]))
    assert own.statistics.actions.max[1] > theirs["actions"]["max"][1] + 0.01
    kept = [data, "--config.init_from.pretrained.statistics=True"]
    kept = with_statistics(load_config(f"{FINETUNE}:{pretrained}", kept))
    assert {k: list(v.max) for k, v in kept.statistics.items()} == {k: v["max"] for k, v in theirs.items()}


def test_statistics_that_the_checkpoint_lacks_cannot_be_kept(policy, converted):
    config = load_config(f"{FINETUNE}:{policy[0]}")
    with config.unlocked():
        config.init_from.pretrained.update({"path": str(converted), "statistics": True})
    with pytest.raises(UserError, match=r"init_from\.pretrained\.statistics: the checkpoint in .* holds no statistics"):
        with_statistics(config)


def test_a_checkpoint_without_its_statistics_is_not_loaded(policy, tmp_path):
    variables, meta = checkpoint.load(policy[0])
    meta["config"]["statistics"]["actions"] = {"min": [], "max": []}
    checkpoint.export(tmp_path / "c", variables, meta)
    with pytest.raises(
        UserError, match=rf"the checkpoint in {tmp_path}/c cannot be used: statistics\.actions is empty"
    ):
        t2p.load(tmp_path / "c")
    checkpoint.export(tmp_path / "d", variables, {"config": {}})
    with pytest.raises(UserError, match="its config names no stage"):
        t2p.load(tmp_path / "d")
    with pytest.raises(UserError, match="names no stage: it cannot be trained"):
        finetune_config(tmp_path / "d")


def test_model_and_loss_are_the_checkpoints_and_the_schedule_is_short(policy):
    theirs = ml_collections.ConfigDict(checkpoint.load_meta(policy[0])["config"])
    c = load_config(f"{FINETUNE}:{policy[0]}", ["--config.data.sources.demos.path=/a"])
    assert c.stage == theirs.stage and c.model.unet.down_dims == tuple(theirs.model.unet.down_dims)
    assert c.checkpoint.best == "val/position_mm"
    assert c.optimizer.learning_rate == pytest.approx(0.1 * theirs.optimizer.learning_rate)
    assert (c.data.validation.held_out.path, c.data.validation.held_out.split) == ("/a", "val")
    for where, message in (("", "which checkpoint"), (":/nowhere", "no checkpoint in /nowhere")):
        with pytest.raises(UserError, match=message):
            load_config(f"{FINETUNE}{where}")


def test_a_policys_checkpoint_brings_the_stages_that_it_builds_on(fake_data, tmp_path):
    def config(**changes):
        return fake_config(model__earlier=True, steps=2, eval__every=2, checkpoint__every=2, **changes)

    bias = np.array([5.0, -5.0], np.float32)
    checkpoint.export(tmp_path / "earlier", {"params": {"bias": bias}}, {"config": {"departures": ["told"]}})
    first = config()
    first.init_from.earlier = {"path": str(tmp_path / "earlier"), "rules": ()}
    train(first, tmp_path / "first")
    second = config(seed=7)
    second.init_from.pretrained = {"path": str(tmp_path / "first"), "rules": ()}
    state, origins, rows = initialise(second, make_plan(second).init(), {})
    np.testing.assert_array_equal(state.frozen["earlier"]["params"]["bias"], bias)
    own = checkpoint.load(tmp_path / "first")[0]["params"]
    jax.tree.map(np.testing.assert_array_equal, state.params, own)
    assert origins["earlier"]["config"]["departures"] == ["told"]
    assert ("earlier", "params/bias", "load") in {(r.name, r.path, r.action) for r in rows}
    third = config()
    third.init_from.pretrained = {"path": str(tmp_path / "earlier"), "rules": ((".*", "fresh"),)}
    with pytest.raises(UserError, match=r"name its checkpoint in config\.init_from\.earlier"):
        initialise(third, make_plan(third).init(), {})
