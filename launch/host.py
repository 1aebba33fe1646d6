"""The process of one host: told to save when its host is, and its exit code written among its output.

    python -m launch.host t2p train ...

SIGTERM, and the hang-up that follows when the launcher's ssh ends, reach the process as SIGTERM. srun and gcloud have
one exit code for all hosts; the line `t2p-exit=CODE` says each one's. Imports only the standard library.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any


def run(argv: Sequence[str]) -> int:
    """The exit code of argv; 128 + n where it died by signal n, 127 where it cannot be started."""
    child: subprocess.Popen | None = None
    told = False

    def stop(number: int, frame: Any) -> None:
        nonlocal told
        told = True
        if child is not None:
            child.terminate()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the process inherits this: a hang-up would end it unsaved
    try:
        child = subprocess.Popen(argv)
    except OSError as e:
        print(f"launch.host: {argv[0]}: {e.strerror}", file=sys.stderr)
        return 127
    signal.signal(signal.SIGHUP, stop)
    if told:  # before there was a child
        child.terminate()
    code = child.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    found = run(sys.argv[1:])
    with suppress(OSError):  # nobody reads any more
        print(f"t2p-exit={found}", flush=True)
    sys.exit(found)
