"""AMPLIFY's three stages one after the other through the training loop, and the policy that comes out."""

import importlib.util
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from amplify_episodes import episode

import t2p
from t2p import checkpoint
from t2p.cli.config import load_config
from t2p.cli.main import main
from t2p.data.store import finish, write_shard
from t2p.io import UserError
from t2p.methods.instructed import instruct
from t2p.train.defaults import source_config
from t2p.train.loop import train
from t2p.types import Batch

CONFIGS = Path(__file__).resolve().parents[2] / "configs/amplify"
STAGES = ("motion_tokenizer", "forward_dynamics", "inverse_dynamics")
LENGTH, SIZE = 6, 128


def config(name: str, data: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"train_amplify_{name}", CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return short(module.get_config("debug"), data)


def short(c: Any, data: Path) -> Any:
    for part in (c.data.sources, c.data.validation):
        for source in part:
            part[source] = source_config(str(data))
    c.steps, c.batch_size, c.log.tensorboard = 3, 2, False
    c.optimizer.warmup_steps = 1
    c.eval.update({"every": 3, "batches": 1})
    c.checkpoint.every = 3
    return c


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("amplify")
    write_shard(
        folder / "d", "train", 0, (episode(n, LENGTH, SIZE, "put the blue cube on the green one") for n in range(3))
    )
    finish(folder / "d", shards={"train": 1})
    out = {"data": folder / "d"}
    earlier = {"forward_dynamics": {"tokenizer": "motion_tokenizer"}}
    earlier["inverse_dynamics"] = {"forward_dynamics": "forward_dynamics"}
    for name in STAGES:
        c = config(name, folder / "d")
        for key, run in earlier.get(name, {}).items():
            c.init_from[key].path = str(out[run])
        out[name] = folder / name
        train(c, out[name])
    return out


def variables(workdir: Path) -> Any:
    return checkpoint.load(str(workdir), "latest")[0]


def equal(a: Any, b: Any) -> bool:
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))


def test_each_stage_holds_what_it_was_built_on(runs: dict[str, Path]) -> None:
    tokenizer, forward, policy = (
        variables(runs[n]) for n in ("motion_tokenizer", "forward_dynamics", "inverse_dynamics")
    )
    assert equal(forward["frozen"]["tokenizer"]["params"], tokenizer["params"])
    assert equal(policy["frozen"]["tokenizer"]["params"], tokenizer["params"])  # comes along with forward dynamics
    assert equal(policy["frozen"]["forward_dynamics"]["params"], forward["params"])
    assert "fsq" not in forward["params"]["dynamics"] and set(policy["params"]) == {"images", "inverse"}


def test_the_policy_acts_in_the_actions_own_units(runs: dict[str, Path]) -> None:
    trained = t2p.load(str(runs["inverse_dynamics"]), which="latest")
    rng = np.random.default_rng(0)
    obs = Batch(
        images={view: rng.integers(0, 256, (2, 1, SIZE, SIZE, 3), np.uint8) for view in ("front", "wrist")},
        proprio={"tool": np.zeros((2, 1, 9), np.float32), "gripper": np.zeros((2, 1, 1), np.float32)},
    )
    policy, told = instruct(
        trained.policy, trained.variables, trained.config.text, "put the blue cube on the green one"
    )
    keys = jax.random.split(jax.random.key(0), 2)
    action, _, aux = policy.act(told, policy.reset(told, obs, keys), obs, keys)
    limits = trained.config.statistics.actions
    assert action.shape == (2, 10) and aux["codes"].shape == (2, 3)
    assert (action >= np.array(limits.min) - 1e-4).all() and (action <= np.array(limits.max) + 1e-4).all()


@pytest.mark.long
def test_a_tokenizer_that_looks_at_pictures_and_what_is_built_on_it(runs: dict[str, Path], tmp_path: Path) -> None:
    """Its frozen encoder comes along to forward dynamics and the policy, and `t2p eval` measures both."""
    seen = variables(runs["forward_dynamics"])["params"]["images"]
    checkpoint.export(str(tmp_path / "images"), {"params": seen, "batch_stats": {}, "frozen": {}}, {"config": {}})
    joint = "--config.model.images.joint=True", f"--config.init_from.images.path={tmp_path / 'images'}"
    settings = [*joint, "--config.model.images.norm=group", "--config.model.images.size=(64, 64)"]
    settings += ["--config.model.images.widths=(16,)", "--config.model.images.stem=16"]
    c = short(load_config(f"{CONFIGS}/motion_tokenizer.py:debug", settings).unlock(), runs["data"])
    train(c, tmp_path / "tokens")
    f = config("forward_dynamics", runs["data"])
    f.init_from.tokenizer.path, f.model.tokenizer.images = str(tmp_path / "tokens"), c.model.images
    train(f, tmp_path / "dynamics")
    tokenizer, forward = variables(tmp_path / "tokens"), variables(tmp_path / "dynamics")
    assert equal(tokenizer["frozen"]["images"]["params"], seen)
    assert equal(forward["frozen"]["tokenizer"]["frozen"]["images"]["params"], seen)
    assert not equal(forward["params"]["images"], seen)
    p = config("inverse_dynamics", runs["data"])
    p.init_from.forward_dynamics.path, p.model.tokenizer.images = str(tmp_path / "dynamics"), c.model.images
    p.model.codes.source = "true"
    train(p, tmp_path / "policy")
    policy = variables(tmp_path / "policy")
    assert equal(policy["frozen"]["tokenizer"]["frozen"]["images"]["params"], seen)
    for name in ("tokens", "dynamics"):
        data = ["--data", str(runs["data"]), "--split", "train"]
        assert main(["eval", "--checkpoint", str(tmp_path / name), "--which", "latest", *data]) == 0


@pytest.mark.long
def test_a_part_of_the_parameters_is_filled_by_its_name(runs: dict[str, Path]) -> None:
    """An encoder that one stage trained starts another's: init_from names a part."""
    source = runs["data"].parent / "encoder"
    images = variables(runs["forward_dynamics"])["params"]["images"]
    checkpoint.export(str(source), {"params": images, "batch_stats": {}, "frozen": {}}, {"config": {"stage": "images"}})
    c = config("inverse_dynamics", runs["data"])
    c.init_from.forward_dynamics.path = str(runs["forward_dynamics"])
    c.init_from.images = {"path": str(source), "rules": ((".*", "freeze"),)}
    train(c, runs["data"].parent / "again")
    again = variables(runs["data"].parent / "again")
    assert equal(again["params"]["images"], images)  # held
    assert not equal(again["params"]["inverse"], variables(runs["inverse_dynamics"])["params"]["inverse"])


def test_stages_in_the_wrong_order_are_named(runs: dict[str, Path], tmp_path: Path) -> None:
    c = config("forward_dynamics", runs["data"])
    with pytest.raises(UserError, match=r"init_from\.tokenizer"):
        train(c, tmp_path / "a")
    c.init_from.tokenizer.path = str(runs["motion_tokenizer"])
    c.model.tokenizer.codebook = 256  # three numbers a code instead of two
    with pytest.raises(UserError, match="fsq"):
        train(c, tmp_path / "b")
    for key, value, said in (
        (
            "model.tokenizer.heads",
            4,
            r"heads is 4, and the checkpoint in .* was trained with 2; set --config\.model",
        ),
        ("model.tokenizer.mask", "none", "mask is 'none', and .* 'causal'"),
        ("window.views", ("wrist", "front"), r"window\.views is \('wrist', 'front'\)"),
    ):
        c = config("forward_dynamics", runs["data"])
        c.init_from.tokenizer.path = str(runs["motion_tokenizer"])
        c.update_from_flattened_dict({key: value})
        with pytest.raises(UserError, match=said):
            train(c, tmp_path / "b")
    c = config("inverse_dynamics", runs["data"])
    c.init_from.forward_dynamics.path = str(runs["forward_dynamics"])
    c.model.inverse.action_dim = 7
    with pytest.raises(UserError, match="actions of 10 numbers, and the head makes 3 of 7"):
        train(c, tmp_path / "c")
