"""`t2p convert` of AMPLIFY's files in other configurations than the released one: masks, views, wrappers, parts of the
condition, pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import t2p
from t2p.cli.main import main
from t2p.convert.amplify import (
    encoder_mask,
    motion_tokenizer_rows,
    motion_tokenizer_settings,
    split_bundle,
    tokenizer_variables,
)
from t2p.convert.amplify_inverse import DECODER, DENOISER, FLOW, SOLVER, has_codes, inverse_dynamics_rows
from t2p.convert.amplify_stages import read_motion_tokenizer
from t2p.convert.base import Arrays, to_official
from t2p.convert.gpt import without_buffers
from t2p.convert.registry import Options
from t2p.convert.resnet import Names, official_shapes, resnet_rows
from t2p.io import UserError
from t2p.models.amplify import MotionTokenizer, attention_mask
from t2p.models.inverse_dynamics import make_inverse_dynamics
from t2p.models.resnet import ResNet
from t2p.types import Batch

SMALL: dict[str, Any] = {"points": 4, "steps": 5, "window": (3, 3), "levels": (8, 8, 8), "dim": 8, "heads": 2, "mlp": 6}
ENCODER_MASK = "encoder.encoder.transformer.h.{}.attn.attn_mask"


def draw(shapes: Any, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), shapes)


def tokenizer_file(views: int, mask: str = "", images: int = 0, **changes: Any) -> tuple[MotionTokenizer, Arrays]:
    """A made-up tokenizer and its official file, with the encoder's mask in it if one is named. images: channels."""
    net = MotionTokenizer(
        views=views, **SMALL | {"depth": 2, "images": bool(images), "mask": mask or "causal"} | changes
    )
    velocities = np.zeros((1, views, net.steps, net.points, 2), np.float32)
    seen = np.zeros((1, 4, views * images), np.float32) if images else None
    params = draw(jax.eval_shape(net.init, jax.random.key(0), velocities, seen)["params"])
    arrays = to_official(motion_tokenizer_rows(net.depth, net.images), params)
    if mask:
        name = ENCODER_MASK.replace(".attn.", ".self_attn.") if images else ENCODER_MASK
        arrays |= {name.format(i): attention_mask(mask, net.steps)[None, None] for i in range(net.depth)}
    return net, arrays


def convert(model: str, file: Path, out: Path, *options: str) -> Any:
    """What the converted checkpoint holds."""
    command = ["convert", "--from", model, str(file), "--out", str(out), "--codebook", "512", *options]
    assert main(command) == 0
    return t2p.load(str(out))


@pytest.mark.parametrize("mask", ["causal", "none", "diagonal"])
def test_the_mask_is_that_of_the_file(mask: str) -> None:
    _, arrays = tokenizer_file(2, mask)
    assert motion_tokenizer_settings(arrays, 512)["model"]["mask"] == mask
    assert motion_tokenizer_settings(without_buffers(arrays), 512)["model"]["mask"] == "causal"


def test_other_masks_are_refused() -> None:
    _, arrays = tokenizer_file(2, "causal")
    two_back = arrays[ENCODER_MASK.format(0)] & ~np.tri(5, k=-2, dtype=bool)
    with pytest.raises(UserError, match=r"\(5, 5\) with 9 places to look at, is none of causal, none, diagonal"):
        encoder_mask(arrays | {ENCODER_MASK.format(i): two_back for i in range(2)})
    with pytest.raises(UserError, match=r"different attention masks: .*h\.0.*h\.1"):
        encoder_mask(arrays | {ENCODER_MASK.format(1): two_back})
    with pytest.raises(UserError, match="none of causal"):
        encoder_mask(arrays | {ENCODER_MASK.format(i): np.ones((1, 1, 4, 4), bool) for i in range(2)})
    crossed = "decoder.decoder.transformer.h.0.cross_attn.attn_mask"
    with pytest.raises(UserError, match=r"cross_attn of this tokenizer's decoder.decoder is masked"):
        encoder_mask(arrays | {crossed: np.tri(5, dtype=bool)[None, None]})


def test_a_tokenizer_of_one_view_that_sees_all_steps(shared: Path, tmp_path: Path) -> None:
    """Names the codes that the original named."""
    folder = shared / "golden/amplify/motion_tokenizer_full_attn_1view"
    options = ("--heads", "4", "--image_size", "64", "64", "--views", "all")
    trained = convert("amplify.motion_tokenizer", folder / "checkpoint.npz", tmp_path / "c", *options)
    config, stage = trained.config, trained.stage
    assert (config.model.mask, tuple(config.loss.weights), tuple(config.window.views)) == ("none", (1.0,), ("all",))
    velocities, want = np.load(folder / "outputs.npz")["velocities"], np.load(folder / "outputs.npz")["indices"]
    found = stage.net.apply({"params": trained.variables["params"]}, velocities, method="encode")
    np.testing.assert_array_equal(found[1], want)


def test_three_views(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    np.savez(tmp_path / "mt.npz", **tokenizer_file(3)[1])
    options, views = ("--heads", "2"), ("agentview", "eye_in_hand", "mine")
    trained = convert("amplify.motion_tokenizer", tmp_path / "mt.npz", tmp_path / "c", *options, "--views", *views)
    assert tuple(trained.config.window.views) == views
    assert tuple(trained.config.loss.weights) == (0.9, 0.1, 1.0)
    command = ["convert", "--from", "amplify.motion_tokenizer", str(tmp_path / "mt.npz"), "--out", str(tmp_path / "d")]
    for given, named in (((), "agentview, eye_in_hand"), (("--views", "front"), "front")):
        assert main([*command, "--codebook", "512", *given]) == 2
        assert f"for 3 camera views, and the views are {named}: name 3" in capsys.readouterr().err


def test_depth_one_has_a_decoder_without_layers(tmp_path: Path) -> None:
    net, arrays = tokenizer_file(2, depth=1)
    assert not [name for name in arrays if name.startswith("decoder.decoder.transformer.h.")]
    np.savez(tmp_path / "mt.npz", **arrays)
    trained = convert("amplify.motion_tokenizer", tmp_path / "mt.npz", tmp_path / "c", "--heads", "2")
    velocities = np.random.default_rng(0).standard_normal((2, 2, 5, 4, 2)).astype(np.float32)
    params = {"params": trained.variables["params"]}
    np.testing.assert_allclose(
        trained.stage.net.apply(params, velocities)[0], net.apply(params, velocities)[0], atol=1e-5
    )


LENGTH, IMAGES, WIDTH = 7, 9, 32  # of golden policy_end_to_end: codes, image tokens of a view, channels
SIZES = {"image": (IMAGES, 48), "text": (1, 512), "proprio": (1, 9), "codes": (LENGTH, WIDTH)}


def inverse_file(kind: str, *parts: str) -> Arrays:
    """A made-up inverse dynamics that fits the golden policy's other stages, as the release saves it."""
    settings: dict[str, Any] = {"kind": kind, "width": WIDTH, "parts": parts, "depth": 2, "heads": 4, "actions": (8, 7)}
    condition = sum(SIZES[part][0] for part in parts)
    settings |= {"condition": condition} if kind == "diffusion" else {}
    x = {part: np.zeros((1, *SIZES[part]), np.float32) for part in parts}
    noisy = () if kind == "gaussian" else (np.zeros((1, 8, 7), np.float32), np.zeros(1))
    params = draw(jax.eval_shape(make_inverse_dynamics(**settings).init, jax.random.key(0), x, *noisy)["params"])
    arrays = to_official(inverse_dynamics_rows(settings), params)
    if kind == "gaussian":
        masks = {f"{DECODER}.transformer.h.{i}.cross_attn.attn_mask": np.ones((1, 1, 8, condition)) for i in range(2)}
        return arrays | masks
    return arrays | {name.replace(FLOW, SOLVER): value for name, value in arrays.items() if name.startswith(FLOW)}


@pytest.fixture(scope="module")
def parts(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """--with ... of the golden policy's stages, each file in wrappers of its own and beside other arrays."""
    found = split_bundle(dict(np.load(shared / "golden/amplify/policy_end_to_end/checkpoint.npz")))
    names = {"tokenizer": "motion_tokenizer", "forward_dynamics": "forward_dynamics", "images": "img_encoder"}
    wrappers = {"tokenizer": "state_dict/", "forward_dynamics": "module._orig_mod.", "images": "model/img_encoder."}
    folder, options = tmp_path_factory.mktemp("parts"), []
    for name, part in names.items():
        wrapped = {wrappers[name] + key: value for key, value in found[part].items()}
        np.savez(folder / f"{name}.npz", **wrapped, **{"optimizer.step": np.zeros(1)})
        options += ["--with", f"{name}={folder / name}.npz"]
    return options + ["--heads", "4", "--image_size", "64", "64", "--text_encoder", "hashed", "--window", "7", "5"]


CASES = [
    ("gaussian", ("image", "codes"), ()),
    ("gaussian", ("proprio", "codes"), ()),
    ("gaussian", ("image", "proprio"), ()),
    ("diffusion", ("image", "text", "codes"), ()),
    ("diffusion", ("image",), ()),
    ("flow", ("proprio", "codes"), ()),
    ("flow", ("image", "text", "proprio"), ("--no_codes",)),
]


@pytest.mark.parametrize(("kind", "condition", "options"), CASES)
def test_any_parts_of_the_condition(
    kind: str, condition: tuple[str, ...], options: tuple[str, ...], parts: list[str], tmp_path: Path
) -> None:
    wrapped = {f"module.{name}": value for name, value in inverse_file(kind, *condition).items()}
    np.savez(tmp_path / "id.npz", **wrapped)
    trained = convert("amplify.inverse_dynamics", tmp_path / "id.npz", tmp_path / "c", *parts, *options)
    assert tuple(trained.config.model.inverse.parts) == condition
    assert trained.stage.model.parts == condition
    assert trained.stage.sees_motion == ("codes" in condition)
    rng = np.random.default_rng(0)
    batch = Batch(
        images={view: rng.integers(0, 256, (1, 1, 64, 64, 3), np.uint8) for view in trained.stage.inputs.views},
        proprio={"joint_states": np.ones((1, 1, 7), np.float32), "gripper_states": np.ones((1, 1, 2), np.float32)},
        text=np.ones((1, 512), np.float32),
    )
    assert jax.eval_shape(trained.stage.predict, trained.variables, batch, jax.random.key(0)).actions.shape == (1, 8, 7)


def test_what_the_condition_does_not_fit_is_said(parts: list[str], tmp_path: Path, capsys: Any) -> None:
    tokens = {name: count for name, (count, _) in SIZES.items()}
    assert has_codes(inverse_file("flow", "image", "codes"), tokens) is None
    wrong = inverse_file("diffusion", "image", "codes")
    wrong[f"{DENOISER}.cond_pos_emb"] = np.zeros((1, 1 + 14, WIDTH), np.float32)
    with pytest.raises(UserError, match=r"a condition of 14 tokens; .* has 16, or 9 without codes"):
        has_codes(wrong, tokens)
    np.savez(tmp_path / "id.npz", **inverse_file("gaussian", "image", "codes"))
    command = ["convert", "--from", "amplify.inverse_dynamics", str(tmp_path / "id.npz"), "--out", str(tmp_path / "c")]
    assert main([*command, "--codebook", "512", *parts, "--no_codes"]) == 2
    assert "is conditioned on codes of motion; leave out --no_codes" in capsys.readouterr().err
    np.savez(tmp_path / "id.npz", sos_token=np.zeros(1))
    assert main([*command, *parts]) == 2
    assert "id.npz: the file has no array called 'head.latents' or 'head.policy" in capsys.readouterr().err
    np.savez(tmp_path / "fd.npz", **tokenizer_file(2)[1])
    assert main([*command[:3], str(tmp_path / "fd.npz"), *command[4:], *parts]) == 2


def test_a_tokenizer_that_looks_at_pictures() -> None:
    """Its encoder is a decoder's stack (released code: VAEEncoder), and the image encoder comes in the same file."""
    net, arrays = tokenizer_file(2, "none", images=6)
    names = {name.removeprefix("encoder.") for name in arrays if name.startswith("encoder.")}
    block = {"ln_1", "ln_2", "ln_3", "ln_4", "self_attn.c_attn", "self_attn.c_proj", "mlp.c_fc", "mlp.c_proj"}
    block |= {"cross_attn.q_proj", "cross_attn.kv_proj", "cross_attn.c_proj", "mlp_2.c_fc", "mlp_2.c_proj"}
    wanted = {f"encoder.transformer.h.{i}.{part}.weight" for i in range(2) for part in block}
    wanted |= {f"encoder.transformer.h.{i}.self_attn.attn_mask" for i in range(2)}
    wanted |= {"encoder.transformer.pos_emb.weight", "encoder.transformer.ln_f.weight"}
    assert names == wanted | {f"{layer}.{x}" for layer in ("encoder_proj", "cond_proj") for x in ("weight", "bias")}

    settings = {"blocks": (2, 2, 2, 2), "bottleneck": False, "widths": (4, 4, 4, 6), "stem": 4}
    rows = resnet_rows(settings, Names("vis_enc.model.", sequential=True))
    weights = draw({name: np.zeros(shape) for name, shape in official_shapes(ResNet(**settings), rows).items()})
    crossed = {f"encoder.encoder.transformer.h.{i}.cross_attn.attn_mask": np.ones((1, 1, 5, 8), bool) for i in range(2)}
    changes, variables, views = read_motion_tokenizer(arrays | weights | crossed, {}, Options(codebook=512, heads=2))
    assert views == 2 and changes["model"]["mask"] == "none"
    looks = {"joint": True, "encoder": "resnet18", "widths": (4, 4, 4, 6), "stem": 4, "size": (64, 64)}
    assert changes["model"]["images"] == looks
    shapes = jax.tree.map(np.shape, variables["frozen"]["images"])
    pictures = jax.eval_shape(ResNet(**settings).init, jax.random.key(0), np.zeros((1, 64, 64, 3)))
    assert shapes == jax.tree.map(np.shape, dict(pictures))
    x = np.zeros((1, 2, 5, 4, 2), np.float32), np.ones((1, 4, 12), np.float32)
    found = net.apply({"params": tokenizer_variables(arrays)["params"]}, *x)[0]
    assert found.shape == (1, 2, 5, 4, 9)
    with pytest.raises(UserError, match="has no image encoder, vis_enc"):
        read_motion_tokenizer(arrays, {}, Options(codebook=512))
