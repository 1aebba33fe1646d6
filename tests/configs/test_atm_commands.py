"""docs/libero.md, "ATM and behaviour cloning": its commands are known, and the tabletop variants fit the tasks."""

import argparse
import re
import shlex
from pathlib import Path

import pytest

from t2p.cli.config import load_config
from t2p.cli.main import module_of
from t2p.sim.batch import BatchedSim
from t2p.sim.registry import make_task
from t2p.types import Observe

ROOT = Path(__file__).resolve().parents[2]
TABLETOP = ("block_stack", "open_microwave", "right_glass")


def commands():
    """Of the section's code blocks, as a shell would read them."""
    page = (ROOT / "docs/libero.md").read_text()
    section = page.partition("## ATM and behaviour cloning\n")[2].partition("\n## ")[0]
    found, variables = [], {"d": "demos"}
    for block in re.findall(r"```\n(.*?)```", section, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for name, value in variables.items():
                line = re.sub(rf"\$\{{{name}\}}|\${name}\b", value, line)
            words = shlex.split(line, comments=True)
            if words and words[0].startswith("S="):
                variables["S"] = words[0].removeprefix("S=")
            elif words and words[0] == "t2p":
                found.append(words[1:])
    return found


def test_the_pages_commands_are_known(monkeypatch):
    monkeypatch.chdir(ROOT)
    trained = set()
    for name, *words in commands():
        parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
        module_of(name).add_arguments(parser)
        given, rest = parser.parse_known_args(words)
        assert all(word.startswith(("--config.", "--source.")) for word in rest), rest
        if name == "train":
            config = load_config(given.config, rest)
            paths = [source.path for part in ("sources", "validation") for source in config.data[part].values()]
            assert all(paths) and (config.text.encoder != "bert" or config.text.path == "BERT"), given.config
            trained.add(given.config)
    kinds = ("atm/track_transformer", "atm/policy", "bc/policy")
    variants = ("cpu_libero", "gpu20", "gpu20_tabletop", "released")
    assert trained >= {f"configs/{kind}.py:{variant}" for kind in kinds for variant in variants}


@pytest.mark.parametrize("name", TABLETOP)
def test_tabletop_variants_fit_what_the_tasks_record(name):
    task = make_task(f"tabletop/{name}")
    with BatchedSim(task, num_envs=1, workers=0, observe=Observe()) as sim:
        proprio = sim.reset([0]).proprio
    for variant in ("cpu_tabletop", "gpu20_tabletop"):
        for path in ("atm/policy.py", "bc/policy.py"):
            c = load_config(f"{ROOT}/configs/{path}:{variant}")
            widths = tuple(proprio[part].shape[-1] for part in c.window.proprio)
            assert (tuple(c.window.views), tuple(c.window.proprio_widths)) == (tuple(task.views), widths)
            assert (c.model.policy.action, c.model.net.actions) == (task.action.kind, task.action.dim)
            assert c.model.policy.steps >= 50  # setpoints of a demonstration
