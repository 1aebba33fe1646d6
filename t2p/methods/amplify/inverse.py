"""AMPLIFY's third stage: actions from what is seen and the motion to come (Collins et al. 2025, section 2.4; released
code)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import ml_collections

from t2p import pytrees  # noqa: F401
from t2p.diffusion.schedules import Schedule
from t2p.io import UserError
from t2p.methods.amplify import dynamics, images, inputs
from t2p.methods.amplify.dynamics import ForwardDynamicsStage
from t2p.methods.amplify.images import ImageEncoder, side_by_side
from t2p.methods.attention import chosen_attention
from t2p.methods.base import Variables
from t2p.methods.bounds import COUNT, DROPOUT, NUMBER, POSITIVE, check_bounds
from t2p.methods.columns import Columns
from t2p.methods.inverse_heads import FLOW, GAUSSIAN, DiffusionActions, FlowActions, GaussianActions, Head
from t2p.methods.rows import counted_rows, row_mean
from t2p.models.inverse_dynamics import PARTS, InverseDynamics, make_inverse_dynamics
from t2p.models.unet1d import VARIANTS as UNETS
from t2p.types import Array, Batch, FieldWindow, Observation, Observe, Prediction, Tracks, WindowSpec

STAGE = "amplify.inverse_dynamics"
CODES = ("predicted", "true")
SEEN = ("shared", "own")
DYNAMICS = "forward_dynamics"  # in variables["frozen"]
# What must be as forward dynamics had it.
FORWARD = {f"model.{part}": f"model.{part}" for part in ("tokenizer", "dynamics", "images")} | inputs.SHARED
BOUNDS = {
    **dynamics.BOUNDS,
    **dict.fromkeys((f"model.inverse.{name}" for name in ("depth", "heads", "actions", "action_dim")), COUNT),
    "model.inverse.dropout": DROPOUT,
    "model.policy.steps": NUMBER,
}


def net_settings() -> dict[str, Any]:
    """Inverse dynamics' keys at the released code's values; its width is the tokenizer's."""
    return {
        "head": "gaussian",  # or diffusion, flow (released), unet (paper's diffusion head)
        "reading": "released",  # of the head, or paper: see t2p.methods.inverse_heads and t2p.models.inverse_dynamics
        "depth": 4,
        "heads": 8,
        "dropout": 0.1,
        "std": 0.1,  # of the released Gaussian, or "learned": one number
        "parts": ("image", "proprio", "codes"),  # without codes: "inverse only", the baseline; or with text
        "actions": 16,  # of a chunk
        "action_dim": 7,
    }


def configure(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Adds the keys that this stage reads to a base config, at the released code's values, and returns it."""
    dynamics.configure(config)
    config.stage = STAGE
    config.model.inverse = ml_collections.ConfigDict(net_settings())
    # Where the condition's image tokens come from: forward dynamics' encoder (released), or an encoder of its own that
    # is trained with this stage.
    config.model.seen = "shared"
    config.model.own_images = ml_collections.ConfigDict(images.settings() | {"trained": True, "norm": "group"})
    # The codes that it learns from: predicted (released) or true. dropout: of forward dynamics while it predicts them
    # in training and validation; the released code leaves it on.
    config.model.codes = ml_collections.ConfigDict({"source": "predicted", "dropout": True})
    # Actions and state as they are (LIBERO), or brought to [-1, 1] by the training data's limits.
    config.model.scale = "none"
    # How it acts: what its actions mean; with a temporal ensemble of chunks, whose weights fall by exp(-decay); after
    # how many policy steps an episode is over (0: the task's limit).
    acts = {"action": "osc_delta", "ensemble": True, "decay": 0.01, "steps": 0}
    config.model.policy = ml_collections.ConfigDict(acts)
    config.loss = ml_collections.ConfigDict({"mask_padding": False})
    state = {"proprio": ("joint_states", "gripper_states"), "proprio_widths": (7, 2)}
    config.window.update({**state, "padding": "zero"})
    config.statistics = ml_collections.ConfigDict()
    del config.init_from["tokenizer"], config.init_from[images.NAME]  # come with forward dynamics
    config.init_from[DYNAMICS] = ml_collections.ConfigDict({"path": "", "rules": ()})
    config.optimizer.clip_norm = 1.0
    return config


def make_head(config: ml_collections.ConfigDict, tokens: dict[str, int], platform: str) -> Head:
    """The action head that config.model.inverse describes. tokens: of each part of the condition."""
    m, width = config.model.inverse, config.model.tokenizer.dim
    if m.reading not in GAUSSIAN:
        raise UserError(f"model.inverse.reading is {m.reading!r}; expected one of {', '.join(GAUSSIAN)}")
    if width % m.heads:
        raise UserError(f"model.tokenizer.dim {width} is not a multiple of model.inverse.heads {m.heads}")
    settings: dict[str, Any] = {name: m[name] for name in ("depth", "heads", "dropout")}
    settings["actions"] = m.actions, m.action_dim
    settings["implementation"] = chosen_attention(config, platform, width // m.heads, length=m.actions)
    if m["head"] == "gaussian":
        settings |= {"spread": "predicted"} if m.reading == "paper" else _spread(m.std)
    if m["head"] == "diffusion":
        settings["condition"] = sum(tokens[part] for part in m.parts if part in tokens)
    if m["head"] == "unet":
        settings["unet"] = UNETS["image"]
    dtype = jnp.dtype(config.dtype)
    net = make_inverse_dynamics(m["head"], width=width, parts=tuple(m.parts), dtype=dtype, **settings)
    return _with_loss(net, m["head"], m.reading)


def _spread(std: Any) -> dict[str, Any]:
    if std == "learned":
        return {"spread": "scalar"}
    if not POSITIVE.holds(std):
        raise UserError(f"model.inverse.std is {std!r}; expected a number above 0, or 'learned'")
    return {"std": std}


def _with_loss(net: InverseDynamics, kind: str, reading: str) -> Head:
    if kind == "gaussian":
        return GaussianActions(net, **GAUSSIAN[reading])
    if kind == "flow":
        return FlowActions(net, **FLOW[reading])
    return DiffusionActions(net, Schedule())


@dataclass(frozen=True)
class InverseDynamicsStage:
    """The frozen forward dynamics with what it builds on, and the action head. own: an image encoder of its own, or
    None. padding: what stands for actions past an episode's end."""

    builds_on: ClassVar[Mapping[str, Mapping[str, str]]] = {**ForwardDynamicsStage.builds_on, DYNAMICS: FORWARD}

    forward: ForwardDynamicsStage
    head: Head
    own: ImageEncoder | None
    columns: Columns
    codes: str
    codes_dropout: bool
    mask_padding: bool
    padding: str

    @classmethod
    def from_config(cls, config: ml_collections.ConfigDict, platform: str) -> InverseDynamicsStage:
        check_bounds(config, BOUNDS)
        m, w = config.model, config.window
        if m.codes.source not in CODES or m.seen not in SEEN or w.padding not in ("zero", "repeat"):
            raise UserError(
                f"model.codes.source is {m.codes.source!r}, model.seen {m.seen!r}, window.padding {w.padding!r}; "
                f"expected one of {', '.join(CODES)}; of {', '.join(SEEN)}; of zero, repeat"
            )
        forward = ForwardDynamicsStage.from_config(config, platform)
        own = None
        if m.seen == "own":
            own = ImageEncoder.from_config(m.own_images, jnp.dtype(config.dtype), config.data.features)
        if own is not None and not own.trained:
            raise UserError("model.own_images.trained is False; an encoder of its own is trained with the stage")
        settings = m.codes.source, m.codes.dropout, config.loss.mask_padding, w.padding
        pictures = forward.images if own is None else own
        tokens = {"image": pictures.tokens, "text": 1, "proprio": 1, "codes": forward.net.length}
        return cls(forward, make_head(config, tokens, platform), own, Columns.from_config(config), *settings)

    @property
    def model(self) -> InverseDynamics:
        return self.head.net

    @property
    def encoder(self) -> ImageEncoder:
        return self.forward.images

    @property
    def inputs(self) -> inputs.Window:
        return self.forward.inputs

    @property
    def sees_motion(self) -> bool:
        """Whether codes are part of the condition."""
        return "codes" in self.head.net.parts

    @property
    def actions(self) -> tuple[int, int]:
        """Steps and numbers of a chunk."""
        steps, numbers = self.head.net.head.actions
        return steps, numbers

    @property
    def window(self) -> WindowSpec:
        fields, seen = self.inputs.fields(), self.forward.images.window()
        if self.sees_motion and self.codes == "true":
            seen = self.forward.motion.looks() | seen
        else:
            for name in ("track_set", "tracks", "points", "track_clamp", "track_steps"):
                fields[name] = None
        return WindowSpec(
            **fields,
            **seen,
            actions=FieldWindow(tuple(range(self.actions[0])), pad="zero" if self.padding == "zero" else "repeat"),
            proprio=FieldWindow((0,)),
            proprio_keys=self.columns.proprio,
            text=self.sees_motion or "text" in self.head.net.parts,
            widths={"actions": self.actions[1], **self.columns.state_widths},
        )

    def init(self, rng: jax.Array, batch: Batch) -> Variables:
        rngs = jax.random.split(rng, 3)
        frozen = self._earlier(rngs[0], batch) if self._needs_forward else {}
        variables: dict[str, Any] = {"params": {}, "batch_stats": {}, "frozen": frozen}
        if self.own is not None:
            variables = self.own.place(variables, self.own.init(rngs[1]))
        condition = self.condition(variables, batch, None)
        head = self.head.init(rngs[2], condition)
        return {**variables, "params": {**variables["params"], "inverse": head}}

    def loss(self, variables: Variables, batch: Batch, rng: jax.Array, train: bool) -> tuple[jax.Array, dict[str, Any]]:
        """In validation also the mean absolute error of sampled chunks, in the actions' own units."""
        codes_rng, head_rng, sample_rng = jax.random.split(rng, 3)
        inputs = self.condition(variables, batch, codes_rng if self.codes_dropout else None)
        assert batch.action_valid is not None, "the window asks for actions"
        actions = self._actions(batch)
        rows = counted_rows(batch, len(actions), "actions", "images", "features", "proprio")
        valid = batch.action_valid & rows[:, None]
        counted = valid if self.mask_padding else jnp.broadcast_to(rows[:, None], valid.shape)
        params = variables["params"]["inverse"]
        loss = self.head.loss(params, inputs, self.columns.encode(actions), counted, head_rng, train)
        metrics = {"loss": loss}
        if not train:
            found = self.columns.decode(self.head.sample(params, inputs, jax.random.split(sample_rng, len(actions))))
            error = jnp.abs(found - actions).mean(-1)
            metrics["l1"] = row_mean((error * valid).sum(-1) / jnp.maximum(valid.sum(-1), 1), rows)
        return loss, {"metrics": metrics, "batch_stats": {}}

    def predict(self, variables: Variables, batch: Batch, rng: jax.Array) -> Prediction:
        """actions [B, Ta, A]; aux["codes"] [B, L] where motion is predicted."""
        actions, aux = self.plan(variables, batch, jax.random.split(rng, inputs.batch_rows(batch)))
        return Prediction(actions=actions, aux=aux)

    def plan(self, variables: Variables, obs: Observation, rngs: jax.Array) -> tuple[Array, dict[str, Array]]:
        """A chunk of actions [B, Ta, A] in their own units, always on predicted codes; {"codes": [B, L]}, or {} without
        motion. rngs: [B] keys."""
        with jax.default_matmul_precision("highest"):
            exact = self.exact()
            codes = exact.predict_codes(variables, obs, None) if self.sees_motion else None
            inputs = exact._condition(variables, obs, codes)
        actions = self.head.sample(variables["params"]["inverse"], inputs, rngs)
        return self.columns.decode(actions), {} if codes is None else {"codes": codes}

    def condition(self, variables: Variables, batch: Batch, dropout: jax.Array | None) -> Mapping[str, Array]:
        """What the head is given in training. dropout: the rng of forward dynamics' own, None: without. With dropout
        its codes are not the likeliest ones anyway, and half precision is good enough for them."""
        stage, codes = self if dropout is not None else self.exact(), None
        if self.sees_motion and self.codes == "true":
            codes = self.forward.codes(self.forward_variables(variables), batch)
        elif self.sees_motion:
            codes = stage.predict_codes(variables, batch, dropout)
        return stage._condition(variables, batch, codes)

    def exact(self) -> InverseDynamicsStage:
        """With forward dynamics in float32, so that codes, and the features that it shares, are those of float32."""
        return replace(self, forward=self.forward.exact())

    def predict_codes(self, variables: Variables, batch: Batch, dropout: jax.Array | None) -> Array:
        """[B, L], greedily."""
        forward = self.forward_variables(variables)
        return jax.lax.stop_gradient(self.forward.generate(forward, self.forward.condition(forward, batch), dropout))

    def _actions(self, batch: Batch) -> Array:
        """[B, Ta, A]; UserError where the data's are not as many numbers as the head's."""
        actions = jnp.asarray(batch.actions, jnp.float32)
        if actions.shape[1:] != self.actions:
            raise UserError(
                f"the data's chunks are {actions.shape[1]} actions of {actions.shape[2]} numbers, and the head makes "
                f"{self.actions[0]} of {self.actions[1]}: set model.inverse.action_dim and model.inverse.actions"
            )
        return actions

    def _condition(self, variables: Variables, batch: Batch, codes: Array | None) -> Mapping[str, Array]:
        parts = {"image": side_by_side(self._tokens(variables, batch)), "proprio": self.columns.state(batch)}
        if codes is not None:
            parts["codes"] = self.forward.embed(self.forward_variables(variables), codes)
        if "text" in self.head.net.parts:
            parts["text"] = jnp.asarray(batch.text)[:, None]
        return {name: parts[name] for name in PARTS if name in self.head.net.parts}

    def _tokens(self, variables: Variables, batch: Batch) -> Array:
        """[B, V, P, C]; XLA computes a shared encoder's features once, though they are asked for twice (tested)."""
        views = self.inputs.views
        if self.own is not None:
            return self.own.see(self.own.find(variables), batch, views)
        forward = self.forward_variables(variables)
        return self.forward.images.see(jax.lax.stop_gradient(self.forward.images.find(forward)), batch, views)

    @property
    def _needs_forward(self) -> bool:
        return self.sees_motion or self.own is None

    def forward_variables(self, variables: Variables) -> Variables:
        """Forward dynamics' own variables."""
        frozen = variables["frozen"]
        earlier = {name: value for name, value in frozen.items() if name != DYNAMICS}
        return {"batch_stats": {}, **frozen[DYNAMICS], "frozen": earlier}

    def _earlier(self, rng: jax.Array, batch: Batch) -> dict[str, Any]:
        """The frozen stages, fresh: of them only shapes matter."""
        window = self.inputs
        shape = (inputs.batch_rows(batch), window.steps, window.points, 2)
        still = Tracks(jnp.zeros(shape), jnp.ones(shape[:-1], bool))
        text = batch.text if batch.text is not None else jnp.zeros((shape[0], 1))
        made = batch.replace(tracks={window.track_set: dict.fromkeys(window.views, still)}, text=text)
        forward = self.forward.init(rng, made)
        own = {name: forward[name] for name in ("params", "batch_stats") if forward[name]}
        return {**forward["frozen"], DYNAMICS: own}

    @property
    def observe(self) -> Observe:
        return Observe(images=self.inputs.views, size=self.inputs.image_size)

    def flops_per_example(self, batch: Batch) -> float:
        forward = self.forward
        pictures = len(self.inputs.views) * (forward.images.flops() if self._needs_forward else 0.0)
        pictures += 3 * len(self.inputs.views) * self.own.flops() if self.own is not None else 0.0
        width = 1 if batch.text is None else batch.text.shape[-1]
        codes = dynamics.net_flops(forward.net, forward.images.net.width, width) if self.sees_motion else 0.0
        return pictures + codes + 3 * _head_flops(self.head.net, self.actions[0])


def _head_flops(net: InverseDynamics, steps: int) -> float:
    """Multiply-adds of the matrix products of the head's layers, times two; projections and ends left out."""
    d, depth = net.width, net.head.depth
    return 2.0 * depth * steps * (24 * d * d)
