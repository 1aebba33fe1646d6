"""What is to run, on what, and what holds for it: a JobSpec. Where it runs is the backends' affair."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch.options import check_options, nearest
from t2p.accelerators import Topology, parse_topology
from t2p.io import UserError, is_remote, read_json, write_json

OUTPUT: Mapping[str, str] = {  # the commands that can be jobs, and the argument that takes the workdir
    "train": "--workdir",
    "annotate": "--out",
    "collect": "--out",
    "data import": "--out",
    "eval": "--out",
    "rollout": "--out",
}
_OWN = {  # arguments that the launcher gives, and from what
    "--config": "config",
    "--workdir": "workdir",
    "--out": "workdir",
    "--shard": "shards",
    "--coordinator": "the backend",
    "--num_processes": "the backend",
    "--process_id": "the backend",
}
_NAME = r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?"
_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|API_?KEY|PRIVATE_KEY", re.IGNORECASE)


@dataclass(frozen=True)
class JobSpec:
    """One job. name: of the job in queues and clusters. workdir: folder or gs:// address that the job writes to and
    goes on from (`--workdir` of t2p train, `--out` of the others). config: of t2p train, FILE.py[:variant]. command:
    of t2p. overrides: the command's further arguments, as it takes them. accelerator: "cpu", a TPU slice or GPUs
    (t2p.accelerators.parse_topology). slices: how many of them: slices, or nodes of "cpu". shards: parts of an
    annotation, each a process of its own. environment: variables without secrets. secrets: names of variables whose
    values are wherever the job runs. retries: how often it is started again after exit code 42 or a killed process.
    spot: on machines that may be taken away. options: of each backend (launch.options).

    Raises UserError where a job could not be run as described."""

    name: str
    workdir: str
    config: str = ""
    command: str = "train"
    overrides: tuple[str, ...] = ()
    accelerator: str = "cpu"
    slices: int = 1
    shards: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    retries: int = 10
    spot: bool = False
    options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_types(self)
        object.__setattr__(self, "overrides", tuple(self.overrides))
        object.__setattr__(self, "secrets", tuple(self.secrets))
        object.__setattr__(self, "environment", dict(self.environment))
        object.__setattr__(self, "options", {b: dict(own) for b, own in self.options.items()})
        _check_one_line(self)
        _check_what(self)
        _check_size(self)
        _check_variables(self)
        check_options(self.options)

    @property
    def topology(self) -> Topology | None:
        """Of one slice; None of "cpu"."""
        return None if self.accelerator == "cpu" else parse_topology(self.accelerator)

    @property
    def platform(self) -> str:
        """ "cpu", "gpu" or "tpu"."""
        return self.topology.accelerator.platform if self.topology else "cpu"

    @property
    def hosts(self) -> int:
        """Processes that work as one."""
        return self.slices * (self.topology.hosts if self.topology else 1)

    @property
    def ray(self) -> bool:
        """Whether Ray shares out the work."""
        return "--engine=ray" in self.overrides or ("--engine", "ray") in itertools.pairwise(self.overrides)


def _check_types(spec: JobSpec) -> None:
    def strings(value: Any) -> bool:
        return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(v, str) for v in value)

    def table(value: Any) -> bool:
        return isinstance(value, Mapping) and all(isinstance(v, str) for kv in value.items() for v in kv)

    expected = {
        "text": ("name workdir config command accelerator", lambda v: isinstance(v, str)),
        "a whole number": ("slices shards retries", lambda v: isinstance(v, int) and not isinstance(v, bool)),
        "true or false": ("spot", lambda v: isinstance(v, bool)),
        "a list of texts": ("overrides secrets", strings),
        "names with texts": ("environment", table),
        "backends with names with texts": ("options", lambda v: isinstance(v, Mapping) and all(map(table, v.values()))),
    }
    for what, (names, fits) in expected.items():
        for name in names.split():
            if not fits(getattr(spec, name)):
                raise UserError(f"{name} of a job is {getattr(spec, name)!r}; expected {what}")


def _check_one_line(spec: JobSpec) -> None:
    """Line breaks have no place in a header or a command line, and other control characters in no value."""
    values = (spec.workdir, spec.config, *spec.overrides, *spec.environment.values())
    for value in values:
        if not value.isprintable():
            raise UserError(f"{value!r} holds a line break or another control character; expected one line of text")


def _check_what(spec: JobSpec) -> None:
    if not re.fullmatch(_NAME, spec.name):
        raise UserError(f"name {spec.name!r}; expected a-z, 0-9 and '-', a letter first, at most 40 in all")
    if not spec.workdir:
        raise UserError("a job needs a workdir: it decides where a restarted job goes on")
    if spec.command not in OUTPUT:
        raise UserError(f"command {spec.command!r} cannot be a job{nearest(spec.command, OUTPUT)}")
    if spec.command == "train" and not spec.config:
        raise UserError("t2p train needs a config: FILE.py or FILE.py:variant")
    if spec.command != "train" and spec.config:
        raise UserError(f"t2p {spec.command} takes no config, got {spec.config!r}")
    for argument in spec.overrides:
        if (name := argument.partition("=")[0]) in _OWN:
            raise UserError(f"argument {argument!r}: {name} comes from {_OWN[name]}, and is the same on all hosts")


def _check_size(spec: JobSpec) -> None:
    if spec.slices < 1 or spec.shards < 1 or spec.retries < 0:
        raise UserError(f"slices {spec.slices}, shards {spec.shards}, retries {spec.retries}; expected 1, 1, 0 or more")
    if spec.accelerator != "cpu":
        try:
            parse_topology(spec.accelerator)
        except ValueError as e:
            raise UserError(f"{e}; or cpu") from None
    if spec.shards > 1 and spec.command != "annotate":
        raise UserError(f"shards are parts of an annotation; t2p {spec.command} has none")
    if spec.shards > 1 and (spec.hosts > 1 or spec.ray):
        raise UserError("each shard has one host of its own, and Ray shares out by itself: leave one of them out")
    if spec.hosts > 1 and spec.command != "train" and not spec.ray:
        several = f"{spec.accelerator} x {spec.slices} has {spec.hosts} hosts"
        also = " (annotate: with --shards N, or --engine ray)" if spec.command == "annotate" else ""
        raise UserError(f"{several}; t2p {spec.command} runs on one{also}")


def _check_variables(spec: JobSpec) -> None:
    for name in (*spec.environment, *spec.secrets):
        if not re.fullmatch(_VARIABLE, name):
            raise UserError(f"{name!r} cannot be the name of an environment variable")
    if both := set(spec.environment) & set(spec.secrets):
        raise UserError(f"{', '.join(sorted(both))}: given as a value and as a secret; leave the value out")
    for name in spec.environment:
        if _SECRET.search(name):
            raise UserError(f"{name} looks like a secret, whose value must not be printed: give its name as --secret")


def to_json(spec: JobSpec) -> dict[str, Any]:
    """All fields, as JSON has them."""
    return dataclasses.asdict(spec)


def from_json(value: Any) -> JobSpec:
    """UserError for what is no job."""
    if not isinstance(value, Mapping):
        raise UserError(f"a job is {value!r}; expected an object with name, workdir, config ...")
    known = [f.name for f in dataclasses.fields(JobSpec)]
    for name in value:
        if name not in known:
            raise UserError(f"a job has no field {name!r}{nearest(name, known)}")
    if missing := {"name", "workdir"} - set(value):
        raise UserError(f"a job without {' and '.join(sorted(missing))}")
    return JobSpec(**value)


def write_specs(path: str | Path, specs: Sequence[JobSpec]) -> None:
    """One job as an object, several as a list."""
    values = [to_json(spec) for spec in specs]
    write_json(path, values[0] if len(values) == 1 else values)


def read_specs(path: str | Path) -> list[JobSpec]:
    """What `write_specs` wrote. UserError for a file that is not there or holds no jobs."""
    if not Path(path).is_file():
        raise UserError(f"no file {path}")
    try:
        value = read_json(path)
    except ValueError as e:
        raise UserError(str(e)) from None
    if value == []:
        raise UserError(f"{path} holds no jobs")
    return [from_json(v) for v in (value if isinstance(value, list) else [value])]


def sweep(spec: JobSpec, values: Mapping[str, Sequence[str]]) -> list[JobSpec]:
    """A job for each combination of values, {"config.seed": ["0", "1"]}: `--config.seed=0` in WORKDIR/seed_0 and so on,
    named NAME-0, NAME-1. UserError where two would share a workdir."""
    jobs = []
    for i, combination in enumerate(itertools.product(*values.values())):
        pairs = list(zip(values, combination))
        label = "-".join(f"{key.removeprefix('config.')}_{value}" for key, value in pairs)
        folder = f"{spec.workdir.rstrip('/')}/{re.sub(r'[^A-Za-z0-9_.+-]', '_', label)}"
        more = (*spec.overrides, *(f"--{key}={value}" for key, value in pairs))
        jobs.append(dataclasses.replace(spec, name=f"{spec.name}-{i}", workdir=folder, overrides=more))
    if len({job.workdir for job in jobs}) < len(jobs):
        raise UserError("two jobs of the sweep would share a workdir: name different values")
    return jobs


def shared_workdir(spec: JobSpec) -> bool:
    """Whether hosts that share no home folder can mean the same place by it."""
    return is_remote(spec.workdir) or spec.workdir.startswith("/")
