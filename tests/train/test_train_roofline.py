"""Arithmetic of the estimate, by hand."""

from __future__ import annotations

import pytest

from t2p.accelerators import Accelerator
from t2p.train.hlo import Collective
from t2p.train.roofline import estimate

# 100 FLOP/s, 10 bytes/s of memory, links of 5 and a network of 1
TPU = Accelerator("tpu", (), 4, 1000, 100.0, 10.0, 5.0, 1.0)
GPU = Accelerator("gpu", (), 4, 1000, 100.0, 10.0, 5.0, 1.0)
BETWEEN = (Collective("all-reduce", ("data",), 2, 1, 10), Collective("all-gather", ("fsdp",), 4, 1, 20))  # 10 + 15 sent


def test_the_longest_part_and_then_the_collectives():
    e = estimate(TPU, 8, flops=1600.0, memory=10.0, between=BETWEEN)
    assert (e.compute, e.memory, e.network) == (2.0, 1.0, 5.0)
    assert (e.step, e.overlapped) == (7.0, 5.0)
    assert (e.mfu, e.mfu_overlapped) == pytest.approx((2 / 7, 2 / 5))


def test_memory_can_be_the_longest_part():
    e = estimate(TPU, 8, flops=1600.0, memory=100.0, between=())
    assert (e.step, e.overlapped, e.mfu) == (10.0, 10.0, 0.2)


def test_gpus_on_several_hosts_wait_for_the_network_and_a_slice_does_not():
    assert [estimate(a, n, 1.0, 1.0, BETWEEN).network for a in (GPU, TPU) for n in (4, 8)] == [5.0, 25.0, 5.0, 5.0]
