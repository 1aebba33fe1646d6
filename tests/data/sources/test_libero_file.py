"""The writer of LIBERO's layout: what it writes has every name, shape and type of a file made without it."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from dataclasses import replace

import h5py
import numpy as np
import pytest
from demonstrations import ATTRIBUTES, MODEL, TASK, VIEWS, libero_file, pictures, rows_of

from t2p.data.libero_file import LiberoDemo, write_libero_hdf5
from t2p.data.sources import open_source
from t2p.io import UserError


def demo(rows: int, number: int) -> LiberoDemo:
    """The demonstration that `libero_file` writes under this number."""
    arrays = rows_of(rows, number)
    return LiberoDemo(
        actions=arrays["actions"],
        states=arrays["states"],
        frames={view: pictures(rows, view) for view in VIEWS},
        observed={name: arrays[f"obs/{name}"] for name in ("joint_states", "gripper_states", "ee_pos", "ee_ori")},
        robot_states=arrays["robot_states"],
        model_file=MODEL.format(x=0.5 + number),
        init_state=np.arange(12) + 0.25 + number,
        rewards=arrays["rewards"],
    )


def contents(path):
    """{name: array} and {(name, attribute): value} of a whole file."""
    arrays, attributes = {}, {}

    def visit(name, node):
        attributes.update({(name, key): value for key, value in node.attrs.items()})
        if isinstance(node, h5py.Dataset):
            arrays[name] = node[()]

    with h5py.File(path) as f:
        f.visititems(visit)
    return arrays, attributes


def test_the_file_is_that_of_libero(tmp_path):
    path = tmp_path / f"libero_90/{TASK}_demo.hdf5"
    assert write_libero_hdf5(path, (demo(n, k) for k, n in enumerate((6, 5))), ATTRIBUTES) == 2
    arrays, attributes = contents(path)
    wanted, about = contents(libero_file(tmp_path / "other.hdf5"))
    assert arrays.keys() == wanted.keys()
    for name, array in arrays.items():
        assert array.dtype == wanted[name].dtype, name
        np.testing.assert_array_equal(array, wanted[name])
    assert attributes.keys() == about.keys()
    for key, value in attributes.items():
        np.testing.assert_array_equal(value, about[key])


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / f"{TASK}_demo.hdf5"
    long = MODEL.format(x=1) + f"<!--{'x' * 200_000}-->"  # a merged scene is longer than a fixed HDF5 attribute may be
    info = {"problem_info": {"language_instruction": "turn on the stove"}, "env_args": {"a": [1, 2]}}
    write_libero_hdf5(path, [replace(demo(4, 0), model_file=long, rewards=None)], {**ATTRIBUTES, **info})
    given = demo(4, 0)
    episode = open_source(path).read(f"{TASK}_demo/demo_0")
    for view in VIEWS:
        np.testing.assert_array_equal(episode.frames[view], given.frames[view])
    np.testing.assert_array_equal(episode.columns["states"], given.states)
    np.testing.assert_array_equal(episode.columns["proprio/ee_pos"], given.observed["ee_pos"].astype(np.float32))
    assert episode.info["libero"]["fixtures"]["flat_stove_1_main"]["pos"] == [-0.411966, 0.13304, 1]
    with h5py.File(path) as f:
        assert json.loads(f["data"].attrs["env_args"]) == {"a": [1, 2]}
        assert f["data/demo_0/rewards"][()].tolist() == f["data/demo_0/dones"][()].tolist() == [0, 0, 0, 1]
        assert f["data/demo_0"].attrs["model_file"] == long


def test_nothing_half_written_is_seen(tmp_path):
    path = tmp_path / f"{TASK}_demo.hdf5"

    def cut_off():
        yield demo(3, 0)
        raise RuntimeError("the simulator came apart")

    with pytest.raises(RuntimeError, match="came apart"):
        write_libero_hdf5(path, cut_off(), ATTRIBUTES)
    assert not list(tmp_path.iterdir())
    write_libero_hdf5(path, [demo(3, 0)], ATTRIBUTES)
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="came apart"):
        write_libero_hdf5(path, cut_off(), ATTRIBUTES)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_a_killed_writer_leaves_no_file_and_the_next_one_tidies_up(tmp_path):
    path = tmp_path / f"{TASK}_demo.hdf5"
    code = f"""
        import os, sys
        sys.path[:0] = {sys.path!r}
        from test_libero_file import ATTRIBUTES, demo, write_libero_hdf5
        def killed():
            yield demo(3, 0)
            os.kill(os.getpid(), 9)
        write_libero_hdf5({str(path)!r}, killed(), ATTRIBUTES)
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(code)]).returncode == -9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".") and left.suffix == ".partial"
    write_libero_hdf5(path, [demo(3, 0)], ATTRIBUTES)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"states": np.zeros((3, 12))}, r"demonstration 1: states is \(3, 12\); expected 2 axes, the first 4"),
        ({"actions": np.zeros((0, 7))}, r"demonstration 1: actions is \(0, 7\)"),
        ({"init_state": np.zeros(5)}, r"init_state is \(5,\), states are \(4, 12\)"),
        ({"frames": {}}, "demonstration 1 has no frames"),
        ({"frames": {"agentview": np.zeros((4, 8, 8, 3))}}, "frames of agentview are float64, expected uint8"),
        ({"frames": {"agentview": np.zeros((3, 8, 8, 3), np.uint8)}}, r"frames of agentview is \(3, 8, 8, 3\)"),
        ({"observed": {"joint_states": np.zeros((4, 7))}}, "lacks gripper_states, ee_pos, ee_ori"),
        ({"dones": np.zeros(3)}, r"dones is \(3,\); expected 1 axes, the first 4"),
    ],
)
def test_a_demonstration_that_does_not_fit_is_named(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        write_libero_hdf5(tmp_path / "a_demo.hdf5", [demo(4, 0), replace(demo(4, 1), **changes)], ATTRIBUTES)
    assert not list(tmp_path.iterdir())


def test_attributes_and_demonstrations_are_asked_for(tmp_path):
    with pytest.raises(UserError, match=r"attributes are env_name; expected env_name, problem_info, env_args, bddl_"):
        write_libero_hdf5(tmp_path / "a_demo.hdf5", [], {"env_name": "x"})
    with pytest.raises(UserError, match="there are no demonstrations to write"):
        write_libero_hdf5(tmp_path / "a_demo.hdf5", [], ATTRIBUTES)
    assert not list(tmp_path.iterdir())
