"""Runs AMPLIFY's inverse dynamics, the U-Net of its paper, and temporal ensembling on recorded inputs; every recorded
array under its recorded name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t2p.convert.amplify_inverse import SOLVER, inverse_dynamics_parameters, inverse_dynamics_rows
from t2p.convert.base import Arrays, to_official, to_variables
from t2p.diffusion import flow_matching
from t2p.diffusion.schedules import Schedule, add_noise
from t2p.methods import ensemble
from t2p.methods.inverse_heads import DiffusionActions, FlowActions, GaussianActions, Head, gaussian_nll, valid_mean
from t2p.models.inverse_dynamics import make_inverse_dynamics
from t2p.parity import baselines
from t2p.types import Array

# Under which of these names a part is recorded.
INPUTS = {
    "image": ("img_tokens",),
    "text": ("text_tokens", "text_emb"),
    "proprio": ("proprioception", "proprio"),
    "codes": ("codes",),
}
CHOICES = {"image": "cond_on_img", "text": "cond_on_text", "proprio": "cond_on_proprio", "codes": "cond_on_tracks"}


def inverse_dynamics(meta: Mapping[str, Any], inputs: Arrays, checkpoint: Arrays) -> dict[str, np.ndarray]:
    """Fixtures amplify/inverse_dynamics_*, at the highest matmul precision.

    meta["config"], meta["motion_tokenizer_cfg"]: the release's; inputs: the parts of the condition, actions, and the
    draws of the training step and of sampling."""
    settings = model_settings(meta["config"], meta["motion_tokenizer_cfg"], checkpoint)
    rows = inverse_dynamics_rows(settings)
    # Without the second copy of a flow network, so that it is this one's outputs that tell of a wrong weight.
    arrays = {name: value for name, value in checkpoint.items() if not name.startswith(SOLVER)}
    params = to_variables(rows, inverse_dynamics_parameters(arrays))
    head = head_from(meta["config"], settings)
    run = {"gaussian": _gaussian, "diffusion": _diffusion, "flow": _flow}[settings["kind"]]
    x = {name: jnp.asarray(value) for name, value in inputs.items()}
    grads, outputs = _step(run, head, params, x)
    outputs |= {"act": outputs["mu"]} if "mu" in outputs else _act(head, params, x, tuple(_times(meta)))
    return {name: np.asarray(value) for name, value in outputs.items() if value is not None} | {
        f"grad__{name}": value for name, value in to_official(rows, grads).items()
    }


def model_settings(config: Mapping[str, Any], tokenizer: Mapping[str, Any], arrays: Arrays) -> dict[str, Any]:
    """The release's configuration -> arguments of make_inverse_dynamics. arrays: the checkpoint's, which tell whether
    a Gaussian's deviation and scale are learned."""
    parts = tuple(part for part, choice in CHOICES.items() if config.get(choice))
    settings = {
        "kind": config["type"],
        "width": tokenizer["hidden_dim"],
        "parts": parts,
        "actions": (tokenizer["true_horizon"], config["action_dim"]),
        "depth": config["num_layers"],
        "heads": config["num_heads"],
        "dropout": config["attn_pdrop"],
    }
    if config["type"] == "diffusion":
        views = len(tokenizer["cond_cameraviews"]) if tokenizer["per_view"] else 1
        counts = {"image": config["num_img_tokens"], "codes": (tokenizer["track_pred_horizon"] - 1) * views}
        settings["condition"] = sum(counts.get(part, 1) for part in parts)
    if config["type"] == "gaussian":
        settings |= {"squash": config["action_squash"]}
        settings |= {"spread": "scalar"} if "head.std" in arrays else {"spread": "fixed", "std": config.get("std", 0.1)}
        learned_scale = "head.action_squash_scale" in arrays
        settings |= {"learned_scale": True} if learned_scale else {"scale": config.get("action_squash_scale", 1.0)}
    return settings


def head_from(config: Mapping[str, Any], settings: Mapping[str, Any]) -> Head:
    """How the release trains the network and acts with it."""
    net = make_inverse_dynamics(**settings)
    if settings["kind"] == "gaussian":
        return GaussianActions(net, discount=config.get("action_loss_discount", 1.0))
    if settings["kind"] == "diffusion":
        steps = config.get("diffusion_steps", 100)
        return DiffusionActions(net, Schedule(steps=steps), inference_steps=steps)
    return FlowActions(net, steps=config.get("flow_matching_steps", 10))


def _given(head: Head, x: Mapping[str, Array]) -> dict[str, Array]:
    """The parts of the condition, a part that is one vector as one token."""
    parts = {part: _recorded(x, INPUTS[part]) for part in head.net.parts}
    return {part: value[:, None] if value.ndim == 2 else value for part, value in parts.items()}


def _recorded(x: Mapping[str, Array], names: tuple[str, ...]) -> Array:
    found = [x[name] for name in names if name in x]
    if not found:
        raise ValueError(f"the inputs have no {' or '.join(names)}")
    return found[0]


@partial(jax.jit, static_argnums=(0, 1))
def _step(run: Any, head: Head, params: Any, x: Mapping[str, Array]) -> tuple[Any, dict[str, Array]]:
    """The gradient of one training step's loss, and what led to it. All steps of a chunk count, as in the release."""

    def loss(params: Any) -> tuple[Array, dict[str, Array]]:
        inputs = _given(head, x)
        outputs = {"cond_tokens": head.apply(params, inputs, method=_condition)}
        outputs |= run(head, params, inputs, x, jnp.ones(x["actions"].shape[:2], bool))
        return outputs["loss"], outputs

    return jax.grad(loss, has_aux=True)(params)


def _condition(net: Any, inputs: Mapping[str, Array], train: bool) -> Array:
    return net.condition(inputs)


def _gaussian(head: GaussianActions, params: Any, inputs: Any, x: Mapping[str, Array], valid: Array) -> dict[str, Any]:
    mean, aux = head.apply(params, inputs)
    loss = head.loss(params, inputs, x["actions"], valid, jax.random.key(0), train=False)
    nll = gaussian_nll(x["actions"], mean, aux["std"], aux["bound"])
    return {"decoder_out": aux["tokens"], "mu": mean, "nll": nll, "loss": loss}


def _diffusion(
    head: DiffusionActions, params: Any, inputs: Any, x: Mapping[str, Array], valid: Array
) -> dict[str, Any]:
    output = head.predict(params, inputs, x["actions"], x["noise"], x["timesteps"])
    return {
        "alphas_cumprod": jnp.asarray(head.schedule.alphas_cumprod, jnp.float32),
        "betas": jnp.asarray(head.schedule.betas, jnp.float32),
        "noisy_actions": add_noise(head.schedule, x["actions"], x["noise"], x["timesteps"]),
        "noise_pred": output,
        "loss": valid_mean(head.error(output, x["actions"], x["noise"], x["timesteps"]), valid),
    }


def _flow(head: FlowActions, params: Any, inputs: Any, x: Mapping[str, Array], valid: Array) -> dict[str, Any]:
    output = head.predict(params, inputs, x["actions"], x["x0"], x["t"])
    return {
        "x_t": flow_matching.interpolate(x["x0"], x["actions"], x["t"]),
        "dx_t": flow_matching.target(x["x0"], x["actions"]),
        "velocity": output,
        "temb": head.apply(params, x["t"], method=_embed_time),
        "loss": valid_mean(head.error(output, x["actions"], x["x0"]), valid),
    }


def _embed_time(net: Any, time: Array, train: bool) -> Array:
    return net.head.embed_time(time)


def _times(meta: Mapping[str, Any]) -> list[float]:
    """The times at which the velocity is recorded: the description of "vel_grid" lists them in braces."""
    entry = meta["arrays"]["outputs"].get("vel_grid")
    return [float(t) for t in re.findall(r"\{([^}]*)\}", entry["what"])[0].split(",")] if entry else []


@partial(jax.jit, static_argnums=(0, 3))
def _act(head: Any, params: Any, x: Mapping[str, Array], times: tuple[float, ...]) -> dict[str, Array]:
    inputs = _given(head, x)
    actions, steps = sampled(head, params, inputs, x)
    if isinstance(head, DiffusionActions):
        return {"act": actions, "sample_path": steps["x"], "eps_path": steps["output"]}
    memory = head.apply(params, inputs, method="read")
    grid = [head.apply(params, x["init_noise"], jnp.float32(t), memory, method="denoise") for t in times]
    return {"act": actions} | ({"vel_grid": jnp.stack(grid)} if grid else {})


def sampled(head: Head, params: Any, inputs: Any, x: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
    """The chunk that a head makes of a condition with the recorded draws, and what each step gave. x: init_noise
    [b, t, a], where the head denoises, and step_noise [steps - 1, b, t, a], where it is a diffusion one."""
    if isinstance(head, GaussianActions):
        return head.apply(params, inputs)[0], {}
    first = x["init_noise"]
    if isinstance(head, FlowActions):
        return head.sample_from(params, inputs, first), {}
    assert isinstance(head, DiffusionActions)
    drawn = x.get("step_noise", jnp.zeros((0, *first.shape)))
    noise = jnp.concatenate([drawn, jnp.zeros_like(first)[None]])  # the last step is the mean
    return head.sample_from(params, inputs, first, noise)


def unet1d(meta: Mapping[str, Any], inputs: Arrays, checkpoint: Arrays) -> dict[str, np.ndarray]:
    """Fixture amplify/diffusion_unet1d_reference: what the adapter of Diffusion Policy's U-Net takes."""
    found = baselines.unet1d(meta, inputs, checkpoint)
    return {"noise_pred": found["output"], "step_embedding": found["timestep_embedding"]}


def temporal_ensemble(
    meta: Mapping[str, Any], inputs: Arrays, checkpoint: Arrays | None = None
) -> dict[str, np.ndarray]:
    """Fixture amplify/temporal_ensemble: meta["config"]: action_horizon, k; inputs: chunks [steps, e, t, a]."""
    chunks = inputs["chunks"]
    state = ensemble.empty_chunks(chunks.shape[1], meta["config"]["action_horizon"], chunks.shape[-1])

    def step(state: Any, chunk: Array) -> tuple[Any, Array]:
        action, state = ensemble.step(state, chunk, meta["config"]["k"])
        return state, action

    _, actions = jax.lax.scan(step, state, chunks)
    return {"executed_ensemble": np.asarray(actions), "executed_plain": chunks[:, :, 0]}
