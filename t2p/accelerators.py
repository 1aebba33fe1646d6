"""What is known of accelerators: chips per host, memory, peak bfloat16 rate and memory bandwidth.

Figures are the vendors' public ones: Google Cloud's TPU system architecture pages (v4, v5e, v5p, v6e) and
NVIDIA's data sheets (dense rates, without sparsity). A TPU "device" is what JAX calls one: a chip, except on
v2 and v3, where each of a chip's two cores is a device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

GIB = 2**30


@dataclass(frozen=True)
class Accelerator:
    """One kind of device. kinds: the strings that JAX gives as device_kind. per_host: devices that usually share a
    host. memory: bytes. bf16: peak dense FLOP/s in bfloat16. bandwidth: bytes/s of the device's memory."""

    platform: str
    kinds: tuple[str, ...]
    per_host: int
    memory: int
    bf16: float
    bandwidth: float


def _tpu(kinds: tuple[str, ...], per_host: int, gib: int, tera: float, gb_per_s: float) -> Accelerator:
    return Accelerator("tpu", kinds, per_host, gib * GIB, tera * 1e12, gb_per_s * 1e9)


def _gpu(kinds: tuple[str, ...], gigabytes: int, tera: float, gb_per_s: float) -> Accelerator:
    return Accelerator("gpu", kinds, 8, gigabytes * 10**9, tera * 1e12, gb_per_s * 1e9)


ACCELERATORS: Mapping[str, Accelerator] = MappingProxyType(
    {
        "v2": _tpu(("TPU v2",), 8, 8, 22.5, 350),
        "v3": _tpu(("TPU v3",), 8, 16, 61.5, 450),
        "v4": _tpu(("TPU v4",), 4, 32, 275, 1228),
        "v5e": _tpu(("TPU v5 lite", "TPU v5e"), 8, 16, 197, 819),
        "v5p": _tpu(("TPU v5", "TPU v5p"), 4, 95, 459, 2765),
        "v6e": _tpu(("TPU v6 lite", "TPU v6e"), 8, 32, 918, 1640),
        "a100-40": _gpu(("NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB"), 40, 312, 1555),
        "a100-80": _gpu(("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe"), 80, 312, 2039),
        "h100": _gpu(("NVIDIA H100 80GB HBM3",), 80, 989, 3350),
        "h100-pcie": _gpu(("NVIDIA H100 PCIe",), 80, 756, 2000),
        "h200": _gpu(("NVIDIA H200",), 141, 989, 4800),
        "b200": _gpu(("NVIDIA B200",), 180, 2250, 7700),
        "l4": _gpu(("NVIDIA L4",), 24, 121, 300),
        "l40s": _gpu(("NVIDIA L40S",), 48, 362, 864),
        "a10g": _gpu(("NVIDIA A10G",), 24, 70, 600),
        "v100": _gpu(("Tesla V100-SXM2-16GB", "Tesla V100-SXM2-32GB"), 16, 125, 900),
        "t4": _gpu(("Tesla T4",), 16, 65, 320),
    }
)


def lookup(device_kind: str) -> Accelerator | None:
    """The entry for a JAX device_kind, or None where the table does not have it (a CPU, a newer device)."""
    for accelerator in ACCELERATORS.values():
        if device_kind in accelerator.kinds:
            return accelerator
    return None
