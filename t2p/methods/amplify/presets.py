"""Sizes that AMPLIFY's three configs share for runs on a few CPU cores."""

from __future__ import annotations

import ml_collections

VIEWS = ("front", "wrist")
# A narrower tokenizer with fewer codes.
CPU_TOKENIZER = {"dim": 128, "heads": 4, "mlp": 64, "codebook": 512, "dropout": 0.0}
CPU_DYNAMICS = {"depth": 3, "heads": 4, "dropout": 0.1, "classes": "codes"}
CPU_INVERSE = {"depth": 2, "heads": 4, "dropout": 0.1, "actions": 8, "action_dim": 10}
# No published weights are at hand: a small network with group norm, trained with the stage.
CPU_IMAGES = {"widths": (16, 32, 64, 64), "stem": 16, "norm": "group", "size": (96, 96), "trained": True}


def small_window(config: ml_collections.ConfigDict) -> None:
    """Two cameras of our own tasks, 10 x 10 points each."""
    config.window.update({"views": VIEWS, "track_set": "dis/amplify", "points": 100})


def debug(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """As small as it gets, for a few steps."""
    small = {"dim": 16, "heads": 2, "mlp": 8, "codebook": 64}
    tiny = {"blocks": (1,), "widths": (16,), "size": (8, 8)}
    if config.stage == "amplify.motion_tokenizer":
        config.model.update(small)
    else:
        config.model.tokenizer.update(small)
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
