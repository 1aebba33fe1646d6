"""Several processes that train as one: started by the command line, before anything asks JAX for devices."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from typing import NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from t2p.io import UserError

SWITCH = "T2P_DISTRIBUTED"


def initialize(coordinator: str = "", processes: int = 0, process: int = -1, heartbeat: int = 100) -> bool:
    """Joins the other processes of this job if there are any; returns whether it did.

    coordinator ("host:port"), processes and process come from the command line or from JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID. Without them JAX finds Slurm, Open MPI, Kubernetes and TPU pods by itself,
    where the environment says that there is more than one process, or T2P_DISTRIBUTED=1 does. T2P_DISTRIBUTED=0
    never joins (a plain python inside an srun shell looks like a cluster). heartbeat: seconds after which the
    others give up on a process that died.

    Raises UserError where some of coordinator, processes and process are given and others are not."""
    environment = os.environ
    if environment.get(SWITCH) == "0" or jax.distributed.is_initialized():
        return False
    coordinator = coordinator or environment.get("JAX_COORDINATOR_ADDRESS", "")
    processes = processes or _number(environment, "JAX_NUM_PROCESSES", 0)
    process = process if process != -1 else _number(environment, "JAX_PROCESS_ID", -1)
    if not coordinator and processes == 0 and process == -1:
        if environment.get(SWITCH) != "1" and not looks_like_cluster(environment):
            return False
        jax.distributed.initialize(heartbeat_timeout_seconds=heartbeat)
        return True
    if not coordinator or processes < 1 or not 0 <= process < processes:
        known = f"coordinator {coordinator or 'not given'}", f"number of processes {processes or 'not given'}"
        raise UserError(
            f"{', '.join(known)}, process id {'not given' if process == -1 else process}; expected all three: "
            "--coordinator HOST:PORT --num_processes N --process_id 0..N-1 (or JAX_COORDINATOR_ADDRESS, "
            f"JAX_NUM_PROCESSES, JAX_PROCESS_ID); {SWITCH}=0 trains alone"
        )
    jax.distributed.initialize(coordinator, processes, process, heartbeat_timeout_seconds=heartbeat)
    return True


def leave(code: int, patience: float = 5.0) -> NoReturn:
    """Ends one of several processes that failed. An ordinary end waits until all the others end as well, for minutes,
    and where only this one failed they are waiting for it."""
    together = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    together.start()
    together.join(patience)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def over_processes(count: int) -> int:
    """The sum of every process's count; all processes call this."""
    return int(multihost_utils.process_allgather(np.int64(count)).sum()) if jax.process_count() > 1 else count


def looks_like_cluster(environment: Mapping[str, str]) -> bool:
    """Whether a launcher's variables say that this is one of several processes."""
    counts = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "JOBSET_NUM_PROCESSES")
    if any(_number(environment, name, 1) > 1 for name in counts):
        return True
    return "," in environment.get("TPU_WORKER_HOSTNAMES", "") or "MEGASCALE_COORDINATOR_ADDRESS" in environment


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, "")
    if text and not text.lstrip("-").isdigit():
        raise UserError(f"{name} is {text!r}; expected a number")
    return int(text) if text else default
