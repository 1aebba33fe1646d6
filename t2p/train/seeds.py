"""The same training from several seeds, and how much the results differ."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
from etils import epath

from t2p.io import PathLike, read_json_lines, write_json
from t2p.train.evals import Eval
from t2p.train.logging import say
from t2p.train.loop import train


def train_seeds(
    config: ml_collections.ConfigDict, workdir: PathLike, seeds: Sequence[int], evals: Sequence[Eval] = ()
) -> dict[str, dict[str, Any]]:
    """Trains in workdir/seed_<k> for each seed and writes workdir/seeds.json: {metric: {"mean", "std", "values"}} of
    the last step's evaluation metrics and training loss; std is that of a sample (n - 1). Finished seeds are not
    trained again."""
    folders = [epath.Path(workdir) / f"seed_{seed}" for seed in seeds]
    for seed, folder in zip(seeds, folders):
        say(f"seed {seed}: {folder}")
        own = copy.deepcopy(config)
        with own.unlocked():
            own.seed = seed
        train(own, folder, evals)
    if jax.process_index() != 0:
        return {}
    results = [_last(folder) for folder in folders]
    report = {name: spread([r[name] for r in results]) for name in results[0] if all(name in r for r in results)}
    write_json(epath.Path(workdir) / "seeds.json", {"seeds": list(seeds), "metrics": report})
    for name, value in report.items():
        say(f"{name}: {value['mean']:.6g} +- {value['std']:.2g} over {len(seeds)} seeds")
    return report


def spread(values: Sequence[float]) -> dict[str, Any]:
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / max(len(values) - 1, 1)
    return {"mean": mean, "std": math.sqrt(variance), "values": list(values)}


def _last(folder: epath.Path) -> dict[str, float]:
    """The newest value of each evaluation metric and of the training loss."""
    found: dict[str, float] = {}
    for record in read_json_lines(folder / "metrics.jsonl"):
        found |= {k: v for k, v in record.items() if v is not None}
    return {k: v for k, v in found.items() if k == "train/loss" or k.split("/")[0] not in ("train", "goodput", "step")}
