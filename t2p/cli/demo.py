"""`t2p demo`: the whole circle, each step printed as the command that it is.

Without a word after it: 3PoinTr on a simulated task, from demonstrations to success (t2p.cli.demo_circle). `t2p demo
tracks`: from clips to a trained track transformer (t2p.cli.demo_tracks), and any videos named.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from t2p.io import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="?", default="circle", choices=("circle", "tracks"), help="(default: circle)")
    parser.add_argument("--out", default="out/demo", metavar="DIR", help="where everything goes; made anew")
    parser.add_argument("--video", action="append", default=[], metavar="FILE", help="tracks: a video too; repeatable")
    parser.add_argument("--clips", type=int, default=640, help="tracks: synthetic clips to train on (default: 640)")
    parser.add_argument("--held_out", type=int, default=48, help="tracks: clips to evaluate on (default: 48)")
    parser.add_argument("--episodes", type=int, default=200, help="circle: rollouts of each policy (default: 200)")


def run(args: argparse.Namespace, rest: list[str]) -> int:
    """rest: overrides of the training configs, --config.KEY=VALUE."""
    from t2p.cli import demo_circle, demo_tracks

    if args.what == "circle" and args.video:
        raise UserError("videos go to the demo of tracks: t2p demo tracks --video FILE")
    if missing := [v for v in args.video if not Path(v).exists()]:
        raise UserError(f"--video {missing[0]} does not exist")
    demo = demo_circle if args.what == "circle" else demo_tracks
    config_file(demo.CONFIGS[0])  # before anything is cleared
    out = Path(args.out)
    _clear(out)
    return _play(out, demo.commands(args, out, rest))


def config_file(name: str) -> Path:
    """configs/<name> of the checkout; UserError where t2p was installed without one."""
    path = Path(__file__).resolve().parents[2] / "configs" / name
    if not path.exists():
        raise UserError(f"the demo reads configs/{name} from a checkout of the project; run `make demo` there")
    return path


def _play(out: Path, commands: Iterator[list[str]]) -> int:
    import jax

    from t2p.cli.main import main

    jax.config.update("jax_compilation_cache_dir", str(out / "compiled"))  # the policies share much of their code
    began = time.monotonic()
    for command in commands:
        print(f"\n$ t2p {shlex.join(command)}", flush=True)
        start = time.monotonic()
        code = main(command)
        if code:
            return code
        print(f"({time.monotonic() - start:.0f} s)", flush=True)
    reports = ", ".join(str(p) for p in sorted(out.rglob("report.html")))
    print(f"\n{(time.monotonic() - began) / 60:.1f} minutes. Open in a browser: {reports}")
    return 0


def _clear(out: Path) -> None:
    """Empties a folder that an earlier demo made; refuses any other."""
    marker = out / ".t2p-demo"
    if out.exists() and any(out.iterdir()):
        if not marker.exists():
            raise UserError(f"{out} is not empty and was not made by the demo; name another with --out DIR")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    marker.touch()
