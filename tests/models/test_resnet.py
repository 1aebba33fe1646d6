"""ResNet: sizes, resolutions, and what its norms do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weights import numpy_variables

from t2p.geometry.resample import resize_bilinear
from t2p.io import UserError
from t2p.models.resnet import ResNet, make_resnet, vision_tokens

# torchvision's counts without the classifier
PARAMETERS = {"resnet18": 11_176_512, "resnet34": 21_284_672, "resnet50": 23_508_032}
GIGA = {"resnet18": 3.63, "resnet34": 7.34, "resnet50": 8.17}  # 2 x the multiply-adds at 224 x 224


@pytest.mark.parametrize("variant", PARAMETERS)
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_published_sizes(variant, norm):
    net = make_resnet(variant, norm)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == PARAMETERS[variant]
    assert ("batch_stats" in shapes) == (norm == "batch")
    features, aux = jax.eval_shape(lambda v, x: net.apply(v, x), shapes, jnp.zeros((2, 224, 224, 3)))
    assert features.shape == (2, net.width) and aux["layer_3"].shape == (2, 7, 7, net.width)
    assert aux["stem"].shape == (2, 56, 56, 64)
    assert net.flops((224, 224)) == pytest.approx(GIGA[variant] * 1e9, rel=0.01)


def test_group_norm_keeps_rows_apart_and_ignores_contrast():
    net = ResNet(blocks=(1, 1, 0, 0), norm="group")
    images = jnp.asarray(np.random.default_rng(0).standard_normal((2, 32, 32, 3)), jnp.float32)
    variables = jax.jit(net.init)(jax.random.key(0), images)
    run = jax.jit(lambda x: net.apply(variables, x)[0])
    both = run(images)
    np.testing.assert_allclose(run(images.at[0].set(0.0))[1], both[1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(run(3 * images), both, rtol=2e-3, atol=2e-3)  # the stem has no bias


def test_batch_norm_moves_its_statistics_in_training_only():
    net = ResNet(blocks=(1, 0, 0, 0), norm="batch")
    images = jnp.ones((2, 32, 32, 3)).at[0].set(-1.0)
    variables = jax.jit(net.init)(jax.random.key(0), images)
    _, new = jax.jit(lambda v, x: net.apply(v, x, True, mutable=["batch_stats"]))(variables, images)
    before, after = (x["batch_stats"]["stem_norm"]["norm"]["var"] for x in (variables, new))
    assert np.abs(np.asarray(after - before)).max() > 1e-3


def test_unknown_names():
    with pytest.raises(UserError, match=r"resnet19.*resnet18"):
        make_resnet("resnet19", "group")
    with pytest.raises(UserError, match="norm is 'layer'"):
        ResNet(norm="layer").init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


@pytest.fixture(scope="module")
def narrow():
    """A net of two stages, pictures of three views, and their tokens when seen at 40 x 56 pixels: 5 x 7 a view."""
    net = ResNet(blocks=(1, 1), widths=(4, 6), stem=3)
    images = jnp.asarray(np.random.default_rng(1).random((2, 3, 64, 96, 3)), jnp.float32)
    variables = numpy_variables(net, images[0])
    return net, variables, images, tokens(net, variables, images, (40, 56))


tokens = jax.jit(vision_tokens, static_argnames=("net", "size", "normalise", "pooled"))
CLOSE = {"rtol": 1e-4, "atol": 1e-2}  # features are as large as 100


def test_tokens_are_in_order_of_rows_views_and_pixels(narrow):
    net, variables, images, found = narrow
    assert found.shape == (2, 3 * 5 * 7, net.width)
    small = resize_bilinear(images[1], (40, 56))
    maps = jax.jit(net.apply)(variables, small)[1]["layer_1"]  # [v, 5, 7, c]
    np.testing.assert_allclose(found[1].reshape(maps.shape), maps, **CLOSE)
    turned = tokens(net, variables, images[:, ::-1], (40, 56))
    np.testing.assert_allclose(turned.reshape(2, 3, 35, 6)[:, ::-1], found.reshape(2, 3, 35, 6), **CLOSE)
    pooled = tokens(net, variables, images, (40, 56), pooled=True)
    np.testing.assert_allclose(pooled, found.reshape(2, 3, 35, 6).mean(2), **CLOSE)


def test_pictures_are_resized_and_normalised_first(narrow):
    net, variables, images, found = narrow
    resized = jax.image.resize(images, (2, 3, 40, 56, 3), "bilinear", antialias=False)
    mean, std = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
    same = tokens(net, variables, resized * std + mean, (40, 56), normalise=True)
    np.testing.assert_allclose(same, found, **CLOSE)


def test_group_norm_needs_whole_groups():
    with pytest.raises(UserError, match=r"multiples of 16 channels; the stem has 64 and the stages have 8, 16"):
        ResNet(blocks=(1, 1), widths=(8, 16), norm="group").init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
