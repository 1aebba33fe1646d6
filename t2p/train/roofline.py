"""How long a train step must at least take: arithmetic, memory and links at their peak rates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from t2p.accelerators import Accelerator
from t2p.train.hlo import Collective

ASSUMPTIONS = (
    "compute: the stage's own FLOPs (forward and backward, nothing recomputed) at the peak bfloat16 rate",
    "memory: what compiled operations read and write outside on-chip memory, loops as often as they run (XLA's own "
    "count takes them once), at the peak bandwidth",
    "collectives: ring formulas at the peak rate of all of a device's links, or of the network between GPU hosts",
    "without overlap: the longer of compute and memory, then the collectives; with overlap: the longest of the three",
)


@dataclass(frozen=True)
class Estimate:
    """Seconds of one step on each device."""

    compute: float
    memory: float
    network: float

    @property
    def step(self) -> float:
        """Without overlap of collectives."""
        return max(self.compute, self.memory) + self.network

    @property
    def overlapped(self) -> float:
        return max(self.compute, self.memory, self.network)

    @property
    def mfu(self) -> float:
        """The share of the peak rate that `step` leaves."""
        return self.compute / self.step

    @property
    def mfu_overlapped(self) -> float:
        return self.compute / self.overlapped


def estimate(
    accelerator: Accelerator, devices: int, flops: float, memory: float, between: Iterable[Collective]
) -> Estimate:
    """flops: of a step, over all devices; memory: bytes that each device reads and writes; between: its collectives."""
    one_host = accelerator.platform == "tpu" or devices <= accelerator.per_host
    rate = accelerator.interconnect if one_host else accelerator.network
    sent = sum(c.sent for c in between)
    return Estimate(flops / devices / accelerator.bf16, memory / accelerator.bandwidth, sent / rate)
