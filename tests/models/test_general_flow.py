"""General Flow's network: sizes, frozen numbers, what a latent and a scale are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weights import numpy_variables, run

from t2p.io import UserError
from t2p.models.general_flow import VARIANTS, GeneralFlow, displacements

# "paths": of the last query, the second latent, step 2; "log_variance": of the first query. See test_frozen_numbers.
FROZEN = {"paths": [-0.09144, -0.028723, 0.669039], "log_variance": [3.913775, 1.725004, 1.871398]}
N, Q = 60, 6


def net(**changes):
    settings = {"width": 8, "blocks": (1, 2, 1), "strides": (1, 2, 4), "layers": 2, "radius": 0.3, "neighbours": 6}
    settings |= {"hidden": 10, "encoder_layers": 2, "decoder_layers": 0, "head_layers": 1, "latent": 4}
    return GeneralFlow(**({"steps": 3, "text_hidden": (8,), "text_width": 5} | settings | changes))


def scene(n=N, q=Q, text=12, seed=0):
    rng = np.random.default_rng(seed)
    cloud, colors, queries = (rng.random((2, k, 3), np.float32) for k in (n, n, q))
    return cloud, colors, queries, rng.standard_normal((2, text), np.float32)


def labels(model, q=Q, seed=1):
    rng = np.random.default_rng(seed)
    shapes = ((2, q, model.steps, 3), (2, q, model.scales), (2, q, model.latent))
    return tuple(rng.standard_normal(shape, np.float32) for shape in shapes)


@pytest.mark.parametrize(("name", "count"), [("S", 905_922), ("B", 5_622_434), ("L", 17_088_066)])
def test_parameters_of_the_variants(name, count):
    """The paper gives 0.9, 5.6 and 17.1 million."""
    model = GeneralFlow(steps=3, **VARIANTS[name])
    x = [jnp.zeros(s) for s in ((1, 760, 3), (1, 760, 3), (1, 8, 3), (1, 512), (1, 8, 3, 3), (1, 8, 1), (1, 8, 16))]
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), *x))["params"]
    assert sum(p.size for p in jax.tree.leaves(params)) == count
    assert f"{count / 1e6:.1f}" == {"S": "0.9", "B": "5.6", "L": "17.1"}[name]


def test_frozen_numbers():
    """Recorded when the network agreed with the released implementation to 5e-6."""
    model = net()
    x, path = scene(), labels(net())
    z = np.random.default_rng(3).standard_normal((2, 2, 4), np.float32)
    variables = numpy_variables(model, *x, *path)
    places, _ = run(model, variables, *x, z, method="sample")
    outputs, aux = run(model, variables, *x, *path)
    assert places.shape == (2, 2, 3, Q, 3) and aux["points"].shape == (2, N + Q, 8) and aux["text"].shape == (2, 5)
    np.testing.assert_allclose(places[1, 1, 1, -1], FROZEN["paths"], atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(outputs["log_variance"][0, 0, :3], FROZEN["log_variance"], atol=1e-4, rtol=1e-4)


def test_a_latent_is_of_the_whole_scene_and_the_answer_of_the_query():
    model, x = net(), scene()
    variables = numpy_variables(model, *x, *labels(model))
    _, aux = run(model, variables, *x, *labels(model))
    z = jnp.asarray(np.random.default_rng(3).standard_normal((2, 3, 4), np.float32))
    paths = run(model, variables, z, aux["context"], method="paths")
    again = run(model, variables, z, aux["context"][:, ::-1], method="paths")
    np.testing.assert_allclose(again, paths[..., ::-1, :], atol=1e-5, rtol=1e-5)
    one = run(model, variables, z[:, 2:], aux["context"], method="paths")
    np.testing.assert_allclose(one[:, 0], paths[:, 2], atol=1e-5, rtol=1e-5)
    assert np.abs(paths[:, 0] - paths[:, 2]).max() > 1e-3


def test_paths_start_at_the_queries_and_add_up_the_steps():
    model, x = net(), scene()
    variables = numpy_variables(model, *x, *labels(model))
    _, aux = run(model, variables, *x, *labels(model))
    np.testing.assert_array_equal(aux["context"][..., :3], x[2])
    z = jnp.ones((2, 1, 4))
    direction, scale = run(model, variables, jnp.ones((2, Q, 4)), aux["context"], method="decode")
    want = x[2][:, :, None] + np.cumsum(np.asarray(direction) * np.asarray(scale)[..., None], axis=2)
    paths = run(model, variables, z, aux["context"], method="paths")
    np.testing.assert_allclose(paths[:, 0].swapaxes(1, 2), want, atol=1e-5)


def test_without_noise_the_mean_is_decoded():
    model, x = net(), scene()
    direction, scale, noise = labels(model)
    variables = numpy_variables(model, *x, direction, scale, noise)
    outputs, aux = run(model, variables, *x, direction, scale, 0 * noise)
    again, _ = run(model, variables, outputs["mean"], aux["context"], method="decode")
    np.testing.assert_allclose(outputs["direction"], again, atol=1e-5, rtol=1e-5)
    noisy, _ = run(model, variables, *x, direction, scale, noise)
    np.testing.assert_allclose(noisy["mean"], outputs["mean"], atol=1e-5, rtol=1e-5)
    assert np.abs(noisy["direction"] - again).max() > 1e-3


def test_each_step_has_its_scale_under_sdn():
    model = net(scale_method="SDN", steps=5)
    x = scene()
    (outputs, _), _ = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), *x, *labels(model)))
    assert outputs["scale"].shape == (2, Q, 5) and outputs["direction"].shape == (2, Q, 5, 3)
    assert displacements(np.ones((Q, 5, 3)), np.arange(5.0))[0, 3, 1] == 3


@pytest.mark.parametrize("given", range(4))
def test_every_input_matters(given):
    model, x = net(), list(scene())
    variables = numpy_variables(model, *x, *labels(model))
    want, _ = run(model, variables, *x, *labels(model))
    x[given] = x[given] + 0.3 * np.random.default_rng(5).random(x[given].shape, np.float32)
    got, _ = run(model, variables, *x, *labels(model))
    assert np.abs(got["direction"] - want["direction"]).max() > 1e-3


def test_bad_input():
    with pytest.raises(UserError, match="'TNT'; expected one of TLN, TDN, SDN"):
        jax.eval_shape(lambda: net(scale_method="TNT").init(jax.random.key(0), *scene(), *labels(net())))
