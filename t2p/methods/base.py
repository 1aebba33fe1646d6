"""The contracts between a method and everything around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import jax

from t2p.types import Batch, Prediction, WindowSpec

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
