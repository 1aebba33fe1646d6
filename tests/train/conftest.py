"""The fake stage and data, for the tests that train."""

from __future__ import annotations

import sys

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
def cached(compilation_cache):
    """All tests here compile the same few programs again and again."""
