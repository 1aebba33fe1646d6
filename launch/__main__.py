"""`python -m launch`: prints what would run a job, and runs it with --execute (launch/README.md)."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

from launch.backends import BACKENDS
from launch.check import check
from launch.options import OPTIONS
from launch.plan import Plan, execute, show
from launch.spec import OUTPUT, JobSpec, read_specs, sweep, write_specs
from t2p.io import UserError

_JOB = ("name", "workdir", "config", "command", "accelerator", "slices", "shards", "retries", "spot")


def _options_help() -> str:
    lines = ["options of the backends (--option NAME=VALUE):"]
    for backend, options in OPTIONS.items():
        lines.append(f"  {backend}")
        for name, option in options.items():
            more = "; must be given" if option.required else f" (default: {option.default})" if option.default else ""
            lines.append(f"    {name:16s}{option.help}{more}")
    return "\n".join(lines)


def make_parser() -> argparse.ArgumentParser:
    """Settings of a job have no default here: what is not given is JobSpec's."""
    parser = argparse.ArgumentParser(
        "python -m launch",
        "%(prog)s --backend B --config FILE.py --workdir DIR [--config.key=value ...] [-- ...]",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_options_help(),
    )
    add = parser.add_argument
    add("--backend", choices=sorted(BACKENDS))
    add("--execute", action="store_true", help="run what is printed; without it nothing is run")
    add("--spec", metavar="FILE.json", help="the job, or list of jobs, that --write_spec wrote")
    add("--write_spec", metavar="FILE.json", help="write the job, or the sweep's list of jobs")
    add(
        "--sweep", action="append", metavar="KEY=A,B,...", default=[], help="a job for each value; repeat for more keys"
    )
    add("--option", action="append", metavar="NAME=VALUE", default=[], help="of the backend; see below")
    job = parser.add_argument_group("the job").add_argument
    job("--config", metavar="FILE.py[:variant]", help="of t2p train")
    job("--workdir", metavar="DIR", help="what the job writes and goes on from; folder or gs://...")
    job("--command", metavar="COMMAND", help=f"of t2p: {', '.join(OUTPUT)} (default: train)")
    job("--name", help="(default: the last part of the workdir)")
    job("--accelerator", help="cpu (default), a TPU slice such as v5litepod-256 or v4:4x4x12, GPUs such as h100-16")
    job("--slices", "--nodes", type=int, metavar="N", help="slices, or nodes of cpu (default: 1)")
    job("--shards", type=int, metavar="N", help="of annotate: an array of N parts")
    job("--env", action="append", metavar="NAME=VALUE", default=[], help="a variable of the processes")
    job("--secret", action="append", metavar="NAME", default=[], help="a variable whose value is where the job runs")
    job("--retries", type=int, metavar="N", help="restarts after exit code 42 or a killed process (default: 10)")
    job("--spot", action="store_true", default=None, help="on machines that may be taken away")
    return parser


def make_specs(args: argparse.Namespace, rest: Sequence[str]) -> list[JobSpec]:
    """The jobs that the command line describes. rest: arguments of the t2p command."""
    given = {name: value for name in _JOB if (value := getattr(args, name)) is not None}
    own = _pairs("--option", args.option)
    if own and not args.backend:
        raise UserError("--option is an option of a backend: name it with --backend")
    options = {args.backend: own} if own else {}
    if args.spec:
        if given or args.env or args.secret or rest or args.sweep or own:
            raise UserError("--spec holds the whole job: no setting of a job goes with it")
        return read_specs(args.spec)
    if not args.workdir:
        raise UserError("name the job's --workdir: it decides where a restarted job goes on")
    given.setdefault("name", _name(args.workdir))
    variables = _pairs("--env", args.env)
    spec = JobSpec(**given, overrides=tuple(rest), environment=variables, secrets=tuple(args.secret), options=options)
    return sweep(spec, _values(args.sweep)) if args.sweep else [spec]


def _pairs(flag: str, given: Sequence[str]) -> dict[str, str]:
    for pair in given:
        if not pair.partition("=")[0] or "=" not in pair:
            raise UserError(f"{flag} {pair!r}; expected NAME=VALUE")
    return dict(pair.split("=", 1) for pair in given)


def _values(sweeps: Sequence[str]) -> dict[str, list[str]]:
    values = {key: value.split(",") for key, value in _pairs("--sweep", sweeps).items()}
    if len(values) < len(sweeps):
        raise UserError("--sweep names a key twice; all its values go into one: --sweep KEY=A,B")
    return values


def _name(workdir: str) -> str:
    """The workdir's last part as a job's name: "gs://b/ATM run_2/" -> "atm-run-2"."""
    text = re.sub(r"[^a-z0-9]+", "-", workdir.rstrip("/").rpartition("/")[2].lower())
    return re.sub(r"^[^a-z]+", "", text)[:40].strip("-") or "t2p"


def split(arguments: Sequence[str], parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, list[str]]:
    """The launcher's arguments and those of the t2p command: `--config.key=value`, and whatever follows `--`."""
    arguments = list(arguments)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    args, rest = parser.parse_known_args(arguments[:end])
    for argument in rest:
        if not argument.startswith("--config."):
            raise UserError(f"unknown argument {argument!r}; arguments of the t2p command follow after --")
    return args, rest + arguments[end + 1 :]


def _headline(spec: JobSpec, backend: str) -> str:
    hosts = f"{spec.shards} shards" if spec.shards > 1 else f"{spec.hosts} process{'es' * (spec.hosts > 1)}"
    return f"# {backend}: {spec.name}, {spec.accelerator} x {spec.slices}, {hosts}, t2p {spec.command}, {spec.workdir}"


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of the first job's command that fails, 0 if none does or nothing is run; 2 for wrong usage."""
    try:
        args, rest = split(sys.argv[1:] if argv is None else argv, make_parser())
        specs = make_specs(args, rest)
        if not (args.backend or args.write_spec) or (args.execute and not args.backend):
            raise UserError(f"name where to run it: --backend {' | '.join(BACKENDS)}")
        for spec in specs:
            check(spec)
        plans = [BACKENDS[args.backend](spec) for spec in specs] if args.backend else []
        if args.write_spec:
            write_specs(args.write_spec, specs)
        return _show_and_run(args, specs, plans)
    except UserError as e:
        print(f"launch: {e}", file=sys.stderr)
        return 2


def _show_and_run(args: argparse.Namespace, specs: Sequence[JobSpec], plans: Sequence[Plan]) -> int:
    for spec, plan in zip(specs, plans):
        print(_headline(spec, args.backend))
        print(show(plan), end="")
        for line in plan.advice:
            print(f"# {line}")
        sys.stdout.flush()
        if args.execute and (code := execute(plan)):
            return code
    if plans and not args.execute:
        print("# nothing was run; --execute runs it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
