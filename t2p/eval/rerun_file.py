"""Episodes and predicted tracks as files of the Rerun viewer (`rerun FILE.rrd`; rerun.io): an optional package.

Under an episode's name stand, for each view, its picture, on it the tracks in image coordinates (pixels), and beside it
those in the camera's frame (metres). Timelines: "frame" and "seconds" of an episode, "step" of a prediction.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import simplejpeg

from t2p.eval.overlay import rainbow
from t2p.io import PathLike, UserError, is_remote
from t2p.types import Camera, Episode, TrackSet

QUALITY = 90  # of pictures


def write_episodes(path: PathLike, episodes: Iterable[Episode]) -> None:
    """Frames, track sets, numeric columns, sentences and cameras of episodes. UserError without the package."""
    rr, recording = _open(path, "t2p data show")
    for episode in episodes:
        recording.reset_time()
        _log_still(rr, recording, episode)
        for t in range(episode.length):
            recording.set_time("frame", sequence=t)
            recording.set_time("seconds", duration=t / episode.fps)
            _log_frame(rr, recording, episode, t)
    recording.disconnect()


def write_prediction(path: PathLike, picture: np.ndarray, tracks: np.ndarray, sentence: str) -> None:
    """picture: [H, W, 3] uint8; tracks: [T, N, 2] in [0, 1], where its points go. UserError without the package."""
    rr, recording = _open(path, "t2p predict")
    places, colors = tracks * [picture.shape[1], picture.shape[0]], rainbow(tracks[0])
    recording.log(["sentence"], rr.TextDocument(sentence), static=True)
    recording.log(["picture"], _picture(rr, picture), static=True)
    recording.log(["picture", "ways"], rr.LineStrips2D(places.swapaxes(0, 1), colors=colors), static=True)
    for step, at in enumerate(places):
        recording.set_time("step", sequence=step)
        recording.log(["picture", "points"], rr.Points2D(at, colors=colors))
    recording.disconnect()


def package(path: PathLike) -> Any:
    """The package; UserError where it is missing, or could not write the file."""
    try:
        import rerun
    except ImportError as e:
        raise UserError(f"writing {path} needs Rerun: pip install 't2p[rerun]'") from e
    if is_remote(path):
        raise UserError(f"{path}: Rerun writes local files only; name one and copy it")
    return rerun


def _open(path: PathLike, application: str) -> tuple[Any, Any]:
    """(the package, a recording that goes to the file)."""
    rr = package(path)
    recording = rr.RecordingStream(application)
    try:
        recording.save(str(path))
    except (OSError, RuntimeError) as e:
        raise UserError(f"cannot write {path} ({e}); expected a file in a folder that you may write to") from e
    return rr, recording


def _log_still(rr: Any, recording: Any, episode: Episode) -> None:
    """What holds for a whole episode."""
    if episode.language:
        recording.log([episode.id, "sentences"], rr.TextDocument("\n".join(episode.language)), static=True)
    for view, camera in episode.cameras.items():
        pose, pinhole = _camera(rr, camera)
        recording.log([episode.id, view], pose, static=True)
        recording.log([episode.id, view, "picture"], pinhole, static=True)


def _log_frame(rr: Any, recording: Any, episode: Episode, t: int) -> None:
    for view, frames in episode.frames.items():
        recording.log([episode.id, view, "picture"], _picture(rr, frames[t]))
    for name, column in episode.columns.items():
        recording.log([episode.id, "columns", name], rr.Scalars(np.asarray(column[t], float).ravel()))
    for name, views in episode.tracks.items():
        for view, tracks in views.items():
            _log_tracks(rr, recording, [episode.id, view], name, tracks, t, episode.frames[view].shape[1:3])


def _log_tracks(
    rr: Any, recording: Any, place: list[object], name: str, tracks: TrackSet, t: int, size: tuple[int, int]
) -> None:
    """The points visible in frame t: where they are; of windows, where they go from there while they are visible."""
    window = tracks.layout == "window"
    at = t if window else slice(t, t + 1)
    points, visible = tracks.points[at], tracks.visible[at]
    first = points[0] if window else tracks.points[0]
    colors, seen = rainbow(np.nan_to_num(first[:, :2])), np.asarray(visible[0], bool)
    if tracks.space == "camera":
        recording.log([*place, name], rr.Points3D(points[0, seen], colors=colors[seen]))
        return
    pixels = points[..., :2] * [size[1], size[0]]
    recording.log([*place, "picture", name], rr.Points2D(pixels[0, seen], colors=colors[seen]))
    if window:
        lengths = np.cumprod(visible, axis=0).sum(axis=0)
        ways = [pixels[:length, n] for n, length in enumerate(lengths) if length > 1]
        recording.log([*place, "picture", name, "ways"], rr.LineStrips2D(ways, colors=colors[lengths > 1]))


def _camera(rr: Any, camera: Camera) -> tuple[Any, Any]:
    """(pose in the robot's base, pinhole)."""
    pose, (height, width) = np.asarray(camera.T_base_cam), camera.size
    return (
        rr.Transform3D(translation=pose[:3, 3], mat3x3=pose[:3, :3]),
        rr.Pinhole(image_from_camera=np.asarray(camera.K), width=width, height=height),
    )


def _picture(rr: Any, picture: np.ndarray) -> Any:
    jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(picture), QUALITY, colorspace="RGB")
    return rr.EncodedImage(contents=jpeg, media_type="image/jpeg")
