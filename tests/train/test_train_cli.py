"""The command line: keys that do not exist, values of another type, training and inspecting from a file."""

from __future__ import annotations

import re
import signal

import pytest
from train_atm import CONFIG as ATM

from t2p.cli.config import load_config
from t2p.cli.main import main
from t2p.cli.train import parse_seeds
from t2p.io import UserError
from t2p.methods.registry import make_stage
from t2p.train.distributed import initialize, looks_like_cluster
from t2p.train.plan import make_plan
from t2p.train.shapes import window_shapes

CONFIG = """
from train_fakes import fake_config

def get_config(variant="debug"):
    c = fake_config(steps={"debug": 2, "long": 9}[variant])
    c.optimizer.freeze = ("head/bias",)
    return c
"""


@pytest.fixture
def config_file(tmp_path, fake_data):
    path = tmp_path / "config.py"
    path.write_text(CONFIG)
    return str(path)


def test_variants_and_overrides(config_file):
    assert load_config(config_file).steps == 2
    assert load_config(f"{config_file}:long").steps == 9
    arguments = ["--config.batch_size=64", "--config.optimizer.learning_rate", "0.5", "--config.remat"]
    c = load_config(config_file, [*arguments, "--config.optimizer.freeze=('a','b')"])
    assert (c.batch_size, c.optimizer.learning_rate, c.remat, c.optimizer.freeze) == (64, 0.5, True, ("a", "b"))
    with pytest.raises(AttributeError):
        c.new_key = 1


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.batchsize=3", "unknown key config.batchsize; did you mean config.batch_size?"),
        ("--config.learning_rate=3", "unknown key config.learning_rate; did you mean config.optimizer.learning_rate?"),
        ("--config.optimizer.clip=3", "unknown key config.optimizer.clip; did you mean config.optimizer.clip_norm?"),
        ("--config.model.dropuot=3", "unknown key config.model.dropuot; did you mean config.model.dropout?"),
        (
            "--config.init_from.track.path=d",
            "config.init_from.track.path cannot be given on the command line: init_from is set in a config file only, "
            'as c.init_from.NAME = {"path": DIR, "rules": ((REGEX, "load"), ...)}',
        ),
        ("--batch_size=3", "unexpected argument '--batch_size=3'; settings are given as --config.key=value"),
    ],
)  # fmt: skip
def test_unknown_keys_name_the_nearest(config_file, argument, message, capsys):
    assert main(["train", "--config", config_file, "--workdir", "unused", argument]) == 2
    assert capsys.readouterr().err == f"t2p train: {message}\n"


def test_a_path_at_a_new_name_adds_a_source(config_file):
    more = "--config.data.sources.more"
    config = load_config(
        config_file, [f"{more}.path=elsewhere", f"{more}.fraction=0.5", "--config.data.validation.b.path=c"]
    )
    assert (config.data.sources.more.path, config.data.sources.more.fraction) == ("elsewhere", 0.5)
    assert config.data.validation.b.path == "c" and config.is_locked
    assert set(load_config(config_file).data.sources) == set(config.data.sources) - {"more"}
    with pytest.raises(UserError, match=r"did you mean config\.data\.sources\.more\.fraction"):
        load_config(config_file, [f"{more}.path=elsewhere", f"{more}.fractoin=0.5"])
    with pytest.raises(UserError, match=r"unknown key config\.data\.sources\.more\.fraction"):
        load_config(config_file, [f"{more}.fraction=0.5"])


@pytest.mark.parametrize(
    ("setting", "bound"),
    [
        ("batch_size=0", "at least 1"), ("batch_size=-3", "at least 1"), ("accumulation=0", "at least 1"),
        ("steps=-3", "at least 1"), ("data.workers=-1", "at least 0"), ("eval.batches=-2", "at least 0"),
        ("eval.every=0", "at least 1"), ("checkpoint.every=0", "at least 1"), ("checkpoint.keep=0", "at least 1"),
        ("log.every=0", "at least 1"), ("text.width=0", "at least 1"), ("optimizer.clip_norm=-1.0", "at least 0"),
        ("optimizer.learning_rate=0.0", "a number above 0"), ("optimizer.learning_rate=nan", "a number above 0"),
        ("optimizer.eps=0.0", "a number above 0"), ("optimizer.ema=1.0", "at least 0 and below 1"),
        ("optimizer.b1=1.0", "at least 0 and below 1"), ("optimizer.b2=-0.5", "at least 0 and below 1"),
        ("optimizer.weight_decay=-0.1", "at least 0"), ("optimizer.warmup_steps=-1", "at least 0"),
        ("dtype=float99", "one of float32, bfloat16, float16"),
    ],
)  # fmt: skip
def test_values_out_of_bounds_are_refused_by_key_value_and_bound(config_file, setting, bound, capsys):
    key, _, value = setting.partition("=")
    said = f"{key} is {value if key != 'dtype' else repr(value)}; expected {bound}"
    for command in (["train", "--workdir", "unused"], ["inspect"]):
        assert main([*command, "--config", config_file, f"--config.{setting}"]) == 2
        assert capsys.readouterr().err == f"t2p {command[0]}: {said}\n"
    config = load_config(config_file)
    part = config
    *path, last = key.split(".")
    for name in path:
        part = part[name]
    part[last] = type(part[last])(value)
    with pytest.raises(UserError, match=re.escape(said)):
        make_plan(config)


def test_what_a_config_file_refuses_is_said_in_its_own_words(capsys):
    assert main(["train", "--config", f"{ATM}:nope", "--workdir", "unused"]) == 2
    said = "t2p train: unknown variant 'nope'; expected one of debug, cpu, cpu_videos, "
    said += "cpu_libero, cpu_tabletop, gpu20, gpu20_tabletop, paper, released\n"
    assert capsys.readouterr().err == said
    assert main(["train", "--config", f"{ATM}:debug", "--workdir", "unused", "--config.batch_size=many"]) == 2
    assert "FlagValueError" not in capsys.readouterr().err


def test_values_of_another_type_and_missing_files_are_refused(config_file, tmp_path):
    with pytest.raises(UserError, match="batch_size"):
        load_config(config_file, ["--config.batch_size=many"])
    with pytest.raises(UserError, match="KeyError: 'short'"):
        load_config(f"{config_file}:short")
    with pytest.raises(UserError, match=r"no config file .*none\.py"):
        load_config(str(tmp_path / "none.py:debug"))


def test_keys_that_a_config_file_invents_are_refused(tmp_path):
    path = tmp_path / "c.py"
    path.write_text(
        "from train_fakes import fake_config\ndef get_config():\n    c = fake_config()\n    c.step = 3\n    return c\n"
    )
    with pytest.raises(UserError, match=r"unknown key config.step; did you mean config.steps\?"):
        load_config(str(path))


def test_train_from_a_file_and_go_on(config_file, tmp_path, capsys):
    arguments = ["train", "--config", config_file, "--workdir", str(tmp_path / "w")]
    assert main([*arguments, "--config.log.tensorboard=True"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("cpu: ") and "done: step 2" in said
    assert list((tmp_path / "w/tensorboard").iterdir())
    assert main([*arguments, "--config.steps=3"]) == 0
    said = capsys.readouterr().out
    assert "resuming from" in said and "config.steps changed: 2 -> 3" in said
    assert main([*arguments, "--config.steps=9", "--config.model.explode_at=4"]) == 1
    assert f"loss is nan at step 5; last good checkpoint: {tmp_path}/w/checkpoints/4" in capsys.readouterr().err


def test_preempted_run_exits_42(config_file, tmp_path, capsys, monkeypatch):
    import train_fakes

    def next_batch(loader):
        if loader.position == 3:
            signal.raise_signal(signal.SIGTERM)
        return original(loader)

    original = train_fakes.FakeLoader.__next__
    monkeypatch.setattr(train_fakes.FakeLoader, "__next__", next_batch)
    arguments = ["train", "--config", f"{config_file}:long", "--workdir", str(tmp_path / "w")]
    assert main([*arguments, "--config.steps=500", "--config.eval.every=500"]) == 42
    assert "the same command goes on from there" in capsys.readouterr().err


def test_inspect_prints_parameters_memory_and_flops(config_file, capsys, tmp_path):
    assert main(["inspect", "--config", config_file, "--config.optimizer.ema=0.9"]) == 0
    said = capsys.readouterr().out
    assert "encoder/kernel  8x16   float32  copied     0.000" in said
    assert "parameters: 194 (192 trained)" in said
    assert "training state: 0.0 MiB on each device" in said and "train step: 0." in said
    assert "FLOPs: 960 an example, 1.536e+04 a step" in said
    assert [p.name for p in tmp_path.iterdir() if p.name != "__pycache__"] == ["config.py"]


def test_inspect_needs_neither_data_nor_text_encoder(capsys):
    assert main(["inspect", "--config", f"{ATM}:paper", "--config.model.depth=1", "--config.batch_size=8"]) == 0
    said = capsys.readouterr().out
    assert "text/layer_0/kernel" in said and "768x384" in said and "train step: " in said


def test_first_line_says_which_attention_runs():
    config = load_config(f"{ATM}:paper", ["--config.attention=xla"])
    shapes = window_shapes(make_stage(config).window, 768, config.batch_size)
    assert "attention xla (matmul in training: attention dropout is on)" in make_plan(config, shapes).first_line()
    config = load_config(f"{ATM}:paper", ["--config.attention=xla", "--config.model.attention_dropout=0.0"])
    assert make_plan(config, shapes).first_line().endswith("bfloat16, attention xla")


def test_seeds():
    assert parse_seeds("0, 1,2") == [0, 1, 2]
    for wrong in ("0,0", "a", "1,,2"):
        with pytest.raises(UserError, match="different numbers"):
            parse_seeds(wrong)


def test_joining_other_processes_needs_all_three_settings(monkeypatch):
    for name in ("T2P_DISTRIBUTED", "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    assert not initialize()
    with pytest.raises(UserError, match="expected all three"):
        initialize("localhost:1", 2)
    all_three = "coordinator not given, number of processes .*--coordinator .*--num_processes .*--process_id"
    for processes, process in ((2, -1), (0, 1), (2, 0), (0, 0)):
        with pytest.raises(UserError, match=all_three):
            initialize("", processes, process)
    for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        with monkeypatch.context() as with_one:
            with_one.setenv(name, "1")
            with pytest.raises(UserError, match=all_three):
                initialize()
    monkeypatch.setenv("T2P_DISTRIBUTED", "0")
    assert not initialize("", 2, 0)
    assert not initialize("localhost:1", 2, 0)
    assert looks_like_cluster({"SLURM_STEP_NUM_TASKS": "2"}) and not looks_like_cluster({"SLURM_STEP_NUM_TASKS": "1"})
