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
from t2p.parity.amplify_inverse import head_from, model_settings, sampled
from t2p.parity.amplify_models import tokenizer_from
from t2p.parity.encoders import is_normalised, is_pooled, picture_size
from t2p.types import Array, Batch

STATE = "state"


def policy_end_to_end(meta: Mapping[str, Any], inputs: Arrays, checkpoint: Arrays) -> dict[str, np.ndarray]:
    """Fixtures amplify/policy_end_to_end*: meta["config"]: the release's of all stages; inputs: images [b, V, H, W, 3]
    uint8, text_emb [b, 1, E], init_queries [b, V, 1, N, 2] in AMPLIFY's coordinates; proprio [b, d] (zeros if left
    out, as in the release); init_noise and step_noise, where the head draws (t2p.parity.amplify_inverse.sampled)."""
    config = meta["config"]
    parts = split_bundle(checkpoint)
    variables, encoder = policy_variables(parts, config["motion_tokenizer"]["true_horizon"])
    rows = len(inputs["images"])
    proprio = inputs.get("proprio", np.zeros((rows, config["inverse_dynamics"].get("proprio_dim", 1)), np.float32))
    stage = stage_from(config, encoder, parts, proprio.shape[-1])
    batch = Batch(
        images={view: inputs["images"][:, i, None] for i, view in enumerate(stage.inputs.views)},
        proprio={STATE: proprio[:, None]},
        text=inputs["text_emb"][:, 0],
    )
    draws = {name: jnp.asarray(inputs[name]) for name in ("init_noise", "step_noise") if name in inputs}
    found = _run(stage, variables, batch, jnp.asarray(inputs["init_queries"][:, :, 0]), draws)
    return {name: np.asarray(value) for name, value in found.items()}


def stage_from(
    config: Mapping[str, Any], encoder: ResNet, parts: Mapping[str, Arrays], proprio: int
) -> InverseDynamicsStage:
    """The release's configurations -> the stage that holds all. parts: of the bundle; proprio: numbers of the state."""
    motion_config, trunk = config["motion_tokenizer"], config["forward_dynamics"]["forward_dynamics"]["transformer"]
    motion = tokenizer_from(motion_config, levels_of(motion_config["codebook_size"]), parts["motion_tokenizer"])
    vision = config["vision"]
    images = ImageEncoder(encoder, picture_size(vision), is_pooled(vision), is_normalised(vision), trained=False)
    net = ForwardDynamics(
        image_tokens=motion.views * images.tokens,
        length=motion.length,
        classes=len(parts["forward_dynamics"]["unembed.weight"]),
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
    settings = model_settings(config["inverse_dynamics"], motion_config, parts["inverse_dynamics"])
    head = head_from(config["inverse_dynamics"], settings)
    return InverseDynamicsStage(
        forward,
        head,
        None,
        Columns((STATE,), (proprio,), None),
        "predicted",
        False,
        False,
        "zero",
    )


@partial(jax.jit, static_argnums=0)
def _run(
    stage: InverseDynamicsStage, variables: Any, batch: Batch, start: Array, draws: Mapping[str, Array]
) -> dict[str, Array]:
    codes = stage.exact().predict_codes(variables, batch, None)  # of heads without codes, too
    inputs = stage.condition(variables, batch, None)
    actions, _ = sampled(stage.head, variables["params"]["inverse"], inputs, draws)
    forward, own = stage.forward, stage.forward_variables(variables)
    tokens = forward.images(forward.images.find(own), pictures(batch, stage.inputs.views))
    return {
        "img_tokens_fd": one_after_the_other(tokens),
        "img_tokens_id": side_by_side(tokens),
        "code_indices": codes,
        "codes": forward.embed(own, codes),
        "actions": stage.columns.decode(actions),
        "pred_traj": forward.decode(own, codes, start),
    }
