"""The encoder of T5 (Raffel et al. 2020) in Flax, of the first version (ReLU) and of 1.1 (gated GELU), read from a
local Hugging Face directory as text.py's BERT is.

What is its own: norms by the root mean square alone, no biases, no scaling of attention, and a table of biases by
relative position in place of position embeddings, which the first layer holds for all.

Letters: b sentences, l tokens, h heads, d channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from t2p.io import PathLike, UserError, load_arrays, read_json
from t2p.models.layers import Array, Linear, attention
from t2p.models.text import TextModel, load_tokenizer, read_params, text_folder

FEED_FORWARDS = ("relu", "gated-gelu")  # of version 1.0 and of 1.1


def position_buckets(length: int, buckets: int, max_distance: int) -> np.ndarray:
    """[length, length] int32, query by key: the row of the table of biases for a key so far ahead of or behind a query.

    The first half of the buckets is for keys behind, the second for keys ahead. Half of each is for single distances,
    the others widen logarithmically up to `max_distance`; whatever is farther shares the last."""
    ahead = np.arange(length)[None] - np.arange(length)[:, None]
    side = buckets // 2
    single = side // 2
    distance = np.abs(ahead)
    # In float32 as in the original: it decides in which bucket a distance falls that lies on a border.
    ratio = np.maximum(distance, 1).astype(np.float32) / np.float32(single)
    share = np.log(ratio.astype(np.float64)).astype(np.float32) / np.float32(math.log(max_distance / single))
    wide = single + (share * np.float32(side - single)).astype(np.int32)
    bucket = np.where(distance < single, distance, np.minimum(wide, side - 1))
    return (bucket + side * (ahead > 0)).astype(np.int32)


class T5Layer(nn.Module):
    """Pre-norm transformer layer. bias: [1, h, l, l]; mask: [b, 1, 1, l], True on real tokens."""

    heads: int
    head_dim: int
    hidden: int
    gated: bool
    epsilon: float

    @nn.compact
    def __call__(self, x: Array, bias: Array, mask: Array) -> Array:
        b, length, d = x.shape
        inner = self.heads * self.head_dim
        y = nn.RMSNorm(self.epsilon, name="attention_norm")(x)
        q, k, v = (
            Linear(inner, use_bias=False, name=n)(y).reshape(b, length, self.heads, -1)
            for n in ("query", "key", "value")
        )
        q = q * math.sqrt(self.head_dim)  # `attention` divides by it, T5 does not
        y = attention(q, k, v, mask=mask, bias=bias, implementation="matmul").reshape(b, length, inner)
        x = x + Linear(d, use_bias=False, name="out")(y)
        return x + self._mlp(nn.RMSNorm(self.epsilon, name="mlp_norm")(x))

    def _mlp(self, x: Array) -> Array:
        y = Linear(self.hidden, use_bias=False, name="fc1")(x)
        if self.gated:
            y = y * nn.gelu(Linear(self.hidden, use_bias=False, name="gate")(x), approximate=True)
        else:
            y = nn.relu(y)
        return Linear(x.shape[-1], use_bias=False, name="fc2")(y)


class T5Encoder(nn.Module):
    """See `__call__`. buckets, max_distance: see `position_buckets`; gated: version 1.1's feed-forward."""

    vocabulary: int
    dim: int
    depth: int
    heads: int
    head_dim: int
    hidden: int
    gated: bool = False
    buckets: int = 32
    max_distance: int = 128
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, tokens: Array, mask: Array) -> tuple[Array, Array]:
        """tokens, mask: [b, l], int and bool. Returns token features [b, l, d] and those of the first token [b, d]:
        T5 has no token for the whole sentence, and AMPLIFY's release takes the first in its place. Features where the
        mask is False mean nothing."""
        x = self.param("word", nn.initializers.normal(1.0), (self.vocabulary, self.dim))[tokens]
        table = self.param("position_bias", nn.initializers.normal(self.dim**-0.5), (self.buckets, self.heads))
        places = position_buckets(tokens.shape[1], self.buckets, self.max_distance)
        bias = jnp.moveaxis(table[places], -1, 0)[None]
        for i in range(self.depth):
            layer = T5Layer(self.heads, self.head_dim, self.hidden, self.gated, self.epsilon, name=f"layer_{i}")
            x = layer(x, bias, mask[:, None, None])
        x = nn.RMSNorm(self.epsilon, name="norm")(x)
        return x, x[:, 0]


def load_t5(directory: PathLike) -> TextModel:
    """Reads a directory as huggingface_hub lays it out; a decoder in it is left out. UserError names a file that is
    missing or does not fit."""
    folder = text_folder(directory, "a T5", "google-t5/t5-small")
    config = read_json(folder / "config.json")
    if config.get("model_type") != "t5":
        raise UserError(f"{folder}/config.json describes a {config.get('model_type')!r}; expected model_type 't5'")
    model = t5_from_config(config, f"{folder}/config.json")
    params = t5_params(model, load_arrays(folder / "model.safetensors"), f"{folder}/model.safetensors")
    return TextModel(model, params, load_tokenizer(folder, "<pad>", model.vocabulary), None)


def t5_from_config(config: Mapping[str, Any], file: str) -> T5Encoder:
    """config: what a config.json holds; file: its name, for the UserError about what does not fit."""
    needed = ("vocab_size", "d_model", "num_layers", "num_heads", "d_kv", "d_ff")
    if missing := [name for name in needed if name not in config]:
        raise UserError(f"{file} lacks {', '.join(missing)}")
    forward = config.get("feed_forward_proj", "relu")
    if forward not in FEED_FORWARDS:
        raise UserError(f"{file} has feed_forward_proj {forward!r}; expected {' or '.join(FEED_FORWARDS)}")
    return T5Encoder(
        vocabulary=config["vocab_size"],
        dim=config["d_model"],
        depth=config["num_layers"],
        heads=config["num_heads"],
        head_dim=config["d_kv"],
        hidden=config["d_ff"],
        gated=forward == "gated-gelu",
        buckets=config.get("relative_attention_num_buckets", 32),
        max_distance=config.get("relative_attention_max_distance", 128),
        epsilon=config.get("layer_norm_epsilon", 1e-6),
    )


def _plain_name(name: str) -> str:
    """As the encoder alone calls it. The whole model shares its word table with the decoder ("shared")."""
    return "embed_tokens.weight" if name == "shared.weight" else name.removeprefix("encoder.")


def t5_names(model: T5Encoder) -> dict[str, str]:
    """{official name: ours}, for every parameter of the network."""
    first = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    names = {"embed_tokens.weight": "word", first: "position_bias", "final_layer_norm.weight": "norm/scale"}
    forward = {"wi_0": "gate", "wi_1": "fc1"} if model.gated else {"wi": "fc1"}
    for i in range(model.depth):
        official, ours = f"block.{i}.layer", f"layer_{i}"
        for theirs, name in {"q": "query", "k": "key", "v": "value", "o": "out"}.items():
            names[f"{official}.0.SelfAttention.{theirs}.weight"] = f"{ours}/{name}/kernel"
        for theirs, name in (forward | {"wo": "fc2"}).items():
            names[f"{official}.1.DenseReluDense.{theirs}.weight"] = f"{ours}/{name}/kernel"
        names[f"{official}.0.layer_norm.weight"] = f"{ours}/attention_norm/scale"
        names[f"{official}.1.layer_norm.weight"] = f"{ours}/mlp_norm/scale"
    return names


def t5_params(model: T5Encoder, arrays: Mapping[str, np.ndarray], file: str) -> dict[str, Any]:
    """Parameters of an encoder from a state dict, its own or the whole model's; UserError as of `read_params`."""
    plain = {_plain_name(name): x for name, x in arrays.items()}
    return read_params(model, t5_names(model), plain, file)
