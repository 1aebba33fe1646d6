"""The page of commands is what the commands say; its examples are ones that they take."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

import pytest

from t2p.cli.main import COMMANDS, module_of
from t2p.cli.reference import EXAMPLES, page

PAGE = Path(__file__).resolve().parents[2] / "docs/commands.md"


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == page().rstrip() + "\n", "run: python -m t2p.cli.reference > docs/commands.md"


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_taken_by_their_commands(name):
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    module_of(name).add_arguments(parser)
    assert EXAMPLES[name]
    for line in EXAMPLES[name]:
        words = shlex.split(line)
        assert words[:2] == ["t2p", name]
        _, rest = parser.parse_known_args(words[2:])
        assert [word for word in rest if not word.startswith("--config.")] == []  # a config's settings
