"""What each backend can be told beside the job itself: names, meanings, and the form of the values."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from t2p.io import UserError

WORD = r"[\w.:/@=,+%-]+"  # stands in a script's header and in a manifest as it is
NUMBER = r"[1-9]\d*"


@dataclass(frozen=True)
class Option:
    """help: what it is. pattern: the whole value matches it. default: what holds where it is not given; required: it
    must be given."""

    help: str
    pattern: str = WORD
    default: str = ""
    required: bool = False


_DIRECTORY = "folder of the checkout on the hosts, from the home folder or absolute"
_SETUP = "one line of shell before the command, as it is: an environment, modules"
_SETUP_LINE = r"[^\n\r]+"
_ACTIVATE = "source .venv/bin/activate"
_PROJECT = Option("Google Cloud project (default: gcloud's)")
_ZONE = Option("Google Cloud zone, such as us-west4-a", required=True)

OPTIONS: Mapping[str, Mapping[str, Option]] = {
    "local": {
        "devices": Option("CPU devices of each process", NUMBER),
        "logs": Option("folder of the processes' logs (default: out/launch/NAME)"),
    },
    "slurm": {
        "partition": Option("partition"),
        "account": Option("account"),
        "qos": Option("quality of service"),
        "constraint": Option("features of the nodes", r"[\w.:&|*,()\[\]-]+"),
        "time": Option("time limit, such as 24:00:00 or 2-00:00:00 (default: the partition's)", r"[\d:-]+"),
        "cpus": Option("processors of each node's process (default: the cluster's, often 1)", NUMBER),
        "memory": Option("memory of a node, such as 400G (default: the cluster's)", r"\d+[KMGT]?"),
        "gpu_type": Option("the cluster's name of the GPU, where it asks for one", r"[\w.-]+"),
        "directory": Option("folder of the checkout (default: where sbatch is called)"),
        "setup": Option(_SETUP, _SETUP_LINE, _ACTIVATE),
        "signal": Option("seconds before the time limit at which training is told to save", NUMBER, "120"),
    },
    "tpu_vm": {
        "zone": _ZONE,
        "project": _PROJECT,
        "node": Option("name of the TPU VM (default: the job's name)"),
        "directory": Option(_DIRECTORY, default="t2p"),
        "setup": Option(_SETUP, _SETUP_LINE, _ACTIVATE),
    },
    "queued": {
        "zone": _ZONE,
        "project": _PROJECT,
        "image": Option("container image, built from launch/Dockerfile", required=True),
        "runtime": Option("software version of the TPU VMs (default: the accelerator's)"),
        "service_account": Option("account that the TPU VMs run as"),
        "network": Option("network (default: default)"),
        "subnetwork": Option("subnetwork"),
    },
    "jobset": {
        "image": Option("container image, built from launch/Dockerfile", required=True),
        "namespace": Option("Kubernetes namespace (default: kubectl's)", r"[a-z0-9-]+"),
        "service_account": Option("Kubernetes service account, for access to buckets", r"[a-z0-9.-]+"),
        "secret": Option("Kubernetes Secret that holds the job's secrets", r"[a-z0-9.-]+", "t2p"),
        "queue": Option("Kueue's local queue", r"[a-z0-9.-]+"),
        "claim": Option("CLAIM:/PATH, a volume claim and where it is mounted", r"[a-z0-9.-]+:/[\w./-]+"),
        "selector": Option("more labels of the nodes: KEY=VALUE,KEY=VALUE", r"[\w./-]+=[\w.-]+(,[\w./-]+=[\w.-]+)*"),
        "cpus": Option("processors of each pod", NUMBER),
        "memory": Option("memory of each pod, such as 64Gi", r"\d+[KMGT]i?"),
        "xpk": Option("cluster made by xpk: the job is handed to xpk workload create"),
        "project": Option("Google Cloud project, for xpk"),
        "zone": Option("zone of the cluster, for xpk"),
    },
    "nodes": {
        "hosts": Option("the hosts, [USER@]HOST with commas between", required=True),
        "port": Option("port of the first host for the processes to find each other", NUMBER, "8476"),
        "directory": Option(_DIRECTORY, default="t2p"),
        "setup": Option(_SETUP, _SETUP_LINE, _ACTIVATE),
        "logs": Option("folder of the hosts' logs on this machine (default: out/launch/NAME)"),
    },
}


def nearest(name: str, known: Iterable[str]) -> str:
    """'; did you mean "zone"?' and what there is."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    guess = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{guess} There are: {', '.join(names)}"


def check_options(options: Mapping[str, Mapping[str, str]]) -> None:
    """UserError for a backend, an option or a value that does not exist. What a backend needs it asks for itself, as
    a job may be described without saying where it runs."""
    for backend, given in options.items():
        if backend not in OPTIONS:
            raise UserError(f"options of an unknown backend {backend!r}{nearest(backend, OPTIONS)}")
        for name, value in given.items():
            if name not in OPTIONS[backend]:
                raise UserError(f"backend {backend} has no option {name!r}{nearest(name, OPTIONS[backend])}")
            option = OPTIONS[backend][name]
            if not re.fullmatch(option.pattern, value, re.ASCII if option.pattern != _SETUP_LINE else 0):
                raise UserError(f"option {name} of backend {backend} is {value!r}; expected: {option.help}")


def settings(backend: str, given: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """All options of a backend: the given ones over the defaults. UserError for one that must be given and is not."""
    own = given.get(backend, {})
    for name, option in OPTIONS[backend].items():
        if option.required and name not in own:
            raise UserError(f"backend {backend} needs --option {name}=VALUE ({option.help})")
    return {name: own.get(name, option.default) for name, option in OPTIONS[backend].items()}
