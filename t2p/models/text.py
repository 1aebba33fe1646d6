"""Text encoders read from a local Hugging Face directory: config.json, tokenizer.json and model.safetensors. Without
PyTorch, transformers or a network. Here: what all need, and BERT (Devlin et al. 2019) in Flax; MiniLM sentence encoders
are the same network. T5 is in t5.py.

Letters: b sentences, l tokens, d channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from t2p.io import PathLike, UserError, load_arrays, read_json
from t2p.models.layers import Array, LayerNorm, Linear, Mlp, attention


class BertLayer(nn.Module):
    """Post-norm transformer layer. mask: [b, 1, 1, l], True on real tokens."""

    heads: int
    hidden: int
    epsilon: float

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> Array:
        b, length, d = x.shape
        q, k, v = (Linear(d, name=n)(x).reshape(b, length, self.heads, -1) for n in ("query", "key", "value"))
        y = attention(q, k, v, mask=mask, implementation="matmul").reshape(b, length, d)
        x = LayerNorm(self.epsilon, name="attention_norm")(x + Linear(d, name="out")(y))
        return LayerNorm(self.epsilon, name="mlp_norm")(x + Mlp(self.hidden, name="mlp")(x))


class Bert(nn.Module):
    """See `__call__`. Fields are named as in config.json, shortened."""

    vocabulary: int
    positions: int
    types: int
    dim: int
    depth: int
    heads: int
    hidden: int
    epsilon: float
    pooler: bool

    @nn.compact
    def __call__(self, tokens: Array, mask: Array) -> tuple[Array, Array | None]:
        """tokens, mask: [b, l], int and bool. Returns token features [b, l, d] and, if the weights have a pooler,
        the pooled first token tanh(W x + b) [b, d]."""
        embed = nn.initializers.normal(0.02)
        x = self.param("word", embed, (self.vocabulary, self.dim))[tokens]
        x = x + self.param("position", embed, (self.positions, self.dim))[: tokens.shape[1]]
        x = x + self.param("type", embed, (self.types, self.dim))[0]  # one sentence: all tokens are of type 0
        x = LayerNorm(self.epsilon, name="norm")(x)
        for i in range(self.depth):
            x = BertLayer(self.heads, self.hidden, self.epsilon, name=f"layer_{i}")(x, mask[:, None, None])
        return x, jnp.tanh(Linear(self.dim, name="pooler")(x[:, 0])) if self.pooler else None


def mean_pool(features: Array, mask: Array) -> Array:
    """Sentence-transformers' pooling: the mean over real tokens, then length one. [b, l, d], [b, l] -> [b, d]."""
    weight = mask[..., None].astype(features.dtype)
    mean = (features * weight).sum(1) / jnp.maximum(weight.sum(1), 1)
    return mean / jnp.maximum(jnp.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)


Tokenize = Callable[[Sequence[str], int], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class TextModel:
    """A network with its weights and tokenizer, as a directory holds them.

    model: a Bert or a t5.T5Encoder; tokenize(sentences, length) -> tokens and mask, [b, length]; positions: the most
    tokens that the network takes (None: any number)."""

    model: nn.Module
    params: Mapping[str, Any]
    tokenize: Tokenize
    positions: int | None

    def __call__(self, sentences: Sequence[str], length: int) -> tuple[Array, Array | None, Array]:
        """Token features, pooled features (None without pooler) and mask; each sentence is cut or padded to
        `length` tokens (at most `positions`), the special ones at its ends included."""
        tokens, mask = self.tokenize(sentences, length if self.positions is None else min(length, self.positions))
        with jax.default_matmul_precision("highest"):
            return *jax.jit(self.model.apply)({"params": self.params}, tokens, mask), jnp.asarray(mask)


def load_bert(directory: PathLike) -> TextModel:
    """Reads a directory as huggingface_hub lays it out. UserError names a file that is missing or does not fit."""
    folder = text_folder(directory, "a BERT", "google-bert/bert-base-cased")
    arrays = {_plain_name(name): x for name, x in load_arrays(folder / "model.safetensors").items()}
    model = _from_config(read_json(folder / "config.json"), pooler="pooler.dense.weight" in arrays, where=folder)
    params = read_params(model, _names(model), arrays, f"{folder}/model.safetensors")
    return TextModel(model, params, load_tokenizer(folder, "[PAD]", model.vocabulary), model.positions)


def text_folder(directory: PathLike, what: str, example: str) -> Path:
    """The directory; UserError when it lacks files. what, example: the kind of model and one of the hub's names."""
    folder = Path(directory)
    missing = [name for name in ("config.json", "tokenizer.json", "model.safetensors") if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"the text encoder's directory {str(directory)!r} lacks {', '.join(missing)}. Download {what} with these "
            f"files, e.g. `hf download {example} --local-dir DIR`, and set config.text.path=DIR"
        )
    return folder


def _from_config(config: Mapping[str, Any], pooler: bool, where: Path) -> Bert:
    if config.get("model_type") != "bert" or config.get("hidden_act", "gelu") != "gelu":
        raise UserError(
            f"{where}/config.json describes a {config.get('model_type')!r} with {config.get('hidden_act')!r}; "
            "expected model_type 'bert' with 'gelu'"
        )
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise UserError(f"{where}/config.json asks for relative positions; only absolute ones are supported")
    return Bert(
        vocabulary=config["vocab_size"],
        positions=config["max_position_embeddings"],
        types=config["type_vocab_size"],
        dim=config["hidden_size"],
        depth=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        hidden=config["intermediate_size"],
        epsilon=config.get("layer_norm_eps", 1e-12),
        pooler=pooler,
    )


def _plain_name(name: str) -> str:
    """Without "bert.", and with the norms' older names (gamma, beta) replaced."""
    name = name.removeprefix("bert.")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


# Hugging Face's names -> ours, for one layer.
_LAYER = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "out",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "mlp/fc1",
    "output.dense": "mlp/fc2",
    "output.LayerNorm": "mlp_norm",
}


def _names(model: Bert) -> dict[str, str]:
    """{official name: ours}, for every parameter of the network."""
    tables = {"word_embeddings": "word", "position_embeddings": "position", "token_type_embeddings": "type"}
    names = {f"embeddings.{theirs}.weight": ours for theirs, ours in tables.items()}
    modules = {"embeddings.LayerNorm": "norm"} | ({"pooler.dense": "pooler"} if model.pooler else {})
    for i in range(model.depth):
        modules |= {f"encoder.layer.{i}.{theirs}": f"layer_{i}/{ours}" for theirs, ours in _LAYER.items()}
    for theirs, ours in modules.items():
        names[f"{theirs}.weight"] = f"{ours}/scale" if theirs.endswith("LayerNorm") else f"{ours}/kernel"
        names[f"{theirs}.bias"] = f"{ours}/bias"
    return names


def read_params(
    model: nn.Module, names: Mapping[str, str], arrays: Mapping[str, np.ndarray], file: str
) -> dict[str, Any]:
    """Parameters of a network of (tokens, mask) from {official name: ours}; other arrays (heads of a pre-training task)
    are left out. UserError for names that `file` lacks and for shapes other than the network's."""
    if missing := [theirs for theirs in names if theirs not in arrays]:
        raise UserError(f"{file} lacks {', '.join(missing)}")
    flat = {o: np.asarray(arrays[t].T if o.endswith("kernel") else arrays[t], np.float32) for t, o in names.items()}
    params = unflatten_dict(flat, sep="/")
    zeros = jax.ShapeDtypeStruct((1, 2), jnp.int32), jax.ShapeDtypeStruct((1, 2), jnp.bool_)
    wanted = jax.eval_shape(model.init, jax.random.key(0), *zeros)["params"]
    if jax.tree.map(np.shape, params) != jax.tree.map(lambda x: x.shape, wanted):
        raise UserError(f"the shapes in {file} are not those that its configuration describes")
    return params


def load_tokenizer(folder: Path, pad: str, vocabulary: int) -> Tokenize:
    """pad: the token that fills sentences up; vocabulary: number of tokens that the network knows."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as e:  # the library raises nothing more special
        raise UserError(f"{folder}/tokenizer.json is not a tokenizer that `tokenizers` reads ({e})") from e
    if (size := tokenizer.get_vocab_size()) > vocabulary:
        raise UserError(f"{folder}/tokenizer.json has {size} tokens, but config.json describes {vocabulary}")

    def tokenize(sentences: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        tokenizer.enable_truncation(length)
        tokenizer.enable_padding(length=length, pad_id=tokenizer.token_to_id(pad) or 0)
        encoded = tokenizer.encode_batch(list(sentences))
        return np.array([e.ids for e in encoded], np.int32), np.array([e.attention_mask for e in encoded], bool)

    return tokenize
