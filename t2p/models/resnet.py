"""ResNet image encoders (He et al. 2016) without the classifier, with batch or group norm.

Strides and padding are torchvision's (a bottleneck's stride is in its 3x3 convolution), so that its weights fit:
t2p.convert.resnet reads them. Letters: b rows, v views, h, w pixels, c channels; channels last.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from t2p.geometry.conventions import Size
from t2p.geometry.resample import resize_bilinear
from t2p.io import UserError
from t2p.models.layers import Array, Dtype

EPSILON = 1e-5
NORMS = ("batch", "group")
CHANNELS_PER_GROUP = 16  # Chi et al. 2023 (released code)
WIDTHS = (64, 128, 256, 512)
Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation of RGB in [0, 1]
IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Norm(nn.Module):
    """ "batch": statistics in the collection batch_stats, updated in training; "group": groups of 16 channels."""

    kind: str
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        if self.kind == "batch":
            settings: dict[str, Any] = {"momentum": 0.9, "epsilon": EPSILON, "dtype": self.dtype}
            return nn.BatchNorm(use_running_average=not train, **settings, name="norm")(x)
        groups = x.shape[-1] // CHANNELS_PER_GROUP
        return nn.GroupNorm(groups, epsilon=EPSILON, use_fast_variance=False, dtype=self.dtype, name="norm")(x)


def conv(features: int, size: int, stride: int, dtype: Dtype, name: str) -> nn.Conv:
    """Convolution without bias, padded by size // 2, initialised by fan-out (He et al. 2015)."""
    init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
    padding = [(size // 2,) * 2] * 2
    return nn.Conv(features, (size, size), stride, padding, use_bias=False, kernel_init=init, dtype=dtype, name=name)


class Block(nn.Module):
    """Two 3x3 convolutions, or with `bottleneck` 1x1, 3x3, 1x1 (to 4 x features), and the shortcut."""

    features: int
    stride: int
    bottleneck: bool
    norm: str
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        f, s = self.features, self.stride
        convs = [(f, 1, 1), (f, 3, s), (4 * f, 1, 1)] if self.bottleneck else [(f, 3, s), (f, 3, 1)]
        y = x
        for i, (width, size, stride) in enumerate(convs):
            y = conv(width, size, stride, self.dtype, f"conv_{i}")(nn.relu(y) if i else y)
            y = Norm(self.norm, self.dtype, name=f"norm_{i}")(y, train)
        if s != 1 or x.shape[-1] != y.shape[-1]:
            x = conv(y.shape[-1], 1, s, self.dtype, "shortcut")(x)
            x = Norm(self.norm, self.dtype, name="shortcut_norm")(x, train)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """See `__call__`; `VARIANTS` has the published sizes. widths: channels of the stages (of a bottleneck's inner
    convolutions); stem: those of the first convolution."""

    blocks: tuple[int, ...] = (2, 2, 2, 2)
    bottleneck: bool = False
    norm: str = "batch"
    dtype: Dtype = jnp.float32
    widths: tuple[int, ...] = WIDTHS
    stem: int = WIDTHS[0]

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> tuple[Array, dict[str, Array]]:
        """images: [b, h, w, 3], normalised -> the mean of the last feature map [b, `width`], float32, and the maps
        {"stem", "layer_0" ...}. With norm "batch" and train, batch_stats must be mutable."""
        self._check()
        x = conv(self.stem, 7, 2, self.dtype, "stem")(images)
        x = nn.relu(Norm(self.norm, self.dtype, name="stem_norm")(x, train))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        aux = {"stem": x}
        for i, (count, width) in enumerate(zip(self.blocks, self.widths, strict=True)):
            for j in range(count):
                stride = 2 if i and not j else 1
                block = Block(width, stride, self.bottleneck, self.norm, self.dtype, name=f"layer_{i}_{j}")
                x = block(x, train)
            aux[f"layer_{i}"] = x
        return x.astype(jnp.float32).mean((1, 2)), aux

    def _check(self) -> None:
        if self.norm not in NORMS:
            raise UserError(f"norm is {self.norm!r}; expected one of {', '.join(NORMS)}")
        if self.norm == "group" and any(width % CHANNELS_PER_GROUP for width in (self.stem, *self.widths)):
            raise UserError(
                f"group norm needs multiples of {CHANNELS_PER_GROUP} channels; "
                f"the stem has {self.stem} and the stages have {', '.join(map(str, self.widths))}"
            )

    @property
    def width(self) -> int:
        """Numbers of the encoding."""
        return self.widths[-1] * (4 if self.bottleneck else 1)

    def tokens(self, size: Size) -> int:
        """Pixels of the last feature map of a picture of `size` (H, W)."""
        stride = 2 * 2 ** len(self.blocks)
        return math.prod(-(-side // stride) for side in size)

    def flops(self, size: Size) -> float:
        """Multiply-adds of the convolutions, times two, for one image of `size` (H, W)."""
        images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
        shapes = jax.eval_shape(partial(self.init, jax.random.key(0)), images)["params"]
        kernels = {path: x.shape for path, x in flatten_dict(shapes, sep="/").items() if x.ndim == 4}
        return sum(2.0 * math.prod(shape) * _pixels(path, self, size) for path, shape in kernels.items())


def vision_tokens(
    net: ResNet, variables: Any, images: Array, size: Size, *, normalise: bool = False, pooled: bool = False
) -> Array:
    """The last feature map of each view's picture as tokens: view after view, each row after row from the top
    (AMPLIFY, released code). Batch norm takes the running statistics.

    variables: {"params", "batch_stats"}; images: [b, v, h, w, 3] in [0, 1], resized to `size` (H, W). The release
    feeds them as they are; normalise: by ImageNet's mean and standard deviation. pooled: the map's mean as the only
    token. -> [b, v * P, c] float32; P: ceil(H / 32) * ceil(W / 32) with the four stages of a published size."""
    x = prepared(images.reshape(-1, *images.shape[2:]), size, IMAGENET if normalise else None)
    mean_token, maps = net.apply(variables, x)
    tokens = mean_token if pooled else maps[f"layer_{len(net.blocks) - 1}"].astype(jnp.float32)
    return tokens.reshape(len(images), -1, net.width)


def prepared(images: Array, size: Size, statistics: Statistics | None) -> Array:
    """Pictures [b, h, w, 3] in [0, 1], resized to `size` (H, W) and then normalised, if statistics are given."""
    if images.shape[1:3] != tuple(size):
        with jax.default_matmul_precision("highest"):  # a matrix product, which a TPU takes in bfloat16
            images = resize_bilinear(images, size)
    if statistics is None:
        return images
    mean, std = (jnp.asarray(numbers, images.dtype) for numbers in statistics)
    return (images - mean) / std


# 11.2, 21.3 and 23.5 million parameters.
VARIANTS: dict[str, dict[str, Any]] = {
    "resnet18": {"blocks": (2, 2, 2, 2), "bottleneck": False},
    "resnet34": {"blocks": (3, 4, 6, 3), "bottleneck": False},
    "resnet50": {"blocks": (3, 4, 6, 3), "bottleneck": True},
}


def make_resnet(variant: str, norm: str, dtype: Dtype = jnp.float32) -> ResNet:
    """UserError for a variant that is not in the table."""
    if variant not in VARIANTS:
        raise UserError(f"the image encoder is {variant!r}; expected one of {', '.join(VARIANTS)}")
    return ResNet(**VARIANTS[variant], norm=norm, dtype=dtype)


def _pixels(path: str, net: ResNet, size: tuple[int, int]) -> int:
    """Pixels of a convolution's output."""
    if path.startswith("stem/"):
        halved = 1
    else:
        _, layer, block = path.split("/")[0].split("_")
        before_stride = net.bottleneck and block == "0" and layer != "0" and path.split("/")[1] == "conv_0"
        halved = 2 + int(layer) - before_stride
    return math.prod(math.ceil(n / 2**halved) for n in size)
