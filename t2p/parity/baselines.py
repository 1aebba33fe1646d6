"""Runs Diffusion Policy's U-Net and its samplers on recorded inputs; every recorded array under its recorded name."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t2p.convert.base import Arrays, strip_prefix, to_variables
from t2p.convert.diffusion_policy import ANCHOR, unet1d_rows
from t2p.diffusion.sampling import SMALLEST_VARIANCE, sample
from t2p.diffusion.schedules import Schedule, add_noise, leading_timesteps, respace
from t2p.io import UserError
from t2p.models.unet1d import ConditionalUnet1D
from t2p.types import Array

PREDICTIONS = {"epsilon": "epsilon", "sample": "sample", "v_prediction": "v"}


def unet1d(meta: Mapping[str, Any], inputs: Arrays, checkpoint: Arrays) -> dict[str, np.ndarray]:
    """Fixtures baselines/dp_unet1d*. meta["config"]: the official constructor's arguments; inputs: sample, timestep
    and, where the model has them, global_cond and local_cond."""
    settings = unet1d_settings(meta["config"])
    params = to_variables(unet1d_rows(settings), strip_prefix(checkpoint, ANCHOR))
    model = ConditionalUnet1D(**settings)
    x = {name: jnp.asarray(value) for name, value in inputs.items()}
    output, aux = _unet1d(model, params, x["sample"], x["timestep"], x.get("global_cond"), x.get("local_cond"))
    scalar, _ = _unet1d(model, params, x["sample"], x["timestep"][0], x.get("global_cond"), x.get("local_cond"))
    return {
        "output": np.asarray(output),
        "output_scalar_timestep": np.asarray(scalar),
        "timestep_sinusoid": np.asarray(aux["sinusoids"]),
        "timestep_embedding": np.asarray(aux["step"]),
    }


def unet1d_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The official constructor's arguments -> settings of models.unet1d.ConditionalUnet1D."""
    return {
        "input_dim": config["input_dim"],
        "global_dim": config.get("global_cond_dim") or 0,
        "local_dim": config.get("local_cond_dim") or 0,
        "step_dim": config["diffusion_step_embed_dim"],
        "down_dims": tuple(config["down_dims"]),
        "kernel_size": config["kernel_size"],
        "groups": config["n_groups"],
        "film_scale": config["cond_predict_scale"],
    }


@partial(jax.jit, static_argnums=0)
def _unet1d(model: ConditionalUnet1D, params: Any, *arguments: Array | None) -> Any:
    return model.apply({"params": params}, *arguments)


def ddpm_scheduler(meta: Mapping[str, Any], inputs: Arrays, checkpoint: Arrays | None) -> dict[str, np.ndarray]:
    """Fixtures baselines/ddpm_scheduler*: a whole run, the tables, and the corruption of training.

    meta["config"]: the arguments of diffusers' DDPMScheduler, num_inference_steps, and the denoiser's formula;
    inputs: x_T, noise [n, ...], add_noise_x0, add_noise_noise, add_noise_t; checkpoint: the tables again."""
    config = meta["config"]
    schedule = scheduler_settings(config)
    check_tables(schedule, checkpoint)
    timesteps = leading_timesteps(schedule.steps, config["num_inference_steps"], config.get("steps_offset", 0))
    variance = respace(schedule, timesteps).posterior_variance
    outputs = _run(schedule, config, inputs, timesteps=timesteps, method="ddpm")
    outputs["posterior_variance"] = np.maximum(variance, SMALLEST_VARIANCE).astype(np.float32)
    if "add_noise_x0" in inputs:
        arguments = (inputs[f"add_noise_{name}"] for name in ("x0", "noise", "t"))
        outputs["add_noise_out"] = np.asarray(add_noise(schedule, *arguments))
    return outputs


def ddim_scheduler(meta: Mapping[str, Any], inputs: Arrays, checkpoint: Arrays | None) -> dict[str, np.ndarray]:
    """Fixtures baselines/ddim_scheduler*: a whole run and the tables.

    meta["config"]: the arguments of diffusers' DDIMScheduler, num_inference_steps, eta, and the denoiser's formula;
    inputs: x_T, noise [n, ...] (unused at eta 0); checkpoint: the tables again."""
    config = meta["config"]
    schedule = scheduler_settings(config)
    check_tables(schedule, checkpoint)
    timesteps = leading_timesteps(schedule.steps, config["num_inference_steps"], config.get("steps_offset", 0))
    final = 1.0 if config["set_alpha_to_one"] else float(schedule.alphas_cumprod[0])
    choices = {"timesteps": timesteps, "method": "ddim", "eta": config["eta"], "final_alpha": final}
    return _run(schedule, config, inputs, **choices) | {"final_alpha_cumprod": np.asarray(final, np.float32)}


def scheduler_settings(config: Mapping[str, Any]) -> Schedule:
    """The arguments of diffusers' schedulers -> a Schedule. UserError for what it does not know."""
    prediction = config["prediction_type"]
    if prediction not in PREDICTIONS:
        raise UserError(f"prediction_type is {prediction!r}; expected one of {', '.join(PREDICTIONS)}")
    if config.get("variance_type", "fixed_small") != "fixed_small":
        raise UserError(f"variance_type is {config['variance_type']!r}; these samplers are compared at 'fixed_small'")
    return Schedule(
        steps=config["num_train_timesteps"],
        rule=config["beta_schedule"],
        beta_start=config["beta_start"],
        beta_end=config["beta_end"],
        prediction=PREDICTIONS[prediction],
        clip=config["clip_sample"],
    )


def check_tables(schedule: Schedule, checkpoint: Arrays | None) -> None:
    """UserError if the recorded tables, which these fixtures have in place of weights, are not the schedule's."""
    tables = {"betas": schedule.betas, "alphas_cumprod": schedule.alphas_cumprod}
    for name, value in (checkpoint or {}).items():
        if name not in tables or value.shape != tables[name].shape or not np.allclose(value, tables[name], rtol=1e-4):
            raise UserError(f"the checkpoint's {name} is not that of the schedule in meta.json")


def _run(schedule: Schedule, config: Mapping[str, Any], inputs: Arrays, **choices: Any) -> dict[str, np.ndarray]:
    denoise = formula(config["denoiser"])
    _, steps = sample(schedule, denoise, inputs["x_T"], inputs["noise"], **choices)
    names = {"model_outputs": "output", "pred_original_sample": "x0", "samples": "x"}
    return {theirs: np.asarray(steps[ours]) for theirs, ours in names.items()} | {
        "timesteps": choices["timesteps"],
        "betas": schedule.betas.astype(np.float32),
        "alphas_cumprod": schedule.alphas_cumprod.astype(np.float32),
    }


FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    name: getattr(jnp, name) for name in ("tanh", "sin", "cos", "exp", "sqrt", "abs")
}
OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Pow: lambda a, b: a**b,
}


def formula(text: str) -> Callable[[Array, Array], Array]:
    """The stand-in for a network that a fixture's configuration writes down, "0.8*tanh(1.3*x) + 0.1*sin(0.07*t)", as
    a function of (x, t). Words in brackets after two spaces are a remark."""
    tree = ast.parse(re.sub(r"\s{2,}\(.*", "", text).strip(), mode="eval").body

    def evaluate(node: ast.expr, names: Mapping[str, Any]) -> Any:
        match node:
            case ast.Constant(value=int() | float()):
                return node.value
            case ast.Name(id=name) if name in names:
                return names[name]
            case ast.UnaryOp(op=ast.USub()):
                return -evaluate(node.operand, names)
            case ast.BinOp() if type(node.op) in OPERATORS:
                return OPERATORS[type(node.op)](evaluate(node.left, names), evaluate(node.right, names))
            case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in FUNCTIONS:
                return FUNCTIONS[name](evaluate(argument, names))
        raise UserError(f"cannot read {ast.unparse(node)!r} in the denoiser's formula {text!r}")

    return lambda x, t: evaluate(tree, {"x": x, "t": t.astype(jnp.float32)})
