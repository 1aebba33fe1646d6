"""A batch of one from a picture, a sentence and points: what inference on a user's own image needs."""

from __future__ import annotations

import numpy as np

from t2p.eval.restore import Restored
from t2p.io import UserError
from t2p.types import ANY_VIEW, Batch, Tracks


def image_batch(restored: Restored, picture: np.ndarray, text: np.ndarray | None, points: np.ndarray) -> Batch:
    """picture: [H, W, 3] uint8 of any size, resized to what the stage was trained on; text: [E]; points: [N, 2].

    Every view and every earlier frame of the stage's window shows this picture; tracks hold the points' places at
    every step, which is all that inference may know."""
    window = restored.stage.window
    if window.images is None or window.track_set is None:
        raise UserError(f"{restored.config.stage} does not predict tracks from pictures")
    steps = window.track_steps or len(window.tracks.offsets if window.tracks else ())
    views = (ANY_VIEW,) if window.one_view else window.views
    images, tracks = {}, {}
    for view in views:
        shapes = restored.meta["shapes"].get("images", {})
        size = tuple(shapes[view][-3:-1]) if shapes else window.image_size  # without: trained on cached features
        assert size is not None, "a stage whose pictures can be cached says their size"
        images[view] = np.repeat(_resize(picture, size)[None, None], len(window.images.offsets), axis=1)
        place = np.broadcast_to(points.astype(np.float32), (1, steps, *points.shape)).copy()
        queries = np.concatenate([np.zeros((len(points), 1), np.float32), points.astype(np.float32)], axis=1)[None]
        visible = np.ones(place.shape[:-1], bool)
        tracks[view] = Tracks(place, visible, queries, np.ones((1, steps), bool))
    return Batch(images=images, tracks={window.track_set: tracks}, text=None if text is None else text[None])


def _resize(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    from PIL import Image

    if picture.shape[:2] == size:
        return picture
    return np.asarray(Image.fromarray(picture).resize((size[1], size[0]), Image.Resampling.BILINEAR))
