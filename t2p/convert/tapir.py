"""TAPIR's published weights (.npy files of google-deepmind/tapnet) <-> t2p variables.

The file holds two dicts, params and state (empty); params maps module names such as "tapir/~/resnet/~/initial_conv" to
leaves. Arrays are here named module/leaf, as `t2p.io.load_arrays` joins them. Layouts agree: every row is the identity.
"""

from __future__ import annotations

import re
from typing import Any

from flax.traverse_util import flatten_dict

from t2p.convert.base import Arrays, Row, to_variables
from t2p.io import PathLike, UserError, load_arrays
from t2p.models.tapir import HIRES, LOWRES, PATCH, Tapir, parameter_shapes

# Modules that the original declares and never calls; should a file hold them, they mean nothing.
_UNUSED = re.compile(r"tapir/~/(regression_(hid|out)|conv_stats_\w+)/\w+")
_PLAIN = 4 + HIRES + LOWRES + 2 * PATCH**2  # the mixer's inputs without a pyramid


def settings(arrays: Arrays) -> dict[str, Any]:
    """What the arrays' names and shapes say of the model: pyramid, extra layers, widths, blocks, temperature.

    Whether it is causal cannot be seen. The softmax temperature is not in the file either: 10 with extra layers
    (BootsTAPIR), 20 without (TAPIR), as published."""
    try:
        inputs, width = arrays["tapir/~/pips_mlp_mixer/linear/w"].shape
    except KeyError as e:
        raise UserError(f"these are no TAPIR weights: {e} is missing; found {', '.join(list(arrays)[:5])} ...") from e
    pyramid, rest = divmod(inputs - _PLAIN, PATCH**2)
    if rest or pyramid < 0:
        raise UserError(f"the mixer's input width is {inputs}; expected {_PLAIN} + {PATCH**2} x pyramid levels")
    extra = _count(arrays, r"tapir/~/extra_convs/layer_norm(_\d+)?/scale")
    found = {
        "pyramid": pyramid,
        "width": width,
        "mixer_blocks": _count(arrays, r"tapir/~/pips_mlp_mixer/block(_\d+)?/mlp2_up/w"),
        "blocks": tuple(_count(arrays, rf"tapir/~/resnet/~/block_group_{g}/~/block_\d+/~/conv_0/w") for g in range(4)),
        "extra_layers": extra,
        "temperature": 10.0 if extra else 20.0,
    }
    if extra:
        found["extra_multiplier"] = arrays["tapir/~/extra_convs/conv2_d/w"].shape[-1] // LOWRES
    return found


def _count(arrays: Arrays, pattern: str) -> int:
    return sum(re.fullmatch(pattern, name) is not None for name in arrays)


def rows(model: Tapir) -> list[Row]:
    """The table of names for a model of these settings."""
    return [*_resnet(model.blocks), *_extra(model.extra_layers), *_cost_volume(), *_mixer(model.mixer_blocks)]


def _leaves(official: str, ours: str, **leaves: str) -> list[Row]:
    return [Row(f"tapir/~/{official}/{theirs}", f"{ours}/{leaf}") for theirs, leaf in leaves.items()]


def _nth(name: str, i: int) -> str:
    """The i-th module of a name, as the file counts them: name, name_1, name_2 ..."""
    return f"{name}_{i}" if i else name


def _resnet(blocks: tuple[int, ...]) -> list[Row]:
    found = _leaves("resnet/~/initial_conv", "resnet/stem", w="kernel")
    for g, count in enumerate(blocks):
        for b in range(count):
            official, ours = f"resnet/~/block_group_{g}/~/block_{b}/~", f"resnet/group{g}_block{b}"
            for i in range(2):
                found += _leaves(f"{official}/conv_{i}", f"{ours}/conv{i}", w="kernel")
                found += _leaves(f"{official}/instancenorm_{i}", f"{ours}/norm{i}", scale="scale", offset="bias")
            if b == 0:
                found += _leaves(f"{official}/shortcut_conv", f"{ours}/shortcut", w="kernel")
    return found


def _extra(layers: int) -> list[Row]:
    found = []
    for i in range(layers):
        found += _leaves(f"extra_convs/{_nth('layer_norm', i)}", f"extra/norm{i}", scale="scale", offset="bias")
        found += _leaves(f"extra_convs/{_nth('conv2_d', 2 * i)}", f"extra/up{i}", w="kernel", b="bias")
        found += _leaves(f"extra_convs/{_nth('conv2_d', 2 * i + 1)}", f"extra/down{i}", w="kernel", b="bias")
    return found


def _cost_volume() -> list[Row]:
    names = {
        "cost_volume_regression_1": "hidden",
        "cost_volume_regression_2": "heat",
        "cost_volume_occlusion_1": "occlusion0",
        "cost_volume_occlusion_2": "occlusion1",
        "occlusion_out": "out",
    }
    return [row for official, ours in names.items() for row in _leaves(official, f"cost/{ours}", w="kernel", b="bias")]


def _mixer(blocks: int) -> list[Row]:
    found = _leaves("pips_mlp_mixer/linear", "mixer/in", w="kernel", b="bias")
    for i in range(blocks):
        official, ours = f"pips_mlp_mixer/{_nth('block', i)}", f"mixer/block{i}"
        names = {"mlp1_up": "time0", "mlp1_up_1": "time1", "mlp2_up": "up", "mlp2_down": "down"}
        for theirs, name in names.items():
            found += _leaves(f"{official}/{theirs}", f"{ours}/{name}", w="kernel", b="bias")
        for k in range(2):
            found += _leaves(f"{official}/{_nth('layer_norm', k)}", f"{ours}/norm{k}", scale="scale")
    found += _leaves("pips_mlp_mixer/layer_norm", "mixer/norm", scale="scale")
    return found + _leaves("pips_mlp_mixer/linear_1", "mixer/out", w="kernel", b="bias")


def from_arrays(arrays: Arrays, causal: bool, **overrides: Any) -> tuple[Tapir, dict[str, Any]]:
    """Arrays of a published file -> (model, params in float32). overrides: settings that the file does not tell
    (temperature, train_size, iterations). UserError naming what is missing, unknown or of another shape."""
    model = Tapir(causal=causal, **(settings(arrays) | overrides))
    arrays = {name: value for name, value in arrays.items() if not _UNUSED.fullmatch(name)}
    params = to_variables(rows(model), arrays)
    expected = flatten_dict(parameter_shapes(model), sep="/")
    for row in rows(model):
        if arrays[row.official].shape != expected[row.ours]:
            raise UserError(f"{row.official} has shape {arrays[row.official].shape}; expected {expected[row.ours]}")
    return model, params


def load(path: PathLike, causal: bool) -> tuple[Tapir, dict[str, Any]]:
    """A published TAPIR or BootsTAPIR file -> (model, params). causal: whether it is one of the causal models,
    which the file does not tell. It is read without unpickling anything but arrays."""
    return from_arrays(load_arrays(path), causal)
