"""Fixtures against t2p: the same inputs and weights, the recorded outputs of the original, array by array.

A fixture is a folder:
  meta.json       "fixture": the adapter's name; "compare": the tolerances; the model's configuration
  inputs.npz      what goes in
  checkpoint.*    the weights under their official names, any format that t2p.io.load_arrays reads (may be absent)
  outputs.npz     what the original implementation computed; the adapter never sees it
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from t2p.io import UserError, load_arrays, read_json
from t2p.parity import registry

Status = Literal["ok", "FAIL", "no adapter", "could not run"]
# The exit code is that of the first of these that some fixture has.
EXIT_CODES: dict[Status, int] = {"FAIL": 1, "no adapter": 2, "could not run": 3}


class CannotRun(RuntimeError):
    """Something that the comparison needs is not on this machine; the message names it. Adapters may raise it."""


@dataclass(frozen=True)
class Tolerance:
    """What is close enough: |got - want| <= atol + rtol * |want| + relative_to_max * max|want| everywhere, or
    mean|got - want| <= mean_abs alone, or (exact) equality."""

    atol: float = 0.0
    rtol: float = 0.0
    relative_to_max: float = 0.0
    mean_abs: float | None = None
    exact: bool = False

    def __str__(self) -> str:
        if self.exact:
            return "exact"
        parts = {"atol": self.atol, "rtol": self.rtol, "of max": self.relative_to_max, "mean": self.mean_abs or 0.0}
        return " ".join(f"{name} {value:g}" for name, value in parts.items() if value) or "0"


@dataclass(frozen=True)
class Line:
    """One array: its largest error (mean error under mean_abs, number of unequal elements when exact). not_run: it was
    not computed, because of what `note` says, and is no FAIL."""

    name: str
    error: float
    tolerance: str
    ok: bool
    note: str = ""
    not_run: bool = False


@dataclass(frozen=True)
class Part:
    """What is compared under some name where that is not simply an array of the adapter's: `want`, with the adapter's
    array `source` at `index`. source "": the array of that name."""

    want: np.ndarray
    source: str = ""
    index: tuple = ()


@dataclass(frozen=True)
class Fixture:
    """A fixture folder, read. outputs are for the harness alone. parts: of outputs, those that are a Part; not_run:
    those that cannot be computed here, and why; notes: what is told beside the result."""

    directory: Path
    meta: dict[str, Any]
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    checkpoint: Path | None
    parts: dict[str, Part] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.meta["fixture"]


@dataclass(frozen=True)
class Report:
    """What came of one folder; reason says why when something could not be compared, or what the adapter raised."""

    name: str
    directory: Path
    status: Status
    lines: list[Line] = field(default_factory=list)
    reason: str = ""
    notes: tuple[str, ...] = ()


def fixtures_in(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """-> (folders with a meta.json at or below `paths`, plain files among `paths`, which are not fixtures)."""
    files = [path for path in paths if path.is_file()]
    found = []
    for path in paths:
        below = sorted(meta.parent for meta in path.rglob("meta.json")) if path.is_dir() else []
        found += below if below or path.is_file() else [path]  # a folder without fixtures is reported by read()
    return list(dict.fromkeys(found)), files


def read(directory: Path) -> Fixture:
    """Reads a fixture folder; CannotRun names what is missing or damaged."""
    if not directory.is_dir():
        raise CannotRun(f"{directory} does not exist")
    if not (directory / "meta.json").is_file():
        raise CannotRun(f"{directory} has no meta.json and no fixture below it")
    try:
        meta = read_json(directory / "meta.json")
        if not isinstance(meta, dict) or not isinstance(meta.get("compare"), dict):
            raise CannotRun(f'{directory}/meta.json has no "compare" with the tolerances')
        reader = registry.find_reader(meta)
        fixture = (_read if reader is None else registry.load(reader))(directory, meta)
    except ValueError as e:
        raise CannotRun(str(e)) from e
    for name in fixture.outputs:
        tolerance(fixture.meta["compare"], name)  # every array has a valid one
    return fixture


def _read(directory: Path, meta: dict[str, Any]) -> Fixture:
    inputs = load_arrays(directory / "inputs.npz") if (directory / "inputs.npz").is_file() else {}
    if not (directory / "outputs.npz").is_file():
        raise CannotRun(f"{directory} has no outputs.npz to compare with")
    return Fixture(directory, meta, inputs, load_arrays(directory / "outputs.npz"), _checkpoint(directory))


def _checkpoint(directory: Path) -> Path | None:
    found = sorted(directory.glob("checkpoint.*"))
    if len(found) > 1:
        raise CannotRun(f"{directory} has several checkpoints: {', '.join(p.name for p in found)}")
    return found[0] if found else None


def tolerance(compare: dict[str, Any], name: str) -> Tolerance:
    """The tolerance of one array: its own entry in "per_array", else that of a category (a key of `compare` equal
    to the array's name or its part before the first slash), else the one of all arrays."""
    category = name.split("/")[0]
    for entry in (compare.get("per_array", {}).get(name), compare.get(name), compare.get(category)):
        if isinstance(entry, dict) or entry == "exact":
            return _tolerance(entry, name)
    common = {key: compare[key] for key in ("atol", "rtol", "relative_to_max", "mean_abs") if key in compare}
    return _tolerance(common, name)


def _tolerance(entry: Any, name: str) -> Tolerance:
    if entry == "exact":
        return Tolerance(exact=True)
    known = ("atol", "rtol", "relative_to_max", "mean_abs")
    if entry == {}:
        raise CannotRun(f"meta.json does not give the tolerance of {name}: its own, its category's or a common one")
    if not isinstance(entry, dict) or set(entry) - set(known):
        raise CannotRun(f"meta.json gives {entry!r} as the tolerance of {name}; expected 'exact' or {', '.join(known)}")
    if not all(isinstance(value, (int, float)) and value >= 0 for value in entry.values()):
        raise CannotRun(f"meta.json gives {entry!r} as the tolerance of {name}; expected numbers from 0 on")
    return Tolerance(**entry)


def compare(name: str, got: Any, want: np.ndarray, allowed: Tolerance) -> Line:
    """Compares one array. Integers, booleans and strings must be equal whatever `allowed` says; an array that is
    absent (None), of another shape or kind, or not finite is not ok."""
    exact = allowed.exact or want.dtype.kind in "iubSU"
    allowed = Tolerance(exact=True) if exact else allowed
    if got is None:
        return Line(name, np.inf, str(allowed), False, "not produced")
    got = np.asarray(got)
    if got.shape != want.shape:
        return Line(name, np.inf, str(allowed), False, f"shape {got.shape}, expected {want.shape}")
    if (exact or not {got.dtype.kind, want.dtype.kind} <= set("biufcV")) and _kind(got) != _kind(want):
        return Line(name, np.inf, str(allowed), False, f"{got.dtype}, expected {want.dtype}")
    if got.dtype.kind == "O":
        return Line(name, np.inf, str(allowed), False, "an array of objects, which cannot be compared")
    if got.dtype.kind not in "biuSU" and not np.isfinite(got).all():
        return Line(name, np.inf, str(allowed), False, f"{int((~np.isfinite(got)).sum())} values are not finite")
    if exact:
        unequal = int((got != want).sum())
        return Line(name, unequal, str(allowed), unequal == 0, f"{unequal} of {want.size} differ" if unequal else "")
    return _compare_numbers(name, got, want, allowed)


def _kind(array: np.ndarray) -> str:
    return "i" if array.dtype.kind in "iu" else array.dtype.kind


def _compare_numbers(name: str, got: np.ndarray, want: np.ndarray, allowed: Tolerance) -> Line:
    wide = np.complex128 if want.dtype.kind == "c" else np.float64
    error = np.abs(got.astype(wide) - want.astype(wide))
    if allowed.mean_abs is not None:
        mean = float(error.mean()) if error.size else 0.0
        return Line(name, mean, str(allowed), mean <= allowed.mean_abs)
    size = np.abs(want.astype(wide))
    limit = allowed.atol + allowed.rtol * size + allowed.relative_to_max * size.max(initial=0.0)
    largest = float(error.max()) if error.size else 0.0  # nan where the fixture itself is not finite
    return Line(name, largest, str(allowed), bool(np.all(error <= limit)))


def run_adapter(adapter: registry.Adapter, fixture: Fixture, weights: dict[str, np.ndarray] | None) -> dict[str, Any]:
    """The adapter's outputs at highest matmul precision, as NumPy arrays. It gets copies: it cannot touch the
    fixture."""
    with jax.default_matmul_precision("highest"):
        outputs = adapter(copy.deepcopy(fixture.meta), dict(fixture.inputs), None if weights is None else dict(weights))
    return {name: np.asarray(value) for name, value in outputs.items()}


def attempt(adapter: registry.Adapter, fixture: Fixture, weights: dict[str, np.ndarray] | None) -> tuple[dict, str]:
    """-> (outputs, ""), or ({}, reason) when the adapter raises: then it produced nothing. What says that the
    comparison cannot be made here (CannotRun, a missing module or file) passes through."""
    try:
        return run_adapter(adapter, fixture, weights), ""
    except (CannotRun, ImportError, FileNotFoundError):
        raise
    except Exception as e:  # an adapter can raise anything
        return {}, _reason(e)


def lines(fixture: Fixture, outputs: dict[str, Any]) -> list[Line]:
    """One line per array that is compared: of outputs.npz, or what a reader of its own made of the folder."""
    limits = {name: tolerance(fixture.meta["compare"], name) for name in fixture.outputs}
    return [
        Line(n, np.nan, str(limits[n]), False, fixture.not_run[n], not_run=True)
        if n in fixture.not_run
        else compare(n, _produced(fixture, outputs, n), want, limits[n])
        for n, want in fixture.outputs.items()
    ]


def _produced(fixture: Fixture, outputs: dict[str, Any], name: str) -> Any:
    """What the adapter made of an array, or None."""
    part = fixture.parts.get(name, Part(np.empty(0)))
    found = outputs.get(part.source or name)
    if found is None or not part.index:
        return found
    try:
        return found[part.index]
    except IndexError:  # of another shape, which the comparison will say
        return found


def open_fixture(directory: Path) -> tuple[Fixture, registry.Adapter] | Report:
    """The fixture and its adapter, or the report of what prevents the comparison."""
    name = directory.name
    try:
        meta = read_json(directory / "meta.json") if (directory / "meta.json").is_file() else {}
        if not isinstance(meta, dict):
            raise CannotRun(f"{directory}/meta.json holds a {type(meta).__name__}, expected an object")
        name = str(meta.get("fixture", name))
        target = registry.find(name)
        if target is None and "fixture" in meta:
            return Report(name, directory, "no adapter", reason=f"no adapter is registered for {name}")
        fixture = read(directory)
        if target is None:
            raise CannotRun(f'{directory}/meta.json has no "fixture" that names the adapter')
        return fixture, registry.load(target)
    except (CannotRun, ImportError, ValueError) as e:
        return Report(name, directory, "could not run", reason=_reason(e))
    except (LookupError, TypeError, AttributeError) as e:  # of a reader that met what it did not expect
        return Report(name, directory, "could not run", reason=f"{directory} cannot be read ({_reason(e)})")


def _reason(e: BaseException) -> str:
    return f"{type(e).__name__}: {e}" if not isinstance(e, (CannotRun, UserError)) else str(e)


def check(directory: Path) -> Report:
    """Runs one fixture.

    A missing module or file, or CannotRun from the adapter, is "could not run", as is a fixture of which some arrays
    cannot be computed here and no other one is wrong. Any other error of the adapter,
    and weights that cannot be read, leave all arrays unproduced: FAIL."""
    opened = open_fixture(directory)
    if isinstance(opened, Report):
        return opened
    fixture, adapter = opened
    try:
        outputs, reason = attempt(adapter, fixture, _weights(fixture))
        found = lines(fixture, outputs)
    except UserError as e:
        found, reason = lines(fixture, {}), str(e)
    except (CannotRun, ImportError, FileNotFoundError) as e:
        return Report(fixture.name, directory, "could not run", reason=_reason(e))
    return Report(fixture.name, directory, _status(found), found, reason or _not_run(found), fixture.notes)


def _status(found: Sequence[Line]) -> Status:
    if all(line.ok or line.not_run for line in found):
        return "could not run" if any(line.not_run for line in found) else "ok"
    return "FAIL"


def _not_run(found: Sequence[Line]) -> str:
    left = [line.note for line in found if line.not_run]
    return f"{len(left)} of {len(found)} arrays were not run: {'; '.join(dict.fromkeys(left))}" if left else ""


def _weights(fixture: Fixture) -> dict[str, np.ndarray] | None:
    return load_arrays(fixture.checkpoint) if fixture.checkpoint else None


def exit_code(reports: Sequence[Report]) -> int:
    """0 when all are ok; 1 if any FAILed, else 2 if any has no adapter, else 3 if any could not run."""
    codes = [EXIT_CODES[report.status] for report in reports if report.status != "ok"]
    return min(codes, default=0 if reports else EXIT_CODES["could not run"])


# The self-test: would the comparison notice a wrong weight?

Verdict = Literal["noticed", "no effect", "MISSED"]
ROUNDING = 1e-5  # of an array's largest value: smaller changes are not the weights' doing


def self_test(fixture: Fixture, adapter: registry.Adapter) -> Iterator[tuple[str, Verdict]]:
    """Changes one weight in each non-empty floating tensor of the checkpoint and expects the comparison to FAIL.

    Yields (tensor, verdict): "noticed"; "no effect" when changing all of its weights leaves every compared array
    as it was but for rounding (a bias before a softmax, an unused table); "MISSED" when outputs depend on the tensor
    but no change of one weight made the comparison fail. CannotRun unless the unchanged fixture passes."""
    weights = _weights(fixture) or {}
    base, _ = attempt(adapter, fixture, weights or None)
    if not all(line.ok for line in lines(fixture, base)):
        raise CannotRun("the unchanged fixture does not pass, so the self-test says nothing")
    for name, tensor in weights.items():
        if tensor.dtype.kind == "f" and tensor.size:
            yield name, _verdict(fixture, adapter, weights, name, base)


def _verdict(fixture: Fixture, adapter: registry.Adapter, weights: dict, name: str, base: dict) -> Verdict:
    tensor = weights[name]

    def outputs(part: slice, by: float) -> dict[str, Any]:
        changed = np.array(tensor, order="C")
        changed.reshape(-1)[part] += np.asarray(by, tensor.dtype)
        return attempt(adapter, fixture, weights | {name: changed})[0]

    def fails(part: slice, by: float) -> bool:
        return not all(line.ok for line in lines(fixture, outputs(part, by)))

    largest = 1.0 + float(np.abs(tensor.astype(np.float64)).max())
    steps = (largest, 30.0 * largest)
    middle = tensor.size // 2
    for by in steps:
        if fails(slice(middle, middle + 1), by):
            return "noticed"
    # The weight may be one that these inputs do not reach (a row of a table): look for one that they do.
    part = slice(0, tensor.size)
    while fails(part, steps[-1]):
        if part.stop - part.start == 1:
            return "noticed"
        half = (part.start + part.stop) // 2
        part = slice(half, part.stop) if fails(slice(half, part.stop), steps[-1]) else slice(part.start, half)
    changed = outputs(slice(0, tensor.size), steps[0])
    return "no effect" if all(_same(base[name], changed.get(name)) for name in fixture.outputs) else "MISSED"


def _same(before: np.ndarray, after: np.ndarray | None) -> bool:
    limit = Tolerance(relative_to_max=ROUNDING)
    return compare("", after, before, limit).ok
