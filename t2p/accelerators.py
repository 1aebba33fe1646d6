"""What is known of accelerators: chips and hosts, memory, peak rates, and how many of them are called what.

Figures are the vendors' public ones: Google Cloud's TPU system architecture pages (v4, v5e, v5p, v6e), Jouppi et al.
2020 for the links of v2 and v3, and NVIDIA's data sheets (dense rates, without sparsity; NVLink or PCIe, one
direction). The network between hosts is the cluster's affair: 400 Gbit/s a device on Hopper and Blackwell, 200 on A100,
100 a host elsewhere are assumptions. A TPU "device" is what JAX calls one: a chip, except on v2 and v3, where each of a
chip's two cores is a device.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

GIB = 2**30


@dataclass(frozen=True)
class Accelerator:
    """One kind of device. kinds: the strings that JAX gives as device_kind. per_host: devices that usually share a
    host. memory: bytes. bf16: peak dense FLOP/s in bfloat16. bandwidth: bytes/s of the device's memory. interconnect:
    bytes/s that a device sends to its neighbours over all its links (ICI, NVLink); network: its share of its host's
    network. axes: of a TPU slice's grid of chips (0: no grid); cores: TensorCores of a chip, by which Google counts
    v2, v3, v4 and v5p (1 where chips are counted); devices: of a chip."""

    platform: str
    kinds: tuple[str, ...]
    per_host: int
    memory: int
    bf16: float
    bandwidth: float
    interconnect: float
    network: float
    axes: int = 0
    cores: int = 1
    devices: int = 1


def _tpu(
    kinds: tuple[str, ...], per_host: int, gib: int, tera: float, gb_per_s: tuple[float, float], grid: tuple[int, ...]
) -> Accelerator:
    memory, links = (1e9 * x for x in gb_per_s)
    return Accelerator("tpu", kinds, per_host, gib * GIB, tera * 1e12, memory, links, 12.5e9 / per_host, *grid)


def _gpu(
    kinds: tuple[str, ...], gigabytes: int, tera: float, gb_per_s: tuple[float, float], network: float = 12.5 / 8
) -> Accelerator:
    memory, links = (1e9 * x for x in gb_per_s)
    return Accelerator("gpu", kinds, 8, gigabytes * 10**9, tera * 1e12, memory, links, network * 1e9)


ACCELERATORS: Mapping[str, Accelerator] = MappingProxyType(
    {
        "v2": _tpu(("TPU v2",), 8, 8, 22.5, (350, 124), (2, 2, 2)),
        "v3": _tpu(("TPU v3",), 8, 16, 61.5, (450, 164), (2, 2, 2)),
        "v4": _tpu(("TPU v4",), 4, 32, 275, (1228, 300), (3, 2)),
        "v5e": _tpu(("TPU v5 lite", "TPU v5e"), 8, 16, 197, (819, 200), (2,)),
        "v5p": _tpu(("TPU v5", "TPU v5p"), 4, 95, 459, (2765, 600), (3, 2)),
        "v6e": _tpu(("TPU v6 lite", "TPU v6e"), 8, 32, 918, (1640, 448), (2,)),
        "a100-40": _gpu(("NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB"), 40, 312, (1555, 300), 25),
        "a100-80": _gpu(("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe"), 80, 312, (2039, 300), 25),
        "h100": _gpu(("NVIDIA H100 80GB HBM3",), 80, 989, (3350, 450), 50),
        "h100-pcie": _gpu(("NVIDIA H100 PCIe",), 80, 756, (2000, 64)),
        "h200": _gpu(("NVIDIA H200",), 141, 989, (4800, 450), 50),
        "b200": _gpu(("NVIDIA B200",), 180, 2250, (7700, 900), 50),
        "l4": _gpu(("NVIDIA L4",), 24, 121, (300, 32)),
        "l40s": _gpu(("NVIDIA L40S",), 48, 362, (864, 32)),
        "a10g": _gpu(("NVIDIA A10G",), 24, 70, (600, 32)),
        "v100": _gpu(("Tesla V100-SXM2-16GB", "Tesla V100-SXM2-32GB"), 16, 125, (900, 150)),
        "t4": _gpu(("Tesla T4",), 16, 65, (320, 16)),
    }
)

_ALIASES: Mapping[str, str] = MappingProxyType({"v5litepod": "v5e"})

# The label of GKE's nodes: cloud.google.com/gke-tpu-accelerator of TPUs, cloud.google.com/gke-accelerator of GPUs.
_GKE: Mapping[str, str] = MappingProxyType(
    {
        "v4": "tpu-v4-podslice",
        "v5e": "tpu-v5-lite-podslice",
        "v5p": "tpu-v5p-slice",
        "v6e": "tpu-v6e-slice",
        "a100-40": "nvidia-tesla-a100",
        "a100-80": "nvidia-a100-80gb",
        "h100": "nvidia-h100-80gb",
        "h200": "nvidia-h200-141gb",
        "b200": "nvidia-b200",
        "l4": "nvidia-l4",
        "v100": "nvidia-tesla-v100",
        "t4": "nvidia-tesla-t4",
    }
)

# The software version that Google names for JAX on a TPU VM; older kinds take tpu-ubuntu2204-base.
_RUNTIMES: Mapping[str, str] = MappingProxyType(
    {"v5e": "v2-alpha-tpuv5-lite", "v5p": "v2-alpha-tpuv5", "v6e": "v2-alpha-tpuv6e"}
)


def lookup(device_kind: str) -> Accelerator | None:
    """The entry for a JAX device_kind, or None where the table does not have it (a CPU, a newer device)."""
    for accelerator in ACCELERATORS.values():
        if device_kind in accelerator.kinds:
            return accelerator
    return None


@dataclass(frozen=True)
class Topology:
    """The devices of one job, or of one of its slices. name: key of ACCELERATORS. shape: chips along each axis of a
    TPU slice's grid; (devices,) of GPUs."""

    name: str
    shape: tuple[int, ...]

    @property
    def accelerator(self) -> Accelerator:
        return ACCELERATORS[self.name]

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def devices(self) -> int:
        """As JAX counts them."""
        return self.chips * self.accelerator.devices

    @property
    def per_host(self) -> int:
        """Devices of each host. v5e and v6e slices of up to 8 chips have one host, larger ones hosts of 4 chips."""
        usual = self.accelerator.per_host
        if self.devices <= usual:
            return self.devices
        return 4 if self.name in ("v5e", "v6e") else usual

    @property
    def hosts(self) -> int:
        return -(-self.devices // self.per_host)

    @property
    def grid(self) -> str:
        """The grid as Google writes it: "16x16"."""
        return "x".join(map(str, self.shape))

    @property
    def aot(self) -> str:
        """The name by which XLA compiles for it without having it ("v5e:16x16"); "" where it cannot."""
        return f"{self.name}:{self.grid}" if self.accelerator.axes else ""

    @property
    def kind(self) -> str:
        """What the cloud calls it: Google's accelerator type ("v5litepod-256", "v4-8"); "h100-16" for GPUs."""
        return f"{'v5litepod' if self.name == 'v5e' else self.name}-{self.chips * self.accelerator.cores}"

    @property
    def usual(self) -> bool:
        """Whether `kind` names this very grid; another one ("v5p:4x4x12") is asked for by its grid."""
        try:
            return parse_topology(self.kind) == self
        except ValueError:
            return False

    @property
    def gke(self) -> str:
        """GKE's label of the nodes that have it; "" where GKE has none."""
        return _GKE.get(self.name, "")

    @property
    def runtime(self) -> str:
        """The software version of its TPU VMs; "" for GPUs."""
        return _RUNTIMES.get(self.name, "tpu-ubuntu2204-base") if self.accelerator.axes else ""

    def mesh(self, state: float, batch: int) -> dict[str, int]:
        """A mesh to begin with: {"data", "fsdp", "tensor"} whose product is `devices`.

        state: bytes of parameters, optimiser and averages, whole; they are split over the fewest devices (a power of
        two) that leave two thirds of the memory to activations. batch: rows of a global batch; ValueError where they
        do not divide over the devices."""
        if batch % self.devices:
            raise ValueError(f"batch_size {batch} does not divide over {self.devices} devices of {self.kind}")
        fsdp = 1
        while state / fsdp > self.accelerator.memory / 3 and fsdp < self.devices:
            fsdp *= 2
        if self.devices % fsdp:
            raise ValueError(f"the state's {state / GIB:.1f} GiB do not split evenly over {self.devices} devices")
        return {"data": self.devices // fsdp, "fsdp": fsdp, "tensor": 1}


def parse_topology(text: str) -> Topology:
    """ "v5e:16x16" (chips along each axis of a TPU slice), "v5litepod-256" or "v4-8" (Google's accelerator types, which
    count cores for v2, v3, v4 and v5p), "h100-16" (so many GPUs). ValueError for what is none of them."""
    if grid := re.fullmatch(r"(\w+):(\d+(?:x\d+)+)", text):
        return _grid(text, _named(text, grid[1]), tuple(int(n) for n in grid[2].split("x")))
    if counted := re.fullmatch(r"(.+)-(\d+)", text):
        name, count = _named(text, counted[1]), int(counted[2])
        accelerator = ACCELERATORS[name]
        if count < 1 or count % accelerator.cores:
            raise ValueError(f"accelerator {text!r}: expected a positive multiple of {accelerator.cores} after the '-'")
        if accelerator.axes:
            return _grid(text, name, _usual_grid(count // accelerator.cores, accelerator.axes))
        if count > accelerator.per_host and count % accelerator.per_host:
            raise ValueError(f"accelerator {text!r}: more than one host holds {accelerator.per_host} devices each")
        return Topology(name, (count,))
    raise ValueError(
        f"accelerator {text!r}; expected a TPU slice such as v5e:16x16 or v5litepod-256, or GPUs such as h100-8"
    )


def _named(text: str, name: str) -> str:
    name = _ALIASES.get(name, name)
    if name not in ACCELERATORS:
        raise ValueError(f"accelerator {text!r}: unknown kind {name!r}; expected one of {', '.join(ACCELERATORS)}")
    return name


def _grid(text: str, name: str, shape: tuple[int, ...]) -> Topology:
    axes = ACCELERATORS[name].axes
    if len(shape) != axes or 0 in shape:
        raise ValueError(f"accelerator {text!r}: {name} takes {axes or 'no'} axes of at least one chip")
    return Topology(name, shape)


def _usual_grid(chips: int, axes: int) -> tuple[int, ...]:
    """The most even grid of powers of two, ascending, as Google's slices have it (2x2x1 for four chips of three
    axes). ValueError where `chips` is no power of two: such slices are named by their grid."""
    power = chips.bit_length() - 1
    if chips != 2**power:
        raise ValueError(f"{chips} chips have no usual grid; name it, as in v4:4x4x12")
    if axes == 3 and chips <= 4:
        return {1: (1, 1, 1), 2: (1, 2, 1), 4: (2, 2, 1)}[chips]
    return tuple(2 ** ((power + i) // axes) for i in range(axes))
