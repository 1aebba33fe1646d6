"""T5's encoder read from a directory, against a NumPy version written from the papers' equations."""

import json
from functools import partial

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from t2p.io import UserError
from t2p.methods.language import embed
from t2p.models.t5 import T5Encoder, load_t5, position_buckets

WORDS = ["<pad>", "</s>", "<unk>", "open", "the", "drawer", "close", "red"]
DIM, DEPTH, HEADS, HEAD_DIM, HIDDEN = 12, 2, 3, 5, 20
BUCKETS, DISTANCE = 8, 6
SENTENCES = ["open the drawer", "close the red red red drawer the open"]
TOKENS = [[3, 4, 5, 1], [6, 4, 7, 7, 7, 5, 4, 3, 1]]


def weights(gated=False, seed=0):
    inner = HEADS * HEAD_DIM
    w = {"shared.weight": (len(WORDS), DIM), "encoder.final_layer_norm.weight": (DIM,)}
    w["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = (BUCKETS, HEADS)
    for i in range(DEPTH):
        layer = f"encoder.block.{i}.layer"
        w |= {f"{layer}.0.SelfAttention.{n}.weight": (inner, DIM) for n in "qkv"}
        w |= {f"{layer}.1.DenseReluDense.{n}.weight": (HIDDEN, DIM) for n in (["wi_0", "wi_1"] if gated else ["wi"])}
        w[f"{layer}.0.SelfAttention.o.weight"] = (DIM, inner)
        w[f"{layer}.1.DenseReluDense.wo.weight"] = (DIM, HIDDEN)
        w |= {f"{layer}.{k}.layer_norm.weight": (DIM,) for k in (0, 1)}
    rng = np.random.default_rng(seed)
    return {name: 0.5 * rng.standard_normal(shape).astype(np.float32) for name, shape in w.items()}


def write(folder, w, gated=False, **config):
    folder.mkdir(exist_ok=True)
    settings = {
        "model_type": "t5",
        "vocab_size": len(WORDS),
        "d_model": DIM,
        "d_kv": HEAD_DIM,
        "d_ff": HIDDEN,
        "num_layers": DEPTH,
        "num_heads": HEADS,
        "relative_attention_num_buckets": BUCKETS,
        "relative_attention_max_distance": DISTANCE,
        "layer_norm_epsilon": 1e-3,  # large, so that a wrong one shows
        "feed_forward_proj": "gated-gelu" if gated else "relu",
    }
    (folder / "config.json").write_text(json.dumps(settings | config))
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    save_file(w, folder / "model.safetensors")
    return folder


def bucket(ahead):
    """For BUCKETS = 8, DISTANCE = 6: one bucket a side each for 0 and 1, two for 2 .. 3.46 and what is farther."""
    distance = abs(ahead)
    row = distance if distance < 2 else (2 if distance**2 < 2 * 6 else 3)
    return row + (4 if ahead > 0 else 0)


def reference(w, tokens, gated):
    """Raffel et al. 2020 (and Shazeer 2020 for the gated layer) on one sentence without padding, in float64."""
    w = {k.removeprefix("encoder."): v.astype(np.float64) for k, v in w.items()}

    def norm(name, x):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-3) * w[f"{name}layer_norm.weight"]

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    places = [[bucket(k - q) for k in range(len(tokens))] for q in range(len(tokens))]
    bias = w["block.0.layer.0.SelfAttention.relative_attention_bias.weight"][np.array(places)]
    x = w["shared.weight"][tokens]
    for i in range(DEPTH):
        layer = f"block.{i}.layer"
        y = norm(f"{layer}.0.", x)
        q, k, v = (y @ w[f"{layer}.0.SelfAttention.{n}.weight"].T for n in "qkv")
        heads = []
        for head, part in enumerate(np.split(np.arange(HEADS * HEAD_DIM), HEADS)):
            logits = q[:, part] @ k[:, part].T + bias[:, :, head]
            share = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
            heads.append(share @ v[:, part])
        x = x + np.concatenate(heads, -1) @ w[f"{layer}.0.SelfAttention.o.weight"].T
        y, forward = norm(f"{layer}.1.", x), f"{layer}.1.DenseReluDense"
        if gated:
            y = gelu(y @ w[f"{forward}.wi_0.weight"].T) * (y @ w[f"{forward}.wi_1.weight"].T)
        else:
            y = np.maximum(y @ w[f"{forward}.wi.weight"].T, 0)
        x = x + y @ w[f"{forward}.wo.weight"].T
    return norm("final_", x)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("t5"), weights())


@pytest.mark.parametrize("gated", [False, True])
def test_features_match_numpy(tmp_path, gated):
    w = weights(gated)
    features, first, mask = load_t5(write(tmp_path / "t5", w, gated))(SENTENCES, 32)
    np.testing.assert_array_equal(mask.sum(1), [4, 9])
    for row, tokens in enumerate(TOKENS):
        want = reference(w, tokens, gated)
        np.testing.assert_allclose(features[row, : len(tokens)], want, atol=1e-5)
        np.testing.assert_allclose(first[row], want[0], atol=1e-5)


def test_padding_changes_nothing(folder):
    encoder = load_t5(folder)
    (long, first, _), (short, first_of_short, mask) = encoder(SENTENCES, 32), encoder(SENTENCES, 9)
    np.testing.assert_allclose(long[:, :9][mask], short[mask], atol=1e-5)
    np.testing.assert_allclose(first, first_of_short, atol=1e-5)


def test_a_sentence_is_its_first_token_and_at_most_32(folder):
    text, w = {"encoder": "t5", "path": str(folder), "width": DIM}, weights()
    longest = " ".join(["red"] * 31)
    vectors = embed(text, [SENTENCES[0], longest])
    np.testing.assert_allclose(vectors[SENTENCES[0]], reference(w, TOKENS[0], False)[0], atol=1e-5)
    np.testing.assert_allclose(vectors[longest], reference(w, [7] * 31 + [1], False)[0], atol=1e-5)
    with pytest.raises(UserError, match=r"1 of 2 sentences have more than 32 tokens.*red red"):
        embed(text, ["open", longest + " red"])


def test_tokens_are_cut_at_the_end_and_closed(folder):
    tokens, mask = load_t5(folder).tokenize([SENTENCES[1], "open"], 4)
    np.testing.assert_array_equal(tokens, [[6, 4, 7, 1], [3, 1, 0, 0]])
    np.testing.assert_array_equal(mask, [[True] * 4, [True] * 2 + [False] * 2])


def test_an_encoder_saved_alone_reads_the_same(tmp_path):
    w = weights()
    alone = {k.removeprefix("encoder.").replace("shared", "embed_tokens"): v for k, v in w.items()}
    whole = w | {"decoder.block.0.layer.0.SelfAttention.q.weight": np.zeros((2, 2), np.float32)}
    a, b = (load_t5(write(tmp_path / n, x)).params for n, x in (("alone", alone), ("whole", whole)))
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_published_size():
    small = T5Encoder(vocabulary=32128, dim=512, depth=6, heads=8, head_dim=64, hidden=2048)
    tokens = jax.ShapeDtypeStruct((1, 4), np.int32), jax.ShapeDtypeStruct((1, 4), bool)
    shapes = jax.eval_shape(partial(small.init, jax.random.key(0)), *tokens)
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 35_330_816


def test_position_buckets():
    table = position_buckets(200, 32, 128)
    behind, ahead = np.tril(table), np.triu(table, 1)
    assert behind.max() == 15 and ahead.max() == 31 and (ahead[ahead > 0] > 16).all()
    np.testing.assert_array_equal(behind.T[np.triu_indices(200, 1)] + 16, ahead[np.triu_indices(200, 1)])
    np.testing.assert_array_equal(table[1:, 1:], table[:-1, :-1])  # distance alone counts
    # Eight single distances, then borders at 8 sqrt(2)^k, compared as integers.
    want = [d if d < 8 else min(7 + sum(d * d >= 64 * 2**k for k in range(9)), 15) for d in range(200)]
    np.testing.assert_array_equal(table[:, 0], want)


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        (
            lambda w: w.pop("encoder.block.1.layer.1.layer_norm.weight"),
            {},
            r"lacks block\.1\.layer\.1\.layer_norm\.weight",
        ),
        (
            lambda w: None,
            {"feed_forward_proj": "gated-gelu"},
            r"lacks block\.0\.layer\.1\.DenseReluDense\.wi_0\.weight",
        ),
        (lambda w: None, {"feed_forward_proj": "gated-silu"}, r"'gated-silu'; expected relu or gated-gelu"),
        (lambda w: None, {"d_ff": 24}, "shapes"),
        (lambda w: None, {"model_type": "bert"}, "'bert'; expected model_type 't5'"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, change, config, message):
    w = weights()
    change(w)
    with pytest.raises(UserError, match=message):
        load_t5(write(tmp_path / "t5", w, **config))


def test_a_tokenizer_with_more_tokens_than_the_network(tmp_path):
    w = weights()
    w["shared.weight"] = w["shared.weight"][:6]
    with pytest.raises(UserError, match=r"tokenizer\.json has 8 tokens, but config\.json describes 6"):
        load_t5(write(tmp_path / "t5", w, vocab_size=6))


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(UserError, match=r"lacks config\.json, tokenizer\.json, model\.safetensors.*google-t5/t5-small"):
        load_t5(tmp_path)
    folder = write(tmp_path / "t5", weights())
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json is not a tokenizer"):
        load_t5(folder)
    (folder / "config.json").write_text('{"model_type": "t5", "d_model": 12}')
    with pytest.raises(UserError, match=r"config\.json lacks vocab_size, num_layers"):
        load_t5(folder)
