"""What --execute runs, with stand-ins for the outside programs: as printed, quoted, restarted, stopped."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import launch_jobs
import pytest
import yaml

from launch.__main__ import main, make_parser, make_specs, split
from launch.backends import BACKENDS
from launch.backends.jobset import plain
from launch.plan import Command, Plan, execute, t2p
from launch.spec import JobSpec

PROGRAMS = ("gcloud", "sbatch", "srun", "scontrol", "kubectl", "xpk", "ssh", "docker", "t2p", "sleep", "python")
TRICKY = ("--config.a=it's", '--config.b="two  words"', "--config.c=$HOME $(id) `id`", "--config.d=a\\b*?;&|#~{x}é")
WORKDIR = 'gs://bucket/a b/$USER\'s "run"'
SIZES = {"tpu_vm": "v5litepod-16", "queued": "v5litepod-16", "jobset": "v5litepod-16", "nodes": "h100-16"}
NAMED = {"zone": "z", "image": "registry.dev/t2p:tpu", "hosts": "one,me@two"}
REQUIRED = {"tpu_vm": ("zone",), "queued": ("zone", "image"), "jobset": ("image",), "nodes": ("hosts",)}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with a checkout, and stand-ins before everything else on PATH. Returns the folder of notes."""
    source = Path(__file__).with_name("standin.py").read_text()
    programs, notes, home = (tmp_path / name for name in ("programs", "notes", "home"))
    for folder in (programs, notes, home / "t2p/.venv/bin", home / ".t2p"):
        folder.mkdir(parents=True)
    for name in PROGRAMS:
        (programs / name).write_text(f"#!{sys.executable} -IS\n{source}")
        (programs / name).chmod(0o755)
    (home / "t2p/.venv/bin/activate").write_text("")
    (home / ".t2p/environment").write_text("WANDB_API_KEY='from the file'\n")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("T2P_STANDIN", str(notes))
    monkeypatch.setenv("T2P_PROJECT", str(Path(__file__).resolve().parents[2]))
    monkeypatch.setenv("WANDB_API_KEY", "from this shell")
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # of the tests
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    monkeypatch.chdir(home)
    return notes


def calls(notes: Path, name: str = "") -> list[dict]:
    """What the stand-ins noted, in order, of one program or all; forgotten afterwards."""
    file = notes / "calls.jsonl"
    found = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    file.unlink(missing_ok=True)
    return [call for call in found if call["name"] == name or (not name and call["name"] != "sleep")]


def job(backend: str, **changes: object) -> JobSpec:
    """A job with a workdir, settings and a variable that want quoting, on several hosts where it needs no slices."""
    fields = {
        "accelerator": SIZES.get(backend, "cpu"),
        "overrides": TRICKY,
        "environment": {"NOTE": "it's $HOME"},
        "options": {backend: {name: value for name, value in NAMED.items() if name in REQUIRED.get(backend, "")}},
    }
    return JobSpec("job", WORKDIR, "c.py", **{**fields, **changes})


def run(spec: JobSpec, backend: str) -> int:
    return execute(BACKENDS[backend](spec))


def expected(spec: JobSpec) -> list[str]:
    return list(t2p(spec)[1:])


def expanded(text: str) -> str:
    """What Kubernetes makes of a command's text: $$ is $, $(NAME) a variable's value if there is one (here is none)."""
    return re.sub(r"\$\$", "$", text)


def test_local_quotes(world: Path):
    spec = job("local", slices=2)
    assert run(spec, "local") == 0
    (call,) = calls(world)
    assert call["argv"][call["argv"].index("--") + 1 :] == [sys.executable, "-m", "t2p.cli.main", *expected(spec)]
    assert call["environment"]["NOTE"] == "it's $HOME"


def test_slurm_quotes(world: Path):
    spec = job("slurm", accelerator="h100-16", options={"slurm": {"directory": "t2p"}}, secrets=("WANDB_API_KEY",))
    assert run(spec, "slurm") == 0
    (submitted,) = calls(world)
    assert (submitted["name"], submitted["argv"]) == ("sbatch", [])
    done = subprocess.run(["bash"], input=submitted["stdin"], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    tasks = calls(world, "t2p")
    assert [c["argv"] for c in tasks] == [expected(spec)] * 2
    assert tasks[0]["environment"]["NOTE"] == "it's $HOME"
    assert "environment: XLA_FLAGS=" in done.stdout  # logged


@pytest.mark.parametrize("backend, hosts", [("nodes", 2), ("tpu_vm", 4)])
def test_hosts_reached_by_ssh_get_the_same_command(world: Path, backend: str, hosts: int):
    spec = job(backend, secrets=("WANDB_API_KEY",))
    assert run(spec, backend) == 0
    found = calls(world, "t2p")
    assert [c["argv"] for c in found] == [expected(spec)] * hosts
    for call in found:
        assert call["environment"]["NOTE"] == "it's $HOME"
        assert call["environment"]["WANDB_API_KEY"] == "from the file"
    if backend == "nodes":
        assert {c["environment"]["JAX_PROCESS_ID"] for c in found} == {"0", "1"}
        assert {c["environment"]["JAX_COORDINATOR_ADDRESS"] for c in found} == {"one:8476"}


def test_queued_quotes(world: Path):
    spec = job("queued", secrets=("WANDB_API_KEY",))
    assert run(spec, "queued") == 0
    assert [c["argv"][3] for c in calls(world)] == ["describe", "create"]
    subprocess.run(["bash", world / "startup.sh"], check=True)
    (call,) = calls(world, "t2p")
    assert call["argv"] == expected(spec)
    assert call["environment"]["WANDB_API_KEY"] == "value-of-the-secret"


def test_job_set_quotes(world: Path):
    spec = job("jobset", environment={"NOTE": "$(HOME) $HOME $$"})
    assert run(spec, "jobset") == 0
    (call,) = calls(world)
    (container,) = yaml.safe_load(call["stdin"])["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"][
        "containers"
    ]
    for text in (*container["command"], container["env"][0]["value"]):
        assert not re.search(r"(?<!\$)(\$\$)*\$\(", text)  # nothing that Kubernetes expands
    assert [expanded(c) for c in container["command"]] == list(t2p(spec))
    assert expanded(container["env"][0]["value"]) == "$(HOME) $HOME $$"
    assert expanded(plain("$$(A)$")) == "$$(A)$"


def test_xpk_quotes(world: Path):
    spec = job("jobset", options={"jobset": {"image": "i", "xpk": "cluster"}})
    assert run(spec, "jobset") == 0
    (call,) = calls(world)
    command = next(a for a in call["argv"] if a.startswith("--command=")).removeprefix("--command=")
    subprocess.run(["bash", "-c", f"({expanded(command)}) & wait $!"], check=True)  # as xpk puts it into its script
    assert [c["argv"] for c in calls(world, "t2p")] == [expected(spec)]


def test_arrays_number_their_shards(world: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "5")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "6")
    _, spec = launch_jobs.on("slurm", launch_jobs.PARTS, directory="t2p")
    assert run(spec, "slurm") == 0
    script = calls(world)[0]["stdin"]
    assert "#SBATCH --array=0-7" in script
    subprocess.run(["bash"], input=script, text=True, check=True)
    assert calls(world, "t2p")[0]["argv"][-2:] == ["--shard", "5/8"]

    assert run(launch_jobs.CASES["jobset_array"][1], "jobset") == 0
    found = yaml.safe_load(calls(world)[0]["stdin"])["spec"]["replicatedJobs"][0]["template"]["spec"]
    subprocess.run([expanded(c) for c in found["template"]["spec"]["containers"][0]["command"]], check=True)
    assert calls(world, "t2p")[0]["argv"][-2:] == ["--shard", "6/8"]


@pytest.mark.parametrize("case", launch_jobs.CASES)
def test_what_runs_is_what_is_printed(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str):
    """The printed text, run by bash, calls the same programs with the same arguments and input as --execute."""
    backend, spec = launch_jobs.CASES[case]
    if case == "queued":
        (world / "state").write_text("SUSPENDED")
    project = Path(__file__).resolve().parents[2]
    config = spec.config and f"{project}/{spec.config}"
    file = tmp_path / "job.json"
    file.write_text(json.dumps(dataclasses.asdict(dataclasses.replace(spec, config=config))))
    assert main(["--spec", str(file), "--backend", backend]) == 0
    assert not calls(world)  # printing runs nothing
    printed = capsys.readouterr().out
    assert "nothing was run" in printed
    subprocess.run(["bash"], input=printed, text=True, check=True, stdout=subprocess.DEVNULL)
    as_printed = calls(world)
    assert main(["--spec", str(file), "--backend", backend, "--execute"]) == 0
    told = calls(world)
    assert _sorted(as_printed) == _sorted(told) and told


def _sorted(found: list[dict]) -> list[str]:
    """Hosts run at the same time, and a temporary file has another name each time."""
    return sorted(re.sub(r"/tmp\.\w+", "/tmp.X", json.dumps(call)) for call in found)


@pytest.mark.parametrize(
    "codes, code, attempts",
    [
        (("0", "0"), 0, 1),
        (("42 0", "42 0"), 0, 2),
        (("137 42 0", "134 42 0"), 0, 3),  # one was killed and the other noticed; then both were preempted
        (("0 0", "42 0"), 0, 2),
        (("1 0", "134 0"), 1, 1),  # one failed and the other noticed: no restart
        (("134 0", "2 0"), 2, 1),
        (("42 42 42 0", "42 42 42 0"), 42, 3),  # two restarts were allowed
    ],
)
def test_hosts_are_started_again_after_42_and_kills_only(world: Path, codes: tuple[str, str], code: int, attempts: int):
    for k in (0, 1):
        (world / f"codes-{k}").write_text(codes[k])
    assert run(job("nodes", retries=2), "nodes") == code
    assert len(calls(world, "t2p")) == 2 * attempts


def test_hosts_that_do_not_answer_end_it_and_one_that_is_lost_does_not(world: Path):
    for k, codes in enumerate(("255 0", "134 0")):
        (world / f"codes-{k}").write_text(codes)
    assert run(job("nodes"), "nodes") == 0
    for k in (0, 1):
        (world / f"codes-{k}").write_text("255 0")
    assert run(job("nodes"), "nodes") == 255


def test_workers_of_a_tpu_vm_are_started_again_too(world: Path):
    (world / "codes").write_text("42 42 137 134 0 0 0 0")
    assert run(job("tpu_vm"), "tpu_vm") == 0
    assert len(calls(world, "t2p")) == 8
    (world / "codes").write_text("0 134 1 134")  # gcloud's own exit code is that of the first that is not 0
    assert run(job("tpu_vm"), "tpu_vm") == 1
    assert len(calls(world, "t2p")) == 4


@pytest.mark.parametrize("codes, restarts, code, requeued", [
    ("42 42", "0", 42, True), ("137 134", "3", 42, True), ("1 134", "0", 1, False), ("0 0", "0", 0, False),
    ("42 42", "10", 42, False),
])  # fmt: skip
def test_slurm_requeues(world: Path, monkeypatch: pytest.MonkeyPatch, codes: str, restarts: str, code: int, requeued):
    """srun's own exit code is the highest, which would hide that one process failed."""
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    (world / "codes").write_text(codes)
    spec = job("slurm", accelerator="h100-16", options={"slurm": {"directory": "t2p"}})
    script = BACKENDS["slurm"](spec).commands[0].stdin
    assert subprocess.run(["bash"], input=script, text=True, stdout=subprocess.DEVNULL).returncode == code
    assert [c["argv"] for c in calls(world, "scontrol")] == ([["requeue", "77"]] if requeued else [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_hosts_process_saves_when_its_host_is_told_to_stop(world: Path, number: int):
    """Slurm's SIGTERM and a terminal's hang-up reach all processes of a group, which must not end before they saved."""
    (world / "codes").write_text("wait")
    words = ["python", "-m", "launch.host", "t2p"]
    child = subprocess.Popen(words, start_new_session=True, stdout=subprocess.PIPE)
    _wait_for(world / "started")
    os.killpg(child.pid, number)
    assert b"t2p-exit=42" in child.communicate(timeout=20)[0]
    assert child.returncode == 42 and (world / "saved").exists()


def test_a_hosts_process_that_dies_or_is_not_there(world: Path):
    for words, code in (
        (["bash", "-c", "kill -KILL $$"], 137),
        (["no-such-program"], 127),
        (["bash", "-c", "exit 3"], 3),
    ):
        done = subprocess.run(["python", "-m", "launch.host", *words], capture_output=True, text=True)
        assert done.returncode == code and done.stdout == f"t2p-exit={code}\n"


def test_stopping_the_launcher_lets_the_hosts_save(world: Path):
    (world / "codes").write_text("wait")
    spec = job("nodes", accelerator="h100-8", options={"nodes": {"hosts": "one"}})
    command = BACKENDS["nodes"](spec).commands[0]
    child = subprocess.Popen(command.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    child.stdin.write(command.stdin)
    child.stdin.close()
    _wait_for(world / "started")
    child.terminate()
    assert "stopped" in child.stdout.read()
    assert child.wait(20) == 42
    _wait_for(world / "saved")


def _wait_for(file: Path) -> None:
    end = time.monotonic() + 20
    while not file.exists():
        assert time.monotonic() < end, f"{file.name} did not appear"
        time.sleep(0.02)


def test_a_host_without_the_secret_fails_at_once(world: Path, monkeypatch: pytest.MonkeyPatch):
    Path(".t2p/environment").write_text("")
    monkeypatch.delenv("WANDB_API_KEY")
    assert run(job("nodes", secrets=("WANDB_API_KEY",)), "nodes") not in (0, 42)
    assert not calls(world, "t2p")


@pytest.mark.parametrize("state, done", [("ACTIVE", ["describe"]), ("FAILED", ["describe", "delete", "create"])])
def test_a_queued_resource_is_replaced_only_when_it_is_gone(world: Path, state: str, done: list[str]):
    (world / "state").write_text(state)
    assert run(job("queued"), "queued") == 0
    assert [c["argv"][3] for c in calls(world)] == done


def test_a_tpu_vm_that_starts_runs_the_job_again_after_42(world: Path):
    assert run(job("queued", retries=2), "queued") == 0
    calls(world)
    for codes, code, runs in (("42 137 0", 0, 3), ("42 42 42 42", 42, 3), ("1", 1, 1)):
        (world / "codes").write_text(codes)
        assert subprocess.run(["bash", world / "startup.sh"], stdout=subprocess.DEVNULL).returncode == code
        assert len(calls(world, "t2p")) == runs


ATM = f"{Path(__file__).resolve().parents[2]}/configs/atm/track_transformer.py:debug"


def test_the_command_line(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "jobs.json"
    words = ["--backend", "slurm", "--config", ATM, "--workdir", "/data/ATM run", "--config.steps=5", "--secret", "X"]
    words += ["--accelerator", "h100-8", "--env", "A=1=2", "--option", "time=1:00:00", "--sweep", "config.seed=0,1"]
    assert main([*words, "--write_spec", str(file)]) == 0
    first, second = json.loads(file.read_text())
    assert first["name"] == "atm-run-0" and first["workdir"] == "/data/ATM run/seed_0"
    assert second["overrides"] == ["--config.steps=5", "--config.seed=1"]
    assert second["environment"] == {"A": "1=2"} and second["options"] == {"slurm": {"time": "1:00:00"}}
    assert capsys.readouterr().out.count("sbatch <<") == 2
    assert main(["--spec", str(file), "--backend", "slurm", "--execute"]) == 2  # the secret X is not set here
    assert "X is not set" in capsys.readouterr().err and not calls(world)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--config", ATM], "--workdir"),
        (["--config", ATM, "--workdir", "w"], "--backend local"),
        (["--config", ATM, "--workdir", "w", "--backend", "local", "--confg.x=1"], "unknown argument"),
        (["--config", ATM, "--workdir", "w", "--backend", "local", "--env", "A"], "expected NAME=VALUE"),
        (["--config", ATM, "--workdir", "w", "--backend", "local", "--config.stesp=1"], "config.steps"),
        (["--config", "no.py", "--workdir", "w", "--backend", "local"], "no config file"),
        (["--spec", "x", "--workdir", "w", "--backend", "local"], "holds the whole job"),
        (["--workdir", "w", "--command", "eval", "--backend", "local", "--", "--checkpiont", "a"], "required"),
        (["--config", ATM, "--workdir", "w", "--option", "zone=a"], "name it with --backend"),
    ],
)
def test_wrong_usage_is_named(world: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str):
    try:
        code = main(words)
    except SystemExit as e:  # of argparse
        code = e.code
    assert code == 2 and message in capsys.readouterr().err


def test_the_exit_code_is_that_of_the_program(world: Path):
    marker = world / "ran"
    plan = Plan((Command(("bash", "-c", "exit 7")), Command(("touch", str(marker)))))
    assert execute(plan) == 7 and not marker.exists()
    assert execute(Plan((Command(("bash", "-c", "kill -KILL $$")),))) == 137


def test_the_commands_of_the_manual_are_understood():
    text = (Path(__file__).resolve().parents[2] / "launch/README.md").read_text()
    found = re.findall(r"^    python -m launch (.*)", text.replace("\\\n", " "), re.MULTILINE)
    assert len(found) == 4
    for line in found:
        args, rest = split(shlex.split(line), make_parser())
        for spec in make_specs(args, rest):
            assert BACKENDS[args.backend](spec).commands
