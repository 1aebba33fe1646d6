"""The image encoder that AMPLIFY's stages share: a frozen ResNet whose last feature map becomes tokens (Collins et al.
2025, section 2.3; released code), or a Vision Transformer (Appendix E)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from t2p.geometry.conventions import Size
from t2p.io import UserError
from t2p.methods.base import Variables
from t2p.methods.weights import digest
from t2p.models import vit
from t2p.models.resnet import IMAGENET, VARIANTS, WIDTHS, ResNet, Statistics, prepared, vision_tokens
from t2p.types import Array, Batch, FieldWindow

NAME = "images"  # in variables["frozen"], or in the parameters where the encoder is trained
POOLINGS = ("mean", "class")


def settings() -> dict[str, Any]:
    """The encoder's keys at the released code's values."""
    return {
        # Or resnet34, resnet50; vit_s16, vit_b16, dinov2_s14, dinov2_b14 (paper, Appendix E, without their sizes).
        "encoder": "resnet18",
        "blocks": (),  # of a ResNet: of each stage, where it is another network than the encoder's own
        "widths": WIDTHS,  # of a ResNet: channels of its stages
        "stem": WIDTHS[0],
        "norm": "batch",  # of a ResNet; or group, for training from scratch
        "size": (224, 224),  # pictures are resized to (height, width); of a Vision Transformer: multiples of its patch
        "pooled": False,  # one token for each view instead of the map of all patches (paper, Appendix E)
        "pooling": "mean",  # what that token is: the map's mean, or a Vision Transformer's class token ("class")
        # By mean and deviation of the pictures that the published weights were trained with: ImageNet's for ResNets and
        # DINOv2, 1/2 for vit_*. The released code does not, for its ResNet-18.
        "normalise": False,
        "trained": False,  # with the stage (paper, Appendix E); batch statistics stay as they are
    }


@dataclass(frozen=True)
class ImageEncoder:
    """See `settings`. features: the name of cached tokens that batches carry instead of pictures, or ""; statistics:
    what `normalise` means."""

    net: ResNet | vit.ViT
    size: Size
    pooled: bool
    normalise: bool
    trained: bool
    features: str = ""
    pooling: str = "mean"
    statistics: Statistics = IMAGENET

    @classmethod
    def from_config(cls, chosen: ml_collections.ConfigDict, dtype: Any, features: str = "") -> ImageEncoder:
        if features and chosen.trained:
            raise UserError(
                f"data.features is {features!r}, and the image encoder is trained (trained is True): only a frozen "
                "encoder gives the same tokens at every step; set data.features to ''"
            )
        pooling = chosen.get("pooling", "mean")  # checkpoints from before there was a choice have none
        _check_names(chosen.encoder, chosen.pooled, pooling)
        height, width = chosen.size
        net = _net(chosen, dtype)
        net.tokens((height, width))  # UserError for a size that patches do not fill
        statistics = vit.STATISTICS.get(chosen.encoder, IMAGENET)
        own = chosen.pooled, chosen.normalise, chosen.trained, features, pooling, statistics
        return cls(net, (height, width), *own)

    @property
    def name(self) -> str:
        return NAME

    @property
    def text(self) -> bool:
        return False

    @property
    def shape(self) -> tuple[int, int]:
        """(P, C)."""
        return self.tokens, self.net.width

    def window(self) -> dict[str, Any]:
        """Of a WindowSpec: the pictures of the first frame, or their tokens."""
        now = FieldWindow((0,))
        if not self.features:
            return {"images": now}
        return {"features": now, "feature_set": self.features, "feature_shape": self.shape}

    @property
    def tokens(self) -> int:
        """P: of each view."""
        return 1 if self.pooled else self.net.tokens(self.size)

    def zeros(self, rows: int, views: int) -> Array:
        """Tokens [B, V, P, C] of nothing, for shapes."""
        return jnp.zeros((rows, views, *self.shape))

    def init(self, rng: jax.Array) -> dict[str, Any]:
        """{"params"}, and with batch norm "batch_stats"."""
        found = self.net.init({"params": rng}, jnp.zeros((1, *self.size, 3)))
        return {name: found[name] for name in ("params", "batch_stats") if name in found}

    def place(self, variables: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
        """The stage's variables with the encoder's own ones where they belong."""
        if not self.trained:
            return {**variables, "frozen": {**variables["frozen"], NAME: own}}
        stats = {NAME: own["batch_stats"]} if own.get("batch_stats") else {}
        params = {**variables["params"], NAME: own["params"]}
        return {**variables, "params": params, "batch_stats": {**variables["batch_stats"], **stats}}

    def find(self, variables: Variables) -> Variables:
        """The encoder's own variables among a stage's; no gradient reaches a frozen one."""
        if not self.trained:
            return jax.lax.stop_gradient(variables["frozen"][NAME])
        return {"params": variables["params"][NAME], "batch_stats": variables["batch_stats"].get(NAME, {})}

    def __call__(self, own: Variables, pictures: Array) -> Array:
        """own: as `find` gives them; pictures: [B, V, H, W, 3] in [0, 1] -> tokens [B, V, P, C] float32."""
        if isinstance(self.net, vit.ViT):
            tokens = self._transformed(self.net, own, pictures)
        else:
            tokens = vision_tokens(self.net, own, pictures, self.size, normalise=self.normalise, pooled=self.pooled)
        return tokens.reshape(*pictures.shape[:2], self.tokens, self.net.width)

    def _transformed(self, net: vit.ViT, own: Variables, pictures: Array) -> Array:
        """[B, V, H, W, 3] -> [B V, P, C] or, pooled, [B V, C]."""
        statistics = self.statistics if self.normalise else None
        x = prepared(pictures.reshape(-1, *pictures.shape[2:]), self.size, statistics)
        found: Any = net.apply({"params": own["params"]}, x)
        token, patches = found
        if not self.pooled:
            return patches
        return token if self.pooling == "class" else patches.mean(1)

    def see(self, own: Variables, batch: Batch, views: Sequence[str]) -> Array:
        """Tokens [B, V, P, C] float32 of every view's last picture; those that the batch carries, if it does."""
        if not (self.features and batch.features):
            return self(own, pictures(batch, views))
        return jnp.stack([jnp.asarray(batch.features[view])[:, -1] for view in views], axis=1).astype(jnp.float32)

    def encode(self, own: Variables, images: Array, text: Array | None = None) -> Array:
        """uint8 [B, H, W, 3] -> [B, P, C] float32."""
        return self(own, in_unit_range(images)[:, None])[:, 0]

    def key(self, own: Variables) -> dict[str, Any]:
        """All that tokens depend on, JSON-able; see t2p.methods.base.Encoder."""
        names = [field.name for field in fields(self.net) if field.name not in ("dtype", "parent", "name")]
        return {
            **{name: getattr(self.net, name) for name in names},
            **({} if self.statistics == IMAGENET else {"statistics": self.statistics}),
            "compute": jnp.dtype(self.net.dtype).name,
            "size": self.size,
            "resize": "bilinear, half-pixel centres, no antialiasing",
            "normalise": self.normalise,
            "pooled": "class" if self.pooled and self.pooling == "class" else self.pooled,
            "weights": digest(own),
        }

    def exact(self) -> ImageEncoder:
        """The same in float32."""
        return replace(self, net=self.net.clone(dtype=jnp.float32))

    def flops(self) -> float:
        """Of one picture, forward; none where tokens are read."""
        return 0.0 if self.features else self.net.flops(self.size)


def _net(chosen: ml_collections.ConfigDict, dtype: Any) -> ResNet | vit.ViT:
    if chosen.encoder in vit.VARIANTS:
        return vit.ViT(**vit.VARIANTS[chosen.encoder], dtype=dtype)
    blocks, widths = tuple(chosen.blocks) or VARIANTS[chosen.encoder]["blocks"], tuple(chosen.widths)
    if len(blocks) != len(widths):
        raise UserError(f"the image encoder has {len(blocks)} stages of blocks, and widths for {len(widths)}")
    variant = {**VARIANTS[chosen.encoder], "blocks": blocks}
    return ResNet(**variant, norm=chosen.norm, dtype=dtype, widths=widths, stem=chosen.stem)


def _check_names(encoder: str, pooled: bool, pooling: str) -> None:
    """UserError for an encoder that there is not, or a token that it does not have."""
    known = (*VARIANTS, *vit.VARIANTS)
    if encoder not in known:
        raise UserError(f"the image encoder is {encoder!r}; expected one of {', '.join(known)}")
    if pooling not in POOLINGS:
        raise UserError(f"the image encoder's pooling is {pooling!r}; expected one of {', '.join(POOLINGS)}")
    if pooling == "class" and encoder in VARIANTS:
        raise UserError(f"the image encoder's pooling is 'class', and {encoder} has no class token: take 'mean'")
    if pooling == "class" and not pooled:
        raise UserError("the image encoder's pooling is 'class' and pooled False: set pooled to True to see that token")


def pictures(batch: Batch, views: Sequence[str]) -> Array:
    """[B, V, H, W, 3] float32 in [0, 1]: the last picture of every view."""
    return in_unit_range(jnp.stack([batch.images[view][:, -1] for view in views], axis=1))


def in_unit_range(images: Array) -> Array:
    """uint8 -> float32 in [0, 1]."""
    return images.astype(jnp.float32) / 255


def side_by_side(tokens: Array) -> Array:
    """[B, V, P, C] -> [B, P, V C]: the views of a place on one token (inverse dynamics)."""
    b, v, p, c = tokens.shape
    return tokens.swapaxes(1, 2).reshape(b, p, v * c)


def one_after_the_other(tokens: Array) -> Array:
    """[B, V, P, C] -> [B, V P, C]: view by view (forward dynamics)."""
    b, v, p, c = tokens.shape
    return tokens.reshape(b, v * p, c)
