"""Runs AMPLIFY's frozen encoders on recorded inputs: the language encoder (T5) and the image encoder (ResNet)."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t2p.convert.base import Arrays, to_variables
from t2p.convert.resnet import Names, official_shapes, resnet_from_arrays, resnet_rows
from t2p.geometry.resample import resize_bilinear
from t2p.models.resnet import IMAGENET, ResNet, make_resnet, vision_tokens
from t2p.models.t5 import T5Encoder, t5_from_config, t5_params
from t2p.types import Array


def t5_encoder(meta: Mapping[str, Any], inputs: Arrays, checkpoint: Arrays) -> dict[str, np.ndarray]:
    """Fixture amplify/t5_encoder. inputs: input_ids and attention_mask [b, l]; checkpoint: the encoder's state dict."""
    config = dict(meta["config"])
    config["feed_forward_proj"] = config["feed_forward"].split()[0]  # "relu (v1.0)"
    config["layer_norm_epsilon"] = config["layer_norm_eps"]
    model = t5_from_config(config, "meta.json")
    tokens, mask = jnp.asarray(inputs["input_ids"], jnp.int32), jnp.asarray(inputs["attention_mask"], bool)
    features, first = _encode(model, t5_params(model, checkpoint, "the checkpoint"), tokens, mask)
    return {"last_hidden_state": np.asarray(features), "text_emb": np.asarray(first)}


@partial(jax.jit, static_argnames="model")
def _encode(model: T5Encoder, params: Any, tokens: Array, mask: Array) -> tuple[Array, Array]:
    return model.apply({"params": params}, tokens, mask)


def vision_resnet(meta: Mapping[str, Any], inputs: Arrays, checkpoint: Arrays | None) -> dict[str, np.ndarray]:
    """Fixture amplify/vision_resnet18_full. inputs: images [b, v, H, W, 3] uint8; checkpoint: the official state dict,
    or None: then the weights are made by the recipe of meta.json.

    Of the resized pictures corners are recorded, of as many and as large as meta.json says: [v, 3, h, w] of the first
    row, or [b v, 3, h, w], or [b, v, 3, h, w] of all."""
    config = meta["config"]
    if checkpoint is None:
        net, variables = recipe_resnet(config["model_name"], meta["seed"])
    else:
        net, variables = resnet_from_arrays(checkpoint)
    *leading, _, height, width = meta["arrays"]["outputs"]["resized_patch"]["shape"]
    pictures = _in_unit_range(inputs["images"])
    resized = resize_bilinear(pictures.reshape(-1, *pictures.shape[2:])[: math.prod(leading)], picture_size(config))
    corners = np.moveaxis(np.asarray(resized)[:, :height, :width], -1, 1)
    return {
        "img_tokens": np.asarray(image_tokens(config, net, variables, inputs["images"])),
        "resized_patch": corners.reshape(*leading, *corners.shape[1:]),
    }


def image_tokens(config: Mapping[str, Any], net: ResNet, variables: Any, images: np.ndarray) -> Array:
    """[b, v, P, C] as the release's VisionEncoder makes them of images [b, v, H, W, 3], uint8 or in [0, 1].

    config: of it: img_size, get_patches, patch_pooling, and mean_std_normalisation; those that are left out: 224, true,
    null, null."""
    pictures = _in_unit_range(images)
    tokens = _tokens(net, variables, pictures, picture_size(config), is_pooled(config), is_normalised(config))
    return tokens.reshape(*images.shape[:2], -1, net.width)


def picture_size(config: Mapping[str, Any]) -> tuple[int, int]:
    side = config.get("img_size", 224)
    return side, side


def is_pooled(config: Mapping[str, Any]) -> bool:
    """Whether the encoder gives one token for each picture."""
    return not config.get("get_patches", True) or config.get("patch_pooling") == "avg"


def is_normalised(config: Mapping[str, Any]) -> bool:
    """mean_std_normalisation: null or false, or ImageNet's: true, "imagenet", or [mean, std], {"mean", "std"}."""
    value = config.get("mean_std_normalisation")
    if value is None or value is False:
        return False
    if value is True or value == "imagenet":
        return True
    numbers = [value["mean"], value["std"]] if isinstance(value, Mapping) else value
    if np.shape(numbers) == (2, 3) and np.allclose(numbers, IMAGENET, atol=1e-6):
        return True
    raise ValueError(f"mean_std_normalisation is {value!r}; expected null, or ImageNet's mean and deviation {IMAGENET}")


def _in_unit_range(images: np.ndarray) -> Array:
    pixels = jnp.asarray(images, jnp.float32)
    return pixels / 255 if np.issubdtype(images.dtype, np.integer) else pixels


@partial(jax.jit, static_argnames=("net", "size", "pooled", "normalise"))
def _tokens(net: ResNet, variables: Any, images: Array, size: tuple[int, int], pooled: bool, normalise: bool) -> Array:
    return vision_tokens(net, variables, images, size, pooled=pooled, normalise=normalise)


def recipe_resnet(variant: str, seed: int) -> tuple[ResNet, dict[str, Any]]:
    """A network of a published size with the weights that the fixture's "checkpoint_recipe" describes."""
    net, names = make_resnet(variant, "batch"), Names("model.", sequential=True)
    settings = {key: getattr(net, key) for key in ("blocks", "bottleneck", "widths", "stem")}
    rows = resnet_rows(settings, names)
    weights = {name: recipe_weight(name, shape, seed) for name, shape in official_shapes(net, rows).items()}
    return net, to_variables(rows, weights)


def recipe_weight(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """One array of the recipe, under its official name: normal numbers of its own, sized by what it is."""
    r = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape)
    if len(shape) == 4:
        value = r * np.sqrt((1 if "conv2" in name else 2) / np.prod(shape[1:]))
    elif name.endswith("running_var"):
        value = 1 + 0.3 * np.tanh(r)
    elif name.endswith(("running_mean", "bias")):
        value = 0.1 * r
    else:
        value = 1 + 0.1 * r
    return value.astype(np.float32)
