"""`t2p inspect` for accelerators that are not here: shapes alone, the real compiler, eight devices of a CPU."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from t2p.accelerators import parse_topology
from t2p.cli.config import load_config
from t2p.cli.inspect import _shapes
from t2p.cli.main import main
from t2p.io import UserError
from t2p.train import ahead
from t2p.train.inspection import expected_collectives, waste
from t2p.train.plan import make_plan
from t2p.train.sharding import AXES, make_mesh, rows_of_process, shapes_mesh
from t2p.train.state import flatten

ROOT = Path(__file__).resolve().parents[2]
TRACKS = str(ROOT / "configs/threepointr/tracks.py")
ATM = str(ROOT / "configs/atm/track_transformer.py")
PARAMETERS = 4 * 19995  # bytes of its debug variant


@pytest.fixture(autouse=True)
def process(monkeypatch):
    """The command makes its process one that only compiles; this one is to stay what it is."""
    monkeypatch.setattr(ahead, "only_compile", lambda topology: None)
    for variable, value in ahead.libtpu_settings(parse_topology("v5e:4x4")).items():
        monkeypatch.setenv(variable, value)


def inspect(capsys, *arguments):
    assert main(["inspect", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_shapes_alone_tell_state_batch_and_gradients(capsys):
    settings = ("--config.mesh.data=2", "--config.mesh.fsdp=4", "--config.fsdp_min_bytes=0")
    found = inspect(
        capsys, "--config", f"{TRACKS}:debug", "--topology", "v5e:2x4", "--batch_per_chip=2", *settings, "--shapes"
    )
    assert (found["batch_size"], found["devices"], found["mesh"]) == (16, 8, {"data": 2, "fsdp": 4, "tensor": 1})
    assert found["attention"] == "xla" and found["topology"] == "v5e:2x4" and not found["compiled"]
    memory = found["memory"]
    assert PARAMETERS / 4 < memory["parameters"] < PARAMETERS / 3  # vectors are copied
    assert memory["optimizer"] - 2 * memory["parameters"] == 8  # two moments, two counters
    points, steps, rows = 32, 10, 2
    assert memory["batch"] == rows * (
        steps * points * (12 + 1) + steps + 1 + 4
    )  # float32 xyz, visible; valid; has; index
    assert memory["known"] == sum(memory[k] for k in ("parameters", "optimizer", "batch", "statistics"))
    kinds = {c["kind"]: c for c in found["collectives"] if c["axes"] == ["fsdp"]}
    assert kinds["all-gather"]["bytes"] == 2 * kinds["reduce-scatter"]["bytes"]
    assert found["estimate"]["network"] > 0 and found["estimate"]["mfu"] < 1


def _config_and_example(spec, *settings):
    config = load_config(spec, settings)
    return config, _shapes(config)


def test_the_text_says_why_nothing_was_compiled(capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["inspect", "--config", f"{TRACKS}:debug", "--topology", "v5e:2x2"]) == 0
    said = capsys.readouterr().out
    assert "v5e:2x2: 4 devices, mesh data=4 fsdp=1 tensor=1" in said and "pip install 't2p[tpu]'" in said
    assert "the largest, before XLA fuses:" in said and "expected: gradients and split parameters" in said
    settings = ["--topology", "h100-8", "--batch_per_chip", "1", "--mesh", "auto", "--config.dtype=bfloat16"]
    assert main(["inspect", "--config", f"{TRACKS}:debug", *settings]) == 0  # though cuDNN cannot be traced here
    said = capsys.readouterr().out
    assert "GPUs only where there is one" in said
    assert "h100-8: 8 devices, mesh data=8 fsdp=1 tensor=1; bfloat16, attention cudnn\n" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--topology", "v5e:2x2x2"), "--topology: accelerator 'v5e:2x2x2': v5e takes 2 axes"),
        (("--topology", "v5e:4x4"), "batch_size 4 does not divide over the 16 devices of v5litepod-16"),
        (("--mesh", "auto"), "--mesh auto is a suggestion for a --topology"),
        (("--topology", "v5e:2x4", "--mesh", "auto"), "--mesh auto: batch_size 4 does not divide over 8 devices"),
        (("--topology", "v5e:2x2", "--config.accelerator=gpu"), "config.accelerator is 'gpu'"),
        (("--batch_per_chip", "-1"), "--batch_per_chip is -1"),
    ],
)
def test_what_does_not_fit_is_said(arguments, message, capsys):
    assert main(["inspect", "--config", f"{TRACKS}:debug", "--shapes", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_suggested_mesh_splits_a_state_that_fills_the_memory():
    config, example = _config_and_example(f"{TRACKS}:debug", "--config.batch_size=16")
    small = parse_topology("v5e:4x4")
    ahead.use_suggested_mesh(config, example, small)
    assert config.mesh.to_dict() == {"data": 16, "fsdp": 1, "tensor": 1}
    states = []

    class Tight:
        accelerator = small.accelerator

        def mesh(self, state, batch):
            states.append((state, batch))
            return {"data": 4, "fsdp": 4, "tensor": 1}

    ahead.use_suggested_mesh(config, example, Tight())
    assert config.mesh.to_dict() == {"data": 4, "fsdp": 4, "tensor": 1}
    assert states == [(3 * PARAMETERS + 8 + 4, 16)]  # parameters and two moments, two counters, the step


def test_attention_is_chosen_for_the_platform_that_is_compiled_for():
    config = load_config(f"{TRACKS}:paper")
    assert ahead.attention_on(parse_topology("v5e:2x4"), config) == "blockwise"
    assert ahead.attention_on(parse_topology("h100-8"), config) == "xla"  # float32
    config.dtype = "bfloat16"
    assert ahead.attention_on(parse_topology("h100-8"), config) == "cudnn"
    config.window.points = 512
    assert ahead.attention_on(parse_topology("v5e:2x4"), config) == "xla"


needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="compiling for TPUs needs libtpu (pip install 't2p[tpu]')"
)


def test_a_mesh_of_shapes_has_the_sizes_of_the_config():
    config = load_config(f"{TRACKS}:debug", ["--config.mesh.fsdp=4"])
    assert dict(shapes_mesh(config, 256).shape) == dict(zip(AXES, (64, 4, 1)))
    with pytest.raises(UserError, match="does not fit 6 devices"):
        shapes_mesh(config, 6)


@needs_libtpu
@pytest.mark.parametrize(("name", "hosts"), [("v5e:1x1", 1), ("v5e:2x4", 1), ("v5e:4x4", 4), ("v4:2x2x2", 2)])
def test_the_mesh_of_a_topology_keeps_the_rows_of_a_process_together(name, hosts):
    topology = parse_topology(name)
    devices = ahead.devices_of(topology)
    assert len(devices) == topology.devices and len({d.process_index for d in devices}) == hosts == topology.hosts
    mesh = make_mesh(load_config(f"{TRACKS}:debug"), devices)
    assert dict(mesh.shape) == {"data": topology.devices, "fsdp": 1, "tensor": 1}
    for process in range(hosts):
        assert rows_of_process(mesh, len(devices), process) is not None


def command(*arguments, **environment):
    """A `t2p inspect --json` of its own process."""
    run = [sys.executable, "-m", "t2p.cli.main", "inspect", "--json", *arguments]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"} | environment
    done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"  # it is not run


@pytest.mark.parametrize(
    ("axis", "kinds"),
    [("data", {"all-reduce"}), pytest.param("fsdp", {"all-reduce", "all-gather"}, marks=pytest.mark.long)],
)
def test_eight_devices_exchange_what_the_formulas_say(axis, kinds):
    """Data-parallel: every gradient once around the ring, 2 x its bytes x 7/8, and a few scalars. With split parameters
    the CPU's compiler gathers them, and sums gradients whole, as it has no reduce-scatter."""
    mesh = [f"--config.mesh.{a}={8 if a == axis else 1}" for a in ("data", "fsdp")]
    arguments = ("--config", f"{TRACKS}:debug", "--batch_per_chip=1", "--config.fsdp_min_bytes=0", *mesh)
    found = command(*arguments, JAX_NUM_CPU_DEVICES="8", XLA_FLAGS=QUICK)
    assert found["devices"] == 8 and found["compiled"] and kinds <= {c["kind"] for c in found["collectives"]}
    assert all(c["axes"] == [axis] and c["group"] == 8 for c in found["collectives"])
    sent = {kind: sum(c["sent"] for c in found["collectives"] if c["kind"] == kind) for kind in kinds}
    assert 2 * PARAMETERS * 7 / 8 <= sent["all-reduce"] < 2 * PARAMETERS * 7 / 8 + 200
    if axis == "fsdp":
        split = PARAMETERS - found["memory"]["parameters"]  # of 8 parts of it, the 7 that others hold
        assert sent["all-gather"] >= split


def test_what_is_foretold_without_compiling_is_the_ring_sum_of_all_gradients():
    config, example = _config_and_example(f"{TRACKS}:debug", "--config.batch_size=16", "--config.mesh.data=-1")
    (only,) = expected_collectives(make_plan(config, example, shapes_mesh(config, 8), "tpu"))
    assert (only.kind, only.axes, only.bytes, only.sent) == (
        "all-reduce",
        ("data",),
        PARAMETERS,
        2 * PARAMETERS * 7 / 8,
    )
    config.optimizer.freeze = ("token_.*",)  # gets no gradient
    (less,) = expected_collectives(make_plan(config, example, shapes_mesh(config, 8), "tpu"))
    assert less.bytes == PARAMETERS - 4 * (3 * 32 + 2 * 32 * 32 + 3 * 32)


def test_the_rules_for_the_tensor_axis_split_heads_and_hidden_layers():
    config, example = _config_and_example(f"{ATM}:debug", "--config.batch_size=16", *scaling_rules())
    params = flatten(make_plan(config, example, shapes_mesh(config, 8), "tpu").state.params)
    local = {path: x.sharding.shard_shape(x.shape) for path, x in params.items()}
    whole = {path for path, x in params.items() if local[path] == x.shape}
    split = {path.split("/", 1)[1] for path in set(params) - whole}
    assert split == {"attention/query/kernel", "attention/out/kernel"} | {
        f"mlp/{name}" for name in ("fc1/kernel", "fc1/bias", "fc2/kernel")
    }
    assert local["block_0/attention/query/kernel"] == (32, 16) and local["block_1/mlp/fc2/kernel"] == (64, 32)
    config.mesh.tensor = 4  # two heads
    said = waste(make_plan(config, example, shapes_mesh(config, 8), "tpu"), None)
    assert said["cut_heads"] == {"model": 2}


def scaling_rules():
    """Those of docs/scaling.md's table, as its benchmark gives them."""
    spec = importlib.util.spec_from_file_location("scaling", ROOT / "benchmarks/scaling.py")
    module = sys.modules["scaling"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TABLES["atm.track_transformer"].rows["8 tensor"][1]


def test_the_tables_of_the_docs_are_made_of_what_inspect_says(tmp_path, capsys, monkeypatch):
    scaling_rules()
    scaling = sys.modules["scaling"]
    table = scaling.Table(f"{TRACKS}:debug", 2, {"2": ("h100-2", ("--shapes",)), "8": ("h100-8", ("--shapes",))})

    def run(command, **_):
        assert main(command[3:]) == 0
        return subprocess.CompletedProcess(command, 0, capsys.readouterr().out)

    monkeypatch.setattr(subprocess, "run", run)
    rows = {name: scaling.measured(tmp_path, "t", name, table) for name in table.rows}
    monkeypatch.setattr(subprocess, "run", None)  # what is there is not made again
    assert rows == {name: scaling.measured(tmp_path, "t", name, table) for name in table.rows}
    head, _, two, eight = scaling.markdown(rows).splitlines()
    assert two.startswith("| 2 | data=2 | 0 | ? |") and "100.0%" in two
    least = [e["compute"] + e["network"] for e in (r["estimate"] for r in rows.values())]
    assert f"{least[0] / least[1]:.1%}" in eight and head.count("|") == eight.count("|")


@pytest.mark.long
@needs_libtpu
def test_a_step_compiles_for_a_tpu_on_this_machine():
    arguments = ("--config", f"{TRACKS}:debug", "--topology", "v5e:2x2", "--config.attention=blockwise")
    found = command(*arguments, "--config.window.points=600", "--config.batch_size=8")
    assert found["compiled"] and found["attention"] == "blockwise" and found["devices"] == 4
    memory = found["memory"]
    assert memory["parameters"] == PARAMETERS and memory["optimizer"] == 2 * PARAMETERS + 8
    assert memory["temporary"] > 0 and memory["padding"] > 0 and memory["known"] < memory["device"] / 10
    sent = sum(c["sent"] for c in found["collectives"])
    assert 2 * PARAMETERS * 3 / 4 <= sent < 2 * PARAMETERS * 3 / 4 + 200
    assert found["estimate"]["step"] > 0 and found["traffic"] > 0
