"""What a policy saw in an episode and what it said of it beside its actions: the tracks that it foresaw in each view's
picture and where its attention lay (ATM, Figures 8 and 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from t2p.eval.overlay import beside, contact_sheet, draw_ways, enlarge, heat
from t2p.types import Observation

MOST = 64  # of an episode that are kept
COLUMNS = 5  # moments of the figure of attention


@dataclass(frozen=True)
class Moment:
    """One decision. step: policy steps before it; pictures: {view: [H, W, 3] uint8}; tracks: [V, T, N, 2] (x, y) in
    [0, 1], from now on, views in the order of pictures, or None; attention: [V, rows, columns], or None."""

    step: int
    pictures: Mapping[str, np.ndarray]
    tracks: np.ndarray | None
    attention: np.ndarray | None


class Moments:
    """Moments of an episode of one environment, evenly spaced, MOST at most: whenever there are more, every second one
    is dropped."""

    def __init__(self) -> None:
        self.kept: list[Moment] = []
        self._step, self._every = 0, 1

    def told(self, obs: Observation, aux: Mapping[str, Any]) -> None:
        """The next decision: what was seen before it, and what was said beside it."""
        step, self._step = self._step, self._step + 1
        tracks, attention = aux.get("tracks"), aux.get("attention")
        of_pictures = tracks is not None and np.ndim(tracks) == 5  # others are points in space
        if step % self._every or not (of_pictures or attention is not None):
            return
        pictures = {view: np.array(images[0]) for view, images in obs.images.items()}
        tracks = np.asarray(tracks[0], np.float32) if of_pictures and tracks is not None else None
        last = None if attention is None else np.asarray(attention[0, -1], np.float32)
        self.kept.append(Moment(step, pictures, tracks, last))
        if len(self.kept) > MOST:
            self.kept, self._every = self.kept[::2], 2 * self._every


def foretold(moments: Sequence[Moment]) -> np.ndarray | None:
    """A film, uint8 [F, H, W, 3]: all views side by side, each with the tracks that were foreseen in it. None where
    none were."""
    pictures = [_foretold(m, m.tracks) for m in moments if m.tracks is not None]
    return np.stack(pictures) if pictures else None


def _foretold(moment: Moment, tracks: np.ndarray) -> np.ndarray:
    views = zip(moment.pictures.items(), tracks, strict=True)
    return beside([(view, draw_ways(picture, ways)) for (view, picture), ways in views])


def attended(moments: Sequence[Moment]) -> np.ndarray | None:
    """A sheet, uint8 [H, W, 3]: some moments from the first to the last, each view under its name, warm where attention
    lay. None where nothing is known of it."""
    known = [m for m in moments if m.attention is not None]
    if not known:
        return None
    chosen = [known[i] for i in np.unique(np.linspace(0, len(known) - 1, COLUMNS).round().astype(int))]
    views = list(chosen[0].pictures)
    rows = [[_warm(m, view, v) for m in chosen] for v, view in enumerate(views)]
    return contact_sheet(rows, views, [f"step {m.step}" for m in chosen])


def _warm(moment: Moment, view: str, number: int) -> np.ndarray:
    assert moment.attention is not None
    return heat(enlarge(moment.pictures[view][None], short_side=192)[0], moment.attention[number])
