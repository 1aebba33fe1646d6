"""AMPLIFY's three training stages and its policy, at the debug variants' sizes."""

import importlib.util
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2p.geometry.resample import resize_bilinear
from t2p.io import UserError
from t2p.methods.amplify import inverse
from t2p.methods.amplify.motion import class_velocities, likeliest, to_classes, to_tracks, to_velocities, view_weights
from t2p.methods.registry import make_policy, make_stage
from t2p.models import vit
from t2p.types import Batch, Tracks

ROWS, CONFIGS = 3, Path(__file__).resolve().parents[2] / "configs/amplify"


def config(name: str, variant: str = "debug") -> Any:
    spec = importlib.util.spec_from_file_location(f"amplify_{name}", CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    c = module.get_config(variant)
    for limits in c.get("statistics", {}).values():
        limits.update({"min": (-1.0,), "max": (1.0,)})
    return c


def batch(c: Any, seed: int = 0) -> Batch:
    rng, w = np.random.default_rng(seed), c.window
    shape = (ROWS, w.steps, w.points, 2)
    tracks = {v: Tracks(rng.random(shape, np.float32), np.ones(shape[:-1], bool)) for v in w.views}
    images = {v: rng.integers(0, 256, (ROWS, 1, *w.image_size, 3), np.uint8) for v in w.views}
    text = rng.standard_normal((ROWS, c.text.width)).astype(np.float32)
    found = Batch(images=images, tracks={w.track_set: tracks}, text=text)
    if c.stage != inverse.STAGE:
        return found
    chunk = (ROWS, c.model.inverse.actions, c.model.inverse.action_dim)
    proprio = {"tool": rng.standard_normal((ROWS, 1, 9), np.float32), "gripper": np.ones((ROWS, 1, 1), np.float32)}
    valid = np.arange(chunk[1]) < np.array([[3], [2], [1]])
    return found.replace(actions=rng.uniform(-1, 1, chunk), action_valid=valid, proprio=proprio)


@pytest.fixture(scope="module", params=["motion_tokenizer", "forward_dynamics", "inverse_dynamics"])
def made(request: pytest.FixtureRequest) -> tuple[Any, Any, Batch, Any]:
    """(config, stage, batch, variables)."""
    c = config(request.param)
    stage, b = make_stage(c), batch(c)
    return c, stage, b, fresh(stage, b)


def fresh(stage: Any, b: Batch) -> Any:
    """Variables that NumPy draws: compiling `init` would take most of the tests' time."""
    rng = np.random.default_rng(1)

    def draw(path: Any, x: Any) -> np.ndarray:
        ones = jax.tree_util.keystr(path[-1:]) in ("['scale']", "['var']")
        return np.ones(x.shape, np.float32) if ones else 0.2 * rng.standard_normal(x.shape, np.float32)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(stage.init, jax.random.key(0), b))


@partial(jax.jit, static_argnums=(0, 4))
def losses(stage: Any, variables: Any, b: Batch, key: Any, train: bool) -> Any:
    return stage.loss(variables, b, key, train)


@partial(jax.jit, static_argnums=0)
def predict(stage: Any, variables: Any, b: Batch) -> Any:
    return stage.predict(variables, b, jax.random.key(0))


def test_training_lowers_the_loss_and_leaves_frozen_stages_alone(made: Any) -> None:
    _, stage, b, variables = made

    @jax.jit
    def step(params: Any, key: Any) -> tuple[Any, Any, Any]:
        run = lambda p, f: stage.loss({**variables, "params": p, "frozen": f}, b, key, True)[0]  # noqa: E731
        loss, (grads, held) = jax.value_and_grad(run, (0, 1))(params, variables["frozen"])
        return loss, jax.tree.map(lambda p, g: p - 0.02 * jnp.sign(g), params, grads), held

    params, seen = variables["params"], []
    for i in range(12):
        loss, params, held = step(params, jax.random.key(i))
        seen.append(float(loss))
    assert np.mean(seen[-3:]) < np.mean(seen[:3]) - 0.02, seen
    assert all(not np.any(g) for g in jax.tree.leaves(held))


def test_filling_rows_do_not_count(made: Any) -> None:
    _, stage, b, variables = made
    mask = np.array([True, True, False])
    garbage = jax.tree.map(lambda x: np.concatenate([x[:2], x[:1] if x.dtype == bool else 0 * x[:1]]), b)
    for train in (False, True):
        if train:  # draws of whole batches would differ
            continue
        want = losses(stage, variables, b.replace(mask=mask), jax.random.key(1), train)
        got = losses(stage, variables, garbage.replace(mask=mask), jax.random.key(1), train)
        np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
        for name, value in want[1]["metrics"].items():
            np.testing.assert_allclose(got[1]["metrics"][name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_predictions_have_their_shapes(made: Any) -> None:
    c, stage, b, variables = made
    found = predict(stage, variables, b)
    assert found.aux["codes"].shape == (ROWS, c.window.steps - 1)
    if c.stage == inverse.STAGE:
        assert found.actions.shape == (ROWS, 3, 10)
    else:
        assert found.tracks.points.shape == (ROWS, 2, c.window.steps, 9, 2)
        first = np.stack([b.tracks[c.window.track_set][v].points[:, 0] for v in c.window.views], 1)
        pixels = np.array(c.window.image_size[::-1])
        np.testing.assert_allclose(found.tracks.points[:, :, 0], np.maximum(first, 0.5 / pixels), atol=1e-5)


def test_forward_dynamics_predicts_without_seeing_the_future(made: Any) -> None:
    c, stage, b, variables = made
    if c.stage == "amplify.motion_tokenizer":
        pytest.skip("the tokenizer reconstructs what it sees")
    other = {v: t.replace(points=np.concatenate([t.points[:, :1], 1 - t.points[:, 1:]], 1)) for v, t in
             b.tracks[c.window.track_set].items()}  # fmt: skip
    moved = predict(stage, variables, b.replace(tracks={c.window.track_set: other}))
    np.testing.assert_array_equal(moved.aux["codes"], predict(stage, variables, b).aux["codes"])


def test_half_precision_chooses_the_same_codes_and_looks_once() -> None:
    """A policy in bfloat16 plans on float32's codes; a shared image encoder (3 convolutions) is computed once."""
    c = config("inverse_dynamics")
    c.model.seen, codes, keys = "shared", [], jax.random.split(jax.random.key(0), ROWS)
    b = batch(c)
    variables = fresh(make_stage(c), b)
    for dtype in ("float32", "bfloat16"):
        c.dtype = dtype
        plan = jax.jit(make_stage(c).plan).lower(variables, b, keys).compile()
        codes.append(plan(variables, b, keys)[1]["codes"])
        assert plan.as_text().count(" convolution(") == 3
    np.testing.assert_array_equal(*codes)


def test_padded_actions_are_left_out_on_request() -> None:
    c = config("inverse_dynamics")
    b = batch(c)
    other = b.replace(actions=np.where(b.action_valid[..., None], b.actions, 0.9))
    for masked in (False, True):
        c.loss.mask_padding = masked
        stage = make_stage(c)
        variables = fresh(stage, b)
        first, second = (losses(stage, variables, x, jax.random.key(0), False)[0] for x in (b, other))
        assert (abs(first - second) < 1e-6) == masked


@pytest.mark.parametrize("head", ["diffusion", "flow", "unet"])
def test_other_heads_act(head: str) -> None:
    c = config("inverse_dynamics")
    c.model.inverse.head = head
    c.model.inverse.reading = "paper"
    stage, b = make_stage(c), batch(c)
    shapes = jax.eval_shape(stage.init, jax.random.key(0), b)
    actions = jax.eval_shape(stage.plan, shapes, b, jax.random.split(jax.random.key(0), ROWS))[0]
    assert actions.shape == (ROWS, 3, 10)


@pytest.mark.parametrize("output", ["coordinates", "velocities"])
def test_regression_of_motion(output: str) -> None:
    """The squared error of what the decoder gives, in [-1, 1], and the tracks that it means."""
    c = config("motion_tokenizer")
    c.model.output = output
    stage, b = make_stage(c), batch(c)
    tracks = stage.inputs.tracks(b)[0]
    wanted = tracks[:, :, 1:] if output == "coordinates" else jnp.diff(tracks, axis=2)
    np.testing.assert_allclose(stage.tracks(wanted, tracks[:, :, 0]), tracks, atol=1e-6)
    variables = fresh(stage, b)
    given = stage.net.apply({"params": variables["params"]}, jnp.diff(tracks, axis=2))[0]
    loss, found = losses(stage, variables, b, jax.random.key(0), False)
    want = (jnp.square(given - wanted).mean((0, 2, 3, 4)) * np.array(c.loss.weights)).sum()
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    mse = jnp.square(stage.tracks(given, tracks[:, :, 0]) - tracks).mean()
    np.testing.assert_allclose(found["metrics"]["mse"], mse, rtol=1e-5)


def other_pictures(b: Batch) -> Batch:
    return b.replace(images={view: 255 - x for view, x in b.images.items()})


def test_a_tokenizer_that_looks_at_pictures() -> None:
    """Codes and loss depend on them, gradients leave the encoder alone; what it decodes is as long as ever."""
    c = config("motion_tokenizer")
    assert make_stage(c).window.images is None
    c.model.images.joint = True
    stage, b = make_stage(c), batch(c)
    assert stage.window.images is not None and stage.encoder is not None
    variables = fresh(stage, b)
    assert set(variables["frozen"]) == {"images"} and variables["params"]["image"]["kernel"].shape == (2 * 16, 16)
    codes = [predict(stage, variables, x).aux["codes"] for x in (b, other_pictures(b))]
    assert (codes[0] != codes[1]).any()
    first, other = (losses(stage, variables, x, jax.random.key(0), False)[0] for x in (b, other_pictures(b)))
    assert abs(first - other) > 1e-5
    plain = make_stage(config("motion_tokenizer"))
    assert stage.flops_per_example(b) > plain.flops_per_example(b)


def test_settings_from_before_there_was_a_choice_make_the_same_stage() -> None:
    for name, part in (("motion_tokenizer", "model"), ("forward_dynamics", "model.tokenizer")):
        c, old = config(name), config(name)
        with old.unlocked():
            tokenizer = old.model if part == "model" else old.model.tokenizer
            del tokenizer.images
            if part != "model":
                del old.model.images.pooling
        assert make_stage(c) == make_stage(old)


def test_stages_on_a_tokenizer_that_looks_at_pictures() -> None:
    """Its encoder comes along, apart from forward dynamics' own; true codes are the tokenizer's own."""
    c = config("motion_tokenizer")
    c.model.images.joint = True
    own, b = make_stage(c), batch(c)
    f = config("forward_dynamics")
    f.model.tokenizer.images.joint = True
    stage, b = make_stage(f), batch(f)
    variables = fresh(stage, b)
    assert set(variables["frozen"]["tokenizer"]) == {"params", "frozen"} and "images" in variables["params"]
    codes = own.codes(variables["frozen"]["tokenizer"], b)
    np.testing.assert_array_equal(stage.codes(variables, b), codes)
    assert (codes != stage.codes(variables, other_pictures(b))).any()
    assert np.isfinite(losses(stage, variables, b, jax.random.key(0), True)[0])
    c = config("inverse_dynamics")
    c.model.tokenizer.images.joint, c.model.codes.source, c.data.features = True, "true", "cached"
    c.model.seen, c.model.images.trained = "shared", False
    window = make_stage(c).window
    assert window.images is not None and window.features is not None  # the tokenizer's, forward dynamics'
    c.model.codes.source = "predicted"
    assert make_stage(c).window.images is None


@pytest.mark.parametrize(("pooled", "pooling", "tokens"), [(False, "mean", 4), (True, "mean", 1), (True, "class", 1)])
def test_a_vision_transformer_sees(monkeypatch: Any, pooled: bool, pooling: str, tokens: int) -> None:
    monkeypatch.setitem(vit.VARIANTS, "small", {"patch": 4, "dim": 12, "depth": 1, "heads": 2, "grid": (3, 3)})
    c = config("forward_dynamics")
    c.model.images.update({"encoder": "small", "pooled": pooled, "pooling": pooling, "trained": False})
    encoder, b = make_stage(c).images, batch(c)
    own = encoder.init(jax.random.key(0))
    seen = encoder.see(own, b, c.window.views)
    assert seen.shape == (ROWS, 2, tokens, 12) == (ROWS, 2, *encoder.shape)
    pictures = jnp.asarray(b.images["wrist"][:, 0], jnp.float32) / 255
    token, patches = encoder.net.apply({"params": own["params"]}, resize_bilinear(pictures, (8, 8)))
    want = patches if not pooled else {"mean": patches.mean(1), "class": token}[pooling][:, None]
    np.testing.assert_allclose(seen[:, 1], want, atol=1e-5)
    assert encoder.key(own)["pooled"] == ("class" if pooling == "class" else pooled)
    assert encoder.flops() > 0 and make_stage(c).net.image_tokens == 2 * tokens


@pytest.mark.parametrize(("encoder", "mean"), [("vit_s16", (0.5, 0.5, 0.5)), ("dinov2_s14", (0.485, 0.456, 0.406))])
def test_normalise_is_by_what_the_weights_were_trained_on(encoder: str, mean: tuple[float, ...]) -> None:
    c = config("forward_dynamics", "released")
    c.model.images.update({"encoder": encoder, "normalise": True})
    found = make_stage(c).images
    assert found.statistics[0] == mean and found.tokens == (196 if encoder == "vit_s16" else 256)


def test_inverse_only_needs_no_earlier_stage() -> None:
    c = config("inverse_dynamics")
    c.model.inverse.parts = ("image", "proprio")
    stage, b = make_stage(c), batch(c)
    variables = jax.eval_shape(stage.init, jax.random.key(0), b)
    assert not variables["frozen"] and not stage.window.text and stage.window.track_set is None
    assert stage.flops_per_example(b) > 0


def test_the_policy_averages_chunks_and_keeps_environments_apart() -> None:
    c = config("inverse_dynamics")
    stage, b = make_stage(c), batch(c)
    policy = make_policy(c)
    assert policy.action == "setpoint_pose" and policy.text and policy.observe.images == ("front", "wrist")
    variables, keys = fresh(stage, b), jax.random.split(jax.random.key(0), ROWS)
    act = jax.jit(policy.act)
    state = policy.reset(variables, b, keys)
    first, state, aux = act(variables, state, b, keys)
    chunk = stage.plan(variables, b, keys)[0]
    np.testing.assert_allclose(first, chunk[:, 0], atol=1e-5)
    other = b.replace(images={v: x[::-1] for v, x in b.images.items()})
    second, _, _ = act(variables, state, other, keys)
    newer = stage.plan(variables, other, keys)[0]
    weights = np.exp([0.0, -0.01]) / np.exp([0.0, -0.01]).sum()
    np.testing.assert_allclose(second, weights[0] * chunk[:, 1] + weights[1] * newer[:, 0], atol=1e-5)
    assert aux["codes"].shape[0] == ROWS


def test_classes_and_velocities() -> None:
    window, size = (15, 15), (128, 128)
    pixel = 2 / 128
    start = np.full((1, 3, 2), 0.25, np.float32)
    steps = pixel * np.array([[[[1, -2], [0, 0], [-7, 7]], [[3, 3], [0, 0], [-9, 12]]]], np.float32)
    tracks = to_tracks(steps, start)
    classes = to_classes(jnp.asarray(tracks), window, size)
    middle = 7 * 15 + 7
    assert classes.tolist() == [
        [[8 * 15 + 5, middle, 14], [10 * 15 + 10, middle, 14]]
    ]  # (-7, 7) is the first row's end
    back = likeliest(jax.nn.one_hot(classes, 225), window, size)
    inside = np.clip(steps, -7 * pixel, 7 * pixel)
    np.testing.assert_allclose(back, inside, atol=1e-6)
    np.testing.assert_allclose(to_velocities(tracks), steps, atol=1e-6)
    assert class_velocities((3, 5), size).shape == (3, 5, 2)
    with pytest.raises(UserError, match="no weight for the view top"):
        view_weights(["agentview", "top"])


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("motion_tokenizer", {"model.codebook": 32}, "codebook's size is 32"),
        ("motion_tokenizer", {"model.window": (15, 14)}, "expected two odd numbers"),
        ("motion_tokenizer", {"loss.weights": (1.0,)}, "for each of the views, which are front, wrist"),
        ("motion_tokenizer", {"window.method": "cubic"}, "linear or spline"),
        ("motion_tokenizer", {"model.output": "mse"}, "expected one of .*and of classes, coordinates, velocities"),
        ("motion_tokenizer", {"model.dropout": 0.001}, "model.dropout is 0.001; expected 0, or at least 0.0039"),
        ("forward_dynamics", {"model.dynamics.dropout": 0.001}, "model.dynamics.dropout is 0.001; expected 0, or at"),
        ("forward_dynamics", {"model.tokenizer.dropout": 0.999}, "model.tokenizer.dropout is 0.999; .* at most 0.99"),
        ("inverse_dynamics", {"model.inverse.dropout": 0.001}, "model.inverse.dropout is 0.001; expected 0, or at lea"),
        ("forward_dynamics", {"model.dynamics.classes": "all"}, "expected one of nominal, masked, codes"),
        ("forward_dynamics", {"model.images.encoder": "vit"}, "image encoder is 'vit'"),
        ("forward_dynamics", {"model.images.encoder": "vit_s16"}, "8 x 8 are not whole patches of 16 x 16"),
        ("forward_dynamics", {"model.images.pooling": "max"}, "pooling is 'max'; expected one of mean, class"),
        ("forward_dynamics", {"model.images.pooling": "class"}, "resnet18 has no class token"),
        (
            "forward_dynamics",
            {"model.images.encoder": "dinov2_s14", "model.images.pooling": "class"},
            "set pooled to True to see that token",
        ),
        (
            "motion_tokenizer",
            {"model.images.joint": True, "model.images.trained": True},
            "motion tokenizer's image encoder is trained",
        ),
        ("forward_dynamics", {"model.dynamics.heads": 3}, "not a multiple of model.dynamics.heads 3"),
        ("inverse_dynamics", {"model.inverse.head": "gauss"}, "action head is 'gauss'"),
        ("inverse_dynamics", {"model.inverse.std": -1.0}, "expected a number above 0, or 'learned'"),
        ("inverse_dynamics", {"model.scale": "mean"}, "expected one of none, limits"),
        ("inverse_dynamics", {"model.codes.source": "best"}, "expected one of predicted, true"),
    ],
)
def test_bad_settings_are_named(name: str, changes: dict[str, Any], message: str) -> None:
    c = config(name)
    c.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        make_stage(c)
