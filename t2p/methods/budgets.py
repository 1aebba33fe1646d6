"""The sizes at which policies with a diffusion head are compared with each other.

3PoinTr and its baselines take the denoiser, the noise draws, the optimiser, the averaging, the sampler and the length
of training from here, so that they differ in what they see and in nothing else. What is predicted, noise or action,
stays the method's own in `gpu20`.
"""

from __future__ import annotations

import ml_collections

from t2p.models.unet1d import VARIANTS

# Where `cpu` leaves the published values, as the reports tell it.
X0 = "the clean action is predicted instead of the noise (x0 prediction)"
CPU_DEPARTURES = (
    "points of objects only: the floor is cut off",
    "a small U-Net: two levels of 64 and 128 channels, step embedding 64",
    "200 steps of 20 demonstrations with 4 noise draws each; AdamW at 1e-3, 20 warm-up steps; averaged weights (0.98)",
    "DDIM with 16 steps",
)


def cpu(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Two CPU cores: what a trial at this size found to learn (see configs/threepointr/policy.py)."""
    c.departures = CPU_DEPARTURES + ((X0,) if c.model.diffusion.prediction == "epsilon" else ())
    c.model.unet.update({**VARIANTS["low_dim"], "step_dim": 64, "down_dims": (64, 128)})
    _sampled(c, steps=100, pad=8, draws=4, prediction="sample", clip=True)
    c.batch_size, c.steps = 20, 200
    c.optimizer.update({"name": "adamw", "learning_rate": 1e-3, "weight_decay": 1e-4, "warmup_steps": 20, "ema": 0.98})
    _every(c, 100)
    return c


def gpu20(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """One GPU, at most 20 minutes for a method with all its stages."""
    c.model.unet.update(VARIANTS["low_dim"])
    _sampled(c, steps=100, pad=8, draws=1, clip=True)
    c.batch_size, c.steps = 10, 20_000
    c.dispatch = 10
    c.optimizer.update({"name": "adamw", "learning_rate": 1e-4, "weight_decay": 1e-4, "warmup_steps": 500})
    _every(c, 2000)
    return c


def debug(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Seconds on a CPU: it shows that everything runs."""
    c = cpu(c)
    c.model.unet.update({"step_dim": 16, "down_dims": (16,)})
    c.model.diffusion.inference_steps = 4
    c.batch_size, c.steps = 4, 20
    c.optimizer.warmup_steps = 5
    c.log.every = 10
    _every(c, 10)
    return c


def published(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The optimiser and the averaging that Diffusion Policy and DP3 share (released code)."""
    c.optimizer.update({"name": "adamw", "learning_rate": 1e-4, "weight_decay": 1e-6, "b1": 0.95, "b2": 0.999})
    c.optimizer.update({"warmup_steps": 500, "ema": 0.9999, "ema_power": 0.75})
    _every(c, 100)
    return c


def _sampled(c: ml_collections.ConfigDict, **settings: object) -> None:
    """DDIM with 16 steps, squared errors summed over an action's numbers, the best by validation position error."""
    c.model.diffusion.update({"method": "ddim", "inference_steps": 16, "reduction": "sum", **settings})
    c.checkpoint.update({"best": "val/position_mm", "mode": "min"})


def _every(c: ml_collections.ConfigDict, steps: int) -> None:
    c.eval.every = c.checkpoint.every = steps
