"""Cached features on disk: what is read is what was written, and nothing stale or half-written is taken for it."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import VIEWS, make_episode

from t2p.data import features
from t2p.data.features import FeatureSet, Made
from t2p.data.pipeline import evaluation_batches, make_loader
from t2p.data.store import DamagedRecord, Dataset, finish, write_shard
from t2p.io import UserError
from t2p.train.defaults import base_config, source_config
from t2p.types import FieldWindow, WindowSpec

MADE = Made({"weights": "a" * 64, "size": [8, 8]}, VIEWS, (2, 3), "float32")
WINDOW = WindowSpec(
    views=VIEWS, features=FieldWindow((-1, 0)), feature_set="net", actions=FieldWindow((0,)), feature_shape=(2, 3)
)


def dataset(folder: Path, numbers: tuple[int, ...] = (0, 1, 2, 3)) -> Dataset:
    """Two shards; episode k has 3 + k frames."""
    for shard in (0, 1):
        episodes = [make_episode(k, length=3 + k) for k in numbers[2 * shard : 2 * shard + 2]]
        write_shard(folder, "train", shard, episodes, codec="png")
    finish(folder, shards={"train": 2})
    return Dataset(folder, "train")


def tokens(data: Dataset, episode: int, view: str) -> np.ndarray:
    """[T, 2, 3]: which episode, view and frame it is."""
    length = data.infos[episode].length
    base = 100 * int(data.column(episode, "actions")[0, 0]) + 1000 * VIEWS.index(view)
    return (base + np.arange(length)[:, None, None] + np.arange(6).reshape(2, 3) / 10).astype(np.float32)


def cache(data: Dataset, shards: tuple[int, ...] = (0, 1), made: Made = MADE) -> None:
    features.begin(data.directory, "net", made)
    for shard in shards:
        own = [k for k, info in enumerate(data.infos) if info.shard == shard]
        parts = (tokens(data, k, view) for k in own for view in VIEWS)
        features.write_features(data, "net", shard, made, parts)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    found = dataset(tmp_path_factory.mktemp("features") / "d")
    cache(found)
    return found


def test_every_frame_comes_back(data: Dataset) -> None:
    found = pickle.loads(pickle.dumps(FeatureSet(data, "net")))
    for episode in range(len(data)):
        for view in VIEWS:
            want = tokens(data, episode, view)
            times = [*range(len(want)), 0, len(want) - 1]
            np.testing.assert_array_equal(found.read(episode, view, times), want[times])


def config(data: Dataset, **changes):
    c = base_config().data
    c.sources.a = source_config(str(data.directory))
    c.update(changes)
    return c


def flat(batch) -> list[np.ndarray]:
    return [batch.index, batch.actions, *(batch.features[view] for view in VIEWS)]


def test_batches_carry_them_and_workers_and_hosts_change_nothing(data: Dataset) -> None:
    options = {"batch_size": 4, "seed": 3}
    with make_loader(config(data), WINDOW, **options) as whole:
        batches = [next(whole) for _ in range(3)]
    with make_loader(config(data, workers=2), WINDOW, **options, process_index=1, process_count=2) as half:
        for batch in batches:
            for a, b in zip(flat(batch), flat(next(half)), strict=True):
                np.testing.assert_array_equal(a[2:], b)
    for batch in batches:
        assert not batch.images and batch.has["features"].all()
        for view in VIEWS:
            shown = batch.features[view]
            assert shown.shape == (4, 2, 2, 3) and shown.dtype == np.float32
            episode = np.floor(shown[:, 1, 0, 0] % 1000 / 100)
            np.testing.assert_array_equal(episode, batch.actions[:, 0, 0])
            step = shown[:, 1] - shown[:, 0]  # frame 0 has none before it and stands twice
            assert np.isin(np.round(step, 3), (0, 1)).all()
    (first, *_) = evaluation_batches(config(data).sources, WINDOW, batch_size=4)
    np.testing.assert_allclose(first.features["front"][:3, 1, 0, 0], [0, 1, 2], atol=1e-6)


def test_a_source_that_keeps_pictures_keeps_what_stands_for_them(data: Dataset) -> None:
    c = config(data)
    c.sources.a.fields = ("images", "actions")
    with make_loader(c, WINDOW, batch_size=2, seed=0) as loader:
        assert next(loader).has["features"].all()


def test_interrupted_caching_is_refused_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    data = dataset(tmp_path / "d")
    with pytest.raises(UserError, match=r"no features 'net'; it has none .*t2p cache-features .* --name net"):
        FeatureSet(data, "net")
    cache(data, (0,))
    assert features.pending(data, "net", MADE) == [1]
    with pytest.raises(UserError, match="not finished: 1 of 2 shards are missing"):
        FeatureSet(data, "net")

    def interrupted():
        yield tokens(data, 2, "front")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        features.write_features(data, "net", 1, MADE, interrupted())
    assert features.pending(data, "net", MADE) == [1]
    where = Path(features.folder(data.directory, "net"))
    before = {p.name: p.stat().st_mtime_ns for p in where.iterdir()}
    assert not [name for name in before if "partial" in name]
    cache(data, (1,))
    assert not features.pending(data, "net", MADE)
    assert all((where / name).stat().st_mtime_ns == time for name, time in before.items())  # shard 0 is left alone
    np.testing.assert_array_equal(FeatureSet(data, "net").read(3, "wrist", [1]), tokens(data, 3, "wrist")[1:2])


def test_other_episodes_under_the_same_name_are_noticed(tmp_path: Path) -> None:
    cache(dataset(tmp_path / "d"))
    (tmp_path / "d/manifest.json").unlink()
    changed = dataset(tmp_path / "d", (0, 1, 3, 2))  # as many shards, episodes and frames
    with pytest.raises(UserError, match=r"are stale: the dataset's pictures.* have changed"):
        FeatureSet(changed, "net")
    assert features.pending(changed, "net", MADE) == [1]  # shard 0 holds what it held
    cache(changed, (1,))
    np.testing.assert_array_equal(FeatureSet(changed, "net").read(2, "front", [4]), tokens(changed, 2, "front")[4:5])


def test_another_encoder_does_not_write_into_them(tmp_path: Path, data: Dataset) -> None:
    other = replace(MADE, encoder={"weights": "b" * 64, "size": [8, 8]})
    with pytest.raises(UserError, match=r"encoder\.weights: aaaaaaaaaaaa\.\.\. there, bbbbbbbbbbbb\.\.\. here.*--name"):
        features.begin(data.directory, "net", other)
    mixed = dataset(tmp_path / "d")
    cache(mixed)
    where = features.folder(mixed.directory, "net")
    (where / "encoder.json").unlink()  # by hand: the shards still know what made them
    features.begin(mixed.directory, "net", other)
    assert features.pending(mixed, "net", other) == [0, 1]
    with pytest.raises(UserError, match="are stale"):
        FeatureSet(mixed, "net")


@pytest.mark.parametrize(
    ("window", "message"),
    [
        (replace(WINDOW, feature_shape=(4, 3)), r"features 'net' are \(2, 3\) .* encoder gives \(4, 3\)"),
        (replace(WINDOW, feature_set="other"), "no features 'other'; it has net"),
        (replace(WINDOW, feature_set=None), "needs both"),
        (replace(WINDOW, feature_set="../net"), "expected a name such as"),
    ],
)
def test_a_window_that_they_do_not_fit_is_told_so(data: Dataset, window: WindowSpec, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_loader(config(data), window, batch_size=2, seed=0)


def test_numbers_that_do_not_fit_the_dtype_are_refused(tmp_path: Path) -> None:
    data = dataset(tmp_path / "d")
    half = replace(MADE, dtype="float16")
    features.begin(data.directory, "net", half)
    with pytest.raises(UserError, match="do not fit float16; take --dtype float32"):
        features.write_features(data, "net", 0, half, iter([np.full((3, 2, 3), 1e5, np.float32)]))
    assert features.pending(data, "net", half) == [0, 1]


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    data = dataset(tmp_path / "d")
    cache(data)
    path = features.folder(data.directory, "net") / "train-00000.features.array_record"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(DamagedRecord, match=r"train-00000\.features"):
        FeatureSet(data, "net").read(0, "front", [0])


def test_sources_of_two_dtypes_are_refused(tmp_path: Path, data: Dataset) -> None:
    other = dataset(tmp_path / "d")
    cache(other, made=replace(MADE, dtype="float16"))
    c = config(data)
    c.sources.b = source_config(str(other.directory))
    with pytest.raises(UserError, match=r"float16 beside float32.*--dtype"):
        make_loader(c, WINDOW, batch_size=2, seed=0)
