"""ATM's second stage: actions from pictures, state and the tracks that a frozen track transformer predicts (Wen et al.
2024, section 4.2; released code), and behaviour cloning, which is the same without tracks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import ml_collections

from t2p import pytrees  # noqa: F401
from t2p.geometry.conventions import from_atm
from t2p.geometry.resample import resize_bilinear
from t2p.io import UserError
from t2p.methods import atm
from t2p.methods.atm_tracks import TRACKER, PredictedTracks
from t2p.methods.attention import chosen_attention
from t2p.methods.base import Variables
from t2p.methods.bounds import COUNT, DROPOUT, NUMBER, Bound, check_bounds
from t2p.methods.columns import Columns
from t2p.methods.rows import counted_rows, row_mean
from t2p.models.atm_policy import ID_CHANNELS, VARIANTS, Depth, TrackPolicy, patch_grid
from t2p.types import ActionKind, Array, Batch, FieldWindow, Observation, Observe, Prediction, Tracks, WindowSpec

STAGE = "atm.policy"
TRACKS = ("predicted", "zero", "none")
MODALITY_IDS = ("released", "views")
PARTS = ("spatial", "temporal")
BOUNDS = {
    **{f"model.track_transformer.{name}": bound for name, bound in atm.NET_BOUNDS.items()},
    **{f"model.net.{part}.{name}": COUNT for part in PARTS for name in ("depth", "heads", "head_dim", "mlp")},
    **dict.fromkeys((f"model.net.{name}" for name in ("patch", "actions", "track_steps", "track_points")), COUNT),
    **dict.fromkeys((f"model.net.{name}" for name in ("track_patch", "text_hidden", "text_layers")), COUNT),
    **dict.fromkeys((f"model.net.{name}" for name in ("temporal_dim", "head_hidden", "head_layers")), NUMBER),
    "model.net.dim": Bound(ID_CHANNELS + 1),
    "model.net.dropout": DROPOUT,
    "window.steps": COUNT,
    "model.policy.steps": NUMBER,
}
LATER_BOUNDS = {"patch_width": NUMBER, "state_layers": NUMBER, "state_hidden": COUNT}  # older checkpoints lack these


def net_settings(variant: str = "released") -> dict[str, Any]:
    """The policy's keys at the released code's values; views, pictures and state are the window's."""
    settings = {k: asdict(v) if isinstance(v, Depth) else v for k, v in VARIANTS[variant].items()}
    taken = {k: v for k, v in settings.items() if k not in ("views", "image_size", "states")}
    options: dict[str, Any] = {
        "early": True,  # tracks in the spatial transformer (Table 2)
        "late": True,  # and as numbers before the head
        "spatial_text": False,  # the sentence as a token: the released policy's transformers have none
        "temporal_text": False,
        "modality_ids": "released",  # or views: see t2p.models.atm_policy.TrackPolicy
        "patch_width": 0,  # 0: as wide as high
        "patch_bias": True,
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "state_hidden": 128,
        "state_layers": 0,  # hidden layers between a part of the state and its token
        "text_hidden": 128,
        "text_layers": 1,
        "head_hidden": 1024,
        "head_layers": 2,
        "squash": False,
        "dropout": 0.1,
    }
    return taken | options


def configure(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Adds the keys that this stage reads to a base config, at the released code's values, and returns it."""
    config.stage = STAGE
    config.model = ml_collections.ConfigDict({"net": net_settings(), "track_transformer": atm.net_settings()})
    # What the policy is guided by: predicted tracks, zeros in their place (the released code's behaviour cloning), or
    # nothing at all.
    config.model.tracks = "predicted"
    config.model.scale = "none"  # of actions and state: as they are (LIBERO), or brought to [-1, 1] by "limits"
    # How it acts: what its actions mean; whether they are cut off at -1 and 1; after how many policy steps an episode
    # is over (0: the task's limit).
    config.model.policy = ml_collections.ConfigDict({"action": "osc_delta", "clip": True, "steps": 0})
    config.loss = ml_collections.ConfigDict({"mask_padding": False})
    window = {"views": ("agentview", "eye_in_hand"), "image_size": (128, 128), "steps": 10}
    window |= {"proprio": ("joint_states", "gripper_states"), "proprio_widths": (7, 2)}
    # Tracks are predicted in pictures as they are (released), or in the augmented ones that the policy sees.
    config.window = ml_collections.ConfigDict(window | {"tracks_see": "clean"})
    config.statistics = ml_collections.ConfigDict()
    config.text.update({"encoder": "bert", "width": 768})
    config.init_from[TRACKER] = ml_collections.ConfigDict({"path": "", "rules": ()})
    return config


def clone_behaviour(config: ml_collections.ConfigDict, tracks: Literal["zero", "none"]) -> ml_collections.ConfigDict:
    """The same without predicted tracks, told what to do in words."""
    config.model.tracks = tracks
    config.model.net.update({"spatial_text": True, "temporal_text": True})
    if TRACKER in config.init_from:
        del config.init_from[TRACKER]
    return config


def make_net(config: ml_collections.ConfigDict, platform: str) -> TrackPolicy:
    """The network that config.model.net describes."""
    chosen, w = config.model.net, config.window
    settings: dict[str, Any] = {k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in chosen.items()}
    settings |= {part: Depth(**chosen[part]) for part in PARTS}
    settings |= {"track_steps": 0} if config.model.tracks == "none" else {}
    size = (w.image_size[0], w.image_size[1])
    settings |= {"views": len(w.views), "image_size": size, "states": tuple(w.proprio_widths)}
    net = TrackPolicy(**settings, dtype=jnp.dtype(config.dtype), remat=config.remat, scan=config.scan_layers)
    lengths = {"spatial": net.spatial_tokens, "temporal": net.step_tokens * w.steps}
    attend: dict[str, Any] = {
        f"{part}_attention": chosen_attention(config, platform, chosen[part].head_dim, lengths[part]) for part in PARTS
    }
    return net.clone(**attend)


def _check(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for settings that do not go together."""
    m, w = config.model, config.window
    check_bounds(config, BOUNDS | {f"model.net.{k}": bound for k, bound in LATER_BOUNDS.items() if k in m.net})
    if m.tracks not in TRACKS or m.net.modality_ids not in MODALITY_IDS or w.tracks_see not in ("clean", "augmented"):
        raise UserError(
            f"model.tracks is {m.tracks!r}, model.net.modality_ids {m.net.modality_ids!r}, window.tracks_see "
            f"{w.tracks_see!r}; expected one of {', '.join(TRACKS)}; of {', '.join(MODALITY_IDS)}; of clean, augmented"
        )
    if config.data.features and w.tracks_see != "clean":
        raise UserError(
            f"window.tracks_see is {w.tracks_see!r} and data.features {config.data.features!r}; cached tracks are "
            "those of pictures as they are: set window.tracks_see to clean, or data.features to ''"
        )
    patch = (m.net.patch, m.net.get("patch_width", 0) or m.net.patch)
    if not w.views or len(w.image_size) != 2 or 0 in patch_grid(tuple(w.image_size), patch):
        raise UserError(
            f"window.views is {tuple(w.views)} and window.image_size {tuple(w.image_size)}; expected at least one "
            f"view, and (height, width) of at least {tuple(2 * side for side in patch)}, twice the patches'"
        )
    if m.net.track_steps % m.net.track_patch or m.net.track_steps > m.track_transformer.track_steps:
        raise UserError(
            f"model.net.track_steps is {m.net.track_steps}; expected a multiple of model.net.track_patch "
            f"({m.net.track_patch}), and no more than model.track_transformer.track_steps "
            f"({m.track_transformer.track_steps})"
        )
    if m.tracks == "predicted" and m.track_transformer.frames != 1:
        raise UserError(f"model.track_transformer.frames is {m.track_transformer.frames}; a policy shows it one")
    if m.tracks == "predicted" and tuple(m.track_transformer.image_size) != tuple(w.image_size):
        raise UserError(
            f"model.track_transformer.image_size is {tuple(m.track_transformer.image_size)} and window.image_size "
            f"{tuple(w.image_size)}; expected the same"
        )


@dataclass(frozen=True)
class AtmPolicyStage:
    """tracker: what predicts tracks, None: they are zeros (or, with net.track_steps 0, there are none). steps: To.
    clean: whether tracks are predicted in pictures without augmentation, which batches then carry as well."""

    builds_on: ClassVar[Mapping[str, Mapping[str, str]]] = {TRACKER: {"model.track_transformer": "model"}}

    net: TrackPolicy
    tracker: PredictedTracks | None
    columns: Columns
    views: tuple[str, ...]
    steps: int
    mask_padding: bool = False
    clean: bool = False
    features: str = ""

    @classmethod
    def from_config(cls, config: ml_collections.ConfigDict, platform: str) -> AtmPolicyStage:
        _check(config)
        net, tracker, features = make_net(config, platform), None, config.data.features
        if config.model.tracks == "predicted":
            tracker = PredictedTracks.from_config(config, platform)
        elif features:
            raise UserError(f"data.features is {features!r}, and model.tracks {config.model.tracks!r} reads none")
        augmented = config.data.augment.probability > 0 and config.window.tracks_see == "clean"
        clean = tracker is not None and not features and augmented
        columns, w = Columns.from_config(config), config.window
        return cls(net, tracker, columns, tuple(w.views), w.steps, config.loss.mask_padding, clean, features)

    @property
    def model(self) -> TrackPolicy:
        return self.net

    @property
    def encoder(self) -> PredictedTracks | None:
        """Predicted tracks may be cached: they depend on the frame and the sentence alone."""
        return self.tracker

    @property
    def observe(self) -> Observe:
        return Observe(images=self.views, size=self.net.image_size)

    @property
    def window(self) -> WindowSpec:
        """`steps` frames from t on, each with its own action: step i is learned with i steps of history."""
        span = tuple(range(self.steps))
        cached: dict[str, Any] = {}
        if self.features and self.tracker is not None:
            cached = {"features": FieldWindow(span), "feature_set": self.features, "feature_shape": self.tracker.shape}
        return WindowSpec(
            views=self.views,
            images=FieldWindow(span),
            clean=self.clean,
            **cached,
            actions=FieldWindow(span, pad="zero"),
            proprio=FieldWindow(span),
            proprio_keys=self.columns.proprio,
            text=True,
            image_size=self.net.image_size,
            widths={"actions": self.net.actions, **self.columns.state_widths},
        )

    def init(self, rng: jax.Array, batch: Batch) -> Variables:
        """The track transformer's arrays are zeros: they are only the places into which a trained one is read."""
        frozen = {} if self.tracker is None else {TRACKER: self.tracker.blank()}
        images = self.pictures(batch.images)
        tracks = self.no_tracks(images.shape[0], images.shape[2])
        made = self.net.init({"params": rng}, images, tracks, jnp.asarray(batch.text), self.columns.parts(batch))
        return {"params": made["params"], "batch_stats": made["batch_stats"], "frozen": frozen}

    def loss(self, variables: Variables, batch: Batch, rng: jax.Array, train: bool) -> tuple[jax.Array, dict[str, Any]]:
        """Mean squared error over all steps. In validation also the mean absolute error "l1" over real steps, in the
        actions' own units."""
        options: dict[str, Any] = {}
        if train:
            options = {"train": True, "rngs": {"dropout": rng}, "mutable": ["batch_stats"]}
        found: Any = self.net.apply(own_variables(variables), *self.inputs(variables, batch), **options)
        (chunk, _), updated = found if train else (found, {})
        actions = self._actions(batch)
        rows = counted_rows(batch, len(actions), "actions", "images", "features", "proprio")
        assert batch.action_valid is not None, "the window asks for actions"
        valid = batch.action_valid & rows[:, None]
        counted = valid if self.mask_padding else jnp.broadcast_to(rows[:, None], valid.shape)
        error = jnp.square(chunk - self.columns.encode(actions)).mean(-1)
        loss = jnp.sum(error * counted) / jnp.maximum(counted.sum(), 1)
        metrics = {"loss": loss}
        if not train:
            distance = jnp.abs(self.columns.decode(chunk) - actions).mean(-1)
            metrics["l1"] = row_mean((distance * valid).sum(-1) / jnp.maximum(valid.sum(-1), 1), rows)
        return loss, {"metrics": metrics, "batch_stats": updated.get("batch_stats", {})}

    def predict(self, variables: Variables, batch: Batch, rng: jax.Array) -> Prediction:
        """actions [B, To, A] in their own units, each from the steps up to it; tracks of the last step, if there are
        predicted ones, [B, V, T, N, 2]; aux["attention"]: see `attention_maps`, of the last step."""
        inputs = self.inputs(variables, batch)
        actions, aux = self.net.apply(own_variables(variables), *inputs)
        looks = attention_maps(aux["looks"])[:, -1]
        return Prediction(self.shown(inputs[1]), self.columns.decode(actions), {"attention": looks})

    def inputs(self, variables: Variables, batch: Batch) -> tuple[Array, Array | None, Array, tuple[Array, ...]]:
        """What the network is given: pictures, tracks, sentence, state."""
        images = self.pictures(batch.images)
        if batch.features and self.tracker is not None:
            cached = jnp.stack([jnp.asarray(batch.features[view], jnp.float32) for view in self.views], axis=1)
            tracks: Array | None = self.tracker.from_features(cached)[..., : self.net.track_steps, :, :]
        else:
            clean = self.pictures(batch.clean) if batch.clean else images
            tracks = self.tracks(variables, clean[:, :, :, None], batch.text)
        return images, tracks, jnp.asarray(batch.text), self.columns.parts(batch)

    def tracks(self, variables: Variables, clips: Array, text: Array | None) -> Array | None:
        """Tracks of the grid's points in ATM's coordinates [B, V, To, T, N, 2], as many steps as the policy takes; None
        where it takes none. clips: [B, V, To, f, H, W, 3], of each step the last f frames."""
        b, v, t = clips.shape[:3]
        if self.tracker is None:
            return self.no_tracks(b, t)
        words = jnp.repeat(jnp.asarray(text), v * t, axis=0)
        own = jax.lax.stop_gradient(variables["frozen"][TRACKER])
        found = self.tracker.predict(own, clips.reshape(b * v * t, *clips.shape[3:]), words)
        return jax.lax.stop_gradient(found).reshape(b, v, t, *found.shape[1:])[:, :, :, : self.net.track_steps]

    def no_tracks(self, rows: int, steps: int) -> Array | None:
        """Zeros in the place of tracks, or None where there is no place for them."""
        net = self.net
        if not net.track_steps:
            return None
        return jnp.zeros((rows, net.views, steps, net.track_steps, net.track_points, 2))

    def pictures(self, images: Mapping[str, Array]) -> Array:
        """{view: [B, To, H, W, 3]} -> [B, V, To, H, W, 3], 0 .. 255, resized where they have another size."""
        stacked = jnp.stack([jnp.asarray(images[view]) for view in self.views], axis=1)
        if stacked.shape[3:5] == self.net.image_size:
            return stacked
        return resize_bilinear(stacked.astype(jnp.float32), self.net.image_size)

    def shown(self, tracks: Array | None) -> Tracks | None:
        """Predicted tracks of the last step in t2p's coordinates, [B, V, T, N, 2]."""
        if self.tracker is None or tracks is None:
            return None
        last = tracks[:, :, -1]
        return Tracks(from_atm(last, self.net.image_size), jnp.ones(last.shape[:-1], bool))

    def flops_per_example(self, batch: Batch) -> float:
        assert batch.text is not None, "the window asks for text"
        width = batch.text.shape[-1]
        tracks = 0.0 if self.features or self.tracker is None else self.tracker.flops(width) * len(self.views)
        return self.steps * tracks + 3 * net_flops(self.net, self.steps, width)

    def flops_per_action(self, text_width: int) -> float:
        """Of one decision with a full history: the computation of Table 4, a multiply-add counted as two."""
        tracks = 0.0 if self.tracker is None else self.tracker.flops(text_width) * len(self.views)
        return tracks + spatial_flops(self.net) + decoder_flops(self.net, self.steps, 1)

    def _actions(self, batch: Batch) -> Array:
        """[B, To, A]; UserError where the data's are not as many numbers as the head's."""
        actions = jnp.asarray(batch.actions, jnp.float32)
        if actions.shape[-1] != self.net.actions:
            raise UserError(
                f"the data's actions have {actions.shape[-1]} numbers, and the head makes {self.net.actions}: set "
                "model.net.actions"
            )
        return actions


def own_variables(variables: Variables) -> dict[str, Any]:
    """Of the policy's network, without those of its track transformer."""
    return {"params": variables["params"], "batch_stats": variables["batch_stats"]}


def attention_maps(looks: Array) -> Array:
    """TrackPolicy's aux["looks"] -> [B, To, layers, V, rows, columns]: how much the token that sums up a step looks at
    each patch, the mean over heads (Figure 7)."""
    return jnp.moveaxis(looks.mean(3), 0, 2)


def net_flops(net: TrackPolicy, steps: int, text_width: int) -> float:
    """Multiply-adds of the matrix products, times two, of one forward pass of one example; `text_width` of a one-layer
    projection of the sentence."""
    words = 2.0 * text_width * (net.dim * net.spatial_text + net.width * net.temporal_text)
    return steps * spatial_flops(net) + decoder_flops(net, steps, steps) + words


def spatial_flops(net: TrackPolicy) -> float:
    """Of one step: stems, track tokens, spatial transformer."""
    (height, width), patches = net.image_size, net.grid[0] * net.grid[1]
    stem = height * width // 4 * 7 * 7 * 3 * 64 + patches * 64 * math.prod(net.patch_size) * net.dim
    tracks = net.track_tokens * net.track_patch * (2 + net.views) * net.dim
    blocks = _blocks(net.spatial, net.dim, net.spatial_tokens)
    return 2.0 * (net.views * stem + tracks + blocks + net.dim * net.temporal_dim + _state_products(net))


def _state_products(net: TrackPolicy) -> int:
    if not net.state_layers:
        return sum(net.states) * net.width
    hidden = (net.state_layers - 1) * net.state_hidden + net.width
    return net.state_hidden * (sum(net.states) + len(net.states) * hidden)


def decoder_flops(net: TrackPolicy, steps: int, actions: int) -> float:
    """Of the temporal transformer over so many steps, and of the head for so many of them."""
    late = net.views * net.track_steps * net.track_points * 2 if net.fuses_late else 0
    sizes = [net.width + late] + [net.head_hidden] * net.head_layers + [net.actions]
    head = sum(a * b for a, b in pairwise(sizes))
    return 2.0 * (_blocks(net.temporal, net.width, steps * net.step_tokens) + actions * head)


def _blocks(sizes: Depth, d: int, length: int) -> int:
    inner = sizes.heads * sizes.head_dim
    return sizes.depth * (length * (4 * d * inner + 2 * d * sizes.mlp) + 2 * length**2 * inner)


@dataclass(frozen=True)
class AtmPolicy:
    """Acts on the last `steps` observations; tracks are predicted anew at every step.

    clip: actions are cut off at -1 and 1 (of what the network says). steps: of an episode, None: the task's. state:
    "tokens" [E, To, m, c] of the latest steps, oldest first, "count" [E] of those that there are, and "frames" [E, V,
    f - 1, H, W, 3], what the track transformer saw before, black at first."""

    stage: AtmPolicyStage
    action: ActionKind
    clip: bool = True
    steps: int | None = None
    text: bool = True

    @property
    def observe(self) -> Observe:
        return self.stage.observe

    def reset(self, variables: Variables, obs: Observation, rng: jax.Array) -> Mapping[str, Array]:
        net, tracker, e = self.stage.net, self.stage.tracker, len(rng)
        earlier = 0 if tracker is None else tracker.net.frames - 1
        return {
            "tokens": jnp.zeros((e, self.stage.steps, net.step_tokens, net.width)),
            "count": jnp.zeros(e, jnp.int32),
            "frames": jnp.zeros((e, net.views, earlier, *net.image_size, 3)),
        }

    def act(
        self, variables: Variables, state: Mapping[str, Array], obs: Observation, rng: jax.Array
    ) -> tuple[Array, Mapping[str, Array], Mapping[str, Any]]:
        """aux: "tracks" [E, V, T, N, 2], predicted, in t2p's coordinates (Figure 8), and "attention" [E, layers, V,
        rows, columns] (Figure 7)."""
        stage, own = self.stage, own_variables(variables)
        images = stage.pictures(obs.images)
        clip = jnp.concatenate([state["frames"], images.astype(jnp.float32)], axis=2)
        tracks = stage.tracks(variables, clip[:, :, None], obs.text)
        encoded: Any = stage.net.apply(
            own, images, tracks, jnp.asarray(obs.text), stage.columns.parts(obs), method="encode"
        )
        tokens, place, count = remember(state["tokens"], state["count"], encoded[0][:, 0])
        rows = jnp.arange(len(place))
        action = self._decide(own, tokens, tracks)[rows, place]
        aux = {"attention": attention_maps(encoded[1]["looks"])[:, -1]}
        if (shown := stage.shown(tracks)) is not None:
            aux["tracks"] = shown.points
        return stage.columns.decode(action), {"tokens": tokens, "count": count, "frames": clip[:, :, 1:]}, aux

    def _decide(self, own: Variables, tokens: Array, tracks: Array | None) -> Array:
        """The actions of all remembered steps, as if each had the present tracks; only the last one's is taken."""
        if tracks is not None:
            tracks = jnp.broadcast_to(tracks, (*tracks.shape[:2], tokens.shape[1], *tracks.shape[3:]))
        actions: Any = self.stage.net.apply(own, tokens, tracks, method="decode")
        return jnp.clip(actions[0], -1, 1) if self.clip else actions[0]


def remember(tokens: Array, count: Array, new: Array) -> tuple[Array, Array, Array]:
    """Adds a step to a history that slides when it is full. tokens: [E, To, m, c], `count` [E] of them filled from the
    left (so that the oldest is always at time 0); new: [E, m, c] -> (tokens, the new step's place [E], count)."""
    full = (count == tokens.shape[1])[:, None, None, None]
    tokens = jnp.where(full, jnp.roll(tokens, -1, axis=1), tokens)
    place = jnp.minimum(count, tokens.shape[1] - 1)
    tokens = tokens.at[jnp.arange(len(place)), place].set(new)
    return tokens, place, place + 1


def make_policy(stage: Any, settings: Mapping[str, Any]) -> AtmPolicy:
    """settings: config.model.policy."""
    return AtmPolicy(stage, settings["action"], settings["clip"], settings["steps"] or None)
