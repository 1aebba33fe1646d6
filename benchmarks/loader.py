"""Examples per second of the data pipeline with 0, 1 and 2 worker processes, and where the time goes.

    python benchmarks/loader.py [--seconds 8] [--batch_size 32] [--workers 0 1 2]
    python benchmarks/loader.py --official CHECKOUT --official_python OTHER_VENV/bin/python

Writes a dataset of its own (two views of 128 x 128 pixels in JPEG, 1098 tracks per view as ATM stores them) and
reads two kinds of examples: `atm`, one frame with 32 tracks over 16 steps and the augmentation of ATM, and `clip`, ten
frames of both views with actions, jitter and shift. One thread's cost of an example is split into reading (records and
tracks), decoding, augmenting and batching; then the whole loader is timed, first batch and after.

CHECKOUT is a clone of Large-Trajectory-Model/ATM: its dataset (as its config has it: all but pictures in memory, PNG
pictures, augmentation on the CPU) in PyTorch's DataLoader then reads the same episodes in its own layout, and the CPU
time of an example is compared, the two taking turns. It needs torch, torchvision, robomimic, h5py and einops in an
interpreter of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

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


def write_official(folder: Path) -> None:
    """The same episodes as ATM's scripts lay them out: HDF5 files, and PNG pictures beside them."""
    import h5py
    from PIL import Image

    (folder / "train").mkdir(parents=True)
    for episode in episodes():
        pictures = folder / "images" / episode.id
        pictures.mkdir(parents=True)
        with h5py.File(folder / "train" / f"{episode.id}.hdf5", "w") as f:
            for view in VIEWS:
                tracks = episode.tracks["dis/atm"][view]
                f[f"root/{view}/video"] = episode.frames[view].transpose(0, 3, 1, 2)[None]
                f[f"root/{view}/tracks"], f[f"root/{view}/vis"] = tracks.points[None], tracks.visible[None]
                for number, frame in enumerate(episode.frames[view]):
                    Image.fromarray(frame).save(pictures / f"{view}_{number}.png")
            f["root/actions"] = episode.columns["actions"]
            f["root/task_emb_bert"] = np.zeros(768, np.float32)
            f.create_group("root/extra_states")


# Runs under another interpreter. torchvision's compiled part may not fit a CPU build of torch; nothing here calls it.
OFFICIAL = """
import json, sys, time
import torch
checkout, folder, batch_size, batches = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
missing = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    missing.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
sys.path.insert(0, checkout)
from atm.dataloader.track_dataloader import ATMPretrainDataset
data = ATMPretrainDataset(
    dataset_dir=folder, img_size=128, num_track_ts=16, num_track_ids=32, frame_stack=1, cache_all=True,
    cache_image=False, aug_prob=0.9,
)
loader = iter(torch.utils.data.DataLoader(data, shuffle=True, batch_size=batch_size, num_workers=0))
next(loader)
begin = time.process_time()
for _ in range(batches):
    next(loader)
print(json.dumps((time.process_time() - begin) / (batches * batch_size)))
"""


def official_cost(args: argparse.Namespace, folder: Path, batches: int) -> float:
    """CPU seconds an example takes the original."""
    given = (args.official, str(folder / "train"), str(args.batch_size), str(batches))
    command = [args.official_python, "-c", OFFICIAL, *given]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command[:2])} ...: {done.stderr.strip()[-800:]}")
    return json.loads(done.stdout.splitlines()[-1])


def own_cost(data, batch_size: int, batches: int) -> float:
    """CPU seconds an example takes t2p, all threads counted."""
    with make_loader(data, WINDOWS["atm"], batch_size=batch_size, seed=0) as loader:
        for _ in range(5):  # what is read ahead stays the same from here on
            next(loader)
        begin = time.process_time()
        for _ in range(batches):
            next(loader)
        return (time.process_time() - begin) / (batches * batch_size)


def compare(args: argparse.Namespace, data, folder: Path, batches: int = 40) -> None:
    write_official(folder)
    turns = [(official_cost(args, folder, batches), own_cost(data, args.batch_size, batches)) for _ in range(3)]
    official, own = (1000 * median(t) for t in zip(*turns))
    print(f"CPU time of an example: official {official:.2f} ms, t2p {own:.2f} ms: {official / own:.1f} times less")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--official", metavar="CHECKOUT", help="a clone of the original, measured on the same data")
    parser.add_argument("--official_python", default=sys.executable, metavar="PYTHON", help="an interpreter with torch")
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
            if args.official and name == "atm":
                data.workers = 0
                compare(args, data, Path(directory) / "official")


if __name__ == "__main__":
    main()
