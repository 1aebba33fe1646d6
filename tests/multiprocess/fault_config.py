"""What `t2p train` is given in the tests of faults: the fake stage on fake data, put in place when this is read.

Every batch takes FAULT_SLEEP seconds, so that faults find something to disturb. A process with FAULT_LIMIT
("PROCESS:BYTES") can write no larger files.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "train"))
import train_fakes


def get_config(variant: str = ""):
    train_fakes.install()
    train_fakes.FakeLoader.__next__ = slow(train_fakes.FakeLoader.__next__)
    process, _, limit = os.environ.get("FAULT_LIMIT", "").partition(":")
    if limit and process == os.environ.get("JAX_PROCESS_ID"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    print("the config is read", flush=True)
    return train_fakes.fake_config(optimizer__ema=0.9, log__every=1, eval__every=10**6, checkpoint__every=2)


def slow(read):
    seconds = float(os.environ.get("FAULT_SLEEP", "0"))
    return lambda loader: (time.sleep(seconds), read(loader))[1]
