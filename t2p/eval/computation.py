"""Computation of policies in closed loop, as ATM's Table 4 has it (Wen et al. 2024): of a decision, times decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from t2p.eval import report

TABLE = 600  # actions of an episode in ATM's Table 4
_ABOUT = (
    "Floating-point operations of the policy's matrix products, counted from its sizes: of one decision (all views and "
    "earlier stages that it runs; a multiply-add is two), times the actions of an episode. ATM's Table 4 has 1.56 "
    f"TFLOP for {TABLE} steps; its track transformer alone, with one view a step and a multiply-add as one, makes 1.55."
)


def of_episodes(flops: float | None, actions: Sequence[int]) -> dict[str, float]:
    """flops: of one action, None: not known; actions: taken in each episode -> {"flops_per_action",
    "actions_per_episode", "flops_per_episode"}, the latter two means; {} where it is not known."""
    if flops is None or not sum(actions):
        return {}
    mean = sum(actions) / len(actions)
    return {"flops_per_action": flops, "actions_per_episode": mean, "flops_per_episode": flops * mean}


def together(parts: Sequence[Mapping[str, float]], episodes: Sequence[int]) -> dict[str, float]:
    """One of several `of_episodes`, of so many episodes each; {} where one of them is not known."""
    if not all(parts):
        return {}
    actions, flops = (
        sum(part[name] * count for part, count in zip(parts, episodes, strict=True)) / sum(episodes)
        for name in ("actions_per_episode", "flops_per_episode")
    )
    return {"flops_per_action": flops / actions, "actions_per_episode": actions, "flops_per_episode": flops}


def section(policies: Mapping[str, Mapping[str, Any]]) -> str:
    """Of a report, on the policies ({name: {"computation": ...}}) whose computation is known; "" without one."""
    rows = [
        [
            name,
            f"{found['flops_per_action'] / 1e9:.4g} GFLOP",
            f"{found['actions_per_episode']:.1f}",
            f"{found['flops_per_episode'] / 1e12:.4g} TFLOP",
            f"{found['flops_per_action'] * TABLE / 1e12:.4g} TFLOP",
        ]
        for name, policy in policies.items()
        if (found := policy.get("computation"))
    ]
    head = ["policy", "an action", "actions of an episode, mean", "an episode, mean", f"{TABLE} actions"]
    return report.section("Computation", report.paragraph(_ABOUT), report.table(head, rows)) if rows else ""
