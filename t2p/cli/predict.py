"""`t2p predict`: draws the motion that a checkpoint predicts for the points of a picture."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from t2p.io import UserError, is_remote


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a training workdir or converted checkpoint")
    parser.add_argument("--which", default="best", help="best (default), latest, or a step")
    parser.add_argument("--text_path", default="", metavar="DIR", help="the text encoder's directory or file")
    parser.add_argument("image", metavar="IMAGE", help="a picture (PNG, JPEG)")
    parser.add_argument("sentence", metavar="SENTENCE", help='what is to happen, such as "push the red square left"')
    parser.add_argument(
        "--points",
        nargs="+",
        metavar="X,Y",
        help="points in units of the picture's width and height, 0,0 top left to 1,1 bottom right (default: a grid)",
    )
    parser.add_argument("--grid", type=int, default=12, help="side of the default grid of points (default: 12)")
    parser.add_argument(
        "--out",
        default="prediction.png",
        metavar="FILE",
        help=".png: a still; .mp4: a clip; .rrd: for the Rerun viewer",
    )


def run(args: argparse.Namespace, rest: list[str]) -> int:
    if rest:
        raise UserError(f"unknown arguments {rest}; t2p predict --help lists what there is")
    points = parse_points(args.points) if args.points else grid(args.grid)
    _check_out(args.out)
    picture = read_image(args.image)
    tracks = predict(args.checkpoint, args.which, picture, args.sentence, points, args.text_path)
    _draw(args.out, picture, tracks, args.sentence)
    moved = np.linalg.norm((tracks[-1] - tracks[0]) * [picture.shape[1], picture.shape[0]], axis=-1)
    print(f"{len(points)} points, {len(tracks)} steps; largest motion {moved.max():.1f} px of {args.image}")
    print(f"drawn: {args.out}")
    return 0


def _check_out(out: str) -> None:
    """Before the prediction is made, which takes a while."""
    from t2p.eval.rerun_file import package

    if Path(out).suffix not in (".png", ".mp4", ".rrd"):
        raise UserError(f"--out is {out!r}; expected a file that ends in .png, .mp4 or .rrd")
    if out.endswith(".rrd"):
        package(out)
    if not is_remote(out) and not Path(out).parent.is_dir():
        raise UserError(f"--out is {out!r}, but there is no folder {str(Path(out).parent)!r}; make it first")


def parse_points(texts: list[str]) -> np.ndarray:
    """["0.5,0.25", ...] -> [N, 2] float32, refused outside the picture."""
    try:
        points = np.array([[float(v) for v in text.split(",")] for text in texts], np.float32)
        assert points.shape == (len(texts), 2)
    except (ValueError, AssertionError):
        raise UserError(f"--points is {texts}; expected pairs x,y such as 0.5,0.25") from None
    if not ((points >= 0) & (points <= 1)).all():  # NaN is neither
        raise UserError(
            f"--points is {texts}; expected numbers between 0 and 1: divide pixels by the picture's width and height"
        )
    return points


def grid(side: int) -> np.ndarray:
    """[side * side, 2] points at the centres of a regular grid."""
    if side < 1:
        raise UserError(f"--grid is {side}; expected at least 1, the points on a side")
    axis = (np.arange(side, dtype=np.float32) + 0.5) / side
    return np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)


def read_image(path: str) -> np.ndarray:
    """-> [H, W, 3] uint8. UserError for what is no whole picture (missing, a folder, another format, cut off)."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:  # as Pillow's formats raise them
        raise UserError(f"cannot read {path} as a picture ({e}); expected a PNG or JPEG file") from None


def predict(
    checkpoint: str, which: str, picture: np.ndarray, sentence: str, points: np.ndarray, text_path: str = ""
) -> np.ndarray:
    """-> [T, N, 2]: where the points go, in [0, 1]."""
    from t2p.eval.restore import restore
    from t2p.eval.single import image_batch
    from t2p.eval.tracks import predicted_points
    from t2p.methods import language

    restored = restore(checkpoint, which, text_path)
    text = language.embed(restored.config.text, [sentence])[sentence] if restored.stage.window.text else None
    batch = image_batch(restored, picture, text, points)
    return np.asarray(predicted_points(restored.stage)(restored.variables, batch))[0]


def _draw(out: str, picture: np.ndarray, tracks: np.ndarray, sentence: str) -> None:
    from t2p.eval.overlay import draw_tracks, write_image, write_video
    from t2p.eval.rerun_file import write_prediction

    if out.endswith(".rrd"):
        write_prediction(out, picture, tracks, sentence)
        return
    frames = np.repeat(picture[None], len(tracks), axis=0)
    drawn = draw_tracks(frames, tracks, np.ones(tracks.shape[:2], bool), trail=len(tracks))
    try:
        if out.endswith(".mp4"):
            write_video(out, drawn, fps=6)
        else:
            write_image(out, drawn[-1])
    except OSError as e:
        raise UserError(f"cannot write --out {out} ({e}); expected a file in a folder that you may write to") from e
