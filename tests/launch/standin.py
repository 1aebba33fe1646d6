"""Stands in for gcloud, sbatch, srun, ssh, kubectl ... on PATH: notes its arguments and standard input, and does the
little of the real program that the launcher's scripts wait for. T2P_STANDIN names the folder of the notes, T2P_PROJECT
the project."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

notes = Path(os.environ["T2P_STANDIN"])
name, argv = Path(sys.argv[0]).name, sys.argv[1:]


def note() -> None:
    stdin = sys.stdin.read() if name in ("sbatch", "kubectl") else ""
    keep = {key: value for key, value in os.environ.items() if key.startswith(("JAX_", "NOTE", "XLA_", "WANDB"))}
    line = json.dumps({"name": name, "argv": argv, "stdin": stdin, "environment": keep}) + "\n"
    with open(notes / "calls.jsonl", "a") as f:
        f.write(line)


def t2p() -> int:
    """Exit codes come from the file `codes` (process K: `codes-K`), one a call; "wait" waits for SIGTERM and saves."""
    file = notes / f"codes-{os.environ.get('JAX_PROCESS_ID')}"
    file = file if file.exists() else notes / "codes"
    codes = file.read_text().split() if file.exists() else []
    file.write_text(" ".join(codes[1:]))
    code = codes[0] if codes else "0"
    if code != "wait":
        return int(code)
    script = 'trap \'touch "$0/saved"; exit 42\' TERM; touch "$0/started"; while :; do sleep 0.05; done'
    os.environ["PATH"] = os.defpath
    os.execvp("bash", ["bash", "-c", script, str(notes)])


def ssh(command: str) -> int:
    """In a terminal of its own, which ends when this process does."""
    child, terminal = pty.fork()
    if child == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as sshd starts a shell; tests may run under nohup
        os.execvp("sh", ["sh", "-c", command])
    while True:
        try:
            data = os.read(terminal, 4096)
        except OSError:
            break
        os.write(1, data)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def gcloud() -> int:
    if "ssh" in argv:
        command = next(a for a in argv if a.startswith("--command=")).removeprefix("--command=")
        found = [subprocess.run(["sh", "-c", command]).returncode for _ in range(4)]
        return next((code for code in found if code), 0)
    if "describe" in argv and (notes / "state").exists():
        print((notes / "state").read_text())
    if "secrets" in argv:
        print("value-of-the-secret")
    for a in argv:
        if a.startswith("--metadata-from-file=startup-script="):
            (notes / "startup.sh").write_text(Path(a.rpartition("=")[2]).read_text())
    return 0


note()
if name == "t2p":
    sys.exit(t2p())
if name == "python" and argv[:2] == ["-m", "launch.host"]:
    os.environ["PYTHONPATH"] = os.environ["T2P_PROJECT"]
    os.execv(sys.executable, [sys.executable, *argv])
if name == "ssh":
    sys.exit(ssh(argv[-1]))
if name == "gcloud":
    sys.exit(gcloud())
if name == "srun":  # two tasks, one after the other; the highest exit code is srun's
    rest = argv[next(i for i, a in enumerate(argv) if not a.startswith("--")) :]
    sys.exit(max(subprocess.run(rest).returncode for _ in range(2)))
if name == "docker" and argv[0] == "run":
    os.execvp("t2p", argv[argv.index("t2p") :])
if name == "sleep":
    time.sleep(0.01)
