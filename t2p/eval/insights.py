"""What a policy tells of the pictures that it sees: the tracks that it predicts in them, and where it looks (Wen et al.
2024, Figures 8 and 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from t2p.eval.overlay import beside, contact_sheet, draw_paths, enlarge
from t2p.types import Observation

MOMENTS = 4  # of an episode that a figure shows
SHORT_SIDE = 240  # pixels of a picture in a figure, at least
STRENGTH = 0.75  # of the colour over a picture where the weight is greatest


@dataclass(frozen=True)
class Insight:
    """One decision. seconds: simulated, since the episode began. pictures: {view: [H, W, 3] uint8}, as the policy was
    shown them; tracks: {view: [T, N, 2]}, predicted there, in units of its width and height; attention: {view: [layers,
    rows, columns]}, weights of the patches. The last two are empty where the policy tells nothing of the kind."""

    seconds: float
    pictures: Mapping[str, np.ndarray]
    tracks: Mapping[str, np.ndarray]
    attention: Mapping[str, np.ndarray]


def insight(seconds: float, obs: Observation, aux: Mapping[str, Any], views: Sequence[str]) -> Insight | None:
    """What a policy's aux (see t2p.methods.base.Policy.act) says of the first environment's pictures in `views`, in its
    order; None where it says nothing of single views."""
    tracks, attention = _by_view(aux.get("tracks"), 1, views), _by_view(aux.get("attention"), 2, views)
    if not tracks and not attention:
        return None
    return Insight(seconds, {view: np.asarray(obs.images[view][0, -1]) for view in views}, tracks, attention)


def moments(insights: Sequence[Insight]) -> tuple[Insight, ...]:
    """MOMENTS of them, first and last among them, evenly spaced."""
    chosen = np.unique(np.linspace(0, len(insights) - 1, min(MOMENTS, len(insights))).round().astype(int))
    return tuple(insights[i] for i in chosen)


def with_tracks(one: Insight) -> np.ndarray:
    """All views beside each other, each with the tracks that were predicted in it. -> uint8 [H', W', 3]."""
    shown = {view: np.ones(tracks.shape[:2], bool) for view, tracks in one.tracks.items()}
    return beside([(view, draw_paths(one.pictures[view], one.tracks[view], shown[view])) for view in shown])


def with_attention(insights: Sequence[Insight]) -> tuple[np.ndarray, tuple[float, float]]:
    """A row of pictures for each view, a column for each decision, with the last layer's attention over them.

    -> uint8 [H', W', 3], and the least and the greatest weight in it, which have the ends of the colours."""
    maps = [{view: layers[-1] for view, layers in one.attention.items()} for one in insights]
    every = np.concatenate([weights.ravel() for one in maps for weights in one.values()])
    ends = float(every.min()), float(every.max())
    views = list(maps[0])
    rows = [
        [heated(one.pictures[view], own[view], ends) for one, own in zip(insights, maps, strict=True)] for view in views
    ]
    return contact_sheet(rows, views, [f"{one.seconds:.1f} s" for one in insights]), ends


def heated(picture: np.ndarray, weights: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
    """A picture in grey, plain where weights are ends[0], over violet and red to bright yellow where they are ends[1].

    picture: uint8 [H, W, 3]; weights: [rows, columns] of the patches that divide it, between whose centres they are
    interpolated -> uint8 [H', W', 3], enlarged so that the short side is at least SHORT_SIDE."""
    import cv2
    from matplotlib import colormaps

    big = enlarge(picture[None], SHORT_SIDE)[0]
    level = (weights - ends[0]) / max(ends[1] - ends[0], 1e-12)
    level = cv2.resize(level.astype(np.float32), big.shape[1::-1], interpolation=cv2.INTER_LINEAR).clip(0, 1)
    grey = cv2.cvtColor(big, cv2.COLOR_RGB2GRAY)[..., None]
    share = STRENGTH * level[..., None]
    return (share * 255 * colormaps["inferno"](level)[..., :3] + (1 - share) * grey).round().astype(np.uint8)


def _by_view(told: Any, axis: int, views: Sequence[str]) -> dict[str, np.ndarray]:
    """Of an array [E, ...] with five axes, one of them the views', the first environment's; {} for anything else."""
    if np.ndim(told) != 5 or not views or told.shape[axis] != len(views):
        return {}
    return dict(zip(views, np.moveaxis(np.asarray(told[0], np.float32), axis - 1, 0), strict=True))
