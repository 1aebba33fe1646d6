"""Runs AMPLIFY's whole policy on recorded inputs: image encoder, forward dynamics, inverse dynamics, and the motion."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t2p.convert.amplify import policy_variables, split_bundle
from t2p.convert.base import Arrays
from t2p.methods.amplify.dynamics import ForwardDynamicsStage
from t2p.methods.amplify.images import ImageEncoder, one_after_the_other, pictures, side_by_side
from t2p.methods.amplify.inputs import Window
from t2p.methods.amplify.inverse import InverseDynamicsStage
from t2p.methods.amplify.tokenizer import MotionTokenizerStage
from t2p.methods.columns import Columns
from t2p.models.amplify import ForwardDynamics
from t2p.models.fsq import levels_of
from t2p.models.resnet import ResNet
from t2p.parity.amplify_inverse import head_from, model_settings
from t2p.parity.amplify_models import tokenizer_from
from t2p.types import Array, Batch

STATE = "state"


def policy_end_to_end(meta: Mapping[str, Any], inputs: Arrays, checkpoint: Arrays) -> dict[str, np.ndarray]:
    """Fixtures amplify/policy_end_to_end*: meta["config"]: the release's of all stages; inputs: images [b, V, H, W, 3]
    uint8, proprio [b, d], text_emb [b, 1, E], init_queries [b, V, 1, N, 2] in AMPLIFY's coordinates."""
    config = meta["config"]
    variables, encoder = policy_variables(split_bundle(checkpoint), config["motion_tokenizer"]["true_horizon"])
    classes = checkpoint["forward_dynamics.unembed.weight"].shape[0]
    stage = stage_from(config, encoder, classes)
    batch = Batch(
        images={view: inputs["images"][:, i, None] for i, view in enumerate(stage.inputs.views)},
        proprio={STATE: inputs["proprio"][:, None]},
        text=inputs["text_emb"][:, 0],
    )
    found = _run(stage, variables, batch, jnp.asarray(inputs["init_queries"][:, :, 0]))
    return {name: np.asarray(value) for name, value in found.items()}


def stage_from(config: Mapping[str, Any], encoder: ResNet, classes: int) -> InverseDynamicsStage:
    """The release's configurations -> the stage that holds all."""
    motion_config, trunk = config["motion_tokenizer"], config["forward_dynamics"]["forward_dynamics"]["transformer"]
    motion = tokenizer_from(motion_config, levels_of(motion_config["codebook_size"]))
    side = config["vision"]["img_size"]
    images = ImageEncoder(encoder, (side, side), pooled=False, normalise=False, trained=False)
    net = ForwardDynamics(
        image_tokens=motion.views * images.tokens,
        length=motion.length,
        classes=classes,
        levels=motion.levels,
        dim=motion.dim,
        depth=trunk["n_layer"],
        heads=trunk["n_head"],
        use_bias=trunk["bias"],
    )
    height, width = motion_config["img_shape"]
    steps = motion_config["track_pred_horizon"]
    window = Window(
        tuple(motion_config["cond_cameraviews"]), "", motion.points, steps, steps, "linear", (height, width)
    )
    forward = ForwardDynamicsStage(MotionTokenizerStage(motion, window, (1.0,) * motion.views, False), images, net)
    settings = model_settings(config["inverse_dynamics"], motion_config)
    head = head_from(config["inverse_dynamics"], settings)
    return InverseDynamicsStage(
        forward,
        head,
        None,
        Columns((STATE,), (config["inverse_dynamics"]["proprio_dim"],), None),
        "predicted",
        False,
        False,
        "zero",
    )


@partial(jax.jit, static_argnums=0)
def _run(stage: InverseDynamicsStage, variables: Any, batch: Batch, start: Array) -> dict[str, Array]:
    actions, aux = stage.plan(variables, batch, jax.random.split(jax.random.key(0), len(start)))
    forward, own = stage.forward, stage.forward_variables(variables)
    tokens = forward.images(forward.images.find(own), pictures(batch, stage.inputs.views))
    return {
        "img_tokens_fd": one_after_the_other(tokens),
        "img_tokens_id": side_by_side(tokens),
        "code_indices": aux["codes"],
        "codes": forward.embed(own, aux["codes"]),
        "actions": actions,
        "pred_traj": forward.decode(own, aux["codes"], start),
    }
