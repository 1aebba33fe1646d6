"""Cached features of a stage's frozen image encoder: writing them, and refusing those of another one."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import ml_collections
import numpy as np
from jax.experimental import multihost_utils

from t2p.data import features
from t2p.data.mixture import open_dataset
from t2p.data.store import Dataset, read_manifest
from t2p.io import UserError
from t2p.methods import language
from t2p.methods.base import Encoder, Stage, Variables
from t2p.methods.registry import make_stage
from t2p.train import init_from
from t2p.train.logging import say
from t2p.train.statistics import with_statistics

_ROWS = 32  # pictures that are encoded at once


@dataclass(frozen=True)
class Job:
    """Features `name` of the splits of a dataset (none named: of all); part: (index, count) of the shards to write."""

    data: str
    name: str
    splits: tuple[str, ...] = ()
    dtype: Literal["float16", "float32"] = "float16"
    part: tuple[int, int] = (0, 1)


def check_features(config: ml_collections.ConfigDict, stage: Stage, frozen: Mapping[str, Any]) -> None:
    """UserError unless every source's features are what the stage's encoder, as it is in `frozen`, would give."""
    if not config.data.features:
        return
    encoder = _encoder(stage)
    here = _jsonable(encoder.key(_to_host(frozen[encoder.name])))
    for name, source in [*config.data.sources.items(), *config.data.validation.items()]:
        if source.fields and not {"images", "features"} & set(source.fields):
            continue
        there = features.FeatureSet(open_dataset(name, source), config.data.features).made.encoder
        if changed := features.differences(there, here):
            raise UserError(
                f"source {name!r}: the features {config.data.features!r} of {source.path} are of another encoder "
                f"({'; '.join(changed)}); make those of this one with t2p cache-features --name OTHER, or set "
                "data.features to '' to encode pictures as they come"
            )


def cache_features(config: ml_collections.ConfigDict, job: Job) -> int:
    """Encodes every frame of a dataset as the config's stage would, shard by shard; those that are done stay.

    -> the number of shards that it wrote. UserError for a stage without a frozen encoder, weights that are not named
    (config.init_from), a dataset that lacks a view, and features of that name that are of another encoder."""
    stage = make_stage(with_statistics(config, blank=True))
    encoder, views = _encoder(stage), stage.window.views
    datasets = [Dataset(job.data, split) for split in job.splits or sorted(read_manifest(job.data)["splits"])]
    for dataset in datasets:
        _check_views(dataset, views)
    own = init_from.earlier_alone(config, encoder.name, encoder.init(jax.random.key(0)))
    made = features.Made(_jsonable(encoder.key(_to_host(own))), views, encoder.shape, job.dtype)
    features.begin(job.data, job.name, made)
    text = _sentence_vectors(config.text, datasets) if encoder.text else {}
    return sum(_cache_split(dataset, job, made, encoder, own, text) for dataset in datasets)


def _sentence_vectors(text: Mapping[str, Any], datasets: Sequence[Dataset]) -> dict[str, np.ndarray]:
    """{sentence: its vector} of all episodes. UserError for one that has several sentences or none: its tokens could
    not be told apart."""
    infos = [(dataset, info) for dataset in datasets for info in dataset.infos]
    for dataset, info in infos:
        if len(info.language) != 1:
            raise UserError(
                f"{dataset.directory}: episode {info.id!r} has {len(info.language)} sentences; features that depend on "
                "the sentence can be cached for episodes with one only"
            )
    return language.embed(text, sorted({info.language[0] for _, info in infos}))


def _cache_split(
    dataset: Dataset,
    job: Job,
    made: features.Made,
    encoder: Encoder,
    own: Variables,
    text: Mapping[str, np.ndarray],
) -> int:
    index, count = job.part
    shards = [k for k in features.pending(dataset, job.name, made) if k % count == index]
    encode = jax.jit(encoder.encode)
    for shard in shards:
        start = time.monotonic()
        episodes = [number for number, info in enumerate(dataset.infos) if info.shard == shard]
        tokens = (
            _encoded(encode, own, dataset.frames(episode, view, range(info.length)), _vector(text, info.language))
            for episode, info in ((number, dataset.infos[number]) for number in episodes)
            for view in made.views
        )
        features.write_features(dataset, job.name, shard, made, tokens)
        say(f"{dataset.split}-{shard:05d}: {len(episodes)} episodes in {time.monotonic() - start:.1f} s")
    return len(shards)


def _vector(text: Mapping[str, np.ndarray], sentences: Sequence[str]) -> np.ndarray | None:
    """[_ROWS, E] of an episode's sentence, None where the encoder takes none."""
    return np.repeat(np.asarray(text[sentences[0]])[None], _ROWS, axis=0) if text else None


def _encoded(encode: Any, own: Variables, frames: np.ndarray, text: np.ndarray | None) -> np.ndarray:
    """[T, H, W, 3] -> [T, P, C] float32, in parts of one shape: a program is compiled once."""
    return np.concatenate([encode(own, part, text)[:count] for part, count in _parts(frames)])


def _parts(frames: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    for start in range(0, len(frames), _ROWS):
        part = frames[start : start + _ROWS]
        yield np.concatenate([part, np.repeat(part[-1:], _ROWS - len(part), axis=0)]), len(part)


def _encoder(stage: Stage) -> Encoder:
    """The stage's frozen image encoder; UserError where it has none."""
    encoder: Encoder | None = getattr(stage, "encoder", None)
    if encoder is None:
        raise UserError("data.features is for stages that see pictures through a frozen network; this stage has none")
    if encoder.trained:
        raise UserError(
            "the stage trains its image encoder (model.images.trained is True); only the tokens of a frozen one can be "
            "cached"
        )
    return encoder


def _check_views(dataset: Dataset, views: Sequence[str]) -> None:
    for info in dataset.infos:
        if missing := [view for view in views if view not in info.views]:
            raise UserError(
                f"{dataset.directory}: episode {info.id!r} has the views {sorted(info.views)}, without {missing} of "
                "the config's window.views"
            )


def _to_host(tree: Any) -> Any:
    """As NumPy arrays, whole on every process."""
    if all(getattr(x, "is_fully_addressable", True) for x in jax.tree.leaves(tree)):
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def _jsonable(key: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(key))
