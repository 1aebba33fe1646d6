"""The fake stage and data, for the tests that train."""

from __future__ import annotations

import sys

import jax
import pytest
import train_fakes


@pytest.fixture
def fake_data():
    """Puts the fakes where training looks for stages and data."""
    before = sys.modules.get("t2p.data.pipeline")
    train_fakes.install()
    yield
    train_fakes.uninstall(before)


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """The tests compile the same few programs again and again."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in zip(names, (str(tmp_path_factory.mktemp("xla")), 0.0)):
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
