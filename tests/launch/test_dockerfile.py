"""The Dockerfile, without an engine to build it: its instructions, stages, files and packages hold together."""

from __future__ import annotations

import configparser
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
LINES = [line for line in (ROOT / "launch/Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
STEPS = [line.split(" ", 1) for line in LINES]


def test_instructions_are_dockers():
    assert {name for name, _ in STEPS} <= {"FROM", "ENV", "WORKDIR", "COPY", "RUN"}
    for name, rest in STEPS:
        if name == "RUN":
            subprocess.run(["bash", "-n"], input=rest, text=True, check=True)


def test_each_stage_begins_with_the_image_or_an_earlier_stage():
    known = {"python:3.12-slim-bookworm"}
    for name, rest in STEPS:
        if name == "FROM":
            before, _, stage = rest.partition(" AS ")
            assert before in known
            known.add(stage)
    assert {"base", "cpu", "gpu", "tpu"} < known


def test_the_image_has_a_python_that_the_project_supports():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    (version,) = {m[1] for _, rest in STEPS if (m := re.match(r"python:([\d.]+)-", rest))}
    assert Requirement(f"x{setup['options']['python_requires']}").specifier.contains(version)


@pytest.mark.parametrize("extra, package", [("gpu", "jax[cuda12]"), ("tpu", "jax[tpu]"), ("gcs", "gcsfs>=2024.6")])
def test_packages_are_those_of_the_extras(extra: str, package: str):
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    asked = Requirement(package)
    own = Requirement(setup["options.extras_require"][extra].strip())
    assert (asked.name, asked.extras) == (own.name, own.extras)
    assert package in [word for name, rest in STEPS if name == "RUN" for word in shlex.split(rest)]


def test_what_is_copied_is_there_and_not_left_out():
    kept = [
        line[1:] for line in (ROOT / "launch/Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")
    ]
    assert all((ROOT / path).exists() for path in kept)
    for name, rest in STEPS:
        if name == "COPY" and (source := rest.split()[0]) != ".":
            assert source in kept
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    needed = {setup["metadata"]["license_files"], setup["metadata"]["long_description"].removeprefix("file: ")}
    assert needed | {"t2p", "configs", "setup.cfg", "pyproject.toml"} <= set(kept)
