"""The tables of docs/scaling.md: what train steps need on TPU slices, compiled ahead of time on a CPU (needs libtpu).

    python benchmarks/scaling.py --out FOLDER             # compiles what FOLDER has not yet, prints the tables
    python benchmarks/scaling.py --out FOLDER --only threepointr.tracks

Each row is one `t2p inspect --json`, kept in FOLDER/<table>.<row>.json; those that are compiled take minutes. A new
config is a line in TABLES.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB = 2**20
SLICES = {"1": "v5e:1x1", "8": "v5e:2x4", "64": "v5e:8x8", "256": "v5e:16x16"}


@dataclass(frozen=True)
class Table:
    """config, batch: per chip; rows: {name: (topology, further arguments)}."""

    config: str
    batch: int
    rows: dict[str, tuple[str, tuple[str, ...]]]


def _plain(slices: dict[str, str]) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {chips: (name, ()) for chips, name in slices.items()}


def _shapes(slices: dict[str, str]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Rows that take seconds: what shapes tell, nothing compiled."""
    return {chips: (name, ("--shapes",)) for chips, name in slices.items()}


def _tensor(rules: tuple[tuple[str, tuple[str | None, ...]], ...]) -> tuple[str, ...]:
    return ("--config.mesh.tensor=2", f"--config.sharding={rules!r}")


FSDP = ("--config.mesh.data=1", "--config.mesh.fsdp=8", "--config.fsdp_min_bytes=65536")
ATM_TENSOR = (
    (".*/attention/query/kernel", (None, "tensor")),
    (".*/attention/out/kernel", ("tensor", None)),
    (".*/mlp/fc1/kernel", (None, "tensor")),
    (".*/mlp/fc1/bias", ("tensor",)),
    (".*/mlp/fc2/kernel", ("tensor", None)),
)
TABLES = {
    "atm.track_transformer": Table(
        "configs/atm/track_transformer.py:paper",
        128,
        _plain(SLICES) | {"8 fsdp": ("v5e:2x4", FSDP), "8 tensor": ("v5e:2x4", _tensor(ATM_TENSOR))},
    ),
    "threepointr.tracks": Table(
        "configs/threepointr/tracks.py:paper",
        20,
        _plain(SLICES) | {"1 whole matrices": ("v5e:1x1", ("--config.attention=xla",))},
    ),
    "threepointr.policy": Table("configs/threepointr/policy.py:paper", 10, _shapes(SLICES)),
    "dp3.policy": Table("configs/dp3/policy.py:paper", 128, _shapes(SLICES)),
    "diffusion_policy.policy": Table("configs/diffusion_policy/policy.py:paper", 64, _shapes(SLICES)),
    "general_flow.flow": Table("configs/general_flow/flow.py:paper", 32, _shapes(SLICES)),
    "amplify.motion_tokenizer": Table("configs/amplify/motion_tokenizer.py:released", 64, _shapes(SLICES)),
    "amplify.forward_dynamics": Table("configs/amplify/forward_dynamics.py:released", 64, _shapes(SLICES)),
    "amplify.inverse_dynamics": Table("configs/amplify/inverse_dynamics.py:released", 64, _shapes(SLICES)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--only", default="", metavar="TABLE", choices=("", *TABLES))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name, table in TABLES.items():
        if args.only in ("", name):
            rows = {row: measured(args.out, name, row, table) for row in table.rows}
            print(f"\n{name}: `{table.config}`, {table.batch} examples a chip\n\n" + markdown(rows), flush=True)


def measured(folder: Path, name: str, row: str, table: Table) -> dict[str, Any]:
    """One row's inspection, from its file or made now."""
    path = folder / f"{name}.{row.replace(' ', '_')}.json"
    if not path.exists():
        topology, more = table.rows[row]
        command = ["inspect", "--json", "--config", table.config, "--topology", topology]
        command = [sys.executable, "-m", "t2p.cli.main", *command, "--batch_per_chip", str(table.batch), *more]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        path.write_text(done.stdout.splitlines()[-1])
    return json.loads(path.read_text())


def markdown(rows: dict[str, dict[str, Any]]) -> str:
    """A table, a line a row; efficiency is against the first row's examples per second and chip."""
    head = ("chips", "mesh", "state", "temporary", "all", "sent", "of it", "step", "efficiency", "MFU")
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    rates = {name: r["batch_size"] / r["devices"] / r["estimate"]["step"] for name, r in rows.items()}
    first = next(iter(rates.values()))
    for name, r in rows.items():
        m, e = r["memory"], r["estimate"]
        state = sum(m[part] for part in ("parameters", "optimizer", "averages", "frozen"))
        mesh = " ".join(f"{axis}={size}" for axis, size in r["mesh"].items() if size > 1) or "-"
        kinds = ", ".join(f"{c['kind']} {c['sent'] / MIB:.1f}" for c in r["collectives"] if c["sent"] > MIB / 10)
        temporary = f"{m['temporary'] / MIB:,.0f}" if r["compiled"] else "?"
        cells = [name, mesh, f"{state / MIB:,.0f}", temporary]
        cells += [f"{m['known'] / MIB:,.0f} ({m['known'] / m['device']:.0%})"]
        cells += [f"{sum(c['sent'] for c in r['collectives']) / MIB:,.1f}", kinds or "-", f"{e['step'] * 1e3:.2f} ms"]
        cells += [f"{rates[name] / first:.1%}", f"{e['mfu']:.0%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
