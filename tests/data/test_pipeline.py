"""Order, mixtures, workers, resume, evaluation and errors of the pipeline, on datasets written to disk."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import VIEWS, frame_value, make_episode

from t2p.data.pipeline import evaluation_batches, example_batch, make_loader, sentences
from t2p.data.store import DamagedRecord, Dataset, finish, write_shard
from t2p.io import UserError
from t2p.train.defaults import base_config, source_config
from t2p.types import ANY_VIEW, Batch, FieldWindow, WindowSpec

WINDOW = WindowSpec(
    views=VIEWS,
    images=FieldWindow((0, 1)),
    track_set="dis/grid",
    tracks=FieldWindow((0, 1, 2)),
    num_points=4,
    actions=FieldWindow((0, 1), pad="zero"),
    text=True,
)
TEXT = {f"sentence {i}": np.full(3, i + 1, np.float32) for i in range(9)}


def write(directory: Path, episodes) -> str:
    write_shard(directory, "train", 0, episodes, codec="png")
    finish(directory, shards={"train": 1})
    return str(directory)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    return write(tmp_path_factory.mktemp("data") / "five", [make_episode(i, length=4 + i) for i in range(5)])


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> str:
    """Episodes without actions and without sentences."""
    episodes = [make_episode(i, columns={}, language=()) for i in (7, 8)]
    return write(tmp_path_factory.mktemp("data") / "bare", episodes)


def config(*paths: str, augment: bool = False, **changes):
    data = base_config().data
    for name, where in zip("abcdef", paths, strict=False):
        data.sources[name] = source_config(path=where)
    if augment:
        data.augment.update({"probability": 0.8, "brightness": 0.3, "hue": 0.2, "shift": 3})
    data.update(changes)
    return data


def loader(data, **changes):
    return make_loader(data, changes.pop("window", WINDOW), **{"batch_size": 4, "seed": 5, "text": TEXT, **changes})


def leaves(value, path="") -> dict[str, np.ndarray]:
    """Every array of a batch by its path."""
    if isinstance(value, np.ndarray):
        return {path: value}
    if isinstance(value, dict):
        parts = value.items()
    elif hasattr(value, "__dataclass_fields__"):
        parts = ((name, getattr(value, name)) for name in value.__dataclass_fields__)
    else:
        return {}
    return {p: a for name, part in parts for p, a in leaves(part, f"{path}/{name}").items()}


def take(data, count: int, **changes) -> list[Batch]:
    with loader(data, **changes) as batches:
        return list(itertools.islice(batches, count))


def assert_equal(one: list[Batch], other: list[Batch]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        a, b = leaves(a), leaves(b)
        assert a.keys() == b.keys() and len(a) > 4
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_a_batch_has_what_the_window_asks_for(path):
    (batch,) = take(config(path), 1)
    assert batch.images["front"].shape == (4, 2, 16, 16, 3) and batch.images["front"].dtype == np.uint8
    tracks = batch.tracks["dis/grid"]["wrist"]
    assert tracks.points.shape == (4, 3, 4, 2) and tracks.visible.shape == (4, 3, 4) and tracks.valid.shape == (4, 3)
    assert batch.actions.shape == (4, 2, 2) and batch.action_valid.dtype == bool
    assert batch.index.tolist() == [0, 1, 2, 3] and batch.mask is None
    assert batch.has.keys() == {"images", "tracks", "actions", "text"} and all(v.all() for v in batch.has.values())
    for i in range(4):  # all fields of an example come from one row
        number, t = batch.actions[i, 0].astype(int)
        assert batch.images["front"][i, 0, 0, 0, 0] == frame_value(number, "front", t)
        assert batch.images["wrist"][i, 0, 0, 0, 0] == frame_value(number, "wrist", t)
        np.testing.assert_allclose(tracks.points[i, 0, :, 0], t / 100)
        assert batch.text[i].tolist() == TEXT[f"sentence {number}"].tolist()


def test_an_epoch_shows_every_row_once_and_the_next_in_another_order(path):
    rows = 4 + 5 + 6 + 7 + 8
    seen = np.concatenate([b.actions[:, 0] for b in take(config(path), 2 * rows // 4)]).tolist()
    first, second = seen[:rows], seen[rows:]
    everything = [[n, t] for n in range(5) for t in range(4 + n)]
    assert sorted(first) == sorted(second) == everything
    assert first != second and first != everything
    other = np.concatenate([b.actions[:, 0] for b in take(config(path), 4, seed=6)]).tolist()
    assert other != first[:16]


def test_one_view_makes_each_view_an_example(path):
    window = WindowSpec(views=VIEWS, one_view=True, images=FieldWindow((0,)))
    batches = take(config(path), 15, window=window)
    values = np.concatenate([b.images[ANY_VIEW][:, 0, 0, 0, 0] for b in batches]).tolist()
    assert sorted(values) == sorted(frame_value(n, v, t) for n in range(5) for t in range(4 + n) for v in VIEWS)


@pytest.mark.parametrize("processes", [2, 4])
def test_blocks_of_processes_joined_are_the_global_batch(path, bare, processes):
    data = config(path, bare, augment=True)
    whole = take(data, 5, batch_size=8)
    parts = [take(data, 5, batch_size=8, process_index=p, process_count=processes) for p in range(processes)]
    for step, batch in enumerate(whole):
        blocks = [leaves(part[step]) for part in parts]
        for name, array in leaves(batch).items():
            np.testing.assert_array_equal(np.concatenate([b[name] for b in blocks]), array, err_msg=name)


def test_resume_continues_the_uninterrupted_run(path, bare):
    data = config(path, bare, augment=True)
    whole = take(data, 12)
    with loader(data) as first:
        before = list(itertools.islice(first, 5))
        assert first.position == 5
    with loader(data, start=5) as second:
        after = list(itertools.islice(second, 7))
        assert second.position == 12
    assert_equal(before + after, whole)
    assert leaves(whole[0])["/images/front"].std() > 0


def test_workers_change_nothing_even_after_a_resume(path, bare):
    """From the middle of a run with threads, one process of two goes on with two worker processes."""
    whole = take(config(path, bare, augment=True), 7)
    half = take(config(path, bare, augment=True, workers=2), 5, start=2, process_index=1, process_count=2)
    for batch, part in zip(whole[2:], half, strict=True):
        part = leaves(part)
        for name, array in leaves(batch).items():
            np.testing.assert_array_equal(array[2:], part[name], err_msg=name)
    assert type(half[0].images["front"]) is np.ndarray


def test_mixture_follows_the_weights_and_marks_what_is_missing(path, bare):
    data = config(path, bare)
    data.sources.a.weight, data.sources.b.weight = 3.0, 1.0
    batches = take(data, 50)
    has = np.concatenate([b.has["actions"] for b in batches])
    assert has.sum() == 150
    for b in batches:
        assert (b.has["text"] == b.has["actions"]).all() and b.has["images"].all()
        assert not b.actions[~b.has["actions"]].any() and not b.action_valid[~b.has["actions"]].any()
        assert not b.text[~b.has["text"]].any() and b.text[b.has["text"]].all()
    alone = np.concatenate([b.actions[:, 0] for b in take(config(path), 25)])
    mixed = np.concatenate([b.actions[b.has["actions"], 0] for b in batches])
    np.testing.assert_array_equal(mixed[:100], alone)  # a source's own order does not depend on its neighbours


def test_fields_tasks_and_fraction(path):
    data = config(path, path)
    data.sources.b.fields = ("images",)
    batch = take(data, 4)[0]
    assert sorted(batch.has["tracks"]) == [False, False, True, True] and batch.has["images"].all()
    np.testing.assert_array_equal(batch.has["tracks"], batch.has["text"])
    data = config(path)
    data.sources.a.tasks = ("even",)
    assert {int(b.actions[i, 0, 0]) for b in take(data, 10) for i in range(4)} == {0, 2, 4}
    data.sources.a.fraction = 0.67  # the first two of three
    assert {int(b.actions[i, 0, 0]) for b in take(data, 10) for i in range(4)} == {0, 2}
    assert sentences(data) == ["sentence 0", "sentence 2"]
    data.sources.a.tasks = ("evn",)
    with pytest.raises(UserError, match=r"'evn'.*'even', 'odd'"):
        loader(data)


def test_a_source_that_moves_twice_as_fast_is_stretched(path):
    """Three of its frames stand for the five steps of the others, and their ends are where they were."""
    window = replace(WINDOW, tracks=FieldWindow((0, 1, 2, 3, 4)), num_points=None)
    data = config(path)
    data.sources.a.tasks, data.sources.a.fraction = ("even",), 0.3  # one episode of 4 frames
    (true,) = take(data, 1, window=replace(window, tracks=FieldWindow((0, 1, 2))))
    data.sources.a.horizon = 3
    (stretched,) = take(data, 1, window=window)
    before, after = (b.tracks["dis/grid"]["front"] for b in (true, stretched))
    assert after.points.shape[1] == 5
    np.testing.assert_allclose(after.points[:, ::2], before.points, atol=1e-6)
    middle = (before.points[:, :-1] + before.points[:, 1:]) / 2
    np.testing.assert_allclose(after.points[:, 1::2], middle, atol=1e-6)
    np.testing.assert_array_equal(after.valid[:, ::2], before.valid)
    data.sources.b = source_config(path=path)  # one batch with a source that is not stretched
    for batch in take(data, 4, window=window):
        assert batch.tracks["dis/grid"]["front"].points.shape[1] == 5


def test_fraction_takes_episodes_in_natural_order(tmp_path):
    where = write(tmp_path / "d", [make_episode(i, task="t") for i in (10, 2, 1)])
    data = config(where)
    data.sources.a.fraction = 2 / 3
    assert sentences(data) == ["sentence 1", "sentence 2"]


def test_several_sentences_one_is_drawn_in_training_the_first_in_evaluation(tmp_path, path):
    where = write(tmp_path / "d", [make_episode(0, language=("sentence 3", "sentence 1"))])
    texts = np.concatenate([b.text[:, 0] for b in take(config(where), 10)])
    assert set(texts) == {2, 4}
    evaluated = list(evaluation_batches(config(where).sources, WINDOW, batch_size=6, text=TEXT))
    assert set(evaluated[0].text[:, 0]) == {4}


def test_evaluation_is_one_ordered_pass_with_a_mask(path, bare):
    sources = config(path, bare).sources  # 30 + 12 rows
    batches = evaluation_batches(sources, WINDOW, batch_size=16, text=TEXT)
    once, twice = list(batches), list(batches)
    assert_equal(once, twice)
    assert len(batches) == len(once) == 3 and all(len(b.index) == 16 for b in once)
    mask = np.concatenate([b.mask for b in once])
    assert mask.tolist() == [True] * 42 + [False] * 6
    rows = np.concatenate([b.actions[:, 0] for b in once])[:30]
    assert rows.tolist() == [[n, t] for n in range(5) for t in range(4 + n)]
    halves = [list(evaluation_batches(sources, WINDOW, batch_size=16, text=TEXT, process_index=p, process_count=2))
              for p in range(2)]  # fmt: skip
    for k in range(3):
        joined = np.concatenate([halves[p][k].tracks["dis/grid"]["front"].points for p in range(2)])
        np.testing.assert_array_equal(joined, once[k].tracks["dis/grid"]["front"].points)


def test_points_of_an_evaluated_row_depend_on_the_row_alone(path, bare):
    points = lambda b: b.tracks["dis/grid"]["front"].points  # noqa: E731
    alone = list(evaluation_batches(config(path).sources, WINDOW, batch_size=10, text=TEXT))
    beside = list(evaluation_batches(config(path, bare).sources, WINDOW, batch_size=15, text=TEXT))
    np.testing.assert_array_equal(
        np.concatenate([points(b) for b in alone]), np.concatenate([points(b) for b in beside])[:30]
    )
    assert len(np.unique(np.concatenate([points(b)[:, 0, :, 1] for b in alone]), axis=0)) > 5


def test_limited_evaluation_is_spread_over_the_rows(path):
    batches = list(evaluation_batches(config(path).sources, WINDOW, batch_size=5, text=TEXT, batches=2))
    numbers = np.concatenate([b.actions[:, 0, 0] for b in batches])
    assert len(numbers) == 10 and set(numbers) == {0, 1, 2, 3, 4} and all(b.mask.all() for b in batches)


def test_example_batch_has_the_shapes_of_training(path, bare):
    data = config(path, bare, augment=True)
    shapes = lambda b: {k: (v.shape, v.dtype) for k, v in leaves(b).items()}  # noqa: E731
    assert shapes(example_batch(data, WINDOW, 4, TEXT)) == shapes(take(data, 1)[0])


def test_sentences_of_all_sources(path, bare):
    data = config(bare)
    assert sentences(data) == [""]  # tells the width of the embeddings all the same
    assert not take(data, 1, window=WindowSpec(views=VIEWS, text=True), text={"": np.ones(3)})[0].text.any()
    data.validation.v = source_config(path=path)
    assert sentences(data) == [f"sentence {i}" for i in range(5)]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"path": ""}, "'a' has no path"),
        ({"path": "nowhere"}, "nowhere"),
        ({"split": "vali"}, "vali.*train"),
        ({"tracks": "dis/other"}, r"'dis/other'.*dis/grid.*dis/window"),
        ({"fields": ("image",)}, "image"),
        ({"fraction": 0.0}, "fraction"),
        ({"weight": 0.0}, "weight"),
        ({"horizon": 1}, "horizon is 1"),
    ],
)
def test_a_wrong_source_is_named_with_what_there_is(path, change, message):
    data = config(path)
    data.sources.a.update(change)
    with pytest.raises(UserError, match=message):
        loader(data)


def test_wrong_requests_are_refused(path, bare, tmp_path):
    with pytest.raises(UserError, match=r"side.*front.*wrist|front.*wrist.*side"):
        loader(config(path), window=WindowSpec(views=("front", "side"), images=FieldWindow((0,))))
    with pytest.raises(UserError, match="no source has actions"):
        loader(config(bare), window=WindowSpec(views=VIEWS, actions=FieldWindow((0,))))
    large = write(tmp_path / "large", [make_episode(0, size=(16, 24))])
    with pytest.raises(UserError, match=r"16, 24.*16, 16|16, 16.*16, 24"):
        loader(config(path, large))
    with pytest.raises(UserError, match="batch_size"):
        loader(config(path), batch_size=3, process_count=2)
    with pytest.raises(UserError, match="no data source"):
        loader(config())
    with pytest.raises(UserError, match="sentence 4"):
        loader(config(path), text={f"sentence {i}": np.ones(3) for i in range(4)})
    with pytest.raises(UserError, match="embeddings"):
        loader(config(path), text=None)


def broken_frames(directory: str) -> int:
    """How many frames of view front cannot be read."""
    dataset, count = Dataset(directory, "train"), 0
    for number, info in enumerate(dataset.infos):
        for t in range(info.length):
            try:
                dataset.frames(number, "front", [t])
            except DamagedRecord:
                count += 1
    return count


@pytest.fixture
def damaged(tmp_path) -> str:
    """A dataset in which one frame of view front was overwritten in place."""
    where = write(tmp_path / "d", [make_episode(i, length=6) for i in range(3)])
    shard = next(Path(where).glob("*.episodes.array_record"))
    whole = shard.read_bytes()
    for at in range(400, 6000, 200):
        shard.write_bytes(whole[:at] + bytes(b ^ 0xFF for b in whole[at : at + 4]) + whole[at + 4 :])
        if broken_frames(where) == 1:
            return where
    raise AssertionError("no place damages exactly one frame")


FRONT = WindowSpec(views=("front",), images=FieldWindow((0,)), actions=FieldWindow((0,)))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_record_stops_training(damaged, workers):
    with pytest.raises(DamagedRecord, match=r"frames/front.*t2p data check"):
        take(config(damaged, workers=workers), 5, window=FRONT)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_record_is_replaced_and_counted_where_asked(damaged, workers):
    with loader(config(damaged, skip_damaged=True, workers=workers), window=FRONT) as batches:
        seen = [next(batches) for _ in range(9)]
        assert batches.skipped == 2  # once in each of two epochs
    values = np.concatenate([b.images["front"][:, 0, 0, 0, 0] for b in seen])
    rows = np.concatenate([b.actions[:, 0] for b in seen])
    assert values.tolist() == [frame_value(n, "front", t) for n, t in rows]  # the substitutes are whole rows
    if workers:
        assert_equal(seen, take(config(damaged, skip_damaged=True), 9, window=FRONT))


def test_a_damaged_row_is_masked_in_evaluation_where_asked(damaged):
    sources = config(damaged).sources
    with pytest.raises(DamagedRecord):
        list(evaluation_batches(sources, FRONT, batch_size=18))
    batches = evaluation_batches(sources, FRONT, batch_size=20, skip_damaged=True)
    for _ in range(2):
        (batch,) = batches
        assert batch.mask.sum() == 17 and batches.skipped == 1
