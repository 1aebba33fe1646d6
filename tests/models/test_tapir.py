"""TAPIR: frozen numbers, published shapes, offline against online, and the original where it is installed."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from t2p.convert import tapir as convert
from t2p.convert.base import to_official
from t2p.io import UserError
from t2p.models import tapir

SMALL = {"width": 16, "mixer_blocks": 2, "blocks": (1, 1, 1, 1), "train_size": (32, 32), "iterations": 2}
TINY = SMALL | {"mixer_blocks": 1, "iterations": 1}
BOOTS = TINY | {"pyramid": 1, "temperature": 10.0, "extra_layers": 1, "extra_multiplier": 1}


def shapes(model: tapir.Tapir) -> dict[str, tuple[int, ...]]:
    """Official names and shapes of a model's parameters, without computing anything."""
    found = flatten_dict(tapir.parameter_shapes(model), sep="/")
    rows = convert.rows(model)
    assert sorted(row.ours for row in rows) == sorted(found)
    return {row.official: found[row.ours] for row in rows}


def random_arrays(model: tapir.Tapir, seed: int) -> dict[str, np.ndarray]:
    """Weights under their official names, made by NumPy alone."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, shape in sorted(shapes(model).items()):
        values = rng.standard_normal(shape)
        fan_in = np.prod(shape[:-1])
        arrays[name] = (
            values / np.sqrt(fan_in) if name.endswith("/w") else (name.endswith("scale")) + 0.1 * values
        ).astype(np.float32)
    return arrays


def build(settings: dict, causal: bool = False) -> tuple[tapir.Tapir, dict, dict]:
    arrays = random_arrays(tapir.Tapir(**settings), seed=5)
    known = {name: settings[name] for name in ("temperature", "train_size", "iterations") if name in settings}
    return *convert.from_arrays(arrays, causal, **known), arrays


def clip(frames: int = 5, size: tuple[int, int] = (48, 40)) -> tuple[np.ndarray, np.ndarray]:
    """A drifting texture and queries (t, x, y)."""
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 256, (12 + frames, 12, 3))
    texture = coarse.repeat(8, 0).repeat(8, 1).astype(np.uint8)
    video = np.stack([texture[2 * t : 2 * t + size[0], t : t + size[1]] for t in range(frames)])
    queries = rng.uniform(0.1, 0.9, (7, 3)).astype(np.float32)
    queries[:, 0] = rng.integers(0, frames, 7)
    return video, queries


@pytest.mark.parametrize("name", ["tapir", "bootstapir"])
def test_frozen_numbers(name):
    """Recorded when every array of the golden fixtures agreed with the original within 2e-5."""
    model, params, _ = build({"tapir": SMALL, "bootstapir": BOOTS}[name])
    video, queries = clip(size={"tapir": (32, 32), "bootstapir": (48, 40)}[name])
    with jax.default_matmul_precision("highest"):
        features = tapir.extract(model, params, video, chunk=2)
        found = tapir.track(model, params, features, queries, chunk=3)
    numbers = np.array(
        [
            *found.points[1, 2],
            *found.points[6, 4],
            found.occlusion[0, 0],
            found.occlusion[3, 4],
            found.uncertainty[5, 1],
            features[-1].hires[1, 3, 4, :3].sum(),
            features[0].lowres[4, 1, 2, 7],
            np.abs(found.points - 0.5).mean(),
        ]
    )
    np.testing.assert_allclose(numbers, FROZEN[name], atol=1e-4)


FROZEN = {
    "tapir": [0.519554, 0.120992, 0.455154, 0.112747, -0.065671, -1.536186, -0.788574, -0.030151, -0.000601, 0.195890],
    "bootstapir": [
        0.432499,
        0.287037,
        0.446583,
        0.351111,
        -0.525608,
        -1.310894,
        0.135988,
        -0.048401,
        0.039831,
        0.128205,
    ],
}


def test_parameters_have_the_published_names_and_shapes(shared):
    models = json.loads((shared / "golden/tapir/param_trees_full_size.json").read_text())["models"]
    for entry in models.values():
        boots = entry["kwargs"].get("extra_convs", False)
        settings = tapir.VARIANTS["bootstapir" if boots else "tapir"] | {"pyramid": entry["kwargs"]["pyramid_level"]}
        tree = flatten_dict(entry["param_tree"], sep=None)
        expected = {"/".join(path): tuple(shape) for path, shape in tree.items()}
        model = tapir.Tapir(causal=entry["kwargs"].get("use_causal_conv", False), **settings)
        found = shapes(model)
        assert found == expected
        assert sum(int(np.prod(shape)) for shape in found.values()) == entry["num_params"]
        blank = {name: np.broadcast_to(np.float32(0), shape) for name, shape in found.items()}
        assert tapir.Tapir(**convert.settings(blank)) == tapir.Tapir(**settings)


def test_weights_survive_the_way_there_and_back():
    model, params, arrays = build(BOOTS)
    assert model == tapir.Tapir(**BOOTS)
    back = to_official(convert.rows(model), params)
    assert set(back) == set(arrays) and all(np.array_equal(back[name], arrays[name]) for name in arrays)


@pytest.mark.parametrize("spoil", ["missing", "unknown", "shape", "other", "width"])
def test_wrong_weights_are_refused(spoil):
    arrays = random_arrays(tapir.Tapir(**SMALL), 0)
    expected = {"missing": "occlusion_out", "unknown": "hello", "shape": "initial_conv", "other": "no TAPIR weights"}
    if spoil == "missing":
        del arrays["tapir/~/occlusion_out/b"]
    elif spoil == "unknown":
        arrays["tapir/~/hello/w"] = np.zeros(3)
    elif spoil == "shape":
        arrays["tapir/~/resnet/~/initial_conv/w"] = np.zeros((7, 7, 4, 64))
    elif spoil == "width":
        arrays["tapir/~/pips_mlp_mixer/linear/w"] = np.zeros((500, 16))
    else:
        arrays = {"encoder/w": np.zeros(3)}
    with pytest.raises(UserError, match=expected.get(spoil, "input width is 500")):
        convert.from_arrays(arrays, causal=False)


def test_published_container_is_read(tmp_path):
    arrays = random_arrays(tapir.Tapir(**SMALL), 5)
    tree: dict = {}
    for name, value in arrays.items():
        module, leaf = name.rsplit("/", 1)
        tree.setdefault(module, {})[leaf] = value
    tree["tapir/~/regression_hid"] = {"w": np.zeros((3, 128))}  # declared by the original, never called
    np.save(tmp_path / "tapir.npy", {"params": tree, "state": {}}, allow_pickle=True)
    model, params = convert.load(tmp_path / "tapir.npy", causal=True)
    assert model.causal and model.width == 16
    np.testing.assert_array_equal(params["mixer"]["out"]["kernel"], arrays["tapir/~/pips_mlp_mixer/linear_1/w"])


def test_chunks_of_queries_and_frames_do_not_matter():
    model, params, _ = build(TINY)
    video, queries = clip(frames=3, size=(32, 32))
    first = tapir.track(model, params, tapir.extract(model, params, video, chunk=2), queries, chunk=3)
    second = tapir.track(model, params, tapir.extract(model, params, video), queries)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), first, second)


def test_online_equals_offline_of_the_causal_model():
    """One frame at a time with state, as all frames at once; and the offline model does look ahead."""
    model, params, _ = build(TINY | {"iterations": 2}, causal=True)
    video, queries = clip(frames=4, size=(32, 32))
    queries[:, 0] = 0
    features = tapir.extract(model, params, video, chunk=1)
    points = tapir.query_features(features, queries)

    def whole(model):
        return tapir.combine(model, jax.jit(model.apply)({"params": params}, features, points)[0])

    causal = whole(model)
    state = tapir.initial_state(model, len(queries), len(features))
    for t, frame in enumerate(video):
        now, state = tapir.step(model, params, frame, points, state)
        jax.tree.map(lambda a, b, t=t: np.testing.assert_allclose(a[:, 0], b[:, t], atol=1e-4), now, causal)
    offline = model.clone(causal=False)
    assert np.abs(whole(offline).points[:, 0] - causal.points[:, 0]).max() > 1e-3
    with pytest.raises(ValueError, match="causal"):
        tapir.step(offline, params, video[0], points, state)


def test_the_query_frame_starts_at_the_query():
    model, params, _ = build(TINY)
    video, queries = clip(frames=3, size=(32, 32))
    first = tapir.track_all(model, params, tapir.extract(model, params, video), queries)[0]
    own = first.points[np.arange(len(queries)), queries[:, 0].astype(int)]
    np.testing.assert_allclose(own, queries[:, 1:], atol=1e-7)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((256, 256), [(256, 256)]),
        ((128, 128), [(256, 256)]),
        ((480, 640), [(256, 256), (344, 400), (480, 640)]),
        ((512, 512), [(256, 256), (512, 512)]),
        ((260, 256), [(256, 256), (256, 256)]),
        ((1080, 1920), [(256, 256), (408, 496), (664, 976), (1080, 1920)]),
    ],
)
def test_resolutions(size, expected):
    assert tapir.resolutions(size) == expected


def test_patches_are_bilinear_samples_with_zeros_outside():
    rng = np.random.default_rng(0)
    maps, features = rng.normal(size=(2, 6, 5, 3)), rng.normal(size=(4, 2, 3))
    points = rng.uniform(-0.3, 1.3, (4, 2, 2))
    points[0, 0] = (0.5 / 5, 2.5 / 6)  # on a cell's centre
    found = np.asarray(tapir.patches(features, maps, points)).reshape(4, 2, 7, 7)
    for n, t, i, j in np.ndindex(4, 2, 7, 7):
        y, x = points[n, t, 1] * 6 - 0.5 + i - 3, points[n, t, 0] * 5 - 0.5 + j - 3
        total = 0.0
        for a in (int(np.floor(y)), int(np.floor(y)) + 1):
            for b in (int(np.floor(x)), int(np.floor(x)) + 1):
                if 0 <= a < 6 and 0 <= b < 5:
                    total += (1 - abs(y - a)) * (1 - abs(x - b)) * (features[n, t] @ maps[t, a, b])
        np.testing.assert_allclose(found[n, t, i, j], total, atol=1e-5)


def test_soft_argmax_takes_the_cells_within_its_radius_only():
    heat = np.full((1, 16, 16), -20.0)
    heat[0, 4, 3] = 1.0
    heat[0, 4, 7] = 0.9  # four cells away: counts
    heat[0, 4, 8] = 0.9  # five cells away: does not
    found = tapir.soft_argmax(heat)[0] * 16
    weight = np.exp(0.9) / (np.exp(0.9) + np.exp(1.0))
    np.testing.assert_allclose(found, [3.5 + 4 * weight, 4.5], atol=1e-5)


def test_samples_are_clamped_at_the_edges_and_linear_in_time():
    maps = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4, 1)
    points = np.array([[0, 0.0, 0.0], [1, 1.0, 1.0], [0, 0.5, 0.5], [0.25, 0.5, 0.5]])
    np.testing.assert_allclose(tapir.sample(maps, points)[:, 0], [0, 23, 5.5, 8.5], atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_equals_tapnet_where_it_is_installed(causal):
    original = pytest.importorskip("tapnet.models.tapir_model")
    hk = pytest.importorskip("haiku")
    settings = SMALL | {"pyramid": 2, "extra_layers": 1, "extra_multiplier": 2, "blocks": (2, 1, 1, 2), "iterations": 3}
    model, params, arrays = build(settings, causal)
    video, queries = clip(size=(72, 40))
    queries[0, 0] = 1.25  # between two frames
    tree: dict = {}
    for name, value in arrays.items():
        module, leaf = name.rsplit("/", 1)
        tree.setdefault(module, {})[leaf] = value

    def forward(video, queries):
        network = original.TAPIR(
            pyramid_level=2,
            num_pips_iter=3,
            mixer_hidden_dim=16,
            num_mixer_blocks=2,
            use_causal_conv=causal,
            initial_resolution=(32, 32),
            blocks_per_group=(2, 1, 1, 2),
            extra_convs=True,
            extra_convs_kwargs={"num_layers": 1, "channel_multiplier": 2},
        )
        return network(video, is_training=False, query_points=queries, query_chunk_size=4)

    pixels = np.stack([queries[:, 0], queries[:, 2] * 72, queries[:, 1] * 40], axis=-1)
    apply = jax.jit(hk.transform(forward).apply)
    want = apply(tree, jax.random.key(0), (video / np.float32(255) * 2 - 1)[None], pixels[None])
    # temperature: the original's default, which `build` took from the settings' extra layers otherwise
    model = model.clone(temperature=20.0)
    got = tapir.track(model, params, tapir.extract(model, params, video, chunk=3), queries, chunk=5)
    np.testing.assert_allclose(got.points * [40, 72], want["tracks"][0], atol=1e-3)
    np.testing.assert_allclose(got.occlusion, want["occlusion"][0], atol=1e-3)
    np.testing.assert_allclose(got.uncertainty, want["expected_dist"][0], atol=1e-3)
