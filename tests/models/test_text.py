"""BERT read from a directory, against a NumPy version written from the paper's equations."""

import json
import math

import numpy as np
import pytest
from safetensors.numpy import save_file

from t2p.io import UserError
from t2p.methods.language import embed
from t2p.models.text import load_bert

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "open", "the", "drawer", "close", "##d", "red"]
DIM, DEPTH, HEADS, HIDDEN = 12, 2, 3, 20
SENTENCES = ["open the drawer", "closed"]
TOKENS = [[2, 4, 5, 6, 3], [2, 7, 8, 3]]


def weights(rng):
    w = {
        "embeddings.word_embeddings.weight": (len(WORDS), DIM),
        "embeddings.position_embeddings.weight": (32, DIM),
        "embeddings.token_type_embeddings.weight": (2, DIM),
        "embeddings.LayerNorm.weight": (DIM,),
        "embeddings.LayerNorm.bias": (DIM,),
        "pooler.dense.weight": (DIM, DIM),
        "pooler.dense.bias": (DIM,),
    }
    for i in range(DEPTH):
        sizes = {f"attention.self.{n}": (DIM, DIM) for n in ("query", "key", "value")}
        sizes |= {"attention.output.dense": (DIM, DIM), "intermediate.dense": (HIDDEN, DIM)}
        sizes |= {"output.dense": (DIM, HIDDEN), "attention.output.LayerNorm": (DIM,), "output.LayerNorm": (DIM,)}
        for name, shape in sizes.items():
            w[f"encoder.layer.{i}.{name}.weight"] = shape
            w[f"encoder.layer.{i}.{name}.bias"] = shape[:1]
    return {name: 0.5 * rng.standard_normal(shape).astype(np.float32) for name, shape in w.items()}


def write(folder, w, **config):
    folder.mkdir(exist_ok=True)
    settings = {
        "model_type": "bert",
        "hidden_act": "gelu",
        "vocab_size": len(WORDS),
        "hidden_size": DIM,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "intermediate_size": HIDDEN,
        "max_position_embeddings": 32,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-3,  # large, so that a wrong one shows
    }
    (folder / "config.json").write_text(json.dumps(settings | config))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))
    save_file(w, folder / "model.safetensors")
    return folder


def tokenizer():
    """A WordPiece tokenizer as Hugging Face stores BERT's."""
    special = [{"SpecialToken": {"id": n, "type_id": 0}} for n in ("[CLS]", "[SEP]")]
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": WORDS[i], "special": True, "normalized": False, "single_word": False}
            | {"lstrip": False, "rstrip": False}
            for i in range(4)
        ],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "lowercase": True}
        | {"handle_chinese_chars": True, "strip_accents": None},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special[0], {"Sequence": {"id": "A", "type_id": 0}}, special[1]],
            "pair": [],
            "special_tokens": {n: {"id": n, "ids": [WORDS.index(n)], "tokens": [n]} for n in ("[CLS]", "[SEP]")},
        },
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##"}
        | {"max_input_chars_per_word": 100, "vocab": {word: i for i, word in enumerate(WORDS)}},
    }


def reference(w, tokens):
    """Devlin et al. 2019 on one sentence without padding, in float64: token features and the pooled first token."""
    w = {k: v.astype(np.float64) for k, v in w.items()}

    def linear(name, x):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-3)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    x = w["embeddings.word_embeddings.weight"][tokens] + w["embeddings.position_embeddings.weight"][: len(tokens)]
    x = norm("embeddings.LayerNorm", x + w["embeddings.token_type_embeddings.weight"][0])
    for i in range(DEPTH):
        layer = f"encoder.layer.{i}"
        q, k, v = (linear(f"{layer}.attention.self.{n}", x) for n in ("query", "key", "value"))
        heads = []
        for part in np.split(np.arange(DIM), HEADS):
            logits = q[:, part] @ k[:, part].T / math.sqrt(len(part))
            share = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
            heads.append(share @ v[:, part])
        x = norm(
            f"{layer}.attention.output.LayerNorm",
            x + linear(f"{layer}.attention.output.dense", np.concatenate(heads, -1)),
        )
        y = linear(f"{layer}.intermediate.dense", x)
        y = y * 0.5 * (1 + np.vectorize(math.erf)(y / math.sqrt(2)))
        x = norm(f"{layer}.output.LayerNorm", x + linear(f"{layer}.output.dense", y))
    return x, np.tanh(linear("pooler.dense", x[0]))


@pytest.fixture
def bert(tmp_path):
    w = weights(np.random.default_rng(0))
    return w, write(tmp_path / "bert", w)


def test_pooled_and_mean_features_match_numpy(bert):
    w, folder = bert
    pooled = embed({"encoder": "bert", "path": str(folder), "width": DIM}, SENTENCES)
    means = embed({"encoder": "bert_mean", "path": str(folder), "width": DIM}, SENTENCES)
    for sentence, tokens in zip(SENTENCES, TOKENS, strict=True):
        features, first = reference(w, tokens)
        mean = features.mean(0)
        np.testing.assert_allclose(pooled[sentence], first, atol=2e-6)
        np.testing.assert_allclose(means[sentence], mean / np.linalg.norm(mean), atol=2e-6)


def test_tokens_are_cut_and_padded(bert):
    features, _, mask = load_bert(bert[1])(["open the red drawer the drawer", "open"], 5)
    assert features.shape == (2, 5, DIM)
    np.testing.assert_array_equal(mask, [[True] * 5, [True] * 3 + [False] * 2])


def test_older_names_and_extra_heads_are_read(bert, tmp_path):
    w, folder = bert
    old = {f"bert.{k}".replace("LayerNorm.weight", "LayerNorm.gamma"): v for k, v in w.items()}
    old = {k.replace("LayerNorm.bias", "LayerNorm.beta"): v for k, v in old.items()}
    old["cls.predictions.bias"] = np.zeros(len(WORDS), np.float32)
    other = write(tmp_path / "old", old)
    a, b = (embed({"encoder": "bert", "path": str(p), "width": DIM}, SENTENCES) for p in (folder, other))
    np.testing.assert_array_equal(a[SENTENCES[0]], b[SENTENCES[0]])


def test_missing_files_say_what_to_fetch(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"lacks tokenizer\.json, model\.safetensors.*hf download"):
        load_bert(tmp_path)


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        (lambda w: w.pop("encoder.layer.1.output.dense.bias"), {}, r"lacks encoder\.layer\.1\.output\.dense\.bias"),
        (lambda w: None, {"hidden_size": 24}, "shapes"),
        (lambda w: None, {"model_type": "t5"}, "t5"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, change, config, message):
    w = weights(np.random.default_rng(0))
    change(w)
    with pytest.raises(UserError, match=message):
        load_bert(write(tmp_path / "bert", w, **config))


def test_a_bert_without_pooler_points_to_the_mean(tmp_path):
    w = {k: v for k, v in weights(np.random.default_rng(0)).items() if not k.startswith("pooler")}
    folder = write(tmp_path / "bert", w)
    with pytest.raises(UserError, match="bert_mean"):
        embed({"encoder": "bert", "path": str(folder), "width": DIM}, ["open"])
    assert embed({"encoder": "bert_mean", "path": str(folder), "width": DIM}, ["open"])["open"].shape == (DIM,)
