"""Jobs: what is refused and in which words, JSON and back, sweeps; t2p's own parsers take the command lines."""

from __future__ import annotations

import dataclasses
import json

import launch_jobs
import pytest

from launch.check import check
from launch.options import OPTIONS, settings
from launch.spec import JobSpec, from_json, read_specs, sweep, to_json, write_specs
from t2p.io import UserError

TRAIN = launch_jobs.TRAIN
CONFIG = "configs/atm/track_transformer.py:debug"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"name": "My_Job"}, "expected a-z"),
        ({"name": "a" * 41}, "at most 40"),
        ({"workdir": ""}, "needs a workdir"),
        ({"workdir": "a\nb"}, "line break"),
        ({"config": ""}, "needs a config"),
        ({"command": "trian"}, "did you mean 'train'"),
        ({"command": "eval"}, "takes no config"),
        ({"accelerator": "v9-8"}, "unknown kind 'v9'.*or cpu"),
        ({"accelerator": "v4-7"}, "positive multiple of 2"),
        ({"slices": 0}, "expected 1, 1, 0 or more"),
        ({"slices": True}, "slices of a job is True; expected a whole number"),
        ({"retries": -1}, "expected 1, 1, 0 or more"),
        ({"spot": "yes"}, "true or false"),
        ({"shards": 4}, "t2p train has none"),
        ({"overrides": "--config.seed=1"}, "a list of texts"),
        ({"overrides": ("--workdir=elsewhere",)}, "comes from workdir"),
        ({"overrides": ("--process_id", "1")}, "same on all hosts"),
        ({"environment": {"A-B": "1"}}, "cannot be the name"),
        ({"environment": {"A": 1}}, "names with texts"),
        ({"environment": {"WANDB_API_KEY": "123"}}, "looks like a secret"),
        ({"environment": {"X": "1"}, "secrets": ("X",)}, "as a value and as a secret"),
        ({"secrets": ("A=1",)}, "cannot be the name"),
        ({"options": {"slrm": {}}}, "did you mean 'slurm'"),
        ({"options": {"tpu_vm": {"zome": "a"}}}, "did you mean 'zone'"),
        ({"options": {"slurm": {"partition": "a b"}}}, "expected: partition"),
        ({"options": {"slurm": {"cpus": "many"}}}, "expected: processors"),
        ({"options": {"slurm": {"setup": "a\nb"}}}, "option setup"),
    ],
)
def test_bad_jobs_are_refused(changes: dict, message: str):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(TRAIN, **changes)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"accelerator": "h100-16"}, "2 hosts; t2p annotate runs on one.*--shards"),
        ({"shards": 2, "slices": 2}, "one host of its own"),
        ({"shards": 2, "overrides": ("--engine=ray",)}, "Ray shares out by itself"),
    ],
)
def test_what_runs_on_one_host_is_not_started_on_many(changes: dict, message: str):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(launch_jobs.LABEL, **changes)


def test_hosts_follow_from_the_accelerator():
    assert dataclasses.replace(TRAIN, accelerator="v5litepod-256", slices=2).hosts == 128
    assert dataclasses.replace(TRAIN, accelerator="h100-32").hosts == 4
    assert dataclasses.replace(TRAIN, slices=3).hosts == 3


def test_json_and_back(tmp_path):
    jobs = [spec for _, spec in launch_jobs.CASES.values()]
    write_specs(tmp_path / "jobs.json", jobs)
    assert read_specs(tmp_path / "jobs.json") == jobs
    write_specs(tmp_path / "job.json", jobs[:1])
    assert isinstance(json.loads((tmp_path / "job.json").read_text()), dict)
    assert read_specs(tmp_path / "job.json") == jobs[:1]


def test_files_that_hold_no_jobs_are_refused(tmp_path):
    file = tmp_path / "job.json"
    with pytest.raises(UserError, match="no file"):
        read_specs(file)
    for text, message in {
        "[": "not valid JSON",
        "[]": "no jobs",
        "[3]": "expected an object",
        '{"name": "a"}': "without workdir",
        '{"name": "a", "workdir": "w", "wrokdir": "w"}': "did you mean 'workdir'",
    }.items():
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            read_specs(file)


def test_a_job_does_not_change_with_what_it_was_made_of():
    variables = {"A": "1"}
    spec = dataclasses.replace(TRAIN, environment=variables)
    variables["B"] = "2"
    assert spec.environment == {"A": "1"} and to_json(spec)["environment"] == {"A": "1"}
    assert from_json(to_json(spec)) == spec


def test_a_sweep_is_every_combination_each_in_its_own_workdir():
    jobs = sweep(TRAIN, {"config.seed": ["0", "1"], "config.optimizer.learning_rate": ["1e-4", "3e-4", "1e-3"]})
    assert len({job.workdir for job in jobs}) == len({job.name for job in jobs}) == 6
    assert jobs[1].workdir == "gs://bucket/runs/atm/seed_0-optimizer.learning_rate_3e-4"
    assert jobs[1].overrides == ("--config.seed=1", "--config.seed=0", "--config.optimizer.learning_rate=3e-4")
    with pytest.raises(UserError, match="share a workdir"):
        sweep(TRAIN, {"config.x": ["a b", "a_b"]})


def test_what_a_backend_needs_is_asked_for():
    with pytest.raises(UserError, match="--option zone=VALUE"):
        settings("tpu_vm", {})
    assert settings("tpu_vm", {"tpu_vm": {"zone": "z"}})["directory"] == "t2p"


def test_defaults_of_options_have_the_form_that_is_asked_of_values():
    for backend, options in OPTIONS.items():
        given = {name: option.default for name, option in options.items() if option.default}
        dataclasses.replace(TRAIN, options={backend: given})


CHECKED = [
    JobSpec("a", "runs/a", CONFIG, overrides=("--config.steps=5", "--heartbeat=20"), accelerator="v5litepod-8"),
    dataclasses.replace(launch_jobs.PARTS, overrides=("--input", "videos", "--size", "64", "64", "--source.fps=5")),
    launch_jobs.RAY,
    JobSpec("a", "data/a", command="collect", overrides=("tabletop/block_stack", "--episodes", "20")),
    JobSpec("a", "data/a", command="data import", overrides=("--input", "videos", "--source.fps=5")),
    JobSpec("a", "out/a", command="eval", overrides=("--checkpoint", "runs/a")),
    JobSpec("a", "out/a", command="rollout", overrides=("--checkpoint", "runs/a", "--task", "tabletop/block_stack")),
]


@pytest.mark.parametrize("spec", CHECKED, ids=lambda spec: spec.command)
def test_t2p_takes_the_command_lines(spec: JobSpec):
    check(spec)


@pytest.mark.parametrize(
    "spec, wrong, message",
    [
        (CHECKED[0], "--config.batchsize=3", "did you mean config.batch_size"),
        (CHECKED[0], "--config.batch_size=0", "at least 1"),
        (CHECKED[1], "--layuot=atm", "unknown argument '--layuot=atm'"),
        (CHECKED[5], "--batchs=3", "t2p eval does not take --batchs=3"),
    ],
)
def test_arguments_that_t2p_does_not_have_are_found_before_the_queue(spec: JobSpec, wrong: str, message: str):
    with pytest.raises(UserError, match=message):
        check(dataclasses.replace(spec, overrides=(*spec.overrides, wrong)))
