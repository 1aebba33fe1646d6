"""The local launcher: what the processes are told, what ends the group, what is started again."""

from __future__ import annotations

import ast
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.local import Fault, Group, main

ROOT = Path(__file__).resolve().parents[2]


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


def run(script: str, folder: Path, processes: int = 2, **options) -> tuple[int, Group]:
    with Group(shell(script), processes, folder / "logs", **{"grace": 0.1, **options}) as group:
        return group.start().wait(timeout=30), group


def runs(pid: int) -> bool:
    """Whether a process that is not our child runs; one that nobody has waited for does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")


def texts(group: Group) -> list[str]:
    return [log.read_text() for log in group.logs]


def test_processes_are_told_who_they_are(tmp_path):
    script = "echo $JAX_PROCESS_ID of $JAX_NUM_PROCESSES at $JAX_COORDINATOR_ADDRESS; echo $JAX_PLATFORMS >&2"
    code, group = run(script + "; echo $JAX_NUM_CPU_DEVICES $OWN", tmp_path, 3, devices=4, environment={"OWN": "own"})
    assert code == 0 and group.starts == 1
    words = [text.split() for text in texts(group)]
    assert [w[:3] for w in words] == [[str(k), "of", "3"] for k in range(3)]
    assert len({w[4] for w in words}) == 1 and words[0][4].startswith("localhost:")
    assert all(w[5:] == ["cpu", "4", "own"] for w in words)


def test_one_process_is_no_group(tmp_path):
    environment = {"JAX_NUM_PROCESSES": "7", "JAX_PROCESS_ID": "3", "JAX_PLATFORMS": "gpu"}
    code, group = run("echo [$JAX_NUM_PROCESSES$JAX_PROCESS_ID] $JAX_PLATFORMS", tmp_path, 1, environment=environment)
    assert code == 0 and texts(group) == ["[] gpu\n"]


def test_an_error_ends_the_group_and_is_passed_on(tmp_path):
    begin = time.monotonic()
    code, group = run("[ $JAX_PROCESS_ID = 1 ] && exit 7; sleep 60", tmp_path, retries=3)
    assert code == 7 and group.starts == 1 and time.monotonic() - begin < 10
    assert group.codes == [-signal.SIGKILL, 7]


def test_preempted_is_started_again_on_another_port_until_the_retries_are_used_up(tmp_path):
    script = f"echo $JAX_COORDINATOR_ADDRESS; echo x >> {tmp_path}/starts-$JAX_PROCESS_ID; exit 42"
    code, group = run(script, tmp_path, retries=2)
    assert code == 42 and group.starts == 3
    for k in range(2):
        assert (tmp_path / f"starts-{k}").read_text() == "x\n" * 3
        ports = [line for line in texts(group)[k].splitlines() if line.startswith("localhost")]
        assert len(ports) == 3 and "--- start 3 ---" in texts(group)[k]


def test_a_killed_process_takes_the_others_and_their_children_with_it(tmp_path):
    """The second start ends well; what the first one left running is gone."""
    script = (
        f"[ -e {tmp_path}/again ] && exit 0; sleep 300 & echo $! > {tmp_path}/new; "
        f"mv {tmp_path}/new {tmp_path}/child-$JAX_PROCESS_ID; wait"
    ).replace("/new", "/new-$JAX_PROCESS_ID")

    def both_run() -> bool:
        ready = all((tmp_path / f"child-{k}").exists() for k in range(2))
        if ready:
            (tmp_path / "again").touch()
        return ready

    code, group = run(script, tmp_path, retries=1, faults=[Fault(1, signal.SIGKILL, both_run)])
    assert code == 0 and group.starts == 2
    assert not any(runs(int((tmp_path / f"child-{k}").read_text())) for k in range(2))


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        (("kill -9 $$", "sleep 0.2; exit 1"), 128 + 9),  # an error because another one died
        (("kill -6 $$", "exit 3"), 3),  # aborted because another one ended
        (("kill -6 $$", "exit 42"), 42),
        (("exit 137", "exit 0"), 128 + 9),  # a shell's way to say killed
    ],
)
def test_what_ended_the_group(ends, code, tmp_path):
    first, second = ends
    both_at_once = f"[ $JAX_PROCESS_ID = 0 ] && {{ {first}; }}; {second}"
    with Group(shell(both_at_once), 2, tmp_path, grace=1.0) as group:
        group.start()
        time.sleep(0.1)  # one look sees both, but for the one that sleeps
        assert group.wait(timeout=10) == code


def test_faults_by_time_wait_for_the_process_and_come_once(tmp_path):
    faults = [Fault(0, signal.SIGTERM, 0.0), Fault(0, signal.SIGTERM, 0.01)]
    script = f"trap 'exit 42' TERM; echo x >> {tmp_path}/starts; sleep 1 & wait; exit 0"
    code, group = run(f"sleep 0.05; {script}", tmp_path, 1, retries=5, faults=[])
    assert code == 0 and group.starts == 1
    code, group = run("sleep 0.3", tmp_path, 1, retries=5, faults=faults)
    assert code == 0 and 2 <= group.starts <= 3


def test_wait_gives_up_and_close_ends_what_runs(tmp_path):
    with Group(shell("sleep 300"), 1, tmp_path) as group:
        with pytest.raises(TimeoutError, match="process 0 runs"):
            group.start().wait(timeout=0.1)
        assert group.poll() is None
    assert group.codes == [-signal.SIGKILL]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_to_the_launcher_are_passed_on_and_end_the_job(number, tmp_path):
    name = signal.Signals(number).name.removeprefix("SIG")
    script = f"trap 'exit 42' {name}; touch {tmp_path}/ready-$JAX_PROCESS_ID; while :; do sleep 0.05; done"
    command = [sys.executable, "-m", "launch.local", "--processes", "2", "--logs", str(tmp_path), "--retries", "9"]
    launcher = subprocess.Popen([*command, "--", *shell(script)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    end = time.monotonic() + 30
    while not all((tmp_path / f"ready-{k}").exists() for k in range(2)) and time.monotonic() < end:
        time.sleep(0.02)
    launcher.send_signal(number)
    said, _ = launcher.communicate(timeout=30)
    assert launcher.returncode == 42 and "was preempted" in said and "start 2" not in said


def test_command_line_runs_and_kills(tmp_path, capsys):
    arguments = ["--processes", "2", "--logs", str(tmp_path), "--grace", "0.1", "--kill", "1@0"]
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        assert main([*arguments, "--", "sleep", "60"]) == 128 + 9
        assert main([*arguments, "--", str(tmp_path / "missing")]) == 2
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)
    out = capsys.readouterr()
    assert "SIGKILL to process 1" in out.out and "process 1 died by SIGKILL" in out.out
    assert "missing cannot be started" in out.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--kill", "1"], "'1'; expected PROCESS@SECONDS"),
        (["--kill", "2@1", "--", "true"], "no process 2 to send a signal to; there are 0 .. 1"),
        ([], "no command; expected one after --"),
    ],
)
def test_wrong_usage_is_named(arguments, said, tmp_path, capsys):
    with pytest.raises(SystemExit) as e:
        main(["--processes", "2", "--logs", str(tmp_path), *arguments])
    assert e.value.code == 2 and said in capsys.readouterr().err


def test_needs_only_the_standard_library():
    tree = ast.parse((ROOT / "launch/local.py").read_text())
    names = [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    names += [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    assert {n.split(".")[0] for n in names} <= sys.stdlib_module_names


def test_t2p_does_not_import_the_launcher():
    for path in (ROOT / "t2p").rglob("*.py"):
        assert not re.search(r"^\s*(from|import) launch\b", path.read_text(), re.MULTILINE), path
