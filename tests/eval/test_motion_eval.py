"""`t2p eval` of AMPLIFY's first two stages: figures are those of the stages' own validation, and of hand-made cases."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2p import checkpoint
from t2p.cli.config import load_config
from t2p.cli.main import main
from t2p.data.pipeline import evaluation_batches
from t2p.data.store import finish, write_shard
from t2p.eval import motion, motion_report, report, tracks
from t2p.eval.restore import restore
from t2p.geometry.conventions import to_amplify
from t2p.methods.base import MODEL, TAUGHT, TRUE_CODES
from t2p.methods.registry import make_stage
from t2p.metrics.tracks import amplify_measures
from t2p.train.defaults import source_config
from t2p.types import Batch, Episode, FieldWindow, Prediction, Tracks, TrackSet, WindowSpec

ROOT = Path(__file__).resolve().parents[2]
LENGTH, HORIZON, POINTS, SIZE = 3, 4, 9, 32
VIEWS = ("front", "wrist")
NAMES = {"mse": "mse", "pixel accuracy": "normalized_accuracy", "delta_auc": "delta_auc"}  # ours: the stages'


def episode(number: int) -> Episode:
    """Points of both views go their own straight ways, some pixels a step, others in every episode."""
    rng = np.random.default_rng(number)

    def track_set() -> TrackSet:
        start, speed = rng.uniform(0.3, 0.7, (LENGTH, 1, POINTS, 2)), rng.normal(0, 0.05, (LENGTH, 1, POINTS, 2))
        windows = (start + speed * np.arange(HORIZON)[None, :, None, None]).astype(np.float32)
        return TrackSet("window", windows, np.ones(windows.shape[:-1], bool), np.zeros((POINTS, 3)), "dis", "1")

    frames = {view: rng.integers(0, 256, (LENGTH, SIZE, SIZE, 3), np.uint8) for view in VIEWS}
    language = (f"task {number % 2}",)
    return Episode(
        str(number), 5.0, frames, language=language, tracks={"simulator/amplify": {v: track_set() for v in VIEWS}}
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("motion") / "d"
    for split, numbers in (("train", [0]), ("val", range(1, 4))):
        write_shard(folder, split, 0, map(episode, numbers))
    finish(folder, shards={"train": 1, "val": 1})
    return folder


def config(name: str, data: Path) -> Any:
    c = load_config(f"{ROOT / 'configs/amplify' / name}.py:debug")
    c.data.sources.videos, c.data.validation.held_out = source_config(str(data)), source_config(str(data), "val")
    c.window.image_size = (SIZE, SIZE)
    return c


@pytest.fixture(scope="module")
def stages(data: Path) -> dict[str, tuple[Any, Any, Path]]:
    """{name: (stage, variables, checkpoint)}, untrained."""
    found = {}
    for name in ("motion_tokenizer", "forward_dynamics"):
        c = config(name, data)
        stage = make_stage(c)
        batch = Batch(
            images={view: np.zeros((1, 1, SIZE, SIZE, 3), np.uint8) for view in VIEWS},
            tracks={"simulator/amplify": {v: Tracks(np.zeros((1, HORIZON, POINTS, 2)), np.ones(())) for v in VIEWS}},
            text=np.zeros((1, c.text.width), np.float32),
        )
        shapes = jax.eval_shape(stage.init, jax.random.key(0), batch)
        rng = np.random.default_rng(1)
        variables = jax.tree.map(lambda x, rng=rng: rng.normal(0, 0.3, x.shape).astype(x.dtype), shapes)
        checkpoint.export(data.parent / name, variables, {"config": c.to_dict()})
        found[name] = stage, variables, data.parent / name
    return found


@pytest.fixture(scope="module")
def evaluated(stages: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What t2p eval writes about each, with the text of its page."""
    found = {}
    for name, (_, _, directory) in stages.items():
        assert main(["eval", "--checkpoint", str(directory), "--batch_size", "4"]) == 0
        found[name] = json.loads((directory / "eval/metrics.json").read_text())
        found[name]["page"] = (directory / "eval/report.html").read_text()
    return found


def held_out(data: Path, stage: Any) -> Batch:
    """All rows in one batch."""
    text = {f"task {k}": hashed for k, hashed in enumerate(_sentences())} if stage.window.text else None
    source = {"held_out": source_config(str(data), "val")}
    return next(iter(evaluation_batches(source, stage.window, batch_size=3 * LENGTH, text=text)))


def _sentences() -> list[np.ndarray]:
    from t2p.methods import language

    c = load_config(f"{ROOT / 'configs/amplify/forward_dynamics.py'}:debug")
    return list(language.embed(c.text, ["task 0", "task 1"]).values())


@partial(jax.jit, static_argnums=0)
def validation(stage: Any, variables: Any, batch: Batch) -> dict[str, jax.Array]:
    return stage.loss(variables, batch, jax.random.key(0), False)[1]["metrics"]


def same(ours: dict[str, float], theirs: Any, prefix: str = "") -> None:
    for name, other in NAMES.items():
        assert ours[name] == pytest.approx(float(theirs[prefix + other]), rel=1e-4), name


def test_the_tokenizers_figures_are_those_of_its_validation(
    data: Path, stages: dict[str, Any], evaluated: dict[str, Any]
) -> None:
    stage, variables, _ = stages["motion_tokenizer"]
    metrics = validation(stage, variables, held_out(data, stage))
    found = evaluated["motion_tokenizer"]["measures"]
    same(found["table 2"][TRUE_CODES][motion.ALL], metrics)
    assert found["codes"][TRUE_CODES]["normalized perplexity"] == pytest.approx(float(metrics["perplexity"]), rel=1e-4)
    assert set(found["table 2"]) == {TRUE_CODES, motion.OTHER_MOTION, motion.STILL}
    assert evaluated["motion_tokenizer"]["examples"] == 3 * LENGTH


def test_forward_dynamics_after_true_codes_is_its_validation(
    data: Path, stages: dict[str, Any], evaluated: dict[str, Any]
) -> None:
    stage, variables, directory = stages["forward_dynamics"]
    batch = held_out(data, stage)
    metrics = validation(stage, variables, batch)
    found = evaluated["forward_dynamics"]["measures"]
    same(found["table 2"][TAUGHT][motion.ALL], metrics)
    same(found["table 2"][motion.STILL][motion.ALL], metrics, "still_")
    assert found["codes"][TAUGHT]["accuracy"] == pytest.approx(float(metrics["accuracy"]), abs=1e-6)

    points = np.asarray(restore(directory).predict(batch, jax.random.key(0)).tracks.points)  # each code after its own
    true = np.stack([to_amplify(batch.tracks["simulator/amplify"][view].points, (SIZE, SIZE)) for view in VIEWS], 1)
    own = to_amplify(points, (SIZE, SIZE), clamp=False)
    same(found["table 2"][MODEL][motion.ALL], amplify_measures(own, true, SIZE))
    for k, view in enumerate(VIEWS):
        same(found["table 2"][MODEL][view], amplify_measures(own[:, k], true[:, k], SIZE))


def test_the_page_shows_all_views_and_says_how_it_measures(evaluated: dict[str, Any]) -> None:
    for found in evaluated.values():
        page = found["page"]
        assert page.count("<video") == 8 * len(VIEWS)  # as many samples as a page has
        for piece in ("held-out data", "first step, which is given", "all views", "front", "wrist", "perplexity"):
            assert piece in page
        assert "TRAINED" not in page and found["trained_on"] == []
    assert "image of another clip" in evaluated["forward_dynamics"]["page"]
    assert (
        evaluated["forward_dynamics"]["text_encoder"] == "hashed" and "text:" in evaluated["forward_dynamics"]["page"]
    )
    assert "text_encoder" not in evaluated["motion_tokenizer"]


def test_training_data_and_a_single_clip_are_told(
    data: Path, stages: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command = ["eval", "--checkpoint", str(stages["motion_tokenizer"][2]), "--data", str(data), "--out", str(tmp_path)]
    assert main([*command, "--split", "train"]) == 0
    printed, page = capsys.readouterr().out, (tmp_path / "report.html").read_text()
    found = json.loads((tmp_path / "metrics.json").read_text())
    for text in (printed, page):
        assert "TRAINED on" in text and "one clip only" in text
    assert found["trained_on"] == [str(data)] and motion.OTHER_MOTION not in found["measures"]["table 2"]


def test_data_that_does_not_fit_is_refused(
    data: Path, stages: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    given = episode(0)
    write_shard(tmp_path / "front", "val", 0, [Episode("0", 5.0, {"front": given.frames["front"]}, tracks={})])
    finish(tmp_path / "front", shards={"val": 1})
    command = ["eval", "--checkpoint", str(stages["motion_tokenizer"][2]), "--out", str(tmp_path / "out")]
    for more, words in (
        (["--data", str(data), "--split", "val", "--tracks", "dis/other"], "dis/other"),
        (["--data", str(tmp_path / "front")], "wrist"),
        (["--data", str(data), "--split", "test"], "no split 'test'"),
        (["--batch_size", "0"], "--batch_size is 0"),
    ):
        assert main([*command, *more]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# From here on without checkpoints: motion whose measures are known.

WINDOW = WindowSpec(
    views=VIEWS,
    track_set="exact",
    tracks=FieldWindow(tuple(range(HORIZON))),
    points=2,
    image_size=(SIZE, SIZE),
)


@dataclass(frozen=True)
class Fake:
    """Tells the truth (through its codes), or stays (by itself)."""

    window: WindowSpec = WINDOW
    codebook: int = 8

    def readings(self) -> dict[str, Any]:
        return {MODEL: self.predict, TRUE_CODES: self.reconstruct}

    def predict(self, variables: Any, batch: Batch, rng: Any) -> Prediction:
        points = self.reconstruct(variables, batch, rng).tracks.points
        rows = len(points)
        return Prediction(Tracks(points[:, :, :1] + 0 * points, points), aux={"codes": jnp.ones((rows, 2), jnp.int32)})

    def reconstruct(self, variables: Any, batch: Batch, rng: Any) -> Prediction:
        points = jnp.stack([batch.tracks["exact"][view].points for view in VIEWS], 1)
        codes = jnp.stack([batch.images["front"][:, 0, 0, 0, 0], jnp.ones(len(points))], 1).astype(jnp.int32)
        return Prediction(Tracks(points, points), aux={"codes": codes})


def rows(speeds: list[float], wrist: float = 0.0) -> Batch:
    """Rows whose points go right so many pixels a step in the view front, `wrist` times as many in the other; row r
    begins r pixels from the middle and shows the grey value r."""
    count = len(speeds)
    steps = np.arange(HORIZON)[None, :, None] * np.array(speeds)[:, None, None]
    x = 0.5 + (np.arange(count)[:, None, None] + np.stack([steps, wrist * steps])) / SIZE
    points = np.stack([x, 0.5 + 0 * x], -1).repeat(2, -2).astype(np.float32)
    valid = np.ones((count, HORIZON), bool)
    sets = {view: Tracks(points[k], np.ones(points[k].shape[:-1], bool), None, valid) for k, view in enumerate(VIEWS)}
    images = np.ones((count, 1 + HORIZON, SIZE, SIZE, 3), np.uint8) * np.arange(count)[:, None, None, None, None]
    return Batch(images={view: images.astype(np.uint8) for view in VIEWS}, tracks={"exact": sets})


def seen(batch: Batch) -> dict[str, tracks.Clips]:
    return tracks.gather_views(replace(WINDOW, images=FieldWindow((0,))), [batch], history=False)


def test_measures_of_known_motion() -> None:
    views = seen(rows([1.0, 1.0, 1.0, 1.0]))
    predicted, codes = motion.predictions(Fake(), {}, views, batch_size=3)
    found = motion.measures(Fake(), views, predicted, codes)
    still = found["table 2"][motion.STILL]
    pixel, errors = 2 / SIZE, np.arange(HORIZON)  # of x; y is right
    assert still["front"]["mse"] == pytest.approx((errors**2).mean() / 2 * pixel**2, rel=1e-5)
    assert still["front"]["pixel accuracy"] == (1 + 1 / HORIZON) / 2  # the given step, and all of y
    within = np.mean([(errors < k - 1e-3).mean() for k in range(1, 11)])
    assert still["front"]["delta_auc"] == pytest.approx((1 + within) / 2, abs=0.03)  # ties: errors of whole pixels
    assert still["wrist"] == {"mse": 0.0, "pixel accuracy": 1.0, "delta_auc": 1.0}
    assert still[motion.ALL]["mse"] == pytest.approx(still["front"]["mse"] / 2)
    assert found["table 2"][TRUE_CODES][motion.ALL]["mse"] < 1e-9
    assert list(found["pixels"]) == ["front"]  # nothing moves in the other view
    assert found["pixels"]["front"][TRUE_CODES]["ade (moving)"] == pytest.approx(0, abs=1e-4)
    assert found["codes"][TRUE_CODES]["accuracy"] == 1
    assert list(found["codes"][MODEL].values()) == pytest.approx([5 / 8, 1, 1 / 8])  # perplexity, and its share of 8
    assert found["codes"]["always the commonest true code"] == {"accuracy": 5 / 8}
    assert found["ratios"] == {
        f"model / no motion: {what}": pytest.approx(1) for what in ("mse of Table 2", "mse of moving points, front")
    }


def test_codes_of_another_clip_begin_where_this_one_does() -> None:
    views = seen(rows([1.0, 1.0, -1.0, -1.0]))
    predicted, _ = motion.predictions(Fake(), {}, views)
    other, true = predicted[motion.OTHER_MOTION], predicted[TRUE_CODES]
    np.testing.assert_allclose(other[:, :, 0], true[:, :, 0], atol=1e-6)
    np.testing.assert_allclose(other - other[:, :, :1], -(true - true[:, :, :1]), atol=1e-6)


def test_rows_without_tracks_are_left_out() -> None:
    """They are zeros, which no motion would get right."""
    batch = rows([1.0, 1.0, 1.0]).replace(has={"tracks": np.array([True, False, True])})
    views = seen(batch)
    assert [v.rows for v in views.values()] == [2, 2]
    assert views["front"].batch.images["front"][:, 0, 0, 0, 0].tolist() == [0, 2]
    with pytest.raises(Exception, match="no examples with tracks"):
        seen(batch.replace(has={"tracks": np.zeros(3, bool)}))


def test_a_page_of_still_clips_says_so(tmp_path: Path) -> None:
    views = seen(rows([0.0, 0.0]))
    predicted, codes = motion.predictions(Fake(), {}, views)
    found = motion.measures(Fake(), views, predicted, codes)
    assert found["pixels"] == {} and found["ratios"] == {}
    page = report.write_report(
        tmp_path / "r.html", "t", motion_report.motion_sections(views, predicted, found, "", "a < b.")
    ).read_text()
    assert page.count("no point moves more than 2 px") == 2 and "a &lt; b" in page
