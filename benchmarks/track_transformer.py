"""Time of one train step (forward, backward, Adam) of the paper-size track transformer in float32.

    python benchmarks/track_transformer.py                                  # t2p alone
    python benchmarks/track_transformer.py --official CHECKOUT              # and the authors' module, back to back
    python benchmarks/track_transformer.py --official CHECKOUT --official_python OTHER_VENV/bin/python

CHECKOUT is a clone of Large-Trajectory-Model/ATM; its module needs torch and einops, in this interpreter or another.
Both sides train on the same random batch with dropout and masking on; they take turns, so that whatever else the
machine does falls on both. Recorded results: docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import types
from collections.abc import Callable
from statistics import median
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=10, help="turns of each side (default: 10)")
    parser.add_argument("--steps", type=int, default=2, help="steps a turn (default: 2)")
    parser.add_argument("--official", metavar="CHECKOUT", help="a clone of the original, timed beside t2p")
    parser.add_argument("--official_python", default=sys.executable, metavar="PYTHON", help="an interpreter with torch")
    parser.add_argument("--worker", metavar="CHECKOUT", help=argparse.SUPPRESS)  # this script as the official side
    args = parser.parse_args()
    if args.worker:
        return serve(official_step(args.worker, args.batch))
    print(f"batch {args.batch}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    sides: dict[str, Callable[[int], list[float]]] = {}
    worker = start_worker(args) if args.official else None
    if worker:
        sides["official"] = lambda n: ask(worker, n)
    step = t2p_step(args.batch)
    sides["t2p"] = lambda n: [timed(step) for _ in range(n)]
    report(race(sides, args.rounds, args.steps))
    if worker:
        worker.kill()


def race(sides: dict[str, Callable[[int], list[float]]], rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds of each step, the sides taking turns; the first turn of each warms up and is not counted."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(rounds + 1):
        for name, run in sides.items():
            seconds = run(steps)
            times[name] += seconds if i else []
    return times


def report(times: dict[str, list[float]]) -> None:
    for name, seconds in times.items():
        print(f"{name:9s} min {min(seconds):.3f} s   median {median(seconds):.3f} s   ({len(seconds)} steps)")
    if len(times) == 2:
        ours, theirs = times["t2p"], times["official"]
        print(f"t2p / official: min {min(ours) / min(theirs):.2f}, median {median(ours) / median(theirs):.2f}")


def timed(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def t2p_step(batch_size: int) -> Callable[[], None]:
    """A train step as the training loop makes it, without the loop: jitted, state donated."""
    import jax
    import numpy as np
    import optax

    from t2p.methods.atm import configure
    from t2p.methods.registry import make_stage
    from t2p.train.defaults import base_config
    from t2p.types import ANY_VIEW, Batch, Tracks

    stage = make_stage(configure(base_config()))
    rng = np.random.default_rng(0)
    tracks = Tracks(rng.random((batch_size, 16, 32, 2), np.float32), np.ones((batch_size, 16, 32), bool))
    batch = Batch(
        images={ANY_VIEW: rng.integers(0, 256, (batch_size, 1, 128, 128, 3), np.uint8)},
        tracks={stage.track_set: {ANY_VIEW: tracks}},
        text=rng.standard_normal((batch_size, 768)).astype(np.float32),
    )
    optimizer = optax.adam(1e-4)
    params = jax.jit(stage.init)(jax.random.key(0), batch)["params"]

    def update(state: tuple, key: Any) -> tuple[tuple, Any]:
        params, moments = state
        grad = jax.value_and_grad(lambda p: stage.loss({"params": p}, batch, key, True)[0])
        loss, grads = grad(params)
        updates, moments = optimizer.update(grads, moments, params)
        return (optax.apply_updates(params, updates), moments), loss

    jitted = jax.jit(update, donate_argnums=0)
    state, count = (params, optimizer.init(params)), 0
    print(f"t2p: jax {jax.__version__}, {jax.default_backend()}, attention {stage.model.implementation}", flush=True)

    def step() -> None:
        nonlocal state, count
        state, loss = jitted(state, jax.random.key(count))
        jax.block_until_ready((state, loss))
        count += 1

    return step


def start_worker(args: argparse.Namespace) -> subprocess.Popen:
    command = [args.official_python, os.path.abspath(__file__), "--worker", args.official, "--batch", str(args.batch)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(worker: subprocess.Popen, steps: int) -> list[float]:
    """Seconds of each of so many steps on the other side; it sleeps between turns."""
    assert worker.stdin is not None and worker.stdout is not None
    worker.stdin.write(f"{steps}\n")
    worker.stdin.flush()
    for line in worker.stdout:
        if line.startswith("["):  # the original prints its sizes, too
            return json.loads(line)
        print(line.rstrip(), flush=True)
    raise SystemExit("the official side stopped; its message is above")


def serve(step: Callable[[], None]) -> None:
    for line in sys.stdin:
        print([timed(step) for _ in range(int(line))], flush=True)


def official_step(checkout: str, batch_size: int) -> Callable[[], None]:
    """The authors' module with the settings of their config file, in training mode."""
    import torch

    model = official_class(checkout)(
        Settings(dim=384, dim_head=None, heads=8, depth=8, attn_dropout=0.2, ff_dropout=0.2),
        Settings(num_track_ts=16, num_track_ids=32, patch_size=4),
        Settings(img_size=128, frame_stack=1, patch_size=16),
        Settings(network_name="MLPEncoder", input_size=768, hidden_size=128, num_layers=1),
    )
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    video = torch.randint(0, 256, (batch_size, 1, 3, 128, 128)).float()
    track, text = torch.rand(batch_size, 16, 32, 2), torch.randn(batch_size, 768)
    print(f"official: torch {torch.__version__}, {torch.get_num_threads()} threads", flush=True)

    def step() -> None:
        loss, _ = model.forward_loss(video, track, text, lbd_track=10.0, lbd_img=1.0, p_img=0.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


class Settings(dict):
    """A dict whose entries are attributes too, as the original's configs are."""

    __getattr__ = dict.__getitem__


def official_class(checkout: str) -> Any:
    """TrackTransformer, imported without its packages' __init__ files, which pull in simulators and renderers."""
    for name in ("atm", "atm.model", "atm.policy", "atm.policy.vilt_modules", "atm.utils"):
        module(name).__path__ = [os.path.join(checkout, *name.split("."))]
    module("atm.utils.flow_utils", ImageUnNormalize=lambda *_: None, tracks_to_video=None)
    stand_ins()
    from atm.model.track_transformer import TrackTransformer

    return TrackTransformer


def module(name: str, **content: Any) -> types.ModuleType:
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__dict__.update(content)
    return sys.modules[name]


def stand_ins() -> None:
    """The two things that the model takes from torchvision and timm: pixel normalisation and patch embedding."""
    import torch

    class Normalize(torch.nn.Module):
        def __init__(self, mean: list[float], std: list[float]):
            super().__init__()
            self.mean, self.std = (torch.tensor(x).view(-1, 1, 1) for x in (mean, std))

        def forward(self, x: Any) -> Any:
            return (x - self.mean) / self.std

    class PatchEmbed(torch.nn.Module):
        def __init__(self, img_size: tuple[int, int], patch_size: int, in_chans: int, embed_dim: int):
            super().__init__()
            self.num_patches = (img_size[0] // patch_size) * (img_size[1] // patch_size)
            self.patch_size = (patch_size, patch_size)
            self.proj = torch.nn.Conv2d(in_chans, embed_dim, patch_size, patch_size)

        def forward(self, x: Any) -> Any:
            return self.proj(x).flatten(2).transpose(1, 2)

    module("torchvision", transforms=module("torchvision.transforms", Normalize=Normalize))
    module("timm"), module("timm.models"), module("timm.models.vision_transformer", PatchEmbed=PatchEmbed)


if __name__ == "__main__":
    main()
