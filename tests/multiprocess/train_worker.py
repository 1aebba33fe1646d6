"""One process of a group that trains several runs in turn: python train_worker.py JOB.json

JOB.json: {"data", "runs": [{"workdir", "config" changes, "out" or null, "sleep"}]}. The stage is ATM's on the dataset
`data`, or the fake one where `data` is null; then `sleep` seconds pass before every batch. A run's final variables are
written to `out` by process 0. The exit code is 42 where training was preempted.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "train"))


def main(job: dict) -> int:
    from t2p.train.distributed import initialize

    initialize(heartbeat=30)
    import numpy as np
    import train_atm
    import train_fakes

    from t2p.train.loop import train
    from t2p.train.preemption import EXIT_CODE, Preempted

    if job["data"] is None:
        train_fakes.install()
    for run in job["runs"]:
        read = train_fakes.FakeLoader.__next__
        train_fakes.FakeLoader.__next__ = lambda loader, read=read, s=run["sleep"]: (time.sleep(s), read(loader))[1]
        changes = run["config"]
        config = train_atm.atm_config(job["data"], **changes) if job["data"] else train_fakes.fake_config(**changes)
        try:
            state = train(config, run["workdir"])
        except Preempted:
            return EXIT_CODE
        arrays = train_fakes.numpy_variables(state)
        if run["out"] and os.environ.get("JAX_PROCESS_ID", "0") == "0":
            np.savez(run["out"], **arrays)
        train_fakes.FakeLoader.__next__ = read
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(Path(sys.argv[1]).read_text())))
