"""ResNet weights of torchvision, timm and AMPLIFY's release (pairlab/AMPLIFY): names, layouts, the network from shapes.

The first two name the modules (conv1, bn1, layer1.0.conv1 ...), the release numbers them as an nn.Sequential does
(0, 1, 4.0.conv1 ...). Running statistics come with the parameters; classifier and counters of batches are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from t2p.convert.base import Arrays, Row, permute, strip_prefix, to_variables
from t2p.convert.registry import Converted, Options
from t2p.io import PathLike, UserError, load_arrays
from t2p.models.layers import Dtype
from t2p.models.resnet import ResNet

KERNEL = permute(2, 3, 1, 0)  # Conv2d [out, in, h, w] <-> [h, w, in, out]


@dataclass(frozen=True)
class Names:
    """How a file calls the modules. prefix: before each name ("img_encoder.model."); sequential: numbered."""

    prefix: str = ""
    sequential: bool = False

    @property
    def stem(self) -> str:
        return f"{self.prefix}{'0' if self.sequential else 'conv1'}"

    @property
    def stem_norm(self) -> str:
        return f"{self.prefix}{'1' if self.sequential else 'bn1'}"

    def stage(self, number: int) -> str:
        """number: from 0; an nn.Sequential has the activation and the pooling before it."""
        return f"{self.prefix}{4 + number}" if self.sequential else f"{self.prefix}layer{1 + number}"

    @property
    def anchor(self) -> str:
        """A name that each file has."""
        return f"{self.stage(0)}.0.conv1.weight"


NAMED = Names()  # torchvision's and timm's


def is_extra(name: str, prefix: str = "") -> bool:
    """Whether an official array is no part of the encoder: a counter of batches, or the classifier."""
    return name.endswith("num_batches_tracked") or name.startswith(f"{prefix}fc.")


def resnet_rows(model: Mapping[str, Any], names: Names = Names()) -> list[Row]:
    """model: settings of models.resnet.ResNet: blocks, bottleneck, widths and stem. The rows lead to
    {"params", "batch_stats"}."""
    expansion, before = (4 if model["bottleneck"] else 1), model["stem"]
    rows = [Row(f"{names.stem}.weight", "params/stem/kernel", KERNEL), *batch_norm(names.stem_norm, "stem_norm")]
    for i, (count, width) in enumerate(zip(model["blocks"], model["widths"], strict=True)):
        for j in range(count):
            official, ours = f"{names.stage(i)}.{j}", f"layer_{i}_{j}"
            for k in range(3 if model["bottleneck"] else 2):
                rows += _conv(
                    f"{official}.conv{k + 1}", f"{official}.bn{k + 1}", f"{ours}/conv_{k}", f"{ours}/norm_{k}"
                )
            if (i and not j) or before != expansion * width:
                down = f"{official}.downsample"
                rows += _conv(f"{down}.0", f"{down}.1", f"{ours}/shortcut", f"{ours}/shortcut_norm")
            before = expansion * width
    return rows


def _conv(conv: str, norm: str, ours: str, our_norm: str) -> list[Row]:
    return [Row(f"{conv}.weight", f"params/{ours}/kernel", KERNEL), *batch_norm(norm, our_norm)]


def batch_norm(official: str, ours: str) -> list[Row]:
    """The rows of one PyTorch BatchNorm2d that became a models.resnet.Norm, without its counter of batches."""
    return [
        Row(f"{official}.weight", f"params/{ours}/norm/scale"),
        Row(f"{official}.bias", f"params/{ours}/norm/bias"),
        Row(f"{official}.running_mean", f"batch_stats/{ours}/norm/mean"),
        Row(f"{official}.running_var", f"batch_stats/{ours}/norm/var"),
    ]


def resnet_settings(arrays: Arrays, names: Names = Names()) -> dict[str, Any]:
    """The settings of models.resnet.ResNet that a file's shapes tell. UserError for a network without them."""
    if missing := [name for name in (f"{names.stem}.weight", names.anchor) if name not in arrays]:
        raise UserError(f"it lacks {', '.join(missing)} and is no ResNet with one 7x7 convolution as its stem")
    blocks: list[int] = []
    while count := _count(arrays, names.stage(len(blocks))):
        blocks.append(count)
    return {
        "blocks": tuple(blocks),
        "bottleneck": f"{names.stage(0)}.0.conv3.weight" in arrays,
        "widths": tuple(len(arrays[f"{names.stage(i)}.0.conv1.weight"]) for i in range(len(blocks))),
        "stem": len(arrays[f"{names.stem}.weight"]),
    }


def _count(arrays: Arrays, stage: str) -> int:
    count = 0
    while f"{stage}.{count}.conv1.weight" in arrays:
        count += 1
    return count


def official_shapes(net: ResNet, rows: Sequence[Row]) -> dict[str, tuple[int, ...]]:
    """{official name: its shape in a file that fits `net`}."""
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    ours = flatten_dict(jax.eval_shape(partial(net.init, jax.random.key(0)), images), sep="/")
    zero = np.zeros((), np.float32)
    return {r.official: r.transform.official(np.broadcast_to(zero, ours[r.ours].shape)).shape for r in rows}


def resnet_from_arrays(arrays: Arrays, dtype: Dtype = jnp.float32) -> tuple[ResNet, dict[str, Any]]:
    """The ResNet in a file's arrays (alone, or inside a model such as AMPLIFY's forward dynamics) and its variables
    {"params", "batch_stats"}. UserError when there is none, when there are several, or for other shapes."""
    sequential = [s for s in (False, True) if any(_ends(name, Names(sequential=s).anchor) for name in arrays)]
    if len(sequential) != 1:
        raise UserError(
            "it holds no ResNet of torchvision, timm or AMPLIFY, which has conv1, bn1, layer1.0.conv1 ... "
            f"(or 0, 1, 4.0.conv1 ...); it holds {', '.join(sorted(arrays)[:8])} ..."
        )
    names = Names(sequential=sequential[0])
    found = {name: x for name, x in strip_prefix(arrays, names.anchor).items() if not is_extra(name)}
    settings = resnet_settings(found, names)
    net, rows = ResNet(**settings, dtype=dtype), resnet_rows(settings, names)
    variables = to_variables(rows, found)
    wanted = official_shapes(net, rows)
    if wrong := [f"{n} is {np.shape(found[n])}, not {shape}" for n, shape in wanted.items() if found[n].shape != shape]:
        raise UserError(f"its shapes are those of another kind of ResNet: {'; '.join(wrong[:4])}")
    return net, variables


def _ends(name: str, anchor: str) -> bool:
    return name == anchor or name.endswith((f".{anchor}", f"/{anchor}"))


def load_resnet(path: PathLike, dtype: Dtype = jnp.float32) -> tuple[ResNet, dict[str, Any]]:
    """The ResNet in a local .safetensors, .pt or .npz (see t2p.io.load_arrays), as `resnet_from_arrays` gives it;
    its size is found from the shapes. UserError names the file and what does not fit."""
    arrays = load_arrays(path)
    try:
        return resnet_from_arrays(arrays, dtype)
    except UserError as e:
        raise UserError(f"{path} does not fit an image encoder: {e}") from e


def read_resnet(arrays: Arrays, others: Mapping[str, Arrays], options: Options) -> Converted:
    """A file of weights -> the part of a stage that config.init_from.images fills; see t2p.convert.registry."""
    net, variables = resnet_from_arrays(arrays)
    settings = {name: getattr(net, name) for name in ("blocks", "bottleneck", "widths", "stem")}
    return Converted({"model": settings}, {**variables, "frozen": {}})
