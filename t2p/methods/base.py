"""The contracts between a method and everything around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax

from t2p.types import ActionKind, Array, Batch, Observation, Observe, Prediction, WindowSpec

Variables = Mapping[str, Any]  # {"params", "batch_stats", "frozen"}


class Stage(Protocol):
    """One thing to train: a frozen, hashable object of modules and configuration whose methods are pure.

    The training loop knows nothing else of a method. variables["frozen"][name] holds the variables of an
    earlier stage: an argument of the jitted step with no gradient and no optimiser slot.
    """

    @property
    def window(self) -> WindowSpec:
        """What the pipeline cuts from episodes for each example."""
        ...

    def init(self, rng: jax.Array, batch: Batch) -> Variables:
        """Fresh variables; only shapes of `batch` matter."""
        ...

    def loss(self, variables: Variables, batch: Batch, rng: jax.Array, train: bool) -> tuple[jax.Array, dict[str, Any]]:
        """-> (scalar loss, {"metrics": {name: scalar}, "batch_stats": updated statistics or {}}).

        Loss and metrics are means over the rows where batch.mask is True (all rows without a mask)."""
        ...

    def predict(self, variables: Variables, batch: Batch, rng: jax.Array) -> Prediction:
        """Inference: no dropout, no masking; reads no target beyond what inference may know."""
        ...

    def flops_per_example(self, batch: Batch) -> float:
        """Analytic floating-point operations of one training step per example: forward and backward, a
        multiply-add counted as two. Only shapes of `batch` matter."""
        ...


class Built(Protocol):
    """A stage that builds on earlier ones which are trained apart."""

    @property
    def builds_on(self) -> Mapping[str, Mapping[str, str]]:
        """Of each earlier stage, by its name in config.init_from, the settings that must be those of its checkpoint,
        though shapes may not tell: {key in this stage's config: key in the checkpoint's}, blocks or single ones."""
        ...


@runtime_checkable
class Counted(Protocol):
    """A stage that acts and knows what it costs."""

    def flops_per_action(self, text_width: int) -> float:
        """Analytic floating-point operations of one decision, a multiply-add counted as two. text_width: numbers of a
        sentence's vector."""
        ...


class Encoder(Protocol):
    """An image encoder. Where a stage does not train it (`stage.encoder`, its variables in variables["frozen"][name]),
    its tokens may be cached and read instead of pictures (config.data.features)."""

    @property
    def name(self) -> str: ...

    @property
    def trained(self) -> bool: ...

    @property
    def text(self) -> bool:
        """Whether its tokens depend on the sentence, too."""
        ...

    @property
    def shape(self) -> tuple[int, int]:
        """(P, C): tokens of a picture and their numbers."""
        ...

    def init(self, rng: jax.Array) -> Variables:
        """Fresh variables."""
        ...

    def encode(self, own: Variables, images: Array, text: Array | None = None) -> Array:
        """own: the encoder's variables; images: [B, H, W, 3] uint8; text: [B, E] -> [B, P, C] float32."""
        ...

    def key(self, own: Variables) -> dict[str, Any]:
        """All that the tokens of a picture depend on, JSON-able: equal keys, equal tokens. own: NumPy arrays."""
        ...


# What reports call the ways in which a stage tells motion as codes.
MODEL, TAUGHT, TRUE_CODES = "model", "model, each code after the true ones", "true codes, decoded"

Predict = Callable[[Variables, Batch, jax.Array], Prediction]


class MotionStage(Stage, Protocol):
    """A stage that tells the motion of all views together as a sequence of codes: its predictions are tracks [B, V, T,
    N, 2], V in the window's order of views, and aux["codes"] [B, L]."""

    @property
    def codebook(self) -> int:
        """How many codes there are."""
        ...

    def readings(self) -> Mapping[str, Predict]:
        """The ways of predicting that a report compares, by name, the one that later stages are given first.

        TRUE_CODES is one of them: the codes of the motion in batch.tracks, and the tracks that they stand for."""
        ...


class Policy(Protocol):
    """Acts in E environments at once: a frozen, hashable object whose methods are pure.

    observe: what it must be shown; action: what its actions mean; steps: after how many actions an episode is over for
    it, None where the task says; text: whether observations must have a sentence's vector. rng: one key per
    environment, [E], so that an episode does not depend on those beside it. Every leaf of a state has the environment
    axis first, so that one environment is reset by a masked select."""

    @property
    def observe(self) -> Observe: ...

    @property
    def action(self) -> ActionKind: ...

    @property
    def steps(self) -> int | None: ...

    @property
    def text(self) -> bool: ...

    def reset(self, variables: Variables, obs: Observation, rng: jax.Array) -> Any:
        """The state at an episode's start."""
        ...

    def act(
        self, variables: Variables, state: Any, obs: Observation, rng: jax.Array
    ) -> tuple[Array, Any, Mapping[str, Array]]:
        """-> (the action [E, A] of the next policy step, the state after it, aux: what reports draw).

        aux may have "tracks" that are predicted, [E, T + 1, N, 3] metres in the first view's camera frame or [E, V, T,
        N, 2] in the pictures, and "attention" [E, layers, V, rows, columns] to the pictures' patches; V in the order of
        observe.images."""
        ...
