"""Sentences become vectors, once per distinct sentence and before training.

Encoders: "bert" (a local BERT's pooler output over 25 tokens: ATM's bert-base-cased), "bert_mean" (the mean of its
token features, length one: MiniLM sentence encoders), "t5" (the first token of a local T5 encoder over at most 32:
AMPLIFY's t5-small), "precomputed" (a file of vectors) and "hashed" (no weights).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from t2p.io import UserError, load_arrays

ATM_TOKENS = 25  # sentences are padded to this length in the released code
T5_TOKENS = 32  # so many does AMPLIFY's released code read
MEAN_TOKENS = 128  # of the MiniLM encoders; padding does not change a mean over real tokens

Vectors = dict[str, np.ndarray]


def embed(text: Mapping[str, Any], sentences: Iterable[str]) -> Vectors:
    """{sentence: float32 [width]} for each distinct sentence.

    text: a config's {"encoder", "path", "width"}. Raises UserError when the encoder is unknown, its files are
    missing, a sentence has no vector, or vectors are not `width` wide."""
    encoder, distinct = text["encoder"], sorted(set(sentences))
    check_encoder(encoder)
    if encoder != "hashed" and not text["path"]:
        raise UserError(
            f"text.encoder {encoder!r} needs text.path: {_WHAT_PATH[encoder]}; "
            "give it with --text_path (t2p eval, predict, convert) or --config.text.path (t2p train)"
        )
    vectors = ENCODERS[encoder](text["path"], text["width"], distinct) if distinct else {}
    for sentence, vector in vectors.items():
        if vector.shape != (text["width"],):
            raise UserError(
                f"the {encoder!r} vector of {sentence!r} has shape {vector.shape}, but text.width is {text['width']}; "
                f"set text.width to the encoder's width"
            )
    return vectors


def check_encoder(name: str, setting: str = "text.encoder") -> None:
    """UserError names the encoders that there are; setting: where the name was given."""
    if name not in ENCODERS:
        raise UserError(f"{setting} is {name!r}; expected one of {', '.join(ENCODERS)}")


_WHAT_PATH = {
    "precomputed": "an .npz (or .npy dict) of one vector per sentence, named by the sentence",
    "bert": "a directory with config.json, tokenizer.json and model.safetensors of a BERT",
    "bert_mean": "a directory with config.json, tokenizer.json and model.safetensors of a sentence encoder",
    "t5": "a directory with config.json, tokenizer.json and model.safetensors of a T5",
}


def _hashed(_: str, width: int, sentences: list[str]) -> Vectors:
    return {s: hashed(s, width) for s in sentences}


def hashed(sentence: str, width: int) -> np.ndarray:
    """A bag of words and pairs of neighbouring words, each a fixed random vector of signs; scaled to a root mean
    square of one, the size of a pooled BERT vector's entries. Zeros for a sentence without words."""
    words = re.findall(r"\w+", sentence.lower())
    total = np.zeros(width)
    for feature in words + [f"{a} {b}" for a, b in pairwise(words)]:
        digest = hashlib.shake_256(feature.encode()).digest(-(-width // 8))
        total += 1.0 - 2.0 * np.unpackbits(np.frombuffer(digest, np.uint8))[:width]
    size = np.sqrt(np.mean(np.square(total)))
    return (total / size if size else total).astype(np.float32)


def _precomputed(path: str, _: int, sentences: list[str]) -> Vectors:
    arrays = load_arrays(path)
    if missing := [s for s in sentences if s not in arrays]:
        raise UserError(
            f"{path} has no vector for {len(missing)} of {len(sentences)} sentences: {missing[:5]}; "
            "it must hold one array per sentence, named by the sentence"
        )
    return {s: np.asarray(arrays[s], np.float32).reshape(-1) for s in sentences}


def _bert(path: str, width: int, sentences: list[str]) -> Vectors:
    from t2p.models.text import load_bert

    _, pooled, _ = load_bert(path)(sentences, ATM_TOKENS)
    if pooled is None:
        raise UserError(f"the weights in {path} have no pooler; text.encoder 'bert_mean' does not need one")
    return dict(zip(sentences, np.asarray(pooled), strict=True))


def _bert_mean(path: str, width: int, sentences: list[str]) -> Vectors:
    from t2p.models.text import load_bert, mean_pool

    features, _, mask = load_bert(path)(sentences, MEAN_TOKENS)
    return dict(zip(sentences, np.asarray(mean_pool(features, mask)), strict=True))


def _t5(path: str, width: int, sentences: list[str]) -> Vectors:
    from t2p.models.t5 import load_t5

    encoder = load_t5(path)
    _, mask = encoder.tokenize(sentences, T5_TOKENS + 1)
    if long := [s for s, count in zip(sentences, mask.sum(1), strict=True) if count > T5_TOKENS]:
        raise UserError(
            f"{len(long)} of {len(sentences)} sentences have more than {T5_TOKENS} tokens, all that the 't5' encoder "
            f"reads: {long[:3]}; shorten them"
        )
    _, first, _ = encoder(sentences, T5_TOKENS)
    return dict(zip(sentences, np.asarray(first), strict=True))


ENCODERS: dict[str, Callable[[str, int, list[str]], Vectors]] = {
    "hashed": _hashed,
    "precomputed": _precomputed,
    "bert": _bert,
    "bert_mean": _bert_mean,
    "t5": _t5,
}
