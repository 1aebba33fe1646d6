"""Who may import whom, and that importing t2p is light: the rules of the architecture, enforced."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "t2p"

BASE = {"types", "io", "geometry", "metrics"}
JAX_BASE = BASE | {"pytrees"}
ANY = None
ALLOWED = {
    "types": set(),
    "io": {"types"},
    "geometry": {"types", "io"},
    "metrics": {"types", "io", "geometry"},
    "pytrees": {"types"},
    "data": BASE,
    "models": JAX_BASE,
    "diffusion": JAX_BASE,
    "accelerators": set(),
    "sim": BASE,
    "collect": BASE | {"sim", "data"},
    "convert": JAX_BASE | {"models"},
    "tracking": JAX_BASE | {"models", "convert", "data", "sim"},
    "methods": JAX_BASE | {"models", "diffusion"},
    "checkpoint": JAX_BASE,
    "hub": JAX_BASE | {"methods", "convert", "checkpoint"},
    "train": JAX_BASE | {"methods", "data", "checkpoint", "accelerators"},
    "eval": JAX_BASE | {"methods", "sim", "checkpoint"},
    "parity": ANY,
    "cli": ANY,
}
NO_JAX = {"types", "io", "geometry", "metrics", "data", "sim", "collect"}
NOBODY_IMPORTS = {"parity", "cli"}


def room(path: Path) -> str:
    """The folder or file in t2p; collecting demonstrations is one room in two files."""
    name = path.relative_to(ROOT).parts[0].removesuffix(".py")
    return "collect" if name == "collect_libero" else name


def imports(path: Path) -> list[str]:
    """Dotted names of all modules that a file imports, at the top or inside functions."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names += [f"{node.module}.{a.name}" for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append("relative")
    return names


FILES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_stay_in_their_rooms(path: Path) -> None:
    here = room(path)
    assert here in ALLOWED, f"{here} is a new room: name it and what it may import in this test"
    names = imports(path)
    assert "relative" not in names, "imports are absolute here"
    assert not [n for n in names if n.split(".")[0] == "launch"], "launch starts t2p, not the other way round"
    used = {n.split(".")[1] for n in names if n.startswith("t2p.")} - {here, "__version__"}
    assert not used & (NOBODY_IMPORTS - {here}) or here in NOBODY_IMPORTS
    allowed = ALLOWED[here]
    assert allowed is ANY or used <= allowed, f"{here} may not import {sorted(used - allowed)}"
    if here in NO_JAX:
        assert not [n for n in names if n.split(".")[0] in ("jax", "flax", "optax", "orbax", "chex")]


def test_import_is_light() -> None:
    code = (
        "import os, sys; before = dict(os.environ)\n"
        "import t2p, t2p.types, t2p.io, t2p.cli.main\n"
        "assert dict(os.environ) == before\n"
        "heavy = {'jax', 'flax', 'orbax', 'grain', 'mujoco', 'cv2', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_every_module_touches_no_device_and_no_environment() -> None:
    modules = [".".join(("t2p", *p.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__") for p in FILES]
    code = (
        "import os, importlib, jax; before = dict(os.environ)\n"  # JAX sets two variables of its own
        f"for m in {modules!r}: importlib.import_module(m)\n"
        "assert dict(os.environ) == before, set(os.environ) ^ set(before)\n"
        "from jax._src import xla_bridge; assert not xla_bridge._backends, xla_bridge._backends"
    )
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)
