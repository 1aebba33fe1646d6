"""How many of AMPLIFY's codes bfloat16 changes, at paper size with seeded weights: the tokenizer's, and forward
dynamics' likeliest ones after the true ones.

    python benchmarks/amplify_codes.py                       # 10,080 codes of each
    python benchmarks/amplify_codes.py --examples 64

"trains": the stage in bfloat16 as its training step computes. "chooses": where codes are its result (the tokenizer
always; forward dynamics in validation, prediction and policies), which is in float32 whatever config.dtype says.
Motions are smooth paths of a part of the points before a shaking camera. Recorded results: docs/results.md.
"""

from __future__ import annotations

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t2p.methods.amplify import dynamics
from t2p.methods.amplify.images import one_after_the_other
from t2p.methods.amplify.motion import to_velocities
from t2p.methods.registry import make_stage
from t2p.train.defaults import base_config

ROWS, SCENES = 16, 16  # examples at a time, each of other motions, before so many pairs of pictures in turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=672, help="of 15 codes each, a multiple of 16 (default: 672)")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    single, half = stage("float32"), stage("bfloat16")
    motion, own, images = weights(single)
    pictures = jnp.asarray(blurred(rng, (SCENES, 2, 128, 128, 3)))
    tokens = {name: one_after_the_other(s.images(images, pictures)) for name, s in (("single", single), ("half", half))}
    same: dict[str, list[float]] = {"tokenizer": [], "dynamics, trains": [], "dynamics, chooses": []}
    fsq = {"fsq": motion["fsq"]}
    for _ in range(args.examples // ROWS):
        tracks, text = moving(rng, ROWS), jnp.asarray(rng.standard_normal((ROWS, 512), np.float32))
        codes, others = (encoded(s.motion.net, motion, tracks) for s in (single, half))
        same["tokenizer"].append((codes == others).mean())
        true = best(single.net, own | fsq, tokens["single"], text, codes)
        same["dynamics, trains"].append((best(half.net, own | fsq, tokens["half"], text, codes) == true).mean())
        chosen = best(half.exact().net, own | fsq, tokens["single"], text, codes)
        same["dynamics, chooses"].append((chosen == true).mean())
    for name, shares in same.items():
        print(f"{name:18s} {100 * np.mean(shares):.3f} % of {15 * ROWS * len(shares)} codes as in float32")


def stage(dtype: str) -> Any:
    config = dynamics.configure(base_config())
    config.dtype = dtype
    return make_stage(config)


def weights(stage: Any) -> tuple[Any, Any, Any]:
    """Fresh parameters of the tokenizer and of forward dynamics, and the image encoder's variables."""
    keys = jax.random.split(jax.random.key(0), 3)
    motion = stage.motion.net.init(keys[0], jnp.zeros((1, 2, 15, 400, 2)))["params"]
    images = stage.images.init(keys[1])

    def run(net: Any) -> Any:
        cond = net.condition(jnp.zeros((1, 98, 512)), jnp.zeros((1, 512)))
        return net(cond, jnp.zeros((1, 15), jnp.int32))

    return motion, stage.net.init(keys[2], method=run)["params"], images


def encoded(net: Any, params: Any, tracks: np.ndarray) -> np.ndarray:
    """[b, 15] codes."""
    return np.asarray(_encoded(net, params, to_velocities(jnp.asarray(tracks))))


def best(net: Any, params: Any, tokens: jax.Array, text: jax.Array, codes: np.ndarray) -> np.ndarray:
    """[b, 15] likeliest codes, each after the true ones."""
    return np.asarray(_best(net, params, tokens, text, codes))


def _run_encoded(net: Any, params: Any, velocities: jax.Array) -> jax.Array:
    return net.apply({"params": params}, velocities, method="encode")[1]


def _run_best(net: Any, params: Any, tokens: jax.Array, text: jax.Array, codes: jax.Array) -> jax.Array:
    def run(net: Any) -> jax.Array:
        return net.logits(net.condition(tokens, text), codes)

    return net.apply({"params": params}, method=run).argmax(-1)


_encoded, _best = jax.jit(_run_encoded, static_argnums=0), jax.jit(_run_best, static_argnums=0)


def moving(rng: np.random.Generator, count: int) -> np.ndarray:
    """[count, 2, 16, 400, 2] tracks, (row, column) in [-1, 1]: up to a few pixels of 128 a frame."""
    grid = np.stack(np.meshgrid(*[np.linspace(-0.95, 0.95, 20)] * 2), -1).reshape(400, 2)
    normal = rng.standard_normal((count, 2, 2, 1))
    part = (grid @ normal)[..., 0] > rng.uniform(-1, 1, (count, 2, 1))  # [count, 2, 400], one side of a line
    steps = rng.standard_normal((count, 2, 2, 24, 2))  # of the part and of the camera
    smooth = np.apply_along_axis(lambda x: np.convolve(x, np.ones(9) / 9, "valid"), 3, steps)[..., :16, :]
    paths = np.cumsum(smooth, axis=3) * (np.array([8.0, 0.5])[:, None, None] * 2 / 128)
    own, camera = paths[:, :, 0], paths[:, :, 1]  # [count, 2, 16, 2]
    tracks = grid + camera[:, :, :, None] + part[:, :, None, :, None] * own[:, :, :, None]
    return np.clip(tracks + 1e-3 * rng.standard_normal(tracks.shape), -1, 1).astype(np.float32)


def blurred(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Pictures [.., 128, 128, 3] in [0, 1] of coloured patches of 16 pixels."""
    small = rng.random((*shape[:2], 8, 8, 3), np.float32)
    return small.repeat(16, axis=2).repeat(16, axis=3)


if __name__ == "__main__":
    main()
