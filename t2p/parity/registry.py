"""Which adapter computes which fixture: one line per model, imported only when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

# run(meta, inputs, checkpoint) -> outputs. meta: the fixture's meta.json; inputs: {name: array} of inputs.npz;
# checkpoint: {official name: array}, or None for a fixture without one; outputs: {name: array}.
Adapter = Callable[[dict[str, Any], dict[str, np.ndarray], dict[str, np.ndarray] | None], Mapping[str, np.ndarray]]

# The part of a fixture's name before the slash, then the rest where one part has several adapters.
ADAPTERS: dict[str, str | dict[str, str]] = {
    "amplify": {
        "diffusion_unet1d_reference": "t2p.parity.amplify_inverse:unet1d",
        "forward_dynamics": "t2p.parity.amplify_models:forward_dynamics",
        "fsq": "t2p.parity.amplify_models:quantizer",
        "inverse_dynamics": "t2p.parity.amplify_inverse:inverse_dynamics",
        "libero_dataset": "t2p.parity.amplify:libero_dataset",
        "metrics": "t2p.parity.amplify:metrics",
        "motion_tokenizer": "t2p.parity.amplify_models:motion_tokenizer",
        "t5_encoder": "t2p.parity.encoders:t5_encoder",
        "vision": "t2p.parity.encoders:vision_resnet",
        "policy_end_to_end": "t2p.parity.amplify_policy:policy_end_to_end",
        "preprocess": "t2p.parity.amplify_preprocess:preprocess",
        "temporal_ensemble": "t2p.parity.amplify_inverse:temporal_ensemble",
    },
    "atm": {
        "policy": "t2p.parity.atm_policy:policy",
        "track_transformer": "t2p.parity.atm:track_transformer",
    },
    "baselines": {
        "ddim_scheduler": "t2p.parity.baselines:ddim_scheduler",
        "ddpm_scheduler": "t2p.parity.baselines:ddpm_scheduler",
        "dp3_encoder": "t2p.parity.points:dp3_encoder",
        "dp_unet1d": "t2p.parity.baselines:unet1d",
        "fps": "t2p.parity.points:furthest_points",
        "general_flow": "t2p.parity.general_flow:network",
        "rotations": "t2p.parity.points:rotation_conversions",
    },
    "libero": "t2p.parity.libero:run",
    "tapir": "t2p.parity.tapir:run",
    "tapvid": "t2p.parity.tapvid:run",
    "threepointr": {
        "networks": "t2p.parity.threepointr:networks",
    },
}

# Systems whose fixtures have files of their own: read(directory, meta) -> Fixture.
READERS: dict[str, str] = {"libero": "t2p.parity.libero:read"}


def find_reader(meta: Any) -> str | None:
    """The "module:function" that reads a fixture with this meta.json, or None: inputs.npz and outputs.npz."""
    name = meta.get("fixture", "") if isinstance(meta, dict) else ""
    return READERS.get(str(name).partition("/")[0])


def find(fixture: str) -> str | None:
    """The adapter's "module:function" for a fixture's name, or None.

    A name that continues a registered one after "_" or "/" ("metrics_first", "metrics/small") is another
    configuration of the same model; the longest registered name wins."""
    system, _, rest = fixture.partition("/")
    entry = ADAPTERS.get(system)
    if entry is None or isinstance(entry, str):
        return entry
    names = [name for name in entry if rest == name or rest.startswith((f"{name}_", f"{name}/"))]
    return entry[max(names, key=len)] if names else None


def load(target: str) -> Any:
    """Imports "module:function"; ImportError when something that it needs is not installed."""
    module, _, function = target.partition(":")
    return getattr(importlib.import_module(module), function)
