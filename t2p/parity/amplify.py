"""AMPLIFY: measures, and the input that its networks get from the official files."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np

from t2p.data.sources.amplify import AmplifySource
from t2p.geometry.conventions import to_amplify
from t2p.geometry.resample import resample_time, resize_bilinear
from t2p.metrics.tracks import (
    PIXEL_TOLERANCES,
    amplify_measures,
    amplify_within,
    codebook_perplexity,
    cross_track_l2,
    normalized_codebook_perplexity,
)
from t2p.types import Episode

SPLINES = ("spline", "cubic", "cubic_spline")  # as which the interpolation by a cubic spline is known


def _codebook_size(meta: dict[str, Any]) -> int:
    """From the configuration, or from the words with which the fixture describes its `indices`."""
    if "codebook_size" in meta["config"]:
        return meta["config"]["codebook_size"]
    found = re.search(r"codebook size (\d+)", meta["arrays"]["inputs"]["indices"]["what"])
    if not found:
        raise ValueError('meta.json names the codebook size neither in "config" nor in the description of "indices"')
    return int(found[1])


def metrics(meta: dict[str, Any], inputs: dict[str, np.ndarray], checkpoint: None = None) -> dict[str, np.ndarray]:
    """inputs: pred_traj, gt_traj (outputs rand__*), edge_pred, edge_gt (edge__*), code indices."""
    height = meta["config"]["img_size"][0]
    size = _codebook_size(meta)
    outputs: dict[str, np.ndarray] = {}
    for name, pred, true in (
        ("rand", inputs["pred_traj"], inputs["gt_traj"]),
        ("edge", inputs["edge_pred"], inputs["edge_gt"]),
    ):
        values = amplify_measures(pred, true, height)
        values |= {f"tol_{k:02d}": amplify_within(pred, true, k, height) for k in PIXEL_TOLERANCES}
        outputs |= {f"{name}__{key}": value for key, value in values.items()}
        outputs |= _discounted(meta, name, pred, true)
    outputs["codebook_perplexity"] = codebook_perplexity(inputs["indices"], size)
    outputs["normalized_codebook_perplexity"] = normalized_codebook_perplexity(inputs["indices"], size)
    return outputs


def _discounted(meta: dict[str, Any], name: str, pred: np.ndarray, true: np.ndarray) -> dict[str, np.ndarray]:
    """The discounted cross-track distances that are recorded: the discount stands at the end of the array's name
    ("rand__cross_track_l2_discount0.9"), or in the configuration."""
    start = f"{name}__cross_track_l2_discount"
    found = {}
    for recorded in meta["arrays"]["outputs"]:
        if recorded.startswith(start):
            number = re.fullmatch(r"(?:ed)?_?([\d.]*)", recorded.removeprefix(start))
            if not number:
                raise ValueError(f"the name of {recorded!r} ends in no discount")
            discount = float(number[1] or meta["config"]["discount"])
            found[recorded] = cross_track_l2(pred, true, discount)
    return found


def _method(name: str) -> Literal["linear", "spline"]:
    """interp_method of a configuration."""
    if name.replace(" ", "_") in SPLINES:
        return "spline"
    if name != "linear":
        raise ValueError(f"interp_method is {name!r}; expected linear, or one of {', '.join(SPLINES)}")
    return "linear"


PROPRIO = ("joint_states", "gripper_states")


def libero_dataset(
    meta: dict[str, Any], inputs: dict[str, np.ndarray], checkpoint: None = None
) -> dict[str, np.ndarray]:
    """The recording as the official files hold it -> an episode -> what the official loader gives its networks.

    inputs: <view>_rgb [T, H, W, 3] upside down, tracks_<view> [T, h, N, 2], actions, states, starts [S]."""
    config = meta["config"]
    with tempfile.TemporaryDirectory() as folder:
        tracks, demos = _write_official(Path(folder), meta["task_file_stem"], config["views"], inputs)
        source = AmplifySource(tracks, demos=demos)
        episode = source.read(source.keys()[0])
    samples = [network_input(episode, config, int(start)) for start in inputs["starts"]]
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}


def _write_official(folder: Path, stem: str, views: list[str], inputs: dict[str, np.ndarray]) -> tuple[Path, Path]:
    """-> (folder of tracks, folder of demonstrations) with one recording, demo_0 of the task."""
    import h5py

    tracks, demos = folder / "tracks", folder / "demos"
    (tracks / stem).mkdir(parents=True)
    demos.mkdir()
    with h5py.File(tracks / stem / "demo_0.hdf5", "w") as f:
        for view in views:
            f[f"root/{view}/tracks"] = inputs[f"tracks_{view}"]
            f[f"root/{view}/vis"] = np.ones(inputs[f"tracks_{view}"].shape[:-1], np.float32)
    with h5py.File(demos / f"{stem}.hdf5", "w") as f:
        demo = f.create_group("data/demo_0")
        demo["actions"] = inputs["actions"]
        for name in (*(f"{view}_rgb" for view in views), *PROPRIO):
            demo[f"obs/{name}"] = inputs[name]
    return tracks, demos


def network_input(episode: Episode, config: dict[str, Any], start: int) -> dict[str, np.ndarray]:
    """One sample of the release's loader (LiberoDataset.process_data), from frame `start`.

    config: views, img_shape (H, W), true_horizon, track_pred_horizon, interp_method. -> images [V, h, w, 3] in
    [0, 1]; traj [V, T, N, 2] (row, column) in [-1, 1]; actions [true_horizon, A], zeros past the end;
    proprioception [9]."""
    horizon, shape = config["true_horizon"], tuple(config["img_shape"])
    images, tracks = [], []
    for view in config["views"]:
        image = episode.frames[view][start].astype(np.float32) / 255
        images.append(image if image.shape[:2] == shape else resize_bilinear(image, shape))
        (track_set,) = (views[view] for views in episode.tracks.values())
        path = to_amplify(track_set.points[start, :horizon], image.shape[:2])
        if config["track_pred_horizon"] != horizon:
            path = resample_time(path, config["track_pred_horizon"], _method(config.get("interp_method", "linear")))
        tracks.append(path)
    actions = episode.columns["actions"][start : start + horizon]
    return {
        "images": np.stack(images),
        "actions": np.pad(actions, ((0, horizon - len(actions)), (0, 0))),
        "traj": np.stack(tracks),
        "proprioception": np.concatenate([episode.columns[f"proprio/{name}"][start] for name in PROPRIO], -1),
    }
