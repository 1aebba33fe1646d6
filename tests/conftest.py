"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import jax
import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_configure(config: pytest.Config) -> None:
    """The short tests compile much and compute little: XLA leaves out what only makes its code faster, here and in the
    processes that tests start. Long tests run as users do."""
    given = os.environ.get("XLA_FLAGS", "")
    if config.option.markexpr == "not long" and "xla_backend_optimization_level" not in given:
        os.environ["XLA_FLAGS"] = f"{given} --xla_backend_optimization_level=0".strip()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with reference outputs and sample media that may lie beside the project."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the reference folder {SHARED.name}/ beside the project")
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Programs compiled once for all tests and test processes: many tests compile the same few again."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    for name, value in zip(names, (str(shared / "xla"), 0.3)):
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
