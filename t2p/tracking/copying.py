"""Copies a shard of a dataset beside which new track sets are to be written."""

from __future__ import annotations

import uuid

from etils import epath

from t2p.data.shards import episodes_name, tracks_name
from t2p.data.store import read_manifest
from t2p.io import PathLike, UserError, write_bytes


def copy_shard(source: PathLike, target: PathLike, split: str, shard: int) -> None:
    """Copies one shard with its track sets from dataset `source` to folder `target`, unless it is there or they
    are the same. The episodes' sidecar, which makes the shard count as done, comes last. UserError if `target`
    holds another shard of that name."""
    old, new = epath.Path(source), epath.Path(target)
    if old.resolve() == new.resolve():
        return
    name = episodes_name(split, shard)
    if (new / f"{name}.json").exists():
        if (new / f"{name}.json").read_bytes() != (old / f"{name}.json").read_bytes():
            raise UserError(f"{target} holds other episodes than {source} in {name}; choose another --out")
        return
    sets = read_manifest(source)["splits"][split]["track_sets"]
    for one in [tracks_name(split, shard, s) for s, entries in sets.items() if entries[shard] is not None] + [name]:
        _copy_file(old / f"{one}.array_record", new / f"{one}.array_record")
        write_bytes(new / f"{one}.json", (old / f"{one}.json").read_bytes())


def _copy_file(source: epath.Path, target: epath.Path) -> None:
    """Copies a file so that it appears whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in target.parent.glob(f".{target.name}.*.partial"):
        leftover.unlink(missing_ok=True)
    partial = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.partial"
    source.copy(partial)
    partial.replace(target)
