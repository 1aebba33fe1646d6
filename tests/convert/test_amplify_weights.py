"""AMPLIFY's official files: names, settings from shapes, `t2p convert` to a checkpoint that acts."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import t2p
from t2p.cli.main import main
from t2p.convert.amplify import (
    dynamics_variables,
    forward_dynamics_rows,
    motion_tokenizer_rows,
    motion_tokenizer_settings,
    split_bundle,
)
from t2p.convert.base import to_official
from t2p.convert.gpt import without_buffers
from t2p.io import UserError
from t2p.models.amplify import ForwardDynamics, MotionTokenizer
from t2p.types import Batch


def shapes(init: Any, rows: Any) -> dict[str, tuple[int, ...]]:
    zeros = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), jax.eval_shape(init))
    return {name: x.shape for name, x in to_official(rows, zeros["params"]).items()}


def test_names_and_shapes_are_the_official_ones_at_paper_size(shared: Path) -> None:
    official = json.loads((shared / "golden/amplify/param_shapes_full.json").read_text())
    table = {key: without_buffers(value) for key, value in tables(official)}
    motion, net = MotionTokenizer(2, 400, 15), ForwardDynamics(98, 15)

    def start(m: Any, images: Any, text: Any, codes: Any) -> Any:
        return m(m.condition(images, text), codes)

    key, zeros = jax.random.key(0), lambda *shape: np.zeros(shape, np.float32)
    found = shapes(lambda: motion.init(key, zeros(1, 2, 15, 400, 2)), motion_tokenizer_rows(2))
    assert found in [{n: tuple(s) for n, s in t.items()} for t in table.values()]
    codes = np.zeros((1, 15), np.int32)
    found = shapes(
        lambda: net.init(key, zeros(1, 98, 512), zeros(1, 512), codes, method=start), forward_dynamics_rows(8)
    )
    assert found in [{n: tuple(s) for n, s in t.items()} for t in table.values()]


def tables(tree: Any, name: str = "") -> list[tuple[str, dict]]:
    """Every {array: shape} inside."""
    if all(isinstance(v, list) for v in tree.values()):
        return [(name, tree)]
    return [found for key, value in tree.items() if isinstance(value, dict) for found in tables(value, f"{name}/{key}")]


@pytest.fixture(scope="module")
def bundle(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(the recorded bundle's folder, the checkpoint that it was converted to)."""
    folder, out = shared / "golden/amplify/policy_end_to_end", tmp_path_factory.mktemp("c") / "policy"
    command = ["convert", "--from", "amplify.bundle", str(folder / "checkpoint.npz"), "--out", str(out)]
    command += ["--codebook", "512", "--heads", "4", "--image_size", "64", "64", "--text_encoder", "hashed"]
    assert main([*command, "--window", "7", "5"]) == 0
    return folder, out


def test_a_converted_bundle_acts_as_the_original(bundle: tuple[Path, Path]) -> None:
    folder, out = bundle
    trained = t2p.load(str(out))
    assert tuple(trained.config.model.images.size) == (96, 96)
    x, want = dict(np.load(folder / "inputs.npz")), dict(np.load(folder / "outputs.npz"))
    batch = Batch(
        images={view: x["images"][:, i, None] for i, view in enumerate(trained.stage.inputs.views)},
        proprio={"joint_states": x["proprio"][:, None, :7], "gripper_states": x["proprio"][:, None, 7:]},
        text=x["text_emb"][:, 0],
    )
    with jax.default_matmul_precision("highest"):
        found = trained.predict(batch, jax.random.key(0))
    np.testing.assert_array_equal(found.aux["codes"], want["code_indices"])
    np.testing.assert_allclose(found.actions, want["actions"], atol=1e-4, rtol=1e-4)


def test_what_does_not_fit_is_named(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arrays = dict(np.load(shared / "golden/amplify/policy_end_to_end/checkpoint.npz"))
    parts = split_bundle(arrays)
    with pytest.raises(UserError, match="no arrays of img_encoder"):
        split_bundle({n: x for n, x in arrays.items() if not n.startswith("img_encoder")})
    with pytest.raises(UserError, match="its codebook is 256, 512; got 2048"):
        motion_tokenizer_settings(parts["motion_tokenizer"], window=(7, 5))
    other = {n: x + 1 if n == "quantize.project_out.bias" else x for n, x in parts["motion_tokenizer"].items()}
    with pytest.raises(UserError, match=r"another motion tokenizer: they differ in quantize.project_out.bias"):
        dynamics_variables(parts["forward_dynamics"], other)
    np.savez(tmp_path / "fd.npz", **parts["forward_dynamics"])
    command = ["convert", "--from", "amplify.forward_dynamics", str(tmp_path / "fd.npz"), "--out", str(tmp_path / "o")]
    assert main(command) == 2
    assert "--with tokenizer=FILE, --with images=FILE; got none" in capsys.readouterr().err
