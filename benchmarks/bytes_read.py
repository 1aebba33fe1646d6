"""How many bytes one training example reads from disk, against the bytes that it uses.

    python benchmarks/bytes_read.py

Two kinds of examples: ATM's (a frame of one view, 16 steps of 1098 points followed through the whole episode)
and AMPLIFY's (a frame of two views, one window of 16 steps x 400 points each). `used` is the encoded frames plus the
coordinates (float32) and the visibility (one bit) of the example's own steps; `read` is what the process asked of the
operating system, files already open. Opening a file reads its index once per process; it is listed apart.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from t2p.data.codec import encode_image
from t2p.data.store import Dataset, finish, write_shard
from t2p.types import Episode, TrackSet

EPISODES, LENGTH, SIZE, VIEWS = 6, 96, 128, ("front", "wrist")
STEPS, ATM_POINTS, AMPLIFY_POINTS = 16, 1098, 400
EXAMPLES = 400


def picture(rng: np.random.Generator) -> np.ndarray:
    """A smooth coloured texture with some noise: JPEG files of about the size of real small robot frames."""
    waves = rng.uniform(0.02, 0.25, (6, 2)) * rng.choice([-1, 1], (6, 2))
    y, x = np.mgrid[:SIZE, :SIZE]
    image = sum(np.sin(a * x + b * y + rng.uniform(0, 6))[..., None] * rng.uniform(0, 25, 3) for a, b in waves)
    return (image + 120 + rng.normal(0, 3, (SIZE, SIZE, 3))).clip(0, 255).astype(np.uint8)


def walk(rng: np.random.Generator, length: int, *points: int) -> np.ndarray:
    """Smooth tracks [length, *points, 2]."""
    start = rng.random((1, *points, 2))
    return (start + rng.normal(0, 0.003, (length, *points, 2)).cumsum(0)).astype(np.float32)


def episode(number: int) -> Episode:
    """An episode with both kinds of track sets."""
    rng = np.random.default_rng(number)
    atm, amplify = {}, {}
    for view in VIEWS:
        points = walk(rng, LENGTH, ATM_POINTS)
        queries = np.concatenate([np.zeros((ATM_POINTS, 1)), points[0]], 1).astype(np.float32)
        atm[view] = TrackSet("global", points, rng.random(points.shape[:2]) < 0.8, queries, "walk", "1")
        points = walk(rng, LENGTH, STEPS, AMPLIFY_POINTS)
        queries = np.zeros((AMPLIFY_POINTS, 3), np.float32)
        amplify[view] = TrackSet("window", points, rng.random(points.shape[:3]) < 0.8, queries, "walk", "1")
    frames = {view: np.stack([picture(rng) for _ in range(LENGTH)]) for view in VIEWS}
    return Episode(f"clip-{number}", 20.0, frames, tracks={"walk/atm": atm, "walk/amplify": amplify})


def bytes_asked() -> int:
    """Bytes that this process has read so far (Linux)."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


def measure(dataset: Dataset, views: tuple[str, ...], track_set: str, steps: int, rng: np.random.Generator) -> None:
    """Reads random examples and prints bytes used, bytes read and their ratio."""
    used = asked = 0
    for _ in range(EXAMPLES):
        number = int(rng.integers(len(dataset)))
        start = int(rng.integers(LENGTH - steps + 1))
        for view in views:
            before = bytes_asked()
            frame = dataset.frames(number, view, [start])[0]
            tracks = dataset.tracks(number, track_set, view, start, start + steps)
            asked += bytes_asked() - before - own_cost()
            used += len(encode_image(frame, "jpeg")) + tracks.points.nbytes + tracks.visible.size // 8
    each = (used / EXAMPLES / 1e3, asked / EXAMPLES / 1e3, asked / used)
    print("{:14s} {:8.1f} kB used {:8.1f} kB read  ratio {:.2f}".format(track_set, *each))


def own_cost() -> int:
    """Bytes that `bytes_asked` itself reads."""
    return -bytes_asked() + bytes_asked()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_shard(folder, "train", 0, map(episode, range(EPISODES)))
        finish(folder, shards={"train": 1})
        dataset = Dataset(folder, "train")
        before = bytes_asked()
        dataset.frames(0, VIEWS[0], [0])
        for name in dataset.infos[0].track_sets:
            dataset.tracks(0, name, VIEWS[0], 0, 1)
        print(f"opening three files of a shard, once per process: {(bytes_asked() - before) / 1e6:.2f} MB")
        rng = np.random.default_rng(0)
        measure(dataset, VIEWS[:1], "walk/atm", STEPS, rng)
        measure(dataset, VIEWS, "walk/amplify", 1, rng)


if __name__ == "__main__":
    main()
