"""Examples per second of the data pipeline with 0, 1 and 2 worker processes, and where the time goes.

    python benchmarks/loader.py [--seconds 8] [--batch_size 32] [--workers 0 1 2]

Writes a dataset of its own (two views of 128 x 128 pixels in JPEG, 1098 tracks per view as ATM stores them) and
reads two kinds of examples: `atm`, one frame with 32 tracks over 16 steps and the augmentation of ATM, and `clip`, ten
frames of both views with actions, jitter and shift. One thread's cost of an example is split into reading (records and
tracks), decoding, augmenting and batching; then the whole loader is timed, first batch and after.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator

import grain
import numpy as np

from t2p.data.augment import Augment
from t2p.data.codec import decode_image, encode_image
from t2p.data.loader import ReadExample, to_batch
from t2p.data.mixture import Mixture, open_mixture
from t2p.data.pipeline import make_loader
from t2p.data.store import finish, write_shard
from t2p.train.defaults import base_config, source_config
from t2p.types import Episode, FieldWindow, TrackSet, WindowSpec

VIEWS = ("agentview", "eye_in_hand")
SIZE, LENGTH, EPISODES, POINTS = 128, 80, 12, 1098
WINDOWS = {
    "atm": WindowSpec(
        views=VIEWS,
        one_view=True,
        images=FieldWindow((0,)),
        track_set="dis/atm",
        tracks=FieldWindow(tuple(range(16))),
        num_points=32,
    ),
    "clip": WindowSpec(
        views=VIEWS,
        images=FieldWindow(tuple(range(10))),
        actions=FieldWindow(tuple(range(10)), pad="zero"),
    ),
}
AUGMENT = {"probability": 0.9, "brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.3, "shift": 4}


def episodes() -> Iterator[Episode]:
    """Smooth moving textures, whose JPEGs are about as large as those of LIBERO's frames."""
    import cv2

    for number in range(EPISODES):
        rng = np.random.default_rng(number)
        canvas = cv2.GaussianBlur(rng.integers(0, 256, (2 * SIZE, 2 * SIZE, 3), np.uint8), (0, 0), 1.5)
        canvas = cv2.normalize(canvas, None, 0, 255, cv2.NORM_MINMAX)
        frames = np.stack([canvas[t : t + SIZE, t // 2 : t // 2 + SIZE] for t in range(LENGTH)])
        start = rng.random((1, POINTS, 2), np.float32)
        points = start - np.arange(LENGTH, dtype=np.float32)[:, None, None] * np.float32([0.5, 1]) / SIZE
        tracks = TrackSet(
            "global",
            points,
            ((points >= 0) & (points <= 1)).all(-1),
            np.concatenate([np.zeros((POINTS, 1), np.float32), start[0]], -1),
            "exact",
            "1",
        )
        yield Episode(
            id=f"demo_{number}",
            fps=20.0,
            frames={view: frames for view in VIEWS},
            columns={"actions": rng.normal(size=(LENGTH, 7))},
            tracks={"dis/atm": {view: tracks for view in VIEWS}},
        )


def seconds_each(function: Callable[[int], object], count: int) -> float:
    """Mean seconds of this thread in a call, whatever else the machine does."""
    function(0)
    start = time.thread_time()
    for i in range(count):
        function(i)
    return (time.thread_time() - start) / count


def shares(mixture: Mixture, batch_size: int, count: int = 300) -> dict[str, float]:
    """Milliseconds per example of each part, in one thread."""
    rng = np.random.default_rng(0)
    keys = [(0, int(k)) for k in rng.integers(len(mixture.components[0].rows), size=count)]
    plain, full = ReadExample(mixture, 0), ReadExample(mixture, 0, Augment(**AUGMENT))
    cut = seconds_each(lambda i: plain(i, keys[i]), count)
    augmented = seconds_each(lambda i: full(i, keys[i]), count)
    example = plain(0, keys[0])
    pictures = [frame for view in example["images"].values() for frame in view]
    encoded = [encode_image(frame, "jpeg") for frame in pictures]
    decode = seconds_each(lambda i: [decode_image(data, (SIZE, SIZE)) for data in encoded], count)
    stacked = grain.MapDataset.source([example]).repeat().batch(batch_size)
    batch = seconds_each(lambda i: to_batch(stacked[i], mixture, None), 20) / batch_size
    parts = {"read": cut - decode, "decode": decode, "augment": augmented - cut, "batch": batch}
    return {name: 1000 * value for name, value in parts.items()}


def throughput(data, window: WindowSpec, batch_size: int, seconds: float) -> tuple[float, float]:
    """-> (seconds until the first batch, examples per second after it)."""
    begin = time.perf_counter()
    with make_loader(data, window, batch_size=batch_size, seed=0) as loader:
        next(loader)
        first = time.perf_counter() - begin
        for _ in range(4):  # what was read ahead while starting
            next(loader)
        begin, batches = time.perf_counter(), 0
        while time.perf_counter() - begin < seconds:
            next(loader)
            batches += 1
        return first, batches * batch_size / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        write_shard(directory, "train", 0, episodes(), codec="jpeg")
        finish(directory, shards={"train": 1})
        for name, window in WINDOWS.items():
            data = base_config().data
            data.sources.main = source_config(path=directory)
            data.augment.update(AUGMENT)
            parts = shares(open_mixture(data.sources, window), args.batch_size)
            slowest = max(parts, key=parts.get)
            split = ", ".join(f"{part} {value:.2f}" for part, value in parts.items())
            print(f"{name}: {sum(parts.values()):.2f} ms an example in one thread ({split}); most of it: {slowest}")
            for workers in args.workers:
                data.workers = workers
                first, rate = throughput(data, window, args.batch_size, args.seconds)
                print(f"{name}: workers {workers}: {rate:.0f} examples/s, first batch after {first:.1f} s")


if __name__ == "__main__":
    main()
