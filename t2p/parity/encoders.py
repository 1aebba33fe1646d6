"""Runs AMPLIFY's frozen encoders on recorded inputs: the language encoder (T5) and the image encoder (ResNet)."""

from __future__ import annotations

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
from t2p.models.resnet import ResNet, make_resnet, vision_tokens
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

    Of the resized pictures only the corner of the first row's is recorded, as large as meta.json says."""
    config = meta["config"]
    if checkpoint is None:
        net, variables = recipe_resnet(config["model_name"], meta["seed"])
    else:
        net, variables = resnet_from_arrays(checkpoint)
    images = inputs["images"].astype(np.float32) / 255
    size = (config["img_size"],) * 2
    tokens = _tokens(net, variables, jnp.asarray(images), size, not config["get_patches"])
    corner = meta["arrays"]["outputs"]["resized_patch"]["shape"][-2:]
    resized = resize_bilinear(jnp.asarray(images[0]), size)[:, : corner[0], : corner[1]]
    return {
        "img_tokens": np.asarray(tokens).reshape(*images.shape[:2], -1, net.width),
        "resized_patch": np.moveaxis(np.asarray(resized), -1, 1),
    }


@partial(jax.jit, static_argnames=("net", "size", "pooled"))
def _tokens(net: ResNet, variables: Any, images: Array, size: tuple[int, int], pooled: bool) -> Array:
    return vision_tokens(net, variables, images, size, pooled=pooled)


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
