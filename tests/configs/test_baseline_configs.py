"""configs/dp3 and configs/diffusion_policy: each variant makes a stage of its size; `debug` trains, resumes, acts."""

import sys
from pathlib import Path

import jax
import ml_collections
import numpy as np
import pytest

from t2p import checkpoint
from t2p.cli.config import load_config
from t2p.cli.main import main
from t2p.io import UserError
from t2p.methods.registry import make_policy, make_stage
from t2p.train.plan import make_plan
from t2p.train.statistics import with_statistics

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/methods/threepointr"))
from scenes import CAMERA, scene, write  # noqa: E402

from t2p.types import Batch, Cloud, Tracks  # noqa: E402

DP3, DIFFUSION, THREEPOINTR = (
    str(ROOT / f"configs/{name}/policy.py") for name in ("dp3", "diffusion_policy", "threepointr")
)
SHARED = ("unet", "diffusion", "batch_size", "steps", "optimizer", "checkpoint", "eval")


def batch(stage, rows: int = 1) -> Batch:
    """Zeros as the window asks for them."""
    w = stage.window
    t = len(w.actions.offsets)
    camera = tuple(np.stack([np.eye(size, dtype=np.float32)] * rows) for size in (3, 4))
    cameras = dict.fromkeys(w.views, camera)
    tracks = {}
    if w.tracks:
        one = Tracks(np.zeros((rows, 1, w.num_points, 3), np.float32), np.ones((rows, 1, w.num_points), bool))
        tracks = {w.track_set: {w.views[0]: one}}
    size = getattr(stage, "image_size", (0, 0))
    images = {v: np.zeros((rows, 1, *size, 3), np.uint8) for v in w.views} if w.images else {}
    proprio = {"tool": np.zeros((rows, 1, 9), np.float32), "gripper": np.zeros((rows, 1, 1), np.float32)}
    return Batch(
        images=images,
        tracks=tracks,
        cameras=cameras,
        proprio=proprio,
        actions=np.zeros((rows, t, 10), np.float32),
        action_valid=np.ones((rows, t), bool),
    )


def sizes(params) -> dict[str, int]:
    return {name: sum(p.size for p in jax.tree.leaves(part)) for name, part in params.items()}


@pytest.mark.parametrize("variant", ("debug", "cpu", "cpu_sample", "gpu20", "paper"))
def test_dp3_variants_make_a_stage_that_acts(variant):
    config = with_statistics(load_config(f"{DP3}:{variant}"), blank=True)
    stage, policy = make_stage(config), make_policy(config)
    found = sizes(jax.eval_shape(stage.init, jax.random.key(0), batch(stage))["params"])
    # 3-64-128-256 with norms, 256-64 with one, and 10-64-64
    assert found["encoder"] == 256 + 8320 + 33024 + 2 * 448 + 16448 + 128 + 704 + 4160
    assert stage.flops_per_example(batch(stage)) > 6 * found["head"]
    assert policy.steps == 9 and policy.observe.cloud == config.window.points and not policy.observe.every_step
    assert hash(stage) == hash(make_stage(config))


@pytest.mark.parametrize("variant", ("debug", "cpu", "gpu20", "paper"))
def test_diffusion_policy_variants_make_a_stage_that_acts(variant):
    config = with_statistics(load_config(f"{DIFFUSION}:{variant}"), blank=True)
    stage, policy = make_stage(config), make_policy(config)
    found = sizes(jax.eval_shape(stage.init, jax.random.key(0), batch(stage))["params"])
    assert found["encoder"] == 11_176_512
    assert stage.flops_per_example(batch(stage)) > 6 * found["head"]
    assert policy.steps == 9 and policy.observe.images == ("front",) and not policy.observe.every_step


@pytest.mark.parametrize("path", (DP3, DIFFUSION))
@pytest.mark.parametrize("variant", ("cpu", "gpu20", "debug"))
def test_baselines_are_compared_with_threepointr_on_equal_terms(path, variant):
    ours, theirs = (load_config(f"{p}:{variant}") for p in (path, THREEPOINTR))
    for key in SHARED:
        a, b = (c.model[key] if key in ("unet", "diffusion") else c[key] for c in (ours, theirs))
        a, b = (dict(x) if isinstance(x, ml_collections.ConfigDict) else x for x in (a, b))
        if variant == "gpu20" and key == "diffusion":  # what is predicted is the method's own
            assert (a.pop("prediction"), b.pop("prediction")) == ("sample" if path == DP3 else "epsilon", "epsilon")
        assert a == b, key


def with_proprio(seed: int):
    """A scene with the robot's state, which starts anywhere."""
    from dataclasses import replace

    episode = scene(seed)
    tool = np.roll(episode.columns["actions"], 1, axis=0)
    tool[0, :3] = [0.3, 0.01 * seed, 0.4]
    columns = {"proprio/tool": tool[:, :9].copy(), "proprio/gripper": tool[:, 9:].copy()}
    rng = np.random.default_rng(seed)
    frames = {"front": rng.integers(0, 255, (episode.length, 32, 32, 3), dtype=np.uint8)}
    return replace(episode, columns={**episode.columns, **columns}, frames=frames)


def write_demos(directory: Path, count: int, first: int) -> str:
    from t2p.data.store import finish, write_shard

    write_shard(directory, "train", 0, [with_proprio(first + i) for i in range(count)], codec="png")
    finish(directory, shards={"train": 1})
    return str(directory)


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    root = tmp_path_factory.mktemp("demos")
    return write_demos(root / "train", 4, 10), write_demos(root / "held", 3, 20)


def command(config: str, demos, workdir) -> list[str]:
    paths = [f"--config.data.sources.demos.path={demos[0]}", f"--config.data.validation.held_out.path={demos[1]}"]
    return ["train", "--config", config, "--workdir", str(workdir), *paths]


@pytest.fixture(scope="module")
def dp3_run(demos, tmp_path_factory, compilation_cache):
    workdir = tmp_path_factory.mktemp("dp3")
    for steps in (10, 20):
        assert main([*command(f"{DP3}:debug", demos, workdir), f"--config.steps={steps}"]) == 0
    return workdir


def test_debug_trains_and_resumes(dp3_run, demos, capsys):
    _, meta = checkpoint.load(dp3_run, "latest")
    assert meta["step"] == 20 and {"val/loss", "val/position_mm", "val/outside"} <= set(meta["metrics"])
    assert main([*command(f"{DP3}:debug", demos, dp3_run), "--config.steps=20"]) == 0
    assert "changed" not in capsys.readouterr().err


def test_the_checkpoint_holds_the_limits_of_the_training_episodes(dp3_run):
    _, meta = checkpoint.load(dp3_run)
    actions = np.concatenate([with_proprio(10 + i).columns["actions"] for i in range(4)])
    found = meta["config"]["statistics"]["actions"]
    np.testing.assert_array_equal(found["min"], actions.min(0).astype(np.float64))
    np.testing.assert_array_equal(found["max"], actions.max(0).astype(np.float64))
    stage = make_stage(ml_collections.ConfigDict(meta["config"]))
    assert stage.coordinates.actions.high == tuple(map(float, actions.max(0)))


def test_limits_are_those_of_the_episodes_that_a_source_keeps(demos):
    config = load_config(f"{DP3}:debug")
    config.data.sources.demos.path, config.data.sources.demos.fraction = demos[0], 0.5
    found = with_statistics(config).statistics
    tool = np.concatenate([with_proprio(10 + i).columns["proprio/tool"] for i in range(2)])
    np.testing.assert_array_equal(found["proprio/tool"]["max"], tool.max(0).astype(np.float64))
    assert config.statistics["proprio/tool"]["max"] == ()  # the given config stays


def test_missing_statistics_are_named(demos, tmp_path):
    with pytest.raises(UserError, match=r"statistics\.proprio/tool is empty.*t2p train"):
        make_stage(load_config(f"{DP3}:debug"))
    config = load_config(f"{DP3}:debug")
    config.data.sources.demos.path = str(write(tmp_path / "without", 1))
    with pytest.raises(UserError, match="no training episode has the column 'proprio/"):
        make_plan(config)


def test_a_plan_of_shapes_needs_no_data():
    config = load_config(f"{DP3}:debug")
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch(make_stage(with_statistics(config, blank=True)), 4)
    )
    plan = make_plan(config, shapes)
    assert plan.example.actions.shape == (4, 9, 10) and plan.config.statistics.actions.max == (1.0,)


def test_a_restored_dp3_acts_from_clouds_the_same_in_any_company(dp3_run):
    variables, meta = checkpoint.load(dp3_run)
    policy = make_policy(ml_collections.ConfigDict(meta["config"]))
    scenes = [with_proprio(s) for s in (50, 51)]
    clouds = np.stack([s.tracks["exact/objects"]["front"].points[0, :48] for s in scenes])
    proprio = {k: np.stack([s.columns[f"proprio/{k}"][:1] for s in scenes]) for k in ("tool", "gripper")}
    camera = [np.stack([np.asarray(x, np.float32)] * 2) for x in (CAMERA.K, CAMERA.T_base_cam)]
    reset = jax.jit(policy.reset)

    def plan(rows, valid) -> np.ndarray:
        cloud = Cloud(clouds[rows], np.zeros((len(rows), 48, 3), np.uint8), valid[rows])
        obs = Batch(
            cloud=cloud,
            cameras={"front": tuple(x[rows] for x in camera)},
            proprio={k: v[rows] for k, v in proprio.items()},
        )
        rng = jax.random.split(jax.random.key(0), 2)[np.array(rows)]
        return np.asarray(reset(variables, obs, rng)["plan"])

    valid = np.ones((2, 48), bool)
    both = plan([0, 1], valid)
    assert both.shape == (2, 9, 10) and np.isfinite(both).all()
    rotation = both[..., 3:9].reshape(2, 9, 2, 3)
    product = rotation @ rotation.swapaxes(-1, -2)
    np.testing.assert_allclose(product, np.broadcast_to(np.eye(2), product.shape), atol=1e-5)
    np.testing.assert_allclose(plan([1], valid)[0], both[1], atol=1e-5)
    valid[1, 16:] = False
    before = plan([1], valid)[0]
    clouds[1, 16:] = 0.5  # nobody sees these
    np.testing.assert_allclose(plan([1], valid)[0], before, atol=1e-6)


@pytest.mark.long
def test_diffusion_policy_trains_resumes_and_acts_from_pictures(demos, tmp_path, compilation_cache):
    for steps in (10, 12):
        assert main([*command(f"{DIFFUSION}:debug", demos, tmp_path), f"--config.steps={steps}"]) == 0
    variables, meta = checkpoint.load(tmp_path)
    assert meta["step"] in (10, 12) and "val/position_mm" in meta["metrics"]
    policy = make_policy(ml_collections.ConfigDict(meta["config"]))
    scenes = [with_proprio(s) for s in (50, 51)]
    images = np.stack([s.frames["front"][:1] for s in scenes])
    proprio = {k: np.stack([s.columns[f"proprio/{k}"][:1] for s in scenes]) for k in ("tool", "gripper")}
    obs = Batch(images={"front": images}, proprio=proprio)
    rng = jax.random.split(jax.random.key(0), 2)
    reset = jax.jit(policy.reset)
    plan = np.asarray(reset(variables, obs, rng)["plan"])
    assert plan.shape == (2, 9, 10) and np.isfinite(plan).all()
    turned = jax.tree.map(lambda x: x[::-1], obs)
    np.testing.assert_allclose(np.asarray(reset(variables, turned, rng[::-1])["plan"])[::-1], plan, atol=1e-4)
