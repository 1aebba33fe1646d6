"""N processes of one job on this machine, with the faults of a cluster:

    python -m launch.local --processes 2 --logs DIR --devices 4 --retries 3 --preempt 0@30 --kill 1@60 \\
        -- t2p train --config CONFIG --workdir DIR

Every process runs the same command; JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID tell it which one
it is. A process that dies takes the others with it after `grace` seconds: they could only wait for it. Exit code 42
(preempted) and a death by signal start the job again; the same command goes on from its workdir.

Imports only the standard library.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PREEMPTED = 42  # exit code of a process that saved its state and wants to be started again
_TICK = 0.02  # seconds between two looks at the processes


@dataclass(frozen=True)
class Fault:
    """A signal that `process` gets once: `when` seconds after the first start, or as soon as when() is true. It waits
    while the process is not running."""

    process: int
    signal: int
    when: float | Callable[[], bool]


class Group:
    """The processes of one job.

    command: argv; environment: of the processes (default: this one's); devices: CPU devices of each process, 0 leaves
    JAX to itself; retries: how often the job is started again; grace: seconds that the others have after the first
    one died. logs: one file per process, appended to at every start."""

    def __init__(
        self,
        command: Sequence[str],
        processes: int,
        logs: str | os.PathLike,
        *,
        devices: int = 0,
        retries: int = 0,
        grace: float = 10.0,
        environment: Mapping[str, str] | None = None,
        faults: Sequence[Fault] = (),
    ):
        if processes < 1:
            raise ValueError(f"{processes} processes; expected at least 1")
        if outside := [f.process for f in faults if not 0 <= f.process < processes]:
            raise ValueError(f"no process {outside[0]} to send a signal to; there are 0 .. {processes - 1}")
        self.command, self.count, self.devices = list(command), processes, devices
        self.logs = [Path(logs) / f"process-{k}.txt" for k in range(processes)]
        self.retries, self.grace = retries, grace
        self.starts = 0
        self.started = 0.0  # time.monotonic() of the last start
        self.history: list[list[int | None]] = []  # the processes' exit codes of every start that is over
        self.code: int | None = None  # of the whole job, once it is over
        self.environment = dict(os.environ if environment is None else environment)
        self._faults = list(faults)
        self._processes: list[subprocess.Popen] = []
        self._port: socket.socket | None = None
        self._begin = 0.0
        self._cause: int | None = None  # exit code that ended this start, and until when the others may go on
        self._deadline = 0.0
        self._passed_on: list[int] = []
        self._stopping = False

    @property
    def codes(self) -> list[int | None]:
        """Exit codes of the processes of the last start; None: running; -n: died by signal n."""
        return [_exit_code(p.poll()) for p in self._processes]

    def start(self) -> Group:
        """Starts all processes; again after a fault, on a new port."""
        self._close_port()
        self._port = _hold_port()
        self._cause = None
        self.starts += 1
        self.started = time.monotonic()
        self._begin = self._begin or self.started
        self._processes = [self._start_one(k, self._port.getsockname()[1]) for k in range(self.count)]
        return self

    def _start_one(self, k: int, port: int) -> subprocess.Popen:
        self.logs[k].parent.mkdir(parents=True, exist_ok=True)
        with open(self.logs[k], "ab") as log:
            if self.starts > 1:
                log.write(f"--- start {self.starts} ---\n".encode())
                log.flush()
            return subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment_of(k, port),
                start_new_session=True,  # its own children end with it, and Ctrl-C reaches it through us only
            )

    def _environment_of(self, k: int, port: int) -> dict[str, str]:
        one = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": f"{self.count}"}
        one["JAX_PROCESS_ID"] = f"{k}"
        env = {name: value for name, value in self.environment.items() if name not in one}
        if self.count > 1:
            env |= one
        if self.devices:
            env |= {"JAX_NUM_CPU_DEVICES": f"{self.devices}", "JAX_PLATFORMS": "cpu"}
        return env

    def poll(self) -> int | None:
        """Looks at the processes, sends what is due, ends and starts again what must be; the job's exit code once it
        is over: 0, 42, what a process exited with, or 128 + n where one died by signal n."""
        if self.code is not None:
            return self.code
        self._send()
        codes = self.codes
        if self._cause is None and any(codes):
            self._cause, self._deadline = _cause(codes), time.monotonic() + self.grace
            print(f"launch.local: {_describe(codes)}", flush=True)
        if None not in codes:
            self._end()
        elif self._cause is not None and time.monotonic() > self._deadline:
            self._sweep()
        return self.code

    def _send(self) -> None:
        numbers, self._passed_on = self._passed_on, []
        for number in numbers:
            for k in range(self.count):
                self.send(k, number)
        now = time.monotonic() - self._begin
        for fault in list(self._faults):
            due = fault.when() if callable(fault.when) else now >= fault.when
            if due and self._processes[fault.process].poll() is None:
                self._faults.remove(fault)
                print(f"launch.local: {signal.Signals(fault.signal).name} to process {fault.process}", flush=True)
                self.send(fault.process, fault.signal)

    def _end(self) -> None:
        """All processes are gone."""
        self._sweep()
        self.history.append(self.codes)
        cause = self._cause or 0
        if (cause == PREEMPTED or cause < 0) and self.starts <= self.retries and not self._stopping:
            print(f"launch.local: start {self.starts + 1} of at most {self.retries + 1}", flush=True)
            self.start()
            return
        self._close_port()
        self.code = cause if cause >= 0 else 128 - cause

    def wait(self, timeout: float | None = None) -> int:
        """The job's exit code; TimeoutError after `timeout` seconds."""
        end = time.monotonic() + timeout if timeout is not None else float("inf")
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise TimeoutError(f"the job still runs after {timeout:g} s: {_describe(self.codes)}")
            time.sleep(_TICK)
        return code

    def send(self, process: int, number: int) -> None:
        """Sends a signal to one process, if it runs."""
        self._processes[process].send_signal(number)

    def terminate(self, process: int) -> None:
        """SIGTERM: what a scheduler sends before it takes the machine away."""
        self.send(process, signal.SIGTERM)

    def kill(self, process: int) -> None:
        """kill -9."""
        self.send(process, signal.SIGKILL)

    def pass_on(self, number: int) -> None:
        """Sends a signal to all processes at the next poll; the job is not started again after this."""
        self._passed_on.append(number)
        self._stopping = True

    def close(self) -> None:
        """Kills what still runs."""
        if self.code is None and self._processes:
            self._sweep()
            for p in self._processes:
                p.wait()
        self._close_port()

    def _sweep(self) -> None:
        """Kills the processes and their children; those of a process that died would otherwise stay."""
        for p in self._processes:
            with suppress(ProcessLookupError):
                os.killpg(p.pid, signal.SIGKILL)

    def _close_port(self) -> None:
        if self._port is not None:
            self._port.close()
            self._port = None

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _hold_port() -> socket.socket:
    """A free port for the coordinator. The socket does not listen; while it is open nobody else is given the port,
    and SO_REUSEPORT lets the coordinator bind it as well."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind(("localhost", 0))
    return held


def _exit_code(code: int | None) -> int | None:
    """Shells and launchers report a death by signal n as 128 + n."""
    return 128 - code if code is not None and 128 < code <= 128 + 64 else code


def _cause(codes: Sequence[int | None]) -> int:
    """Which of the exit codes seen first ended the group. JAX aborts processes that lose another one, so SIGABRT
    beside anything else is a consequence, and so is an error beside a process that was killed."""
    ended = [c for c in codes if c]
    killed = [c for c in ended if c < 0 and c != -signal.SIGABRT]
    errors = [c for c in ended if c > 0 and c != PREEMPTED]
    return (killed or errors or sorted(ended, reverse=True))[0]


def _describe(codes: Sequence[int | None]) -> str:
    return ", ".join(f"process {k} {_state(code)}" for k, code in enumerate(codes))


def _state(code: int | None) -> str:
    if code is None:
        return "runs"
    if code >= 0:
        return "was preempted" if code == PREEMPTED else f"exited with {code}"
    try:
        return f"died by {signal.Signals(-code).name}"
    except ValueError:
        return f"died by signal {-code}"


def _fault(number: int) -> Callable[[str], Fault]:
    def parse(text: str) -> Fault:
        process, at, seconds = text.partition("@")
        try:
            if not at:
                raise ValueError
            return Fault(int(process), number, float(seconds))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r}; expected PROCESS@SECONDS, such as 1@30") from None

    return parse


def _parser() -> argparse.ArgumentParser:
    usage = "python -m launch.local --processes N --logs DIR [options] -- COMMAND ARG..."
    parser = argparse.ArgumentParser("launch.local", usage=usage, description="N processes of one job on this machine")
    parser.add_argument("--processes", type=int, required=True, metavar="N")
    parser.add_argument("--logs", required=True, metavar="DIR", help="process-k.txt of each")
    parser.add_argument("--devices", type=int, default=0, metavar="D", help="CPU devices of each process")
    parser.add_argument("--retries", type=int, default=0, metavar="R", help="starts after a preemption or a death")
    parser.add_argument("--grace", type=float, default=10.0, metavar="S", help="seconds for the others when one died")
    faults = (("--kill", signal.SIGKILL, "kill -9 process K"), ("--preempt", signal.SIGTERM, "SIGTERM to process K"))
    for name, number, what in faults:
        about = f"{what} S seconds after the first start; may be given several times"
        parser.add_argument(name, type=_fault(number), action="append", default=[], metavar="K@S", help=about)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the job to its end; returns its exit code (2 for wrong usage)."""
    given = list(sys.argv[1:] if argv is None else argv)
    own = given[: given.index("--")] if "--" in given else given
    command = given[len(own) + 1 :]
    parser = _parser()
    args = parser.parse_args(own)
    if not command:
        parser.error("no command; expected one after --")
    limits = {"devices": args.devices, "retries": args.retries, "grace": args.grace}
    try:
        group = Group(command, args.processes, args.logs, faults=[*args.kill, *args.preempt], **limits)
    except ValueError as e:
        parser.error(str(e))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: group.pass_on(number))
    with group:
        try:
            return group.start().wait()
        except OSError as e:
            print(f"launch.local: {command[0]} cannot be started: {e}", file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main())
