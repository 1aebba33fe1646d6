"""configs/threepointr: each variant makes a stage of its size; `debug` trains both stages, resumes, and acts."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from t2p import checkpoint
from t2p.cli.config import load_config
from t2p.cli.main import main
from t2p.io import UserError
from t2p.methods.registry import make_policy, make_stage

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/methods/threepointr"))
from scenes import CAMERA, scene, write  # noqa: E402

from t2p.types import Batch, Cloud, Tracks  # noqa: E402

TRACKS, POLICY = (str(ROOT / f"configs/threepointr/{name}.py") for name in ("tracks", "policy"))
VARIANTS = ("debug", "cpu", "gpu20", "paper")


def batch(stage) -> Batch:
    w = stage.window
    shape = (1, len(w.tracks.offsets), w.num_points)
    tracks = Tracks(np.zeros((*shape, 3), np.float32), np.ones(shape, bool), valid=np.ones(shape[:2], bool))
    return Batch(tracks={w.track_set: {w.views[0]: tracks}})


@pytest.mark.parametrize("variant", VARIANTS)
def test_track_variants_make_a_stage(variant):
    stage = make_stage(load_config(f"{TRACKS}:{variant}"))
    params = jax.eval_shape(stage.init, jax.random.key(0), batch(stage))["params"]
    count = sum(p.size for p in jax.tree.leaves(params))
    assert (count == 2_244_379) == (variant in ("gpu20", "paper")) and count < 3e6
    assert stage.flops_per_example(batch(stage)) > 6 * count


@pytest.mark.parametrize("variant", VARIANTS)
def test_policy_variants_make_a_stage_that_acts(variant):
    config = load_config(f"{POLICY}:{variant}")
    stage, policy = make_stage(config), make_policy(config)
    variables = jax.eval_shape(stage.init, jax.random.key(0), batch(stage))
    head = sum(p.size for p in jax.tree.leaves(variables["params"]["head"]))
    assert (head == 68_894_218) == (variant in ("gpu20", "paper"))
    assert policy.steps == 9 and policy.observe.cloud == config.window.points and not policy.observe.every_step


def test_a_track_network_is_no_policy():
    with pytest.raises(UserError, match=r"threepointr\.tracks' is no policy"):
        make_policy(load_config(f"{TRACKS}:debug"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Both stages trained by `debug`, each interrupted once."""
    root = tmp_path_factory.mktemp("threepointr")
    data = {name: str(write(root / name, n, first)) for name, n, first in (("free", 6, 0), ("demos", 4, 10))}
    held = str(write(root / "held", 4, 20))
    sources = [f"--config.data.sources.demos.path={data['demos']}", f"--config.data.validation.held_out.path={held}"]
    runs = {"tracks": [f"--config.data.sources.free.path={data['free']}"], "policy": []}
    runs["policy"] = [f"--config.init_from.tracks.path={root / 'tracks'}"]
    for name, config in (("tracks", TRACKS), ("policy", POLICY)):
        command = ["train", "--config", f"{config}:debug", "--workdir", str(root / name), *sources, *runs[name]]
        for steps in (10, 20):
            assert main([*command, f"--config.steps={steps}"]) == 0
    return root


def test_debug_trains_both_stages_and_resumes(trained):
    for name, metric in (("tracks", "val/ade_mm"), ("policy", "val/position_mm")):
        _, meta = checkpoint.load(trained / name, "latest")
        assert meta["step"] == 20 and {"val/loss", metric} <= set(meta["metrics"])
    tracks, _ = checkpoint.load(trained / "tracks", "best")
    policy, _ = checkpoint.load(trained / "policy")
    expected, found = tracks["params"], policy["frozen"]["tracks"]["params"]
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_restored_policy_acts_the_same_in_any_company(trained):
    """One environment's actions depend neither on the others nor on points that only fill up."""
    variables, meta = checkpoint.load(trained / "policy")
    import ml_collections

    reset = jax.jit(make_policy(ml_collections.ConfigDict(meta["config"])).reset)
    clouds = np.stack([scene(s, points=32).tracks["exact/objects"]["front"].points[0] for s in (50, 51)])
    K, pose = (np.stack([np.asarray(x, np.float32)] * 2) for x in (CAMERA.K, CAMERA.T_base_cam))

    def plan(rows, valid) -> np.ndarray:
        cloud = Cloud(clouds[rows], np.zeros((len(rows), 32, 3), np.uint8), valid[rows])
        obs = Batch(cloud=cloud, cameras={"front": (K[rows], pose[rows])})
        rng = jax.random.split(jax.random.key(0), 2)[np.array(rows)]
        return np.asarray(reset(variables, obs, rng)["plan"])

    every = np.ones((2, 32), bool)
    both = plan([0, 1], every)
    assert both.shape == (2, 9, 10) and np.isfinite(both).all()
    # Batches of other sizes add up in another order, and 16 denoising steps amplify it: to 1.6e-5 with jax 0.11.
    np.testing.assert_allclose(plan([1], every)[0], both[1], rtol=0, atol=5e-5)
    assert np.abs(both[0] - both[1]).max() > 1e-2  # what another scene makes of it
    some = every.copy()
    some[1, 16:] = False
    before = plan([1], some)[0]
    clouds[1, 16:] = 7.0  # nobody sees these
    np.testing.assert_allclose(plan([1], some)[0], before, atol=1e-6)
