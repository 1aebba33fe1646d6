"""AMPLIFY's inverse dynamics (Collins et al. 2025, section 2.3): what is seen, the robot's state and the motion to come
-> a chunk of actions.

Four heads read the same condition: a Gaussian one, a diffusion transformer (t2p.models.diffusion_transformer), a flow
transformer (t2p.models.dit), and the U-Net that the paper names. Letters: b batch, m condition tokens, t actions of a
chunk, a numbers of an action, d channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from t2p.io import UserError
from t2p.models.diffusion_transformer import DiffusionTransformer
from t2p.models.dit import FlowTransformer
from t2p.models.gpt import Decoder
from t2p.models.layers import Array, Dtype, Linear
from t2p.models.unet1d import ConditionalUnet1D

PARTS = ("image", "text", "proprio", "codes")  # of the condition, in the order of their tokens
SPREADS = ("fixed", "scalar", "predicted")
SCALAR = 1.0  # where one learned number starts

# By part: "image" [b, P, c], the views' features of one place stacked on channels, in the order of the views;
# "text" [b, 1, e]; "proprio" [b, 1, p]; "codes" [b, L, d], the motion's embedded codes.
Inputs = Mapping[str, Array]


class InverseDynamics(nn.Module):
    """The condition of an action head, and the head on it. See `__call__`.

    head: GaussianHead, DiffusionTransformer, FlowTransformer or UnetHead. parts: which of `PARTS` there are; what else
    `inputs` holds is ignored. There are no position embeddings here: what a token is, its projection must tell."""

    head: nn.Module
    width: int = 768
    parts: tuple[str, ...] = ("image", "proprio", "codes")
    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        if not self.parts or set(self.parts) - set(PARTS):
            raise UserError(f"the condition's parts are {self.parts}; expected one or more of {', '.join(PARTS)}")
        self.project = {part: Linear(self.width, dtype=self.dtype) for part in self.parts if part != "codes"}

    def __call__(self, inputs: Inputs, *noisy: Array, train: bool = False) -> Any:
        """What the head makes of the condition: (mean, aux) of the Gaussian one; of the others, given noisy actions
        [b, t, a] and the step or time [b], their prediction [b, t, a]. train: dropout, from the rng "dropout"."""
        return self.head(self.condition(inputs), *noisy, train=train)

    def condition(self, inputs: Inputs) -> Array:
        """-> [b, m, d] tokens. UserError if a part is missing or of another shape."""
        tokens = []
        for part in PARTS:
            if part not in self.parts:
                continue
            x = inputs.get(part)
            wrong_width = part == "codes" and x is not None and x.shape[-1] != self.width
            if x is None or x.ndim != 3 or wrong_width:
                found = None if x is None else tuple(x.shape)
                wanted = f"[batch, tokens, {self.width if part == 'codes' else 'channels'}]"
                raise UserError(f"the condition's {part} has shape {found}; this model expects {wanted}")
            tokens.append(self.project[part](x) if part in self.project else x.astype(self.dtype))
        return jnp.concatenate(tokens, axis=1)

    def read(self, inputs: Inputs, train: bool = False) -> Any:
        """What a denoising head needs of the condition, the same for all steps of a sampling run."""
        return self.head.read(self.condition(inputs), train=train)

    def denoise(self, x: Array, time: Array, memory: Any, train: bool = False) -> Array:
        """A denoising head's prediction, with the memory that `read` gave."""
        return self.head.denoise(x, time, memory, train=train)


class ActionTokens(nn.Module):
    """Learned queries that look at the condition (paper, section 2.3): cond [b, m, d] -> [b, count, d]."""

    count: int
    width: int
    depth: int
    heads: int
    dropout: float
    dtype: Dtype
    implementation: str

    @nn.compact
    def __call__(self, cond: Array, train: bool) -> Array:
        latents = self.param("latents", nn.initializers.normal(1.0), (self.count, self.width))
        queries = jnp.broadcast_to(latents, (cond.shape[0], *latents.shape))
        options: dict[str, Any] = {"dropout": self.dropout, "dtype": self.dtype, "implementation": self.implementation}
        decoder = Decoder(self.depth, self.heads, self.width, self.count, **options, name="decoder")
        return decoder(queries, cond, train=train)


class GaussianHead(nn.Module):
    """Mean and spread of each action. Settings by name: `GAUSSIAN`.

    spread: "fixed" at `std`; "scalar", one learned number for all, taken as it is (no exponential, so it can turn
    negative, as in the release); "predicted", the exponential of a network output, one for each action of the chunk,
    all its numbers alike (isotropic). squash: the mean is tanh times `scale`; learned_scale: times a learned number."""

    actions: tuple[int, int]  # (t, a)
    width: int = 768
    depth: int = 4
    heads: int = 8
    dropout: float = 0.1
    spread: str = "fixed"
    std: float = 0.1
    squash: bool = True
    scale: float = 1.0
    learned_scale: bool = False
    dtype: Dtype = jnp.float32
    implementation: str = "matmul"

    @nn.compact
    def __call__(self, cond: Array, train: bool = False) -> tuple[Array, dict[str, Array]]:
        """cond: [b, m, d] -> mean [b, t, a] and {"std" [b or 1, t or 1, 1], "bound": scalar, between whose negative and
        itself a truncated distribution lies, "tokens" [b, t, d]}, float32."""
        if self.spread not in SPREADS:
            raise UserError(f"the spread of actions is {self.spread!r}; expected one of {', '.join(SPREADS)}")
        settings = (self.width, self.depth, self.heads, self.dropout, self.dtype, self.implementation)
        tokens = ActionTokens(self.actions[0], *settings, name="tokens")(cond, train).astype(jnp.float32)
        mean = Linear(self.actions[1], name="mean")(tokens)
        bound = self._number("scale") if self.learned_scale else jnp.float32(self.scale)
        mean = (jnp.tanh(mean) if self.squash else mean) * bound
        return mean, {"std": self._std(tokens), "bound": bound, "tokens": tokens}

    def _std(self, tokens: Array) -> Array:
        if self.spread == "predicted":
            return jnp.exp(Linear(1, name="log_std")(tokens))
        value = self._number("std") if self.spread == "scalar" else jnp.float32(self.std)
        return jnp.reshape(value, (1, 1, 1))

    def _number(self, name: str) -> Array:
        return self.param(name, nn.initializers.constant(SCALAR), ())


class UnetHead(nn.Module):
    """Diffusion Policy's U-Net, the paper's diffusion head (appendix E).

    The paper does not say how the U-Net gets the condition. As Diffusion Policy's takes one vector for all time steps,
    one learned query reads it from the tokens, as the Gaussian head's queries do. Chunks are filled up with zeros to a
    multiple of the U-Net's strides."""

    actions: tuple[int, int]  # (t, a)
    unet: ConditionalUnet1D  # input_dim a, global_dim width
    width: int = 768
    depth: int = 4
    heads: int = 8
    dropout: float = 0.1
    dtype: Dtype = jnp.float32
    implementation: str = "matmul"

    def setup(self) -> None:
        settings = (self.width, self.depth, self.heads, self.dropout, self.dtype, self.implementation)
        self.tokens = ActionTokens(1, *settings)

    def __call__(self, cond: Array, x: Array, step: Array, train: bool = False) -> Array:
        """cond: [b, m, d]; x: [b, t, a]; step: [b] or a scalar, of the diffusion. Returns [b, t, a], float32."""
        return self.denoise(x, step, self.read(cond, train), train)

    def read(self, cond: Array, train: bool = False) -> Array:
        """-> [b, d]."""
        return self.tokens(cond, train)[:, 0].astype(jnp.float32)

    def denoise(self, x: Array, step: Array, memory: Array, train: bool = False) -> Array:
        fold = 2 ** (len(self.unet.down_dims) - 1)
        length = math.ceil(x.shape[1] / fold) * fold
        padded = jnp.pad(x, ((0, 0), (0, length - x.shape[1]), (0, 0)))
        return self.unet(padded, step, memory)[0][:, : x.shape[1]]


# The heads by name; "gaussian", "diffusion" and "flow" are the released code's, "unet" is the paper's diffusion head.
HEADS: dict[str, type[nn.Module]] = {
    "gaussian": GaussianHead,
    "diffusion": DiffusionTransformer,
    "flow": FlowTransformer,
    "unet": UnetHead,
}


def make_inverse_dynamics(
    kind: str, *, width: int, parts: tuple[str, ...], dtype: Dtype = jnp.float32, **head: Any
) -> InverseDynamics:
    """kind: of `HEADS`; head: its other settings. For "unet", `unet` holds settings of the U-Net without the dimensions
    of data and condition."""
    if kind not in HEADS:
        raise UserError(f"the action head is {kind!r}; expected one of {', '.join(HEADS)}")
    if kind == "unet":
        sizes = {"input_dim": head["actions"][1], "global_dim": width}
        head["unet"] = ConditionalUnet1D(**{**head["unet"], **sizes, "dtype": dtype})
    return InverseDynamics(HEADS[kind](width=width, dtype=dtype, **head), width, parts, dtype)


# Settings of GaussianHead by name: "released": the code; "paper": section 2.3, a predicted log standard deviation.
# With images of 2 x 512 channels, 9 numbers of proprioception and chunks of 16 x 7, the released model has 57,460,999
# parameters (the diffusion transformer's 43,991,047, the flow transformer's 35,839,495).
GAUSSIAN: dict[str, dict[str, Any]] = {
    "released": {"width": 768, "depth": 4, "heads": 8, "dropout": 0.1, "spread": "fixed", "std": 0.1, "squash": True},
    "paper": {"width": 768, "depth": 4, "heads": 8, "dropout": 0.1, "spread": "predicted", "squash": True},
}
