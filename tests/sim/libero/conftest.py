"""LIBERO's assets, which do not come with t2p: from $T2P_LIBERO_ROOT, or from the reference folder's archive."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from t2p.sim.libero.assets import ROOT, Assets, find_assets


@pytest.fixture(scope="session")
def assets(request: pytest.FixtureRequest) -> Assets:
    """The archive is unpacked once, into the user's cache folder, whichever test process comes first."""
    if os.environ.get(ROOT):
        return find_assets()
    archive = request.getfixturevalue("shared") / "libero_assets.tar.xz"
    if not archive.is_file():
        pytest.skip("the reference folder has no libero_assets.tar.xz")
    return find_assets(archive)


@pytest.fixture(scope="session")
def facts(assets: Assets) -> dict[str, Any]:
    """The tables that the reference archive has beside the assets: of tasks, categories and suites."""
    names = ("task_index", "categories", "suites", "task_orders")
    missing = [name for name in names if not (assets.libero / f"{name}.json").is_file()]
    if missing:
        pytest.skip(f"these assets come without the reference tables {', '.join(missing)}")
    return {name: json.loads((assets.libero / f"{name}.json").read_text()) for name in names}


@pytest.fixture(scope="module", params=range(6), ids=lambda i: f"golden{i}")
def golden(request: pytest.FixtureRequest, shared: Path) -> Path:
    """One recorded scene's folder, SUITE__TASK; all tests of one scene run together."""
    folders = sorted((shared / "golden" / "libero").glob("*__*"))
    if request.param >= len(folders):
        pytest.skip("the reference folder has no more recorded scenes")
    return folders[request.param]
