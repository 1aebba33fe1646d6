"""configs/atm: each variant makes a stage; `debug` trains and resumes."""

from pathlib import Path

import jax
import numpy as np
import pytest

from t2p import checkpoint
from t2p.cli.config import load_config
from t2p.cli.main import main
from t2p.io import UserError
from t2p.methods.registry import make_stage
from t2p.types import ANY_VIEW, Batch, Tracks

CONFIG = str(Path(__file__).resolve().parents[2] / "configs/atm/track_transformer.py")
PAPER_SIZE = ("gpu20", "gpu20_tabletop", "paper", "released")
VARIANTS = ("debug", "cpu", "cpu_videos", "cpu_libero", "cpu_tabletop", *PAPER_SIZE)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_make_a_stage(variant):
    config = load_config(f"{CONFIG}:{variant}")
    stage, w = make_stage(config), make_stage(config).window
    images = np.zeros((1, len(w.images.offsets), *stage.model.image_size, 3), np.uint8)
    shape = (1, len(w.tracks.offsets), w.num_points)
    tracks = Tracks(np.zeros((*shape, 2), np.float32), np.ones(shape, bool))
    text = np.zeros((1, config.text.width), np.float32)
    batch = Batch(images={ANY_VIEW: images}, tracks={w.track_set: {ANY_VIEW: tracks}}, text=text)
    params = jax.eval_shape(stage.init, jax.random.key(0), batch)["params"]
    count = sum(p.size for p in jax.tree.leaves(params))
    sentence = 384 * (768 - config.text.width)  # the projection's rows that hashed words leave out
    assert (count + sentence == 13_032_200) == (variant in PAPER_SIZE) and count < 14e6
    assert config.optimizer.warmup_steps < config.steps


def test_paper_and_released_differ_where_paper_and_code_do():
    paper, released = (load_config(f"{CONFIG}:{v}") for v in ("paper", "released"))
    assert (paper.optimizer.name, paper.optimizer.weight_decay, paper.batch_size) == ("adamw", 1e-4, 1024)
    assert (released.optimizer.name, released.optimizer.weight_decay, released.batch_size) == ("adam", 0.0, 2048)
    assert paper.loss.mask_padding and not released.loss.mask_padding
    assert released.steps * 2048 == pytest.approx(1001 / 100 * paper.steps * 1024, rel=0.02)
    for c in (paper, released):
        assert (c.optimizer.learning_rate, c.optimizer.clip_norm, c.window.points) == (1e-4, 10.0, 32)


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_the_papers_variants_read_bert(variant):
    text = load_config(f"{CONFIG}:{variant}").text
    assert (text.encoder, text.width) == (("bert", 768) if variant in ("paper", "released") else ("hashed", 256))


def test_an_unknown_variant_is_named():
    with pytest.raises(UserError, match="expected one of debug, cpu"):
        load_config(f"{CONFIG}:tiny")


def test_debug_trains_and_resumes(tmp_path, capsys):
    for split, count in (("train", 6), ("val", 2)):
        options = [f"--source.{o}" for o in (f"count={count}", f"split={split}", "size=[64, 64]", "num_points=32")]
        command = ["data", "import", "--source", "synthetic", "--out", str(tmp_path / split), "--split", split]
        assert main([*command, *options]) == 0
    sources = [f"--config.data.{p}.clips.path={tmp_path / s}" for p, s in (("sources", "train"), ("validation", "val"))]
    command = ["train", "--config", f"{CONFIG}:debug", "--workdir", str(tmp_path / "run"), *sources]
    for steps in (10, 20):
        assert main([*command, f"--config.steps={steps}"]) == 0
    _, meta = checkpoint.load(tmp_path / "run", "latest")
    assert meta["step"] == 20 and {"val/loss", "val/mse_px"} <= set(meta["metrics"])
    assert meta["position"] == 20
