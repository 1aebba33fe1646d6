"""Makes the dataclasses of `t2p.types` JAX pytrees. Rooms that use JAX import this module."""

import dataclasses

import jax

from t2p import types

# Fields that are part of the tree's structure rather than leaves.
_STATIC = {types.Tracks: ("space",), types.Camera: ("size",)}


def _register(cls: type) -> None:
    static = _STATIC.get(cls, ())
    data = [f.name for f in dataclasses.fields(cls) if f.name not in static]
    jax.tree_util.register_dataclass(cls, data_fields=data, meta_fields=list(static))


for _cls in (types.Tracks, types.Camera, types.Cloud, types.Batch, types.Prediction, types.Statistics):
    _register(_cls)
