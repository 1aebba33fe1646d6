"""Time of AMPLIFY's train steps at paper size in float32 on a CPU, batch 4, and of one control step of its policy.

    python benchmarks/amplify.py                                             # t2p alone
    python benchmarks/amplify.py --official CHECKOUT --official_python OTHER_VENV/bin/python
    python benchmarks/amplify.py --only motion_tokenizer --rounds 5
    python benchmarks/amplify.py --memory --only motion_tokenizer            # --official as above

A train step is what training runs on a batch that is there: forward and backward with dropout, AdamW (clipped for the
last two); no caches. motion_tokenizer: velocities of 2 x 400 points, 16 frames. forward_dynamics: ResNet-18 on 2 x 4
pictures at 224, the frozen tokenizer's codes, the network. inverse_dynamics: the same encoder, 15 codes by greedy
decoding, the Gaussian head. policy: pictures, 15 codes and a chunk of actions at batch 1, parameters not stacked.

--memory: each side's peak of resident memory after its imports and after two steps, in a fresh process.

CHECKOUT is a clone of pairlab/AMPLIFY; it needs torch, timm, einops, omegaconf and vector-quantize-pytorch in an
interpreter of its own. Both sides take turns. Recorded results: docs/results.md.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

from track_transformer import ask, module, race, report, serve, timed

PARTS = ("motion_tokenizer", "forward_dynamics", "inverse_dynamics", "policy")
VIEWS = ("agentview", "eye_in_hand")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side (default: 5)")
    parser.add_argument("--steps", type=int, default=2, help="steps a turn (default: 2)")
    parser.add_argument("--only", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--official", metavar="CHECKOUT", help="a clone of the original, timed beside t2p")
    parser.add_argument("--official_python", default=sys.executable, metavar="PYTHON", help="an interpreter with torch")
    parser.add_argument("--memory", action="store_true", help="peak memory instead of times")
    parser.add_argument("--peak", metavar="PART", help=argparse.SUPPRESS)  # this script as a fresh process
    parser.add_argument("--worker", nargs=2, metavar=("CHECKOUT", "PART"), help=argparse.SUPPRESS)  # the official side
    args = parser.parse_args()
    if args.peak:
        return peak(args.peak, args.batch, args.official)
    if args.worker:
        return serve(official_step(*args.worker, args.batch))
    for part in args.only:
        if args.memory:
            compare_memory(part, args)
            continue
        rows = 1 if part == "policy" else args.batch
        print(f"\n{part}: batch {rows}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        sides: dict[str, Callable[[int], list[float]]] = {}
        worker = start_worker(args, part) if args.official else None
        if worker:
            sides["official"] = lambda n, worker=worker: ask(worker, n)
        step = policy_step() if part == "policy" else train_step(part, args.batch)
        sides["t2p"] = lambda n, step=step: [timed(step) for _ in range(n)]
        report(race(sides, args.rounds, args.steps))
        if worker:
            worker.kill()


def compare_memory(part: str, args: argparse.Namespace) -> None:
    print(f"\n{part}: batch {args.batch}, peak of resident memory", flush=True)
    official = [(args.official_python, ["--official", args.official])] if args.official else []
    for interpreter, options in [*official, (sys.executable, [])]:
        command = [interpreter, os.path.abspath(__file__), "--peak", part, "--batch", str(args.batch), *options]
        subprocess.run(command, check=True)


def peak(part: str, rows: int, official: str | None) -> None:
    """Prints this process's peaks."""
    if official:
        import_official(official)
    else:
        import_t2p()
    libraries = peak_mib()
    if official:
        step = official_step(official, part, rows)
    else:
        step = policy_step() if part == "policy" else train_step(part, rows)
    step(), step()
    side = "official" if official else "t2p"
    print(f"{side:9s} {libraries:.0f} MiB after imports, {peak_mib():.0f} MiB after two steps", flush=True)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def import_t2p() -> None:
    import jax

    import t2p.methods.registry
    import t2p.train.defaults  # noqa: F401

    jax.devices()


def start_worker(args: argparse.Namespace, part: str) -> subprocess.Popen:
    command = [args.official_python, os.path.abspath(__file__), "--worker", args.official, part]
    command += ["--batch", str(args.batch)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def made(part: str, rows: int) -> tuple[Any, Any, Any]:
    """-> (stage, batch, variables) at paper size."""
    import numpy as np

    from t2p.methods.registry import CONFIGURE, make_stage
    from t2p.train.defaults import base_config
    from t2p.types import Batch, Tracks

    config = CONFIGURE[f"amplify.{part}"](base_config())
    stage, rng = make_stage(config), np.random.default_rng(0)
    points = rng.random((rows, 16, 400, 2), np.float32)
    tracks = Tracks(points, np.ones(points.shape[:-1], bool))
    batch = Batch(
        images={view: rng.integers(0, 256, (rows, 1, 128, 128, 3), np.uint8) for view in VIEWS},
        tracks={config.window.track_set: dict.fromkeys(VIEWS, tracks)},
        text=rng.standard_normal((rows, 512)).astype(np.float32),
        proprio={key: np.zeros((rows, 1, n), np.float32) for key, n in (("joint_states", 7), ("gripper_states", 2))},
        actions=rng.uniform(-1, 1, (rows, 16, 7)).astype(np.float32),
        action_valid=np.ones((rows, 16), bool),
    )
    return stage, batch, drawn(stage, batch)


def drawn(stage: Any, batch: Any) -> Any:
    """Variables that NumPy draws: compiling `init` takes longer than all that is timed, and 0.4 GB that stay taken."""
    import jax
    import numpy as np

    rng = np.random.default_rng(1)

    def draw(path: Any, x: Any) -> Any:
        name = jax.tree_util.keystr(path[-1:])
        if name in ("['scale']", "['var']"):
            return jax.numpy.ones(x.shape, x.dtype)
        return jax.numpy.array(0.02 * rng.standard_normal(x.shape, x.dtype))  # a copy, which the step can be donated

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(stage.init, jax.random.key(0), batch))


def train_step(part: str, rows: int) -> Callable[[], None]:
    """A step as the training loop makes it, without the loop: compiled ahead, state donated."""
    import jax
    import optax

    from t2p.train.compilation import lean

    stage, batch, variables = made(part, rows)
    clip = [] if part == "motion_tokenizer" else [optax.clip_by_global_norm(1.0)]
    optimizer = optax.chain(*clip, optax.adamw(1e-4, b2=0.95, weight_decay=0.0))
    rest = {name: value for name, value in variables.items() if name != "params"}

    def update(state: tuple, rest: Any, key: Any) -> tuple[tuple, Any]:
        params, moments = state
        loss, grads = jax.value_and_grad(lambda p: stage.loss({**rest, "params": p}, batch, key, True)[0])(params)
        updates, moments = optimizer.update(grads, moments, params)
        return (optax.apply_updates(params, updates), moments), loss

    state, count = (variables["params"], optimizer.init(variables["params"])), 0
    compiled = lean(jax.jit(update, donate_argnums=0).lower(state, rest, jax.random.key(0)))
    print(f"t2p: jax {jax.__version__}, {jax.default_backend()}", flush=True)

    def step() -> None:
        nonlocal state, count
        state, loss = compiled(state, rest, jax.random.key(count))
        jax.block_until_ready((state, loss))
        count += 1

    return step


def policy_step() -> Callable[[], None]:
    import jax

    from t2p.methods.amplify.policy import AmplifyPolicy

    stage, batch, variables = made("inverse_dynamics", 1)
    policy, keys = AmplifyPolicy(stage, "osc_delta"), jax.random.split(jax.random.key(0), 1)
    act, state = jax.jit(policy.act), policy.reset(variables, batch, keys)
    print(f"t2p: jax {jax.__version__}, {jax.default_backend()}", flush=True)

    def step() -> None:
        nonlocal state
        action, state, _ = act(variables, state, batch, keys)
        jax.block_until_ready((action, state))

    return step


def official_step(checkout: str, part: str, rows: int) -> Callable[[], None]:
    """The authors' modules with the settings of their config files; ResNet-18 with fresh weights."""
    import torch

    parts = official_models(checkout)
    tokenizer = parts["motion_tokenizer"]
    if part == "motion_tokenizer":
        parts = {part: tokenizer}  # the step needs no other, whose memory is given back
    b = 1 if part == "policy" else rows
    tracks, images = torch.rand(b, 2, 16, 400, 2) * 2 - 1, torch.rand(b, 2, 128, 128, 3)
    text, state, actions = torch.randn(b, 1, 512), torch.zeros(b, 9), torch.rand(b, 16, 7) * 2 - 1
    velocities = tracks[:, :, 1:] - tracks[:, :, :-1]
    print(f"official: torch {torch.__version__}, {torch.get_num_threads()} threads", flush=True)
    if part == "policy":
        policy = parts["policy"].eval()
        return lambda: policy.act(images, state, text_emb=text)

    def tokens() -> tuple[Any, Any]:
        with torch.no_grad():
            found = parts["images"](images.flatten(0, 1)).unflatten(0, (b, 2))
        return found.flatten(1, 2), found.permute(0, 2, 1, 3).flatten(2)

    def tokenizer_loss() -> Any:
        decoded, _, logits = tokenizer(velocities)
        return tokenizer.get_loss(x_recon=decoded, rel_logits=logits, gt_vel=velocities, gt_traj=tracks)

    def dynamics_loss() -> Any:
        with torch.no_grad():
            _, indices = tokenizer.quantize(tokenizer.encode(velocities))
        return parts["forward_dynamics"]({"image": tokens()[0]}, {"text_emb": text}, targets=indices.long())[1]

    def inverse_loss() -> Any:
        of_dynamics, of_inverse = tokens()
        with torch.no_grad():
            indices, _ = parts["forward_dynamics"]({"image": of_dynamics}, {"text_emb": text})
            codes = tokenizer.quantize.indices_to_codes(indices)
        given = {"img_tokens": of_inverse, "proprioception": state[:, None], "codes": codes}
        model = parts["inverse_dynamics"]
        return model.loss_fn(model(given), actions)

    loss = dict(zip(PARTS, (tokenizer_loss, dynamics_loss, inverse_loss)))[part]
    trained = parts[part].train()
    if part != "motion_tokenizer":
        tokenizer.eval()
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-4, weight_decay=0.0, betas=(0.9, 0.95))

    def step() -> None:
        value = loss()
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        if part != "motion_tokenizer":
            torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()

    return step


@cache
def import_official(checkout: str) -> Any:
    """The authors' policy class; what only training scripts and simulators need is left out."""
    sys.path.insert(0, checkout)
    for name in ("amplify", "amplify.models", "amplify.models.encoders", "amplify.utils", "amplify.utils.model"):
        module(name).__path__ = [os.path.join(checkout, *name.split("."))]
    stand_ins()
    import timm

    create = timm.create_model
    timm.create_model = lambda *names, **options: create(*names, **{**options, "pretrained": False})
    from amplify.amplify import AMPLIFY

    sys.excepthook = sys.__excepthook__  # the release sets another one, which asks questions
    return AMPLIFY


def official_models(checkout: str) -> dict[str, Any]:
    """All parts of the authors' policy."""
    policy_class = import_official(checkout)
    from omegaconf import OmegaConf

    def read(name: str) -> Any:
        return OmegaConf.load(os.path.join(checkout, "cfg", f"train_{name}.yaml"))

    motion, dynamics, inverse = (read(name) for name in PARTS[:3])
    dynamics.forward_dynamics.text_encoder.use_preprocessed_embs = True
    inverse.update({"num_img_tokens": 49, "img_embed_dim": 1024, "text_embed_dim": 512})
    vision = OmegaConf.to_container(dynamics.forward_dynamics.vision_encoder)
    policy = policy_class(motion, dynamics, inverse, vision)
    parts = {name: getattr(policy, name) for name in PARTS[:3]}
    return {**parts, "images": policy.img_encoder, "policy": policy}


def stand_ins() -> None:
    """Of other packages, what is imported and never called here. torchvision's compiled part may not fit a CPU build of
    torch; nothing here calls it."""
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    stand_ins.kept = library  # type: ignore[attr-defined]
    from importlib.util import find_spec
    from unittest.mock import MagicMock

    nothing = dict.fromkeys(("HydraConfig", "ultratb", "T5Model", "T5Tokenizer", "to_video"), MagicMock())
    for name in ("wandb", "imageio", "hydra", "hydra.core", "hydra.core.hydra_config", "IPython", "IPython.core"):
        if name.partition(".")[0] in sys.modules or find_spec(name.partition(".")[0]) is None:
            module(name, **nothing)
    module("transformers", **nothing)
    module("positional_encodings"), module("positional_encodings.torch_encodings", **stand_in_positions())


def stand_in_positions() -> dict[str, Any]:
    """A table of sines that the release makes and never uses."""
    import torch

    names = ("PositionalEncoding1D", "PositionalEncoding2D", "Summer")
    return {
        name: type(name, (torch.nn.Module,), {"__init__": lambda self, *_: torch.nn.Module.__init__(self)})
        for name in names
    }


if __name__ == "__main__":
    main()
