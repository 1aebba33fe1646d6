"""The loop: resuming, stopping, keeping the best, starting from other checkpoints, refusing what does not fit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from train_fakes import FakeStage, fake_config, make_fake_stage, numpy_variables, rows

from t2p import checkpoint
from t2p.checkpoint import DamagedCheckpoint
from t2p.io import UserError
from t2p.train.evals import Eval
from t2p.train.init_from import initialise
from t2p.train.logging import Log, NonFinite
from t2p.train.loop import train
from t2p.train.plan import Plan, make_plan
from t2p.train.preemption import Preempted
from t2p.train.seeds import train_seeds
from t2p.train.state import TrainState

pytestmark = pytest.mark.usefixtures("fake_data")


def config(**changes):
    return fake_config(**{"optimizer__ema": 0.9, "log__every": 1, **changes})


def records(workdir: Path, prefix: str) -> dict[int, dict[str, float]]:
    """{step: metrics that do not measure time} of a run."""
    found: dict[int, dict[str, float]] = {}
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        r = json.loads(line)
        kept = {k: v for k, v in r.items() if k.startswith(prefix) and not k.endswith(("_second", "data_wait"))}
        found.setdefault(r["step"], {}).update(kept)
    return found


def assert_same(a, b):
    a, b = numpy_variables(a), numpy_variables(b)
    assert a.keys() == b.keys()
    for path in a:
        np.testing.assert_array_equal(a[path], b[path], err_msg=path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(workdir, state) of an undisturbed run."""
    import train_fakes

    before = sys.modules.get("t2p.data.pipeline")
    train_fakes.install()
    workdir = tmp_path_factory.mktemp("finished")
    state = train(config(), workdir)
    train_fakes.uninstall(before)
    return workdir, state


def test_stopped_and_crashed_and_resumed_equals_undisturbed(finished, tmp_path, capsys):
    workdir, state = finished

    def terminate(variables, step, rng):
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return {}

    def crash(variables, step, rng):
        raise ZeroDivisionError

    with pytest.raises(Preempted, match="step 3"):
        train(config(), tmp_path, [Eval("stop", 3, terminate)])
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with pytest.raises(ZeroDivisionError):
        train(config(), tmp_path, [Eval("crash", 6, crash)])  # the last checkpoint is of step 4
    again = train(config(), tmp_path)
    assert f"resuming from {tmp_path}/checkpoints/4" in capsys.readouterr().out
    assert_same(again, state)
    assert records(tmp_path, "train/") == records(workdir, "train/")  # losses, and which rows each batch had
    assert records(tmp_path, "val/") == records(workdir, "val/")
    last = [line for line in map(json.loads, (tmp_path / "metrics.jsonl").open()) if "goodput/restarts" in line][-1]
    assert last["goodput/restarts"] == 2 and last["goodput/lost_steps"] == 2  # 5 and 6 were done and not saved


def test_checkpoint_says_what_it_is(finished):
    workdir, state = finished
    variables, meta = checkpoint.load(workdir, "latest")
    assert meta["step"] == meta["position"] == 8
    assert meta["config"]["optimizer"]["ema"] == 0.9
    assert meta["shapes"]["proprio"]["x"] == [16, 8]
    assert set(meta["versions"]) >= {"jax", "mujoco", "t2p"}
    assert meta["metrics"].keys() == {"val/loss", "val/mean_index"}
    np.testing.assert_array_equal(variables["params"]["head"]["kernel"], state.ema["head"]["kernel"])
    np.testing.assert_array_equal(variables["batch_stats"]["norm"]["mean"], state.batch_stats["norm"]["mean"])


def test_validation_is_the_mean_over_the_rows_that_count(finished):
    workdir, _ = finished
    variables, meta = checkpoint.load(workdir, "latest")
    batch = rows(10**6, np.arange(21))
    loss, _ = make_fake_stage(config(), "cpu").loss(variables, batch, jax.random.key(0), False)
    np.testing.assert_allclose(meta["metrics"]["val/loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(meta["metrics"]["val/mean_index"], 10.3273809, rtol=1e-6)  # mean 7.5 and 18.x by rows


def test_damaged_checkpoint_is_set_aside_and_the_one_before_taken(finished, tmp_path, capsys):
    workdir, state = finished
    shutil.copytree(workdir, tmp_path / "w")
    for path in (tmp_path / "w/checkpoints/8").rglob("d/*"):  # all: one alone may hold only what was written over
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert_same(train(config(), tmp_path / "w"), state)
    said = capsys.readouterr().out
    assert f"WARNING: checkpoint {tmp_path}/w/checkpoints/8 is damaged" in said
    assert f"moved it to {tmp_path}/w/damaged/8" in said and (tmp_path / "w/damaged/8").is_dir()
    assert checkpoint.load(tmp_path / "w", "latest")[1]["step"] == 8


def test_no_whole_checkpoint_is_an_error(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "w")
    for path in (tmp_path / "w/checkpoints").rglob("d/*"):
        path.write_bytes(b"")
    with pytest.raises(DamagedCheckpoint, match="checkpoints/4"):
        train(config(), tmp_path / "w")


def test_not_a_number_stops_with_step_metric_and_last_checkpoint(tmp_path):
    with pytest.raises(NonFinite) as e:
        train(config(model__explode_at=5, log__every=50, checkpoint__every=4), tmp_path)
    assert (e.value.step, e.value.metric) == (6, "loss")
    assert str(e.value) == f"loss is nan at step 6; last good checkpoint: {tmp_path}/checkpoints/4"
    assert [p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()] == ["4"]


def test_sigterm_before_the_first_step_is_kept(tmp_path, monkeypatch):
    def compile_under_sigterm(plan):
        signal.raise_signal(signal.SIGTERM)
        return compile_step(plan)

    compile_step = Plan.compile
    monkeypatch.setattr(Plan, "compile", compile_under_sigterm)
    with pytest.raises(Preempted, match="step 0"):
        train(config(), tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_the_step_is_named_before_the_evaluation_that_follows(tmp_path):
    c = config(model__explode_at=4, log__every=50, eval__every=6, checkpoint__every=50)
    with pytest.raises(NonFinite) as e:  # all weights are NaN from step 5 on, and so is the validation at step 6
        train(c, tmp_path)
    assert (e.value.step, e.value.metric) == (5, "loss")


@pytest.mark.parametrize("best", ["val/loss", "score/x"])
def test_every_metric_of_the_validation_must_be_finite(best, tmp_path, monkeypatch):
    def loss(stage, *arguments):
        value, extra = original(stage, *arguments)
        training = arguments[-1]
        return value, {**extra, "metrics": {"odd": jnp.array(0.0 if training else np.inf)}}

    original = FakeStage.loss
    monkeypatch.setattr(FakeStage, "loss", loss)
    score = Eval("score", 4, lambda variables, step, rng: {"x": 1.0, "other": np.nan})
    with pytest.raises(NonFinite, match="val/odd is inf at step 4"):
        train(config(checkpoint__best=best), tmp_path, [score])


def test_best_and_latest_survive_a_restart(tmp_path):
    scores = {2: 3.0, 4: 1.0, 6: 2.0, 8: 5.0}

    def score(variables, step, rng):
        return {"x": scores[step]}

    def crash(variables, step, rng):
        raise ZeroDivisionError

    c = config(checkpoint__best="score/x", checkpoint__keep=1, checkpoint__every=1)
    with pytest.raises(ZeroDivisionError):
        train(c, tmp_path, [Eval("score", 2, score), Eval("crash", 7, crash)])
    train(c, tmp_path, [Eval("score", 2, score)])
    assert sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir()) == [4, 8]
    assert checkpoint.load(tmp_path, "best")[1]["step"] == 4
    assert checkpoint.load(tmp_path, "latest")[1]["step"] == 8
    with pytest.raises(UserError, match="there are steps \\[4, 8\\]"):
        checkpoint.load(tmp_path, 5)


def test_best_must_name_a_metric_of_the_evaluation(tmp_path):
    with pytest.raises(UserError, match="'val/los'; the evaluation gives val/loss, val/mean_index"):
        train(config(checkpoint__best="val/los", eval__every=1), tmp_path)


def with_rules(c, path, *rules, name="own"):
    c.init_from[name] = {"path": str(path), "rules": rules}
    return c


def test_start_from_a_checkpoint_by_rules(finished, tmp_path):
    source, _ = checkpoint.load(finished[0])
    c = with_rules(config(seed=5), finished[0], ("head/.*", "fresh"), ("encoder/.*", "freeze"), (".*", "load"))
    plan = make_plan(c)
    fresh = plan.init()
    state, origins, table = initialise(c, plan.init(), {})
    for part, expected in (("encoder", source["params"]), ("norm", source["params"]), ("head", fresh.params)):
        for name, value in expected[part].items():
            np.testing.assert_array_equal(state.params[part][name], value)
            np.testing.assert_array_equal(state.ema[part][name], value)
    np.testing.assert_array_equal(state.batch_stats["norm"]["var"], source["batch_stats"]["norm"]["var"])
    assert plan.step.held == {"encoder/kernel"}
    assert {(r.path, r.action) for r in table} >= {("params/head/bias", "fresh"), ("batch_stats/norm/mean", "load")}
    assert origins["own"]["path"] == str(finished[0]) and origins["own"]["step"] in (4, 8)


@pytest.mark.parametrize("scanned", [False, True])
def test_layers_apart_fill_a_scanned_model_and_the_other_way_round(scanned, tmp_path):
    apart = {"block_0": {"w": np.zeros(3, np.float32)}, "block_1": {"w": np.ones(3, np.float32)}}
    stacked = {"blocks": {"w": np.stack([x["w"] for x in apart.values()])}}
    source, wanted = (apart, stacked) if scanned else (stacked, apart)
    checkpoint.export(tmp_path / "from", {"params": source, "batch_stats": {}, "frozen": {}}, {"config": {}})
    params = jax.tree.map(lambda x: jnp.full(x.shape, 7.0), wanted)
    state = TrainState(jnp.zeros((), jnp.int32), params, {}, (), {}, {})
    state, _, _ = initialise(with_rules(config(), tmp_path / "from"), state, {})
    jax.tree.map(np.testing.assert_array_equal, state.params, wanted)


def test_shapes_must_agree_unless_fresh(finished, tmp_path):
    variables, meta = checkpoint.load(finished[0])
    variables["params"]["head"]["kernel"] = np.zeros((16, 3), np.float32)
    checkpoint.export(tmp_path / "other", variables, meta)
    c = with_rules(config(), tmp_path / "other")
    with pytest.raises(
        UserError, match=r"params/head/kernel has shape \(16, 3\) in the checkpoint and shape \(16, 2\)"
    ):
        initialise(c, make_plan(c).init(), {})
    c = with_rules(config(), tmp_path / "other", ("head/kernel", "fresh"), ("encoder/.*", "load"))
    with pytest.raises(UserError, match="no rule for params/head/bias"):
        initialise(c, make_plan(c).init(), {})
    with pytest.raises(UserError, match="expected \\(regex, one of load, fresh, freeze\\)"):
        make_plan(with_rules(config(), tmp_path / "other", (".*", "lod")))


def test_earlier_stage_is_an_argument_that_does_not_change(tmp_path):
    earlier = {"params": {"bias": np.array([5.0, -5.0], np.float32)}}
    checkpoint.export(tmp_path / "earlier", earlier, {"config": {}})
    with pytest.raises(UserError, match=r"config\.init_from\.earlier"):
        train(config(model__earlier=True), tmp_path / "w")
    c = with_rules(config(model__earlier=True, steps=4), tmp_path / "earlier", name="earlier")
    state = train(c, tmp_path / "w")
    np.testing.assert_array_equal(state.frozen["earlier"]["params"]["bias"], [5.0, -5.0])
    shutil.rmtree(tmp_path / "earlier")  # the checkpoint stands alone
    variables, meta = checkpoint.load(tmp_path / "w")
    np.testing.assert_array_equal(variables["frozen"]["earlier"]["params"]["bias"], [5.0, -5.0])
    assert meta["init_from"]["earlier"]["path"] == str(tmp_path / "earlier")
    with c.unlocked():
        c.steps = 5
    assert int(train(c, tmp_path / "w").step) == 5
    assert meta["metrics"]["val/loss"] > 5  # the earlier stage is part of what is computed


def test_a_workdir_of_another_config_is_refused_and_left_alone(finished):
    before = (finished[0] / "config.json").read_bytes()
    with pytest.raises(UserError, match="another config: the optimiser's state has other arrays"):
        train(config(optimizer__freeze=("head/.*",)), finished[0])
    assert (finished[0] / "config.json").read_bytes() == before


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(UserError, match="accelerator 'tpu' was asked for, but JAX runs on 'cpu'"):
        train(config(accelerator="tpu"), tmp_path)
    with pytest.raises(UserError, match=r"unknown stage 'fak'; expected .* did you mean 'fake'"):
        train(config(stage="fak"), tmp_path)
    with pytest.raises(UserError, match="every parameter is frozen"):
        train(config(optimizer__freeze=(".*",)), tmp_path)
    c = config()
    c.optimizer.learning_rat = 1.0
    with pytest.raises(
        UserError, match=r"unknown key config.optimizer.learning_rat; did you mean config.optimizer.learning_rate\?"
    ):
        train(c, tmp_path)


def test_first_line_names_platform_devices_and_mesh(finished, capsys, tmp_path):
    plan = make_plan(config())
    assert plan.first_line() == "cpu: 1 x cpu in 1 process(es), mesh data=1 fsdp=1 tensor=1; float32"


class FakeWandb:
    """What is asked of Weights & Biases."""

    def __init__(self):
        self.runs, self.logged, self.finished = [], [], 0

    def init(self, **settings):
        assert Path(settings["dir"]).is_dir()
        self.runs.append(settings)
        return self

    def log(self, metrics, step):
        self.logged.append((step, metrics))

    def finish(self):
        self.finished += 1


def test_a_restart_goes_on_with_the_same_wandb_run(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    train(config(steps=2, log__wandb="project"), tmp_path)
    train(config(steps=3, log__wandb="project"), tmp_path)
    first, second = fake.runs
    assert first["id"] == second["id"] == (tmp_path / "wandb_id").read_text()
    assert (first["project"], first["resume"], first["dir"]) == ("project", "allow", str(tmp_path))
    assert {s for s, _ in fake.logged} == {1, 2, 3} and "train/loss" in fake.logged[0][1] and fake.finished == 2


def test_a_remote_workdir_has_no_tensorboard_and_local_wandb_files(tmp_path, monkeypatch, capsys):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr("t2p.train.logging.is_remote", lambda path: True)
    with Log(tmp_path, config(log__wandb="project", log__tensorboard=True), 0):
        assert Path(fake.runs[0]["dir"]) != tmp_path
    assert not Path(fake.runs[0]["dir"]).exists()
    assert "no TensorBoard files in" in capsys.readouterr().out and not (tmp_path / "tensorboard").exists()


def test_several_seeds_report_their_spread(tmp_path):
    report = train_seeds(config(steps=2), tmp_path, [0, 3])
    values = [records(tmp_path / f"seed_{s}", "val/")[2]["val/loss"] for s in (0, 3)]
    assert values[0] != values[1]
    assert report["val/loss"] == {
        "values": values,
        "mean": pytest.approx(np.mean(values)),
        "std": pytest.approx(np.std(values, ddof=1)),
    }
    assert json.loads((tmp_path / "seeds.json").read_text())["metrics"]["val/loss"]["values"] == values
