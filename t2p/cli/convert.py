"""`t2p convert`: an official checkpoint becomes a t2p checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2p.io import UserError

if TYPE_CHECKING:
    import ml_collections

    from t2p.convert.registry import Anchor, Converted, Converter, Options
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
        default="",
        metavar="NAME",
        help="what made its sentence vectors: bert, bert_mean, t5, precomputed or hashed (default: the model's own)",
    )
    parser.add_argument("--text_path", default="", metavar="DIR", help="the text encoder's directory or file")
    parser.add_argument("--codebook", type=int, default=2048, help="nominal size of AMPLIFY's codebook (default 2048)")
    parser.add_argument(
        "--window", type=int, nargs=2, metavar=("R", "C"), help="of AMPLIFY's motion classes, if it is not square"
    )
    parser.add_argument("--heads", type=int, default=8, help="of attention in AMPLIFY's transformers (default 8)")
    parser.add_argument(
        "--with",
        dest="others",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="official weights that the model builds on: tokenizer, forward_dynamics, images (AMPLIFY)",
    )
    parser.add_argument("--views", nargs="+", metavar="NAME", help="the camera views that it is used on")
    parser.add_argument(
        "--no_codes",
        action="store_true",
        help="AMPLIFY's inverse dynamics was trained without codes of motion (needed with a flow head, whose file does "
        "not tell)",
    )


def run(args: argparse.Namespace, rest: list[str]) -> int:
    from t2p.convert.registry import Options

    if rest:
        raise UserError(f"unknown arguments {rest}; t2p convert --help lists what there is")
    size = (args.image_size[0], args.image_size[1]) if args.image_size else None
    window = (args.window[0], args.window[1]) if args.window else None
    options = Options(size, args.codebook, window, args.heads, codes=not args.no_codes)
    given = {"encoder": args.text_encoder, "path": args.text_path}
    text = {key: value for key, value in given.items() if value}
    config, count = convert(args.model, args.file, args.out, options, text, args.views, _others(args.others))
    print(f"{args.file}: {args.model}, {count:,} parameters")
    for name, value in sorted(config.model.items()):
        print(f"  {name} = {value}")
    print(f"written: {args.out}")
    return 0


def _others(given: list[str]) -> dict[str, str]:
    """{name: file} of NAME=FILE."""
    wrong = [entry for entry in given if not all(entry.partition("="))]
    if wrong:
        raise UserError(f"--with is {wrong[0]!r}; expected NAME=FILE, such as tokenizer=tokenizer.pt")
    return {name: file for name, _, file in (entry.partition("=") for entry in given)}


def convert(
    model: str,
    file: str,
    out: str,
    options: Options | None = None,
    text: dict[str, str] | None = None,
    views: list[str] | None = None,
    others: dict[str, str] | None = None,
) -> tuple[ml_collections.ConfigDict, int]:
    """Writes the checkpoint and returns its config and number of parameters. text: {"encoder", "path"}, what made its
    sentence vectors; others: {name: file} of what the model builds on.

    Raises UserError for an unknown text encoder, a file that cannot be read or is not named, names that are missing or
    unknown (all of them), shapes or a number of views that do not fit, or an `out` that already holds a checkpoint."""
    import jax
    import jax.numpy as jnp

    from t2p import checkpoint
    from t2p.convert.registry import CONVERTERS, Options
    from t2p.methods.language import check_encoder
    from t2p.methods.registry import STAGES, make_stage
    from t2p.train.plan import describe
    from t2p.train.shapes import window_shapes

    if text and "encoder" in text:
        check_encoder(text["encoder"], "--text_encoder")
    converter = CONVERTERS[model]()
    found = converter.read(*_files(converter, file, others or {}), options or Options())
    variables, config = found.variables, _config(converter, found, text or {}, views)
    shapes: Any = {}
    if config.stage in STAGES:
        stage = make_stage(config)
        batch = window_shapes(stage.window, config.text.width, batch_size=1)
        # Weights of an earlier, frozen stage may be for sentences where the last one asks for none.
        sentence = jax.ShapeDtypeStruct((1, config.text.width), jnp.float32)
        _check_shapes(stage, batch if batch.text is not None else batch.replace(text=sentence), variables, file)
        shapes = describe(batch)
    checkpoint.export(out, variables, {"config": config.to_dict(), "shapes": shapes})
    return config, _count(variables)


def _files(converter: Converter, file: str, others: dict[str, str]) -> tuple[Any, dict[str, Any]]:
    """The arrays of the model's file, and of those that it builds on."""
    if set(others) != set(converter.needs):
        needed = ", ".join(f"--with {name}=FILE" for name in converter.needs) or "no --with"
        raise UserError(f"this model needs {needed}; got {', '.join(sorted(others)) or 'none'}")
    for path in (file, *others.values()):
        if not Path(path).is_file():
            raise UserError(f"{path} does not exist; expected a file of official weights")
    own = _unwrapped(file, converter.anchor)
    return own, {name: _unwrapped(others[name], anchor) for name, anchor in converter.needs.items()}


def _unwrapped(path: str, anchor: Anchor) -> Any:
    """A file's arrays, without what wrappers put before their names."""
    from t2p.convert.base import strip_prefix
    from t2p.io import load_arrays

    arrays = load_arrays(path)
    if not anchor:
        return arrays
    try:
        return strip_prefix(arrays, *((anchor,) if isinstance(anchor, str) else anchor))
    except UserError as e:
        raise UserError(f"{path}: {e}") from e


def _config(
    converter: Converter, found: Converted, text: dict[str, str], views: list[str] | None
) -> ml_collections.ConfigDict:
    import ml_collections

    from t2p.methods.registry import CONFIGURE, FOLLOW_VIEWS
    from t2p.train.defaults import base_config

    config = base_config()
    if converter.stage in CONFIGURE:
        config = CONFIGURE[converter.stage](config)
    else:
        config.stage, config.model = converter.stage, ml_collections.ConfigDict()
    for part, values in found.changes.items():
        config[part].update(values)
    config.text.update(text)
    if views:
        config.window.views = tuple(views)
    if found.views is not None and len(config.window.views) != found.views:
        raise UserError(
            f"the weights are for {found.views} camera views, and the views are {', '.join(config.window.views)}: name "
            f"{found.views} in their order, --views NAME ..."
        )
    if converter.stage in FOLLOW_VIEWS:
        FOLLOW_VIEWS[converter.stage](config)
    return config


def _check_shapes(stage: Stage, batch: Batch, variables: Any, file: str) -> None:
    """UserError unless every shape is what the model makes."""
    import jax
    from flax.traverse_util import flatten_dict

    wanted = flatten_dict(jax.eval_shape(stage.init, jax.random.key(0), batch), sep="/")
    found = flatten_dict(variables, sep="/")
    missing = sorted(set(wanted) ^ set(found))
    sizes = [(path, found[path].shape, wanted[path].shape) for path in wanted if path in found]
    wrong = [f"{path} {got}, expected {want}" for path, got, want in sizes if got != want]
    if missing or wrong:
        raise UserError(f"{file}: weights do not fit together: {'; '.join([*missing, *wrong])}")


def _count(variables: Any) -> int:
    """The number of parameters, those of frozen stages too."""
    from flax.traverse_util import flatten_dict

    flat = flatten_dict(variables, sep="/")
    return sum(x.size for path, x in flat.items() if "batch_stats/" not in path)
