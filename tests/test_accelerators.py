"""Names of slices and nodes, the hosts and chips behind them, and meshes to begin with."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from t2p.accelerators import ACCELERATORS, GIB, Topology, lookup, parse_topology


def test_accelerators_are_found_by_kind():
    assert lookup("NVIDIA H100 80GB HBM3").bf16 == 989e12
    assert lookup("TPU v5 lite") is ACCELERATORS["v5e"]
    assert lookup("cpu") is None
    kinds = [k for a in ACCELERATORS.values() for k in a.kinds]
    assert len(kinds) == len(set(kinds))


@pytest.mark.parametrize(
    "name, grid, devices, hosts, aot",
    [
        ("v5litepod-1", "1x1", 1, 1, "v5e:1x1"),
        ("v5litepod-8", "2x4", 8, 1, "v5e:2x4"),
        ("v5litepod-16", "4x4", 16, 4, "v5e:4x4"),
        ("v5litepod-256", "16x16", 256, 64, "v5e:16x16"),
        ("v6e-32", "4x8", 32, 8, "v6e:4x8"),
        ("v4-8", "2x2x1", 4, 1, "v4:2x2x1"),
        ("v4-32", "2x2x4", 16, 4, "v4:2x2x4"),
        ("v5p-128", "4x4x4", 64, 16, "v5p:4x4x4"),
        ("v3-8", "2x2", 8, 1, "v3:2x2"),
        ("v3-32", "4x4", 32, 4, "v3:4x4"),
        ("h100-8", "8", 8, 1, ""),
        ("h100-32", "32", 32, 4, ""),
        ("a100-80-2", "2", 2, 1, ""),
    ],
)
def test_a_clouds_names(name: str, grid: str, devices: int, hosts: int, aot: str):
    """As Google's and NVIDIA's pages list them; the grid names the same slice."""
    found = parse_topology(name)
    assert (found.grid, found.devices, found.hosts, found.aot, found.kind) == (grid, devices, hosts, aot, name)
    if aot:
        assert parse_topology(aot) == found


@pytest.mark.parametrize(
    "name, gke, runtime",
    [
        ("v4-8", "tpu-v4-podslice", "tpu-ubuntu2204-base"),
        ("v5litepod-16", "tpu-v5-lite-podslice", "v2-alpha-tpuv5-lite"),
        ("v5p-8", "tpu-v5p-slice", "v2-alpha-tpuv5"),
        ("v6e-256", "tpu-v6e-slice", "v2-alpha-tpuv6e"),
        ("v3-8", "", "tpu-ubuntu2204-base"),
        ("h100-8", "nvidia-h100-80gb", ""),
        ("a10g-4", "", ""),
    ],
)
def test_what_gke_and_tpu_vms_call_it(name: str, gke: str, runtime: str):
    found = parse_topology(name)
    assert (found.gke, found.runtime) == (gke, runtime)


def test_whether_a_grid_is_the_one_that_the_accelerator_type_means():
    assert parse_topology("v5e:16x16").usual and parse_topology("h100-16").usual
    assert not parse_topology("v5p:4x4x12").usual
    assert not parse_topology("v4:2x2x16").usual  # v4-128 is 4x4x4


def test_a_grid_may_be_named_that_no_power_of_two_gives():
    found = parse_topology("v5p:4x4x12")
    assert (found.chips, found.kind, found.hosts) == (192, "v5p-384", 48)


@pytest.mark.parametrize(
    "name, message",
    [
        ("v9-8", "unknown kind 'v9'; expected one of v2, v3"),
        ("v4-7", "positive multiple of 2"),
        ("v4-24", "name it"),
        ("v5e-0", "positive"),
        ("v5e:2x2x2", "2 axes"),
        ("h100:2x2", "no axes"),
        ("h100-12", "8 devices each"),
        ("eight", "such as v5e:16x16"),
    ],
)
def test_other_names_are_refused(name: str, message: str):
    with pytest.raises(ValueError, match=message):
        parse_topology(name)


def test_a_mesh_splits_what_does_not_fit_and_copies_what_does():
    pod = parse_topology("v5litepod-256")
    assert pod.mesh(1 * GIB, 512) == {"data": 256, "fsdp": 1, "tensor": 1}
    assert pod.mesh(20 * GIB, 512) == {"data": 64, "fsdp": 4, "tensor": 1}
    assert math.prod(pod.mesh(1e15, 512).values()) == 256
    with pytest.raises(ValueError, match="batch_size 300 does not divide over 256"):
        pod.mesh(1, 300)
    with pytest.raises(ValueError, match="split evenly"):
        Topology("h100", (24,)).mesh(400e9, 24)


def test_the_table_needs_nothing_of_the_project():
    code = "import sys, t2p.accelerators; print([m for m in sys.modules if m.startswith(('t2p.', 'jax', 'numpy'))])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "['t2p.accelerators']"
