"""AMPLIFY's motion tokenizer and forward dynamics: sizes, what depends on what, cached decoding."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2p.checkpoint import match_layers
from t2p.io import UserError
from t2p.methods.amplify.motion import cross_entropy
from t2p.models.amplify import ForwardDynamics, MotionTokenizer, attention_mask
from t2p.models.gpt import Decoder, Encoder

V, T, N, D = 2, 5, 9, 16


def count(tree: Any) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))


def tokenizer(**changes: Any) -> MotionTokenizer:
    settings: dict[str, Any] = {"window": (7, 5), "levels": (8, 5), "dim": D, "heads": 4, "mlp": 12}
    return MotionTokenizer(V, N, T, **(settings | changes))


def velocities(seed: int = 0, batch: int = 2) -> jax.Array:
    return 0.1 * jax.random.normal(jax.random.key(seed), (batch, V, T, N, 2))


@pytest.fixture(scope="module")
def params() -> Any:
    return jax.jit(tokenizer().init)(jax.random.key(1), velocities())["params"]


def encode(model: MotionTokenizer, params: Any, x: jax.Array) -> Any:
    return jax.jit(lambda p, x: model.apply({"params": p}, x, method="encode"))(params, x)


def test_sizes_are_the_papers() -> None:
    model = MotionTokenizer(2, 400, 15)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 2, 15, 400, 2), jnp.float32))
    assert count(shapes) == 30_847_973
    one_view = MotionTokenizer(1, 400, 15)
    shapes = jax.eval_shape(one_view.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 1, 15, 400, 2), jnp.float32))
    assert count(shapes) == 30_232_805
    assert count(jax.eval_shape(lambda: start(ForwardDynamics(98, 15), 512, 512))) == 59_094_276


def start(model: ForwardDynamics, image: int, text: int, batch: int = 1) -> Any:
    """Fresh parameters."""

    def run(m: ForwardDynamics, images: Any, text: Any, codes: Any) -> Any:
        return m(m.condition(images, text), codes)

    images = jnp.zeros((batch, model.image_tokens, image))
    codes = jnp.zeros((batch, model.length), jnp.int32)
    return model.init(jax.random.key(0), images, jnp.zeros((batch, text)), codes, method=run)["params"]


def test_codes_alone_give_the_same_motion(params: Any) -> None:
    model = tokenizer()
    logits, codes, aux = model.apply({"params": params}, velocities())
    embeddings = model.apply({"params": params}, codes, method="embed")
    np.testing.assert_allclose(embeddings, aux["embeddings"], atol=1e-6)
    np.testing.assert_allclose(model.apply({"params": params}, embeddings, method="decode"), logits, atol=1e-5)
    assert logits.shape == (2, V, T, N, 35)


@pytest.mark.parametrize("changes", [{}, {"per_view": True}, {"queries": "points"}])
def test_errors_view_by_view_are_those_of_all_views(changes: dict[str, Any]) -> None:
    model, x = tokenizer(**changes), velocities()
    params = jax.jit(model.init)(jax.random.key(1), x)["params"]

    def error(logits: jax.Array, targets: jax.Array) -> jax.Array:
        return jnp.square(logits - targets[..., :1]).mean((-2, -1))

    def at_once(params: Any) -> jax.Array:
        logits: Any = model.apply({"params": params}, x)
        return error(logits[0], x).swapaxes(1, 2)

    def one_by_one(params: Any) -> jax.Array:
        found: Any = model.apply({"params": params}, x, error, x, method="errors")
        return found[0].swapaxes(1, 2)

    def gradients(of: Any) -> Any:
        weights = jnp.arange(1.0, V + 1)  # views that count differently
        return jax.jit(jax.grad(lambda p: (of(p) * weights).sum()))(params)

    np.testing.assert_allclose(one_by_one(params), at_once(params), rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), gradients(one_by_one), gradients(at_once)
    )


@pytest.mark.parametrize(("mask", "changed"), [("causal", [3, 4]), ("none", [0, 1, 2, 3, 4]), ("diagonal", [3])])
def test_what_a_code_sees(params: Any, mask: str, changed: list[int]) -> None:
    model, x = tokenizer(mask=mask), velocities()
    before = encode(model, params, x)[2]["encoded"]
    after = encode(model, params, x.at[:, :, 3].add(0.3))[2]["encoded"]
    differs = np.abs(after - before).max((0, 2)) > 1e-6
    assert np.flatnonzero(differs).tolist() == changed


@pytest.mark.parametrize("mask", ["causal", "none", "diagonal"])
def test_latents_see_all_motion_whatever_the_mask(mask: str) -> None:
    model, x = tokenizer(mask=mask, latents=3), velocities()
    own = jax.jit(model.init)(jax.random.key(1), x)["params"]
    before = encode(model, own, x)[2]["encoded"]
    assert np.abs(before[0] - before[1]).max(-1).min() > 1e-4  # two examples, every latent
    for step in range(T):
        moved = encode(model, own, x.at[:, :, step].add(0.3))[2]["encoded"]
        assert np.abs(moved - before).max(-1).min() > 1e-5, step


def test_points_and_views_have_their_places(params: Any) -> None:
    """Motion of the points is told apart by their places; in the decoder a point is its row of the table."""
    model, x, order = tokenizer(), velocities(), np.random.default_rng(0).permutation(N)
    before = encode(model, params, x)[2]["encoded"]
    for other in (x[:, :, :, order], x[:, ::-1]):
        assert np.abs(encode(model, params, other)[2]["encoded"] - before).max() > 1e-3
    logits = model.apply({"params": params}, x)[0]
    tail = params["tail"] | {"points": params["tail"]["points"][order], "views": params["tail"]["views"][::-1]}
    moved = model.apply({"params": params | {"tail": tail}}, x)[0]
    np.testing.assert_allclose(moved, logits[:, ::-1, :, order], atol=1e-5)
    np.testing.assert_allclose(model.apply({"params": params}, x[::-1])[0], logits[::-1], atol=1e-5)


def test_the_tail_is_the_network_of_the_release(params: Any) -> None:
    """The sum of small products against the [token; point; view] inputs side by side."""
    model = tokenizer()
    embeddings = jax.random.normal(jax.random.key(2), (2, T, D))
    got, state = model.apply(
        {"params": params}, embeddings, method="decode", capture_intermediates=lambda m, _: m.name == "decoder"
    )
    token = state["intermediates"]["decoder"]["__call__"][0]
    tail = params["tail"]
    shape = (2, V, T, N, D)
    parts = [token[:, None, :, None], tail["points"], tail["views"][:, None, None]]
    wide = jnp.concatenate([jnp.broadcast_to(p, shape) for p in parts], -1)
    hidden = jax.nn.relu(wide @ tail["fc1"]["kernel"] + tail["fc1"]["bias"])
    out = parts[0] + hidden @ tail["fc2"]["kernel"] + tail["fc2"]["bias"]
    np.testing.assert_allclose(got, out @ tail["head"]["kernel"] + tail["head"]["bias"], atol=1e-5)


def test_a_code_for_each_view_keeps_views_apart() -> None:
    model, x = tokenizer(per_view=True, mask="diagonal"), velocities()
    own = model.init(jax.random.key(1), x)["params"]
    _, codes, aux = model.apply({"params": own}, x)
    assert codes.shape == (2, V * T) == (2, model.length)
    after = encode(model, own, x.at[:, 1].add(0.3))[2]["encoded"]
    np.testing.assert_allclose(after[:, :T], aux["encoded"][:, :T], atol=1e-6)
    assert np.abs(after[:, T:] - aux["encoded"][:, T:]).min(-1).max() > 0


def test_layers_as_a_scan_and_dropout(params: Any) -> None:
    scanned, x = tokenizer(scan=True, remat=True), velocities()
    shapes = jax.eval_shape(scanned.init, jax.random.key(1), x)["params"]
    stacked = match_layers(params, shapes)
    want = tokenizer().apply({"params": params}, x)[0]
    np.testing.assert_allclose(scanned.apply({"params": stacked}, x)[0], want, atol=1e-5)
    noisy = [
        tokenizer().apply({"params": params}, x, train=True, rngs={"dropout": jax.random.key(i)})[0] for i in (0, 1)
    ]
    assert np.abs(noisy[0] - noisy[1]).max() > 1e-4


@pytest.mark.parametrize("scan", [False, True])
def test_a_stack_without_layers_is_positions_and_a_norm(scan: bool) -> None:
    stack, x = Decoder(depth=0, heads=4, dim=D, length=5, scan=scan, remat=scan), jnp.ones((2, 5, D))
    cond = jnp.ones((2, 3, D))
    params = stack.init({"params": jax.random.key(0)}, x, cond)["params"]
    assert set(params) == {"positions", "norm"}
    found = stack.apply({"params": params}, x, cond, train=False)
    shifted = x + params["positions"]
    want = (shifted - shifted.mean(-1, keepdims=True)) / jnp.sqrt(shifted.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(found, want, atol=1e-4)
    encoder = Encoder(depth=0, heads=4, dim=D, length=5, scan=scan)
    cache = encoder.empty_cache(2)
    out, again = encoder.apply({"params": params}, x, jnp.ones((5, 5), bool), cache=cache)
    np.testing.assert_allclose(out, found, atol=1e-6)
    assert [a.shape for a in again] == [a.shape for a in cache]


def test_bad_shapes_and_names() -> None:
    with pytest.raises(UserError, match=r"velocities \[batch, views, steps, points, 2\] with \(2, 5, 9, 2\)"):
        tokenizer().init(jax.random.key(0), jnp.zeros((1, V, T + 1, N, 2)))
    with pytest.raises(UserError, match="mask is 'future'; expected one of causal, none, diagonal"):
        attention_mask("future", 3)
    with pytest.raises(UserError, match="expects 6 image tokens; got 5"):
        model = ForwardDynamics(6, 4, dim=D, heads=4, depth=1)
        model.init(jax.random.key(0), jnp.zeros((1, 5, 3)), jnp.zeros((1, 3)), method="condition")


@pytest.mark.parametrize("scan", [False, True])
def test_cached_decoding_equals_full_recomputation(scan: bool) -> None:
    model = ForwardDynamics(6, 7, classes=64, levels=(8, 5), dim=D, heads=4, depth=2, scan=scan)
    own, rng = {"params": start(model, 10, 12)}, np.random.default_rng(0)
    images, text = rng.normal(size=(3, 6, 10)).astype(np.float32), rng.normal(size=(3, 12)).astype(np.float32)
    cond = model.apply(own, images, text, method="condition")
    codes, logits = jax.jit(lambda c: model.apply(own, c, method="generate"))(cond)
    assert codes.shape == (3, 7) and len(np.unique(codes)) > 3
    full, _ = model.apply(own, cond, codes)
    np.testing.assert_allclose(logits, full, atol=1e-5)
    np.testing.assert_array_equal(codes, full.argmax(-1))


def test_classes_that_are_no_codes_have_no_probability() -> None:
    """Of the same weights: 64 classes of which 40 are codes, and a head that likes the others best."""
    plain, masked = (ForwardDynamics(6, 7, 64, m, (8, 5), D, heads=4, depth=1) for m in (False, True))
    params = start(plain, 10, 12)
    params["head"]["bias"] = params["head"]["bias"].at[40:].add(9.0)
    own, codes = {"params": params}, jnp.arange(14).reshape(2, 7)
    cond = jax.random.normal(jax.random.key(3), (2, 7, D))
    assert plain.apply(own, cond, method="generate")[0].min() >= 40
    found, logits = masked.apply(own, cond, method="generate")
    assert found.max() < 40 and logits.shape == (2, 7, 64)

    def loss(params: Any, model: ForwardDynamics, classes: int) -> jax.Array:
        logits: Any = model.apply({"params": params}, cond, codes, method="logits")
        return cross_entropy(logits[..., :classes], codes).mean()

    run = jax.jit(jax.value_and_grad(loss), static_argnums=(1, 2))
    got, want = run(params, masked, 64), run(params, plain, 40)  # softmax over those that are codes
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, want)
    assert run(params, plain, 64)[0] > got[0] + 1


@pytest.mark.parametrize("scan", [False, True])
def test_logits_alone_are_those_of_the_whole_sequence(scan: bool) -> None:
    """And so are their gradients: the last layer's outputs for the conditions were never used."""
    model = ForwardDynamics(6, 7, classes=64, levels=(8, 5), dim=D, heads=4, depth=2, scan=scan)
    params = start(model, 10, 12)
    cond, codes = jax.random.normal(jax.random.key(3), (2, 7, D)), jnp.arange(14).reshape(2, 7)

    def loss(params: Any, alone: bool) -> Any:
        found = model.apply({"params": params}, cond, codes, method="logits" if alone else None)
        logits = found if alone else found[0]
        return jnp.square(logits - 1).sum(), logits

    run = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)
    (grads, logits), (all_grads, all_logits) = run(params, True), run(params, False)
    assert logits.shape == (2, 7, 64)
    np.testing.assert_allclose(logits, all_logits, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), grads, all_grads)


def test_half_precision_names_the_same_codes(params: Any) -> None:
    """4000 codes; only the decoder is in bfloat16."""
    x, half = velocities(batch=800), tokenizer(dtype=jnp.bfloat16)
    np.testing.assert_array_equal(encode(half, params, x)[1], encode(tokenizer(), params, x)[1])
    logits, exact = (m.apply({"params": params}, x[:4])[0] for m in (half, tokenizer()))
    assert 1e-4 < np.abs(logits - exact).max() < 0.1


def test_conditions_never_see_codes_and_codes_only_the_past() -> None:
    model = ForwardDynamics(6, 7, classes=64, levels=(8, 5), dim=D, heads=4, depth=2)
    own = {"params": start(model, 10, 12)}
    cond = jax.random.normal(jax.random.key(3), (1, 7, D))
    codes = jnp.arange(7)[None]
    logits, trunk = model.apply(own, cond, codes)
    changed, other = model.apply(own, cond, codes.at[0, 3].add(1))
    differs = np.flatnonzero(np.abs(changed - logits).max((0, 2)) > 1e-6)
    assert differs.tolist() == [4, 5, 6]  # code 3 is the input of place 4
    np.testing.assert_allclose(other[:, :7], trunk[:, :7], atol=1e-6)
    first = model.apply(own, cond.at[0, 6].set(cond[0, 5]), codes)[1]
    assert np.abs(first[:, 0] - trunk[:, 0]).max() > 1e-4  # the first picture's token sees the sentence


@pytest.mark.parametrize(
    ("changes", "codes", "outputs"),
    [
        pytest.param({"latents": 3}, 3, 35, marks=pytest.mark.long),
        pytest.param({"queries": "points"}, T, 35, marks=pytest.mark.long),
        pytest.param({"output": "coordinates"}, T, 2, marks=pytest.mark.long),
        pytest.param({"images": True}, T, 35, marks=pytest.mark.long),
        ({"latents": 8, "queries": "points", "images": True, "output": "velocities"}, 8, 2),
    ],
    ids=str,
)
def test_the_papers_other_tokenizers(changes: dict[str, Any], codes: int, outputs: int) -> None:
    model, x = tokenizer(**changes), velocities()
    images = jax.random.normal(jax.random.key(4), (2, 6, 10)) if model.images else None
    own = {"params": model.init(jax.random.key(1), x, images)["params"]}
    logits, found, _ = model.apply(own, x, images)
    assert found.shape == (2, codes) == (2, model.length) and logits.shape == (2, V, T, N, outputs)
    gradient = jax.grad(lambda p: jnp.square(model.apply({"params": p}, x, images)[0]).sum())(own["params"])
    still = [path for path, g in jax.tree_util.tree_leaves_with_path(gradient) if not np.abs(g).max() > 0]
    assert not still  # every parameter has its part
    if images is not None:
        other = model.apply(own, x, images + 1.0 * jax.random.normal(jax.random.key(5), images.shape), method="encode")
        assert np.abs(other[2]["encoded"] - model.apply(own, x, images, method="encode")[2]["encoded"]).max() > 1e-4
        with pytest.raises(UserError, match="was made for images, and they were not given"):
            model.apply(own, x)
