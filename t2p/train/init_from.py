"""Starting from an earlier checkpoint: which arrays are loaded, which stay fresh, which are held.

    config.init_from.<name> = {"path": DIR, "rules": ((regex, "load" | "fresh" | "freeze"), ...), "statistics": bool}

A name that the stage has among its frozen earlier stages fills variables["frozen"][name]; one that names a part of its
parameters (a key at their top) fills that part and its BatchNorm statistics; any other name fills all of the stage's
own. Of an earlier stage not only the shapes of its arrays must agree but also the settings that stage.builds_on names
(t2p.methods.base.Built). Earlier stages that have no entry come from the checkpoints that were named: from the earlier
stages that those were trained on. "statistics": True takes the limits that the stage normalises with from the
checkpoint (t2p.train.statistics), instead of those of the training data. Rules are tried in order against an array's
whole path within its collection; no rules means that all is loaded. "freeze" loads and holds: no gradient, no optimiser
slot. Layers that the checkpoint keeps apart fill a scanned model (config.scan_layers), and the other way round.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import ml_collections
import numpy as np

from t2p import checkpoint
from t2p.io import UserError
from t2p.train.state import TrainState, Tree, check_rules, first_match, flatten, unflatten

ACTIONS = ("load", "fresh", "freeze")
EVERYTHING = ((".*", "load"),)
# Settings of an earlier stage that change nothing of what its arrays mean (classes: where shapes do not tell).
FREE = ("dropout", "attention_dropout", "mlp_dropout", "classes")


@dataclass(frozen=True)
class Row:
    """One line of the table: where an array comes from."""

    name: str
    path: str
    action: str
    shape: tuple[int, ...]


def held_paths(config: ml_collections.ConfigDict, params: Tree, frozen: Tree) -> frozenset[str]:
    """Paths of the parameters that are not trained: those of optimizer.freeze and of "freeze" rules."""
    paths = list(flatten(params))
    check_rules("optimizer.freeze", config.optimizer.freeze, paths)
    held = {p for p in paths if first_match([(r, True) for r in config.optimizer.freeze], p)}
    for name, entry in config.init_from.items():
        if name not in frozen:
            part = f"{name}/" if name in params else ""
            own = [p for p in paths if p.startswith(part)]
            held |= {p for p in own if first_match(_rules(name, entry), p.removeprefix(part)) == "freeze"}
    if held == set(paths):
        raise UserError("every parameter is frozen: nothing would be trained (optimizer.freeze, init_from rules)")
    return frozenset(held)


def _rules(name: str, entry: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    rules = tuple(tuple(r) for r in entry["rules"]) or EVERYTHING
    for rule in rules:
        if len(rule) != 2 or rule[1] not in ACTIONS:
            raise UserError(f"init_from.{name}.rules has {rule!r}; expected (regex, one of {', '.join(ACTIONS)})")
    return rules


def initialise(
    config: ml_collections.ConfigDict, state: TrainState, builds_on: Mapping[str, Mapping[str, str]]
) -> tuple[TrainState, dict[str, Any], list[Row]]:
    """-> (state with the loaded arrays on the shardings of the fresh ones, where they came from, the table).

    builds_on: the stage's. UserError for arrays of other shapes, and for an earlier stage with other settings."""
    origins: dict[str, Any] = {}
    rows: list[Row] = []
    earlier: dict[str, tuple[Tree, Any]] = {}
    for name, entry in config.init_from.items():
        source, origins[name], built_on = _source(entry)
        earlier |= {k: (source["frozen"][k], built_on.get(k, {})) for k in source.get("frozen", {})}
        if name in state.frozen:
            state, table = _fill_earlier(name, entry, state, source)
            if any(row.action != "fresh" for row in table):
                check_settings(name, config, origins[name], builds_on.get(name, {}))
        elif name in state.params:
            state, table = _fill_part(name, entry, state, source)
        else:
            own = {"params": state.params, "batch_stats": state.batch_stats}
            filled, table = _fill(name, entry, own, source)
            ema = jax.tree.map(lambda x: x.copy(), filled["params"]) if state.ema else {}
            state = state.replace(params=filled["params"], batch_stats=filled["batch_stats"], ema=ema)
        rows += table
    for name in sorted(set(state.frozen) - set(config.init_from)):
        if name not in earlier:
            raise UserError(f"the stage builds on {name!r}: name its checkpoint in config.init_from.{name}")
        inherited, origins[name] = earlier[name]
        state, table = _fill_earlier(name, {"rules": ()}, state, inherited)
        rows += table
    return state, origins, rows


def earlier_alone(config: ml_collections.ConfigDict, name: str, fresh: Tree) -> Tree:
    """The frozen earlier stage `name` as training would begin with it, without the others: from its own entry, or from
    a checkpoint that was built on it. fresh: its arrays, of which shapes and places matter."""
    for own in (True, False):
        for key, entry in config.init_from.items():
            if (key == name) != own or not entry["path"]:
                continue
            found = _source(entry)[0]
            source = found if own else found.get("frozen", {}).get(name)
            if source is not None:
                return _fill(name, entry if own else {"rules": ()}, fresh, source)[0]
    keys = " or ".join(f"--config.init_from.{key}.path=DIR" for key in config.init_from)
    raise UserError(f"no checkpoint with {name!r} is named; give it with {keys or f'init_from.{name} in the config'}")


def _fill_earlier(name: str, entry: Mapping[str, Any], state: TrainState, source: Tree) -> tuple[TrainState, list[Row]]:
    filled, table = _fill(name, entry, state.frozen[name], source)
    return state.replace(frozen={**state.frozen, name: filled}), table


def _fill_part(name: str, entry: Mapping[str, Any], state: TrainState, source: Tree) -> tuple[TrainState, list[Row]]:
    """Of the stage's own parameters those at the key `name`."""
    own = {"params": state.params[name], "batch_stats": state.batch_stats.get(name, {})}
    filled, table = _fill(name, entry, own, source)
    params = {**state.params, name: filled["params"]}
    stats = {**state.batch_stats, name: filled["batch_stats"]} if name in state.batch_stats else state.batch_stats
    ema = {**state.ema, name: jax.tree.map(lambda x: x.copy(), filled["params"])} if state.ema else {}
    return state.replace(params=params, batch_stats=stats, ema=ema), table


def _source(entry: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """-> (variables, where they are from, where its own earlier stages are from); an empty path is a source without
    arrays, for all-fresh rules."""
    if not entry["path"]:
        return {}, {"path": ""}, {}
    variables, meta = checkpoint.load(entry["path"])
    origin = {k: meta.get(k) for k in ("step", "config", "statistics", "git")}
    return variables, {"path": str(entry["path"]), **origin}, meta.get("init_from") or {}


def check_settings(
    name: str, config: ml_collections.ConfigDict, origin: Mapping[str, Any], keys: Mapping[str, str]
) -> None:
    """UserError if a setting of the earlier stage `name` is another here than in its checkpoint: arrays of equal shapes
    can mean other things (levels of codes, heads, masks). origin: where it is from, as `initialise` gives it; keys:
    this config's key of a setting, or of a block of them -> the checkpoint's. Settings that only one of the two has are
    let pass, as are views of other names: only their order must be the same."""
    earlier = origin.get("config") or {}
    for key, theirs in keys.items():
        here, there = _settings(config, key), _settings(earlier, theirs)
        for setting in sorted(here.keys() & there.keys()):
            if not _same(here[setting], there[setting]):
                raise UserError(
                    f"init_from.{name}: {key}{setting} is {here[setting]!r}, and the checkpoint in {origin['path']} "
                    f"was trained with {there[setting]!r}; set --config.{key}{setting}={there[setting]!r}"
                )


def _settings(config: Any, key: str) -> dict[str, Any]:
    """{".a.b": value} of the block at `key`, {"": value} of a single setting, {} if it is not there."""
    for name in key.split("."):
        if name not in config:
            return {}
        config = config[name]
    return dict(_leaves(config, ""))


def _leaves(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, (Mapping, ml_collections.ConfigDict)):
        yield prefix, tuple(value) if isinstance(value, list) else value
        return
    for name in value:
        if name not in FREE:
            yield from _leaves(value[name], f"{prefix}.{name}")


def _same(here: Any, there: Any) -> bool:
    if isinstance(here, tuple) and isinstance(there, tuple) and all(isinstance(name, str) for name in here):
        return here == there or sorted(here) != sorted(there)
    return bool(here == there)


def _fill(name: str, entry: Mapping[str, Any], target: Tree, source: Tree) -> tuple[dict[str, Any], list[Row]]:
    """The target's arrays, each replaced by the source's where its rule says so."""
    rules, rows, filled = _rules(name, entry), [], {}
    within = [p.split("/", 1)[1] for p in flatten(target)]
    check_rules(f"init_from.{name}.rules", [r[0] for r in rules], within)
    found = flatten({k: checkpoint.match_layers(v, target.get(k, {})) for k, v in source.items()})
    for path, leaf in flatten(target).items():
        action = first_match(rules, path.split("/", 1)[1])
        if action is None:
            raise UserError(
                f"init_from.{name}: no rule for {path}; end the rules with ('.*', 'load') or ('.*', 'fresh')"
            )
        rows.append(Row(name, path, action, tuple(leaf.shape)))
        filled[path] = leaf if action == "fresh" else _place(name, path, leaf, found.get(path))
    return {**{k: {} for k in target}, **unflatten(filled)}, rows


def _place(name: str, path: str, leaf: jax.Array, value: np.ndarray | None) -> jax.Array:
    """The loaded value where and as the fresh one lies."""
    if value is None or tuple(value.shape) != tuple(leaf.shape):
        here = "is not in the checkpoint" if value is None else f"has shape {tuple(value.shape)} in the checkpoint"
        collection, _, rest = path.partition("/")
        raise UserError(
            f"init_from.{name}: {path} {here} and shape {tuple(leaf.shape)} in this model; to learn it anew, "
            f"put ({rest!r}, 'fresh') before the other rules ({collection})"
        )
    value = np.asarray(value, leaf.dtype)
    return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: value[index])


def table(rows: Sequence[Row]) -> str:
    """The rows as text, one array a line."""
    width = max((len(r.path) for r in rows), default=0)
    return "\n".join(
        f"init_from.{r.name}: {r.path:{width}s}  {r.action:6s}  {'x'.join(map(str, r.shape))}" for r in rows
    )
