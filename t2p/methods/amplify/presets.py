"""What AMPLIFY's three configs share: sizes for runs on a few CPU cores, and how LIBERO and Bridge are trained on."""

from __future__ import annotations

import ml_collections

VIEWS, LIBERO_VIEWS = ("front", "wrist"), ("agentview", "eye_in_hand")
# The paper's tokenizer where it differs from the released code's (section 2.2, Appendix E).
PAPER_TOKENIZER = {"latents": 16, "queries": "points"}
# A narrower tokenizer with fewer codes, which sees velocities 16 times as large (a pixel is 1/4): with those as they
# are all codes are one for thousands of steps. A narrower network of the points learns more slowly.
CPU_TOKENIZER = {"dim": 128, "heads": 4, "codebook": 512, "dropout": 0.0, "input_scale": 16.0}
CPU_DYNAMICS = {"depth": 3, "heads": 4, "dropout": 0.1, "classes": "codes"}
CPU_INVERSE = {"depth": 2, "heads": 4, "dropout": 0.1, "actions": 8, "action_dim": 10}
# No published weights are at hand: a small network with group norm, trained with the stage.
CPU_IMAGES = {"widths": (16, 32, 64, 64), "stem": 16, "norm": "group", "size": (64, 64), "trained": True}
# Of forward dynamics' pictures, where data.augment.probability is above 0: strengths and the blur's share (released
# code; the blur's kernels and deviations are the shared defaults).
RELEASED_AUGMENT = {**dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.3), "blur": 0.5}


def libero(
    config: ml_collections.ConfigDict, train: ml_collections.ConfigDict, held_out: ml_collections.ConfigDict, every: int
) -> None:
    """Batches of 256 from LIBERO in half precision (float16 with loss scaling in the release), evaluated every so many
    steps. train, held_out: the sources."""
    config.batch_size, config.dtype = 256, "bfloat16"
    config.data.sources.libero, config.data.validation.libero, config.data.workers = train, held_out, 8
    config.eval.every = config.checkpoint.every = every


def bridge(
    config: ml_collections.ConfigDict, train: ml_collections.ConfigDict, held_out: ml_collections.ConfigDict
) -> None:
    """`libero` for BridgeData v2's fixed camera: 4 frames at 5 Hz, stretched to 16 by a cubic spline (paper, Appendix
    D). train, held_out: the sources."""
    del config.data.sources.libero, config.data.validation.libero
    config.data.sources.videos, config.data.validation.held_out = train, held_out
    config.window.update({"views": ("image_0",), "horizon": 4, "method": "spline"})


def short_run(config: ml_collections.ConfigDict, steps: int, learning_rate: float, batches: int) -> None:
    """Minutes on a few CPU cores. batches: of each evaluation."""
    config.batch_size, config.steps = 16, steps
    config.optimizer.update({"learning_rate": learning_rate, "schedule": "cosine", "warmup_steps": 50})
    config.eval.update({"every": steps // 2, "batches": batches})
    config.checkpoint.every = steps // 2


def small_window(config: ml_collections.ConfigDict) -> None:
    """Two cameras of our own tasks, 6 x 6 points each."""
    config.window.update({"views": VIEWS, "track_set": "simulator/amplify", "points": 36})


def on_libero(
    config: ml_collections.ConfigDict, train: ml_collections.ConfigDict, held_out: ml_collections.ConfigDict
) -> ml_collections.ConfigDict:
    """A config for our own tasks, from LIBERO's demonstrations instead. train, held_out: the sources."""
    config.window.views = LIBERO_VIEWS
    config.data.sources = ml_collections.ConfigDict({"libero": train})
    config.data.validation = ml_collections.ConfigDict({"libero": held_out})
    return config


def debug(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """As small as it gets, for a few steps."""
    small = {"dim": 16, "heads": 2, "mlp": 8, "codebook": 64}
    tiny = {"blocks": (1,), "widths": (16,), "size": (8, 8)}
    if config.stage == "amplify.motion_tokenizer":
        config.model.update(small)
        config.model.images.update(tiny)
    else:
        config.model.tokenizer.update(small)
        config.model.tokenizer.images.update(tiny)
        config.model.dynamics.update({"depth": 1, "heads": 2})
        config.model.images.update(tiny)
    if config.stage == "amplify.inverse_dynamics":
        config.model.own_images.update(tiny)
        config.model.inverse.update({"depth": 1, "heads": 2, "actions": 3})
    config.window.update({"points": 9, "horizon": 4, "steps": 4})
    config.batch_size, config.steps = 4, 20
    config.optimizer.warmup_steps = 5
    config.eval.update({"every": 10, "batches": 2})
    config.checkpoint.every = config.log.every = 10
    return config
