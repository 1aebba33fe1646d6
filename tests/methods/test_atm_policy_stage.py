"""ATM's policy as a stage: losses, predicted tracks, and the closed loop."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from t2p.geometry.conventions import to_atm
from t2p.geometry.resample import resize_bilinear
from t2p.io import UserError
from t2p.methods import atm_policy
from t2p.methods.atm_policy import remember
from t2p.methods.registry import make_policy, make_stage
from t2p.train.defaults import base_config
from t2p.train.shapes import window_shapes
from t2p.types import Batch

LAYERS = {"depth": 1, "heads": 2, "head_dim": 4, "mlp": 8}
VIEWS = ("agentview", "eye_in_hand")
STATE = {"joint_states": 7, "gripper_states": 2}


def config(**net):
    c = atm_policy.configure(base_config())
    c.model.net.update({"dim": 20, "temporal_dim": 8, "patch": 4, "spatial": LAYERS, "temporal": LAYERS})
    c.model.net.update({"track_points": 8, "track_steps": 4, "track_patch": 2, "head_hidden": 12, "head_layers": 1})
    c.model.net.update(net)
    small = {"dim": 16, "depth": 1, "heads": 2, "head_dim": 8, "image_size": (16, 16), "patch": 8, "track_steps": 8}
    c.model.track_transformer.update(small)
    c.window.update({"image_size": (16, 16), "steps": 3})
    c.text.update({"encoder": "hashed", "width": 6})
    return c


def batch(rows=2, steps=3, seed=0):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.standard_normal((rows, *shape)).astype(np.float32)  # noqa: E731
    return Batch(
        images={view: rng.integers(0, 256, (rows, steps, 16, 16, 3), np.uint8) for view in VIEWS},
        proprio={name: normal(steps, width) for name, width in STATE.items()},
        text=normal(6),
        actions=np.clip(normal(steps, 7), -1, 1),
        action_valid=np.arange(steps) < np.array([steps, 1])[:rows, None],
        mask=np.ones(rows, bool),
        has={"actions": np.ones(rows, bool)},
    )


def cut(b, start, end):
    """Steps start .. end of a batch, as an observation has them."""
    timed = lambda tree: jax.tree.map(lambda x: x[:, start:end], tree)  # noqa: E731
    return Batch(images=timed(b.images), proprio=timed(b.proprio), actions=timed(b.actions), text=b.text)


def made_up(stage, seed=1):
    """Variables that NumPy makes: matrices that keep the size of what passes them."""
    flat = flatten_dict(jax.eval_shape(stage.init, jax.random.key(0), batch()), sep="/")
    rng = np.random.default_rng(seed)

    def draw(name, x):
        value = rng.standard_normal(x.shape).astype(np.float32)
        if name.endswith("kernel"):
            return value / np.float32(np.sqrt(np.prod(x.shape[:-1])))
        return 1 + np.abs(value) * np.float32(0.1) if name.endswith(("scale", "var")) else value * np.float32(0.3)

    tree = unflatten_dict({name: draw(name, flat[name]) for name in sorted(flat)}, sep="/")
    return {"frozen": {}, **tree}


@pytest.fixture(scope="module")
def stage():
    return make_stage(config())


@pytest.fixture(scope="module")
def variables(stage):
    return made_up(stage)


@partial(jax.jit, static_argnums=(0, 4))
def losses(stage, variables, b, key, train):
    return stage.loss(variables, b, key, train)


@partial(jax.jit, static_argnums=0)
def predict(stage, variables, b):
    seen = Batch(images=b.images, proprio=b.proprio, text=b.text)
    return stage.predict(variables, seen, jax.random.key(0))


@partial(jax.jit, static_argnums=0)
def act(policy, variables, state, obs):
    return policy.act(variables, state, obs, jax.random.split(jax.random.key(0), len(obs.text)))


def validate(stage, variables, b):
    """{metric: number} of validation, which draws nothing."""
    found = losses(stage, variables, b, jax.random.key(0), False)[1]["metrics"]
    return {name: float(x) for name, x in found.items()}


def test_stage_is_made_from_its_config(stage):
    assert hash(stage) == hash(make_stage(config())) and stage == make_stage(config())
    assert stage != make_stage(config(early=False))
    w = stage.window
    assert (w.views, w.proprio_keys, w.text, w.track_set) == (VIEWS, tuple(STATE), True, None)
    assert w.images.offsets == w.actions.offsets == w.proprio.offsets == (0, 1, 2)
    assert (w.images.pad, w.actions.pad, w.proprio.pad) == ("repeat", "zero", "repeat")
    assert make_policy(config()).action == "osc_delta"


def test_the_released_size_is_the_papers():
    c = atm_policy.configure(base_config())
    stage = make_stage(c)
    example = window_shapes(stage.window, 768, 1)
    made = jax.eval_shape(stage.init, jax.random.key(0), example)
    count = {part: sum(x.size for x in jax.tree.leaves(made[part])) for part in ("params", "frozen")}
    assert count == {"params": 8_904_679, "frozen": 13_032_200} and sum(count.values()) == 21_936_879
    assert 13e9 < stage.flops_per_action(768) < 13.5e9
    cloned = make_stage(atm_policy.clone_behaviour(c, "none"))
    assert cloned.flops_per_action(768) < 2e9
    assert not jax.eval_shape(cloned.init, jax.random.key(0), example)["frozen"]


def test_losses_by_hand(stage, variables):
    """All steps count alike, the padded ones too; l1 is over real steps."""
    b = batch()
    actions = predict(stage, variables, b).actions
    error = np.square(np.asarray(actions) - b.actions).mean(-1)
    got = validate(stage, variables, b)
    np.testing.assert_allclose(got["loss"], error.mean(), rtol=1e-5)
    distance = np.abs(np.asarray(actions) - b.actions).mean(-1)
    np.testing.assert_allclose(got["l1"], (distance[0].mean() + distance[1, 0]) / 2, rtol=1e-5)


def test_filling_rows_and_rows_without_actions_do_not_count(stage, variables):
    b = batch()
    first = jax.tree.map(lambda x: np.repeat(x[:1], 2, 0), b)
    want = validate(stage, variables, first)
    got = validate(stage, variables, b.replace(mask=np.array([True, False])))
    absent = b.replace(has={"actions": np.array([True, False])})
    for name in ("loss", "l1"):
        np.testing.assert_allclose(got[name], want[name], rtol=1e-5)
        np.testing.assert_allclose(validate(stage, variables, absent)[name], want[name], rtol=1e-5)


def test_training_moves_batch_statistics_and_draws_dropout(stage, variables):
    run = lambda key: losses(stage, variables, batch(), jax.random.key(key), True)  # noqa: E731
    (a, extra), (b, _) = run(0), run(1)
    assert a != b
    old, new = (flatten_dict(x, sep="/") for x in (variables["batch_stats"], extra["batch_stats"]))
    assert set(old) == set(new) and all(np.any(new[name] != old[name]) for name in old)


def test_predicted_tracks_are_the_track_transformers_cut_to_the_policys_steps(stage, variables):
    b = batch()
    own = variables["frozen"]["track_transformer"]
    got = predict(stage, variables, b).tracks.points
    assert got.shape == (2, 2, 4, 8, 2)
    want = jax.jit(stage.tracker.predict)(own, b.images["eye_in_hand"][:, -1:], b.text)
    np.testing.assert_allclose(to_atm(got[:, 1], (16, 16)), want[:, :4], atol=1e-5)
    features = jax.jit(stage.tracker.encode)(own, b.images["eye_in_hand"][:, -1], b.text)
    assert features.shape == (2, *stage.tracker.shape)
    np.testing.assert_allclose(stage.tracker.from_features(features), want, atol=1e-6)


def test_the_closed_loop_sees_what_training_sees(stage, variables):
    """Step by step from an observation's history, sliding when it is full: the same actions as of a window, cut off at
    -1 and 1."""
    params = variables["params"]
    variables = {**variables, "params": {**params, "head": jax.tree.map(lambda x: 3 * x, params["head"])}}
    long, policy = batch(steps=5), make_policy(config())
    state, actions = policy.reset(variables, Batch(), jax.random.split(jax.random.key(0), 2)), []
    for t in range(5):
        action, state, aux = act(policy, variables, state, cut(long, t, t + 1).replace(actions=None))
        actions.append(action)
    first, last = (predict(stage, variables, cut(long, t, t + 3)) for t in (0, 2))
    assert np.abs(first.actions).max() > 1.2
    np.testing.assert_allclose(np.stack(actions, 1)[:, :3], np.clip(first.actions, -1, 1), atol=1e-5)
    np.testing.assert_allclose(actions[4], np.clip(last.actions[:, 2], -1, 1), atol=1e-5)
    np.testing.assert_allclose(aux["tracks"], last.tracks.points, atol=1e-5)
    np.testing.assert_allclose(aux["attention"], last.aux["attention"], atol=1e-5)
    assert aux["attention"].shape == (2, 1, 2, 2, 2) and state["count"].tolist() == [3, 3]


def test_environments_remember_each_their_own():
    tokens, count = jnp.zeros((2, 3, 1, 1)), jnp.array([1, 3])
    tokens = tokens.at[:, :, 0, 0].set(jnp.array([[1.0, 0, 0], [4, 5, 6]]))
    tokens, place, count = remember(tokens, count, jnp.full((2, 1, 1), 9.0))
    assert tokens[:, :, 0, 0].tolist() == [[1, 9, 0], [5, 6, 9]]
    assert place.tolist() == [1, 2] and count.tolist() == [2, 3]


def test_pictures_of_another_size_are_resized(stage):
    images = np.random.default_rng(0).integers(0, 256, (1, 2, 32, 24, 3), np.uint8)
    got = stage.pictures(dict.fromkeys(VIEWS, images))
    assert got.shape == (1, 2, 2, 16, 16, 3)
    np.testing.assert_allclose(got[:, 0], resize_bilinear(images.astype(np.float32), (16, 16)), atol=1e-3)


def test_zeros_in_the_place_of_tracks():
    """The released behaviour cloning: the same network, which is told the sentence and sees no tracks. Here padded
    actions are masked."""
    zero = replace(make_stage(atm_policy.clone_behaviour(config(), "zero")), mask_padding=True)
    assert zero.tracker is None and zero.net.spatial_text and zero.net.temporal_text
    variables = made_up(zero)
    assert not variables["frozen"]
    b = batch()
    seen, told = validate(zero, variables, b), validate(zero, variables, b.replace(text=-b.text))
    assert abs(seen["loss"] - told["loss"]) > 1e-5
    moved = b.replace(actions=np.where(b.action_valid[..., None], b.actions, 5))
    assert not b.action_valid.all() and validate(zero, variables, moved) == seen
    assert not np.any(zero.no_tracks(2, 3))
    none = make_stage(atm_policy.clone_behaviour(config(), "none"))
    assert none.no_tracks(2, 3) is None and none.net.track_tokens == 0
    found = jax.eval_shape(lambda v: none.predict(v, b, jax.random.key(0)), made_up(none))
    assert found.actions.shape == (2, 3, 7) and found.tracks is None


def test_flops_are_those_that_xla_counts():
    """Of a forward and backward pass; XLA also counts what is no matrix product, and the gradient of the pictures,
    which is not needed, but not the padding of the first convolution."""
    sizes = {"depth": 1, "heads": 4, "head_dim": 32, "mlp": 256}
    c = config(dim=64, temporal_dim=32, spatial=sizes, temporal=sizes, head_hidden=128)
    c.model.tracks = "zero"
    del c.init_from["track_transformer"]
    c.window.image_size = c.model.track_transformer.image_size = (32, 32)
    stage = make_stage(c)
    b = window_shapes(stage.window, 6, 2)
    variables = jax.eval_shape(stage.init, jax.random.key(0), b)
    forward = jax.jit(lambda v, b: stage.net.apply(atm_policy.own_variables(v), *stage.inputs(v, b))[0])
    counted = forward.lower(variables, b).compile().cost_analysis()["flops"] / 2
    assert 0.9 < counted / atm_policy.net_flops(stage.net, stage.steps, 6) < 1.15
    assert stage.flops_per_example(b) == 3 * atm_policy.net_flops(stage.net, stage.steps, 6)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.tracks", "some", "model.tracks is 'some'"),
        ("model.net.modality_ids", "x", "modality_ids 'x'"),
        ("model.net.track_patch", 3, "multiple of model.net.track_patch .3."),
        ("model.net.track_steps", 16, "no more than model.track_transformer.track_steps .8."),
        ("model.net.track_points", 10, "twice a square"),
        ("model.net.dim", 16, "model.net.dim is 16; expected at least 17"),
        ("model.net.patch", 9, r"at least .18, 18., twice the patches'"),
        ("model.net.patch_width", 9, r"at least .8, 18., twice the patches'"),
        ("model.net.state_layers", -1, "model.net.state_layers is -1"),
        ("model.track_transformer.frames", 2, "frames is 2; a policy shows it one"),
        ("model.track_transformer.image_size", (24, 24), "expected the same"),
        ("window.steps", 0, "window.steps is 0"),
        ("window.proprio_widths", (7,), "expected as many of both"),
        ("model.scale", "mean", "model.scale is 'mean'"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(key, value, message):
    c = config()
    part = c
    *parts, name = key.split(".")
    for p in parts:
        part = part[p]
    part[name] = value
    with pytest.raises(UserError, match=message):
        make_stage(c)


def test_checkpoints_without_later_settings_are_read():
    """As those are that were written before the settings came."""
    c, older = config(), config()
    for name in ("patch_width", "state_layers", "state_hidden"):
        del older.model.net[name]
    assert make_stage(older).net == make_stage(c).net


def test_cached_tracks_are_for_policies_that_have_them():
    c = atm_policy.clone_behaviour(config(), "none")
    c.data.features = "tracks"
    with pytest.raises(UserError, match=r"model\.tracks 'none' reads none"):
        make_stage(c)


def test_actions_of_another_width_are_named(stage, variables):
    b = batch()
    with pytest.raises(UserError, match="have 6 numbers, and the head makes 7"):
        jax.eval_shape(
            lambda v: stage.loss(v, b.replace(actions=b.actions[..., :6]), jax.random.key(0), False), variables
        )


def test_half_precision_keeps_coordinates_and_actions_in_float32(variables):
    c = config()
    c.dtype = "bfloat16"
    stage = make_stage(c)
    _, tracks, _, _ = jax.eval_shape(stage.inputs, variables, batch())
    found = jax.eval_shape(lambda v: stage.predict(v, batch(), jax.random.key(0)), variables)
    value, _ = jax.eval_shape(lambda v: stage.loss(v, batch(), jax.random.key(0), False), variables)
    assert stage.net.dtype == jnp.bfloat16
    assert tracks.dtype == found.actions.dtype == value.dtype == jnp.float32
