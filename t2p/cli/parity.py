"""`t2p parity DIR [DIR ...]`: compares t2p with recorded outputs of the original implementations."""

from __future__ import annotations

import argparse
from pathlib import Path

from t2p.io import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("fixtures", nargs="+", metavar="DIR", help="fixture folders, or folders of them")
    parser.add_argument(
        "--self-test", action="store_true", help="change one weight of each tensor and expect the comparison to fail"
    )
    parser.epilog = "exit code: 0 all ok; 1 any FAIL; else 2 no adapter; else 3 something could not run here"


def run(args: argparse.Namespace, rest: list[str]) -> int:
    """Prints one line per array and a last line with the counts; returns the exit code."""
    if rest:
        raise UserError(f"unknown arguments {' '.join(rest)}; expected t2p parity DIR [DIR ...] [--self-test]")
    from t2p.parity import harness

    directories, files = harness.fixtures_in([Path(path) for path in args.fixtures])
    for path in files:
        print(f"{path}: skipped, a file and not a fixture folder")
    one = _self_test if args.self_test else _check
    reports = [one(directory) for directory in directories]
    counts = {s: sum(r.status == s for r in reports) for s in ("ok", *harness.EXIT_CODES)}
    print(f"{len(reports)} fixtures: " + ", ".join(f"{n} {status}" for status, n in counts.items() if n))
    return harness.exit_code(reports)


def _check(directory: Path):
    from t2p.parity import harness

    report = harness.check(directory)
    _head(report)
    for note in report.notes:
        print(f"  note: {note}")
    width = max((len(line.name) for line in report.lines), default=0)
    for line in report.lines:
        verdict = "ok" if line.ok else "not run" if line.not_run else f"FAIL {line.note}".rstrip()
        print(f"  {line.name:{width}s}  error {line.error:<9.3g} tolerance {line.tolerance:<22s} {verdict}")
    return report


def _head(report) -> None:
    reason = f": {report.reason}" if report.reason else ""
    print(f"{report.name} ({report.directory}) {report.status}{reason}", flush=True)


def _self_test(directory: Path):
    from t2p.parity import harness

    opened = harness.open_fixture(directory)
    if isinstance(opened, harness.Report):
        _head(opened)
        return opened
    fixture, adapter = opened
    status: harness.Status = "ok"
    reason, missed = "", []
    print(f"{fixture.name} ({directory}) self-test", flush=True)
    try:
        for name, verdict in harness.self_test(fixture, adapter):
            print(f"  {name}: {verdict}", flush=True)
            missed += [name] if verdict == "MISSED" else []
        if missed:
            status, reason = "FAIL", f"wrong weights would pass in {', '.join(missed)}"
    except (harness.CannotRun, ImportError, FileNotFoundError, UserError) as e:
        status, reason = "could not run", str(e)
    report = harness.Report(fixture.name, directory, status, reason=reason)
    _head(report)
    return report
