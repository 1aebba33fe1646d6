"""`t2p convert`: an official checkpoint becomes a t2p checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2p.io import UserError

if TYPE_CHECKING:
    import ml_collections

    from t2p.convert.registry import Converter
    from t2p.methods.base import Stage
    from t2p.types import Batch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from t2p.convert.registry import CONVERTERS

    parser.add_argument("--from", dest="model", required=True, choices=CONVERTERS, help="which model the file holds")
    parser.add_argument("file", metavar="FILE", help="official weights: .pt, .pth, .ckpt, .npz or .safetensors")
    parser.add_argument("--out", required=True, metavar="DIR", help="the new checkpoint; local or gs://")
    parser.add_argument(
        "--image_size", type=int, nargs=2, metavar=("H", "W"), help="of the model's pictures, if the file does not tell"
    )
    parser.add_argument(
        "--text_encoder",
        default="bert",
        metavar="NAME",
        help="what made its sentence vectors: bert (default), bert_mean, t5, precomputed or hashed",
    )
    parser.add_argument("--text_path", default="", metavar="DIR", help="the text encoder's directory or file")
    parser.add_argument("--views", nargs="+", metavar="NAME", help="the camera views that it is used on")


def run(args: argparse.Namespace, rest: list[str]) -> int:
    if rest:
        raise UserError(f"unknown arguments {rest}; t2p convert --help lists what there is")
    size = tuple(args.image_size) if args.image_size else None
    config, count = convert(args.model, args.file, args.out, size, args.text_encoder, args.text_path, args.views)
    print(f"{args.file}: {args.model}, {count:,} parameters")
    for name, value in sorted(config.model.items()):
        print(f"  {name} = {value}")
    print(f"written: {args.out}")
    return 0


def convert(
    model: str,
    file: str,
    out: str,
    image_size: tuple[int, int] | None = None,
    text_encoder: str = "bert",
    text_path: str = "",
    views: list[str] | None = None,
) -> tuple[ml_collections.ConfigDict, int]:
    """Writes the checkpoint and returns its config and number of parameters.

    Raises UserError for an unknown text encoder, a file that cannot be read, names that are missing or unknown (all
    of them), shapes that do not fit, or an `out` that already holds a checkpoint."""
    from t2p import checkpoint
    from t2p.convert.base import strip_prefix, to_variables
    from t2p.convert.registry import CONVERTERS
    from t2p.io import load_arrays
    from t2p.methods.language import check_encoder
    from t2p.methods.registry import make_stage
    from t2p.train.plan import describe
    from t2p.train.shapes import window_shapes

    check_encoder(text_encoder, "--text_encoder")
    if not Path(file).is_file():
        raise UserError(f"{file} does not exist; expected a file of official weights")
    converter = CONVERTERS[model]()
    arrays = strip_prefix(load_arrays(file), converter.anchor)
    settings = converter.settings(arrays, image_size)
    params = to_variables(converter.rows(settings), arrays)
    config = _config(converter, settings, converter.text_width(arrays), text_encoder, text_path, views)
    stage = make_stage(config)
    batch = window_shapes(stage.window, config.text.width, batch_size=1)
    count = _check_shapes(stage, batch, params, file)
    meta = {"config": config.to_dict(), "shapes": describe(batch)}
    checkpoint.export(out, {"params": params, "batch_stats": {}, "frozen": {}}, meta)
    return config, count


def _config(
    converter: Converter, settings: dict[str, Any], width: int, encoder: str, path: str, views: list[str] | None
) -> ml_collections.ConfigDict:
    from t2p.methods.registry import CONFIGURE
    from t2p.train.defaults import base_config

    config = CONFIGURE[converter.stage](base_config())
    config.model.update(settings)
    config.window.horizon = settings["track_steps"]
    config.text.update({"encoder": encoder, "path": path, "width": width})
    if views:
        config.window.views = tuple(views)
    return config


def _check_shapes(stage: Stage, batch: Batch, params: Any, file: str) -> int:
    """The number of parameters, once every shape is what the model makes."""
    import jax
    from flax.traverse_util import flatten_dict

    wanted = flatten_dict(jax.eval_shape(stage.init, jax.random.key(0), batch)["params"], sep="/")
    found = flatten_dict(params, sep="/")
    wrong = [f"{p} {found[p].shape}, expected {wanted[p].shape}" for p in wanted if found[p].shape != wanted[p].shape]
    if wrong:
        raise UserError(f"{file}: shapes do not fit together: {'; '.join(wrong)}")
    return sum(x.size for x in found.values())
