"""Diffusion Policy (Chi et al. 2023, CNN variant, images) as 3PoinTr's baseline: one look, one chunk of setpoints.

3PoinTr's comparison gives no settings of it: these are Diffusion Policy's own, with one observation step, and a
horizon of T setpoints played open loop (Hung et al. 2026, section IV).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import ml_collections

from t2p import pytrees  # noqa: F401
from t2p.io import UserError
from t2p.methods import heads
from t2p.methods.base import Variables
from t2p.methods.bounds import COUNT, check_bounds
from t2p.methods.normalise import Limits, empty_statistics
from t2p.methods.open_loop import SETPOINT, SETPOINT_WIDTHS, ChunkStage, state_of, undo_limits
from t2p.models.resnet import IMAGENET, ResNet, make_resnet
from t2p.types import Array, Batch, FieldWindow, Observe, WindowSpec

STAGE = "diffusion_policy.policy"
STATE = ("gripper", "tool")  # proprioception, [1] and [9], in sorted order (released code)
BOUNDS = {"model.steps": COUNT, **heads.BOUNDS}


def configure(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Adds the keys that this stage reads to a base config, at Diffusion Policy's released values for real images but
    for the crop, which keeps the published share (0.9) of pictures of 128 x 128, and returns it."""
    config.stage = STAGE
    config.model = ml_collections.ConfigDict(
        {
            "steps": 9,  # T: setpoints of an episode
            "encoder": "resnet18",  # one per view, from scratch; with group norm, as weights are averaged
            "crop": (116, 116),  # random in training, central later; published: 216 x 288 of 240 x 320
            "signed_images": True,  # ImageNet's statistics applied to pictures in [-1, 1] (released code), not [0, 1]
        }
    )
    heads.configure(config.model, unet="image")
    config.model.diffusion.update({"method": "ddim", "inference_steps": 100, "reduction": "mean"})
    config.window = ml_collections.ConfigDict({"views": ("front",), "image_size": (128, 128)})
    config.statistics = empty_statistics("actions", *(f"proprio/{key}" for key in STATE))
    config.checkpoint.best = "val/position_mm"
    return config


@dataclass(frozen=True)
class DiffusionPolicyStage(ChunkStage):
    """views: sorted; each has an encoder of its own. state: limits of the proprioception by STATE. image_size: of the
    pictures; crop: what is seen of them."""

    needs: ClassVar[tuple[str, ...]] = ("images", "actions", "proprio")

    net: ResNet
    head: heads.DiffusionHead
    steps: int
    views: tuple[str, ...]
    image_size: tuple[int, int]
    crop: tuple[int, int]
    signed_images: bool
    actions: Limits
    state: tuple[Limits, ...]

    @classmethod
    def from_config(cls, config: ml_collections.ConfigDict) -> DiffusionPolicyStage:
        check_bounds(config, BOUNDS)
        m, w, dtype = config.model, config.window, jnp.dtype(config.dtype)
        size, crop, views = tuple(w.image_size), tuple(m.crop), tuple(sorted(w.views))
        _check(size, crop, views)
        net = make_resnet(m.encoder, "group", dtype)
        condition = len(views) * net.width + SETPOINT
        head = heads.DiffusionHead.from_config(m, (m.steps, SETPOINT), condition, dtype)
        actions = Limits.from_config(config.statistics, "actions")
        state = tuple(Limits.from_config(config.statistics, f"proprio/{key}") for key in STATE)
        return cls(net, head, m.steps, views, size, crop, m.signed_images, actions, state)

    @property
    def observe(self) -> Observe:
        return Observe(images=self.views, size=self.image_size, every_step=False)

    @property
    def window(self) -> WindowSpec:
        return WindowSpec(
            views=self.views,
            whole=True,
            images=FieldWindow((0,)),
            actions=FieldWindow(tuple(range(self.steps))),
            proprio=FieldWindow((0,)),
            proprio_keys=STATE,
            image_size=self.image_size,
            widths=SETPOINT_WIDTHS,
        )

    def init(self, rng: jax.Array, batch: Batch) -> Variables:
        head_rng, *rngs = jax.random.split(rng, 1 + len(self.views))
        image = jnp.zeros((1, *self.crop, 3))
        encoder = {view: self.net.init(key, image)["params"] for view, key in zip(self.views, rngs, strict=True)}
        head = self.head.init(head_rng, jnp.zeros((1, self.head.net.global_dim)))
        return {"params": {"encoder": encoder, "head": head}, "batch_stats": {}, "frozen": {}}

    def flops_per_example(self, batch: Batch) -> float:
        images = 3 * len(self.views) * self.net.flops(self.crop)
        return images + self.head.train_flops(self.head.net.global_dim)

    def encode(self, variables: Variables, batch: Batch, rng: jax.Array | None) -> tuple[Array, Any]:
        """Features of each view, then the normalised state. Pictures are cropped at random in training, each row of
        each view by itself."""
        features = []
        for number, view in enumerate(self.views):
            images = jnp.asarray(batch.images[view])[:, 0]
            self._check_size(view, images)
            key = None if rng is None else jax.random.fold_in(rng, number)
            seen = normalise_images(crop_images(images, self.crop, key), self.signed_images)
            params = variables["params"]["encoder"][view]
            features.append(self.net.apply({"params": params}, seen)[0])
        state = [limits.normalise(state_of(batch, name)) for name, limits in zip(STATE, self.state, strict=True)]
        return jnp.concatenate([*features, *state], axis=-1), ()

    def normalise(self, setpoints: Array, batch: Batch, frame: Any) -> Array:
        return self.actions.normalise(setpoints)

    def undo(self, actions: Array, batch: Batch, frame: Any) -> Array:
        return undo_limits(self.actions, actions)

    def _check_size(self, view: str, images: Array) -> None:
        if images.shape[1:3] != self.image_size:
            raise UserError(
                f"view {view!r} has pictures of {images.shape[1:3]}; window.image_size is {self.image_size} (H, W)"
            )


def crop_images(images: Array, size: tuple[int, int], rng: jax.Array | None) -> Array:
    """[B, H, W, 3] -> [B, *size, 3]: at random, each row by itself, or without rng in the middle."""
    spare = jnp.array([images.shape[1] - size[0], images.shape[2] - size[1]])
    if rng is None:
        corners = jnp.broadcast_to(spare // 2, (len(images), 2))
    else:
        corners = jax.random.randint(rng, (len(images), 2), 0, spare + 1)
    cut = partial(jax.lax.dynamic_slice, slice_sizes=(*size, images.shape[-1]))
    return jax.vmap(lambda image, corner: cut(image, (corner[0], corner[1], 0)))(images, corners)


def normalise_images(images: Array, signed: bool) -> Array:
    """uint8 RGB -> float32, in [0, 1] or `signed` in [-1, 1], then by ImageNet's mean and standard deviation."""
    mean, std = (jnp.asarray(x, jnp.float32) for x in IMAGENET)
    x = images.astype(jnp.float32) / 255
    return ((2 * x - 1 if signed else x) - mean) / std


def _check(size: tuple[int, ...], crop: tuple[int, ...], views: tuple[str, ...]) -> None:
    if len(crop) != 2 or len(size) != 2 or not all(1 <= c <= s for c, s in zip(crop, size)):
        raise UserError(f"model.crop is {crop} of window.image_size {size}; expected (H, W) within it")
    if not views or len(set(views)) != len(views):
        raise UserError(f"window.views is {views}; expected one or more different views")
