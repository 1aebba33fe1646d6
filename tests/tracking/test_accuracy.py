"""How well the default tracker does on drawn clips with exact tracks: 256 x 256, 16 frames, all shapes moving."""

import numpy as np
import pytest

from t2p.data.sources.synthetic import SyntheticSource
from t2p.metrics.tracks import track2act_delta
from t2p.tracking.dis import Dis

SIDE = 256


def scores(seed: int) -> dict[str, float]:
    """Share within 1 .. 10 px (visible, moving points) of `dis` and of no motion, and what the clip is like."""
    (key,) = (source := SyntheticSource.benchmark(seed)).keys()
    episode = source.read(key)
    (video,), (truth,) = episode.frames.values(), episode.tracks["exact/grid"].values()
    dis = Dis()
    tracks = dis.track(dis.prepare(video), truth.queries)
    motion = np.linalg.norm(truth.points - truth.points[:1], axis=-1).max(0) * SIDE
    moving = motion > 2
    counted = truth.visible[1:] & moving
    still = np.broadcast_to(truth.points[:1], truth.points.shape)
    return {
        "dis": float(track2act_delta(tracks.points[1:] * SIDE, truth.points[1:] * SIDE, counted)),
        "no motion": float(track2act_delta(still[1:] * SIDE, truth.points[1:] * SIDE, counted)),
        "motion": float(motion[moving].mean()),
        "occluded": float(1 - truth.visible[:, moving].mean()),
        "objects": len(episode.info["objects"]),
    }


def check(seeds: range) -> None:
    found = [scores(seed) for seed in seeds]
    mean = {name: np.mean([f[name] for f in found]) for name in found[0]}
    assert min(f["objects"] for f in found) >= 3 and mean["motion"] >= 8
    assert mean["no motion"] <= 0.30
    assert mean["dis"] >= 0.88
    if len(seeds) == 32:
        assert mean["occluded"] == pytest.approx(0.10, abs=0.03)


def test_dis_on_a_few_clips():
    check(range(3, 6))


@pytest.mark.long
def test_dis_on_all_clips():
    check(range(32))
