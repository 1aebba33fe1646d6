"""The image encoder that AMPLIFY's stages share: a frozen ResNet whose last feature map becomes tokens (Collins et al.
2025, section 2.3; released code)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from t2p.geometry.conventions import Size
from t2p.io import UserError
from t2p.methods.base import Variables
from t2p.models.resnet import VARIANTS, WIDTHS, ResNet, forward_flops, vision_tokens
from t2p.types import Array

NAME = "images"  # in variables["frozen"], or in the parameters where the encoder is trained


def settings() -> dict[str, Any]:
    """The encoder's keys at the released code's values."""
    return {
        "encoder": "resnet18",  # or resnet34, resnet50 (paper, Appendix E)
        "blocks": (),  # of each stage, where it is another network than the encoder's own
        "widths": WIDTHS,  # channels of its stages
        "stem": WIDTHS[0],
        "norm": "batch",  # or group, for training from scratch
        "size": (224, 224),  # pictures are resized to (height, width)
        "pooled": False,  # one token, the map's mean, for each view instead of the map (paper, Appendix E)
        "normalise": False,  # by ImageNet's mean and deviation; the released code does not
        "trained": False,  # with the stage (paper, Appendix E); batch statistics stay as they are
    }


@dataclass(frozen=True)
class ImageEncoder:
    """See `settings`."""

    net: ResNet
    size: Size
    pooled: bool
    normalise: bool
    trained: bool

    @classmethod
    def from_config(cls, chosen: ml_collections.ConfigDict, dtype: Any) -> ImageEncoder:
        if chosen.encoder not in VARIANTS:
            raise UserError(f"the image encoder is {chosen.encoder!r}; expected one of {', '.join(VARIANTS)}")
        height, width = chosen.size
        blocks, widths = tuple(chosen.blocks) or VARIANTS[chosen.encoder]["blocks"], tuple(chosen.widths)
        if len(blocks) != len(widths):
            raise UserError(f"the image encoder has {len(blocks)} stages of blocks, and widths for {len(widths)}")
        variant = {**VARIANTS[chosen.encoder], "blocks": blocks}
        net = ResNet(**variant, norm=chosen.norm, dtype=dtype, widths=widths, stem=chosen.stem)
        return cls(net, (height, width), chosen.pooled, chosen.normalise, chosen.trained)

    @property
    def tokens(self) -> int:
        """P: of each view."""
        stride = 2 * 2 ** len(self.net.blocks)
        return 1 if self.pooled else math.prod(-(-side // stride) for side in self.size)

    def init(self, rng: jax.Array) -> dict[str, Any]:
        """{"params", "batch_stats"}."""
        found = self.net.init({"params": rng}, jnp.zeros((1, *self.size, 3)))
        return {"params": found["params"], "batch_stats": found.get("batch_stats", {})}

    def place(self, variables: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
        """The stage's variables with the encoder's own ones where they belong."""
        if not self.trained:
            return {**variables, "frozen": {**variables["frozen"], NAME: own}}
        stats = {NAME: own["batch_stats"]} if own["batch_stats"] else {}
        params = {**variables["params"], NAME: own["params"]}
        return {**variables, "params": params, "batch_stats": {**variables["batch_stats"], **stats}}

    def find(self, variables: Variables) -> Variables:
        """The encoder's own variables among a stage's; no gradient reaches a frozen one."""
        if not self.trained:
            return jax.lax.stop_gradient(variables["frozen"][NAME])
        return {"params": variables["params"][NAME], "batch_stats": variables["batch_stats"].get(NAME, {})}

    def __call__(self, own: Variables, pictures: Array) -> Array:
        """own: as `find` gives them; pictures: [B, V, H, W, 3] in [0, 1] -> tokens [B, V, P, C] float32."""
        tokens = vision_tokens(self.net, own, pictures, self.size, normalise=self.normalise, pooled=self.pooled)
        return tokens.reshape(*pictures.shape[:2], self.tokens, self.net.width)

    def exact(self) -> ImageEncoder:
        """The same in float32."""
        return replace(self, net=self.net.clone(dtype=jnp.float32))

    def flops(self) -> float:
        """Of one picture, forward."""
        return forward_flops(self.net, self.size)


def side_by_side(tokens: Array) -> Array:
    """[B, V, P, C] -> [B, P, V C]: the views of a place on one token (inverse dynamics)."""
    b, v, p, c = tokens.shape
    return tokens.swapaxes(1, 2).reshape(b, p, v * c)


def one_after_the_other(tokens: Array) -> Array:
    """[B, V, P, C] -> [B, V P, C]: view by view (forward dynamics)."""
    b, v, p, c = tokens.shape
    return tokens.reshape(b, v * p, c)
