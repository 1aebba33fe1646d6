"""What `t2p collect` says of LIBERO's tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from t2p import collect_libero
from t2p.cli.main import main
from t2p.sim.libero import task


@pytest.mark.parametrize(("version", "drifts"), [("99.1", True), (task.SAME_PHYSICS[-1], False)])
def test_a_mujoco_that_drifts_is_told(
    version: str, drifts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(task.mujoco, "__version__", version)
    monkeypatch.setattr(collect_libero.LiberoCollection, "check", lambda what: what.names())
    monkeypatch.setattr(collect_libero, "collect_libero", lambda what, out, **how: {})
    command = ["collect", "libero_object", "--episodes", "1", "--renderer", "rays", "--out", str(tmp_path)]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert f"wrote {tmp_path}" in out and ("MuJoCo 99.1 drifts" in out) == drifts
