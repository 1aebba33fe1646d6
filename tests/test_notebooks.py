"""The notebooks run from their first cell to their last: shortened always, as they are among the long tests."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# What the parameters' cell is changed to, where the notebook as it is would take too long.
SHORT = {
    "01_tracks_on_your_video": {},
    "02_train_a_track_transformer": {"CLIPS": 4, "HELD_OUT": 3, "STEPS": 2},
    "03_closed_loop_3pointr": {"DEMONSTRATIONS": 2, "TRACK_STEPS": 2, "POLICY_STEPS": 2, "EPISODES": 1},
    "amplify": {
        **dict.fromkeys(("VIDEOS", "DEMONSTRATIONS", "TOKEN_STEPS", "DYNAMICS_STEPS", "POLICY_STEPS"), 2),
        **{"EPISODES": 1, "SETPOINTS": 6},
    },
}


def by_name(name: str) -> Path:
    return next(path for path in NOTEBOOKS if path.stem.startswith(name))


def execute(path: Path, folder: Path, changes: dict) -> nbformat.NotebookNode:
    """Runs a notebook in a folder with changed parameters. CellExecutionError with the traceback where a cell fails."""
    pytest.importorskip("ipykernel", reason="ipykernel is not installed (pip install -r requirements.txt)")
    notebook = nbformat.read(path, as_version=4)
    cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", ()))
    for name, value in changes.items():
        cell.source, count = re.subn(rf"^{name} = .*$", f"{name} = {value!r}", cell.source, flags=re.MULTILINE)
        assert count == 1, f"{path.name} has no parameter {name}"
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "IPYTHONDIR": str(folder / "ipython")}
    settings = {"kernel_name": "python3", "timeout": 900, "startup_timeout": 300}
    client = NotebookClient(notebook, resources={"metadata": {"path": str(folder)}}, **settings)
    client.execute(env=env)
    return notebook


def outputs(notebook: nbformat.NotebookNode, kind: str) -> list:
    """All displayed outputs of a MIME type."""
    found = [out.data for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs if "data" in out]
    return [data[kind] for data in found if kind in data]


def text(notebook: nbformat.NotebookNode) -> str:
    """All that is printed."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return "".join(out.text for cell in cells for out in cell.outputs if out.output_type == "stream")


def test_every_notebook_has_a_shortened_run() -> None:
    assert {path.stem for path in NOTEBOOKS} == set(SHORT)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_stored_without_outputs_and_install_once(path: Path) -> None:
    notebook = json.loads(path.read_text())
    nbformat.validate(nbformat.from_dict(notebook))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    sources = ["".join(cell["source"]) for cell in cells]
    assert [i for i, source in enumerate(sources) if "%pip" in source] == [0]
    assert 'find_spec("t2p") is None' in sources[0]  # nothing happens where t2p is there
    assert path.stat().st_size < 40_000


def test_tracks_on_your_video(tmp_path: Path) -> None:
    notebook = execute(by_name("01"), tmp_path, {"GRID": 12})
    printed = text(notebook)
    assert "(24, 128, 128, 3) uint8" in printed and "points (24, 144, 2)" in printed
    within = int(re.search(r"within 2 px: (\d+)%", printed).group(1))
    assert within > 80
    (video,) = [html for html in outputs(notebook, "text/html") if "<video" in html]
    assert "data:video/mp4;base64," in video and len(outputs(notebook, "image/png")) == 3


def test_tracks_on_a_video_of_the_user(tmp_path: Path) -> None:
    """A file is read instead of the drawn clip; large pictures are shrunk."""
    import numpy as np

    from t2p.eval.overlay import write_video

    x = np.arange(640)
    frames = np.stack([np.tile(128 + 90 * np.sin((x + 4 * t) / 25), (360, 1)) for t in range(30)])
    write_video(tmp_path / "mine.mp4", np.repeat(frames[..., None], 3, -1).astype(np.uint8), 30)
    printed = text(execute(by_name("01"), tmp_path, {"VIDEO": "mine.mp4", "GRID": 6, "SECONDS": 0.7}))
    assert re.search(r"\((8|9), 256, 455, 3\) uint8 12 frames a second", printed)
    assert "points (" in printed and "no truth to compare with" in printed


@pytest.mark.parametrize("name", ["02", pytest.param("03", marks=pytest.mark.long), "amplify"])
def test_shortened(name: str, tmp_path: Path) -> None:
    path = by_name(name)
    notebook = execute(path, tmp_path, SHORT[path.stem])
    assert len(outputs(notebook, "image/png")) >= 2
    assert ("no motion" if name == "02" else "95 % interval") in text(notebook)


@pytest.mark.long
def test_a_track_transformer_learns(tmp_path: Path) -> None:
    """As it is in the repository: better than no motion, and it uses what it is shown."""
    printed = text(execute(by_name("02"), tmp_path, {}))
    errors = {who: float(value) for who, value in re.findall(r"^(\S.*?) +([\d.]+) px²$", printed, re.MULTILINE)}
    assert errors["model"] < 0.85 * errors["no motion"]
    assert errors["model, image and sentence of another clip"] > 1.3 * errors["model"]


@pytest.mark.long
def test_a_robot_stacks_blocks(tmp_path: Path) -> None:
    printed = text(execute(by_name("03"), tmp_path, {}))
    assert int(re.search(r"^success (\d+)%", printed, re.MULTILINE).group(1)) >= 30


@pytest.mark.long
def test_motion_tokens_say_more_than_no_motion(tmp_path: Path) -> None:
    """AMPLIFY's three stages at the lengths that the repository has; success of four episodes is no measure."""
    notebook = execute(by_name("amplify"), tmp_path, {})
    printed = text(notebook)
    shares = re.search(r"^model ([\d.]+), no motion ([\d.]+)$", printed, re.MULTILINE).groups()
    assert float(shares[0]) > float(shares[1])
    codes = [line.split()[3:] for line in printed.splitlines() if line.startswith("frame ")]
    assert len({code for line in codes for code in line}) >= 8  # of both models, in three frames each
    assert len(re.findall(r"^seed \d+: (?:success|no success) after", printed, re.MULTILINE)) == 4
    assert outputs(notebook, "video/mp4") or outputs(notebook, "text/html")
