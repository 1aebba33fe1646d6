"""The page of all commands, made from their parsers: python -m t2p.cli.reference > docs/commands.md"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from t2p.cli.main import COMMANDS, module_of

HEAD = """# Commands

Made by `python -m t2p.cli.reference` from the commands themselves. `t2p COMMAND --help` prints the same. Settings of a
config (`--config.KEY=VALUE`) are in [training.md](training.md), options of a source's reader (`--source.NAME=VALUE`) in
[data.md](data.md); `python -m launch` has [a page of its own](../launch/README.md). Exit codes of every command: 0
done, 2 what was given is wrong or damaged; others are named where they occur.
"""

# One line each that works as it stands once its inputs are there.
EXAMPLES = {
    "annotate": ("t2p annotate --input my_videos/ --out data/mine --tracker dis --layout atm --size 128 128",),
    "data": (
        "t2p data import --input my_videos/ --out data/mine --size 128 128 --held_out 0.1",
        "t2p data check data/mine",
        "t2p data show data/mine --out mine.png",
    ),
    "collect": ("t2p collect tabletop/block_stack --episodes 20 --out demos",),
    "cache-features": (
        "t2p cache-features --config configs/amplify/forward_dynamics.py:released --data data/libero "
        "--config.init_from.images.path=RESNET",
    ),
    "train": ("t2p train --config configs/threepointr/tracks.py:cpu --workdir runs/tracks",),
    "inspect": ("t2p inspect --config configs/atm/track_transformer.py:paper",),
    "eval": ("t2p eval --checkpoint runs/tracks",),
    "rollout": (
        "t2p rollout --task tabletop/block_stack --checkpoint runs/policy --episodes 200 --out success",
        "t2p rollout --suite libero_object --protocol atm --checkpoint runs/policy --out success",
    ),
    "predict": ('t2p predict --checkpoint runs/mine photo.jpg "push the red square to the left" --out motion.mp4',),
    "convert": ("t2p convert --from atm.track_transformer model_best.ckpt --out checkpoints/atm --text_path bert/",),
    "fetch": ("t2p fetch", "t2p fetch bert-base-cased"),
    "parity": ("t2p parity my_fixture/",),
    "demo": ("t2p demo", "t2p demo tracks --video mine.mp4"),
}


def page() -> str:
    """The whole text."""
    return "\n".join([HEAD, *(line for name in COMMANDS for line in _command(name))])


def _command(name: str) -> Iterator[str]:
    parser = argparse.ArgumentParser(prog=f"t2p {name}", add_help=False)
    module_of(name).add_arguments(parser)
    yield from (f"## t2p {name}", "", _sentence(COMMANDS[name]), "")
    yield from (*(f"    {line}" for line in EXAMPLES[name]), "")
    yield from _options(parser)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help for choice in action._choices_actions}
            for choice, inner in action.choices.items():
                yield from (f"### t2p {name} {choice}", "", _sentence(str(helps[choice])), "", *_options(inner))


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    rows = [_row(action) for action in parser._actions if _shown(action)]
    if rows:
        yield from ("| option | what |", "|---|---|", *rows, "")


def _shown(action: argparse.Action) -> bool:
    hidden = isinstance(action, (argparse._HelpAction, argparse._SubParsersAction))
    return not hidden and action.help != argparse.SUPPRESS


def _row(action: argparse.Action) -> str:
    name = ", ".join(action.option_strings) or str(action.metavar or action.dest)
    values = " ".join(action.metavar) if isinstance(action.metavar, tuple) else action.metavar or ""
    if action.choices:
        values = " or ".join(map(str, action.choices))
    if not action.option_strings:
        values = "" if values == name else values
    what = [action.help % vars(action) if action.help else ""]
    what += ["required"] if action.required and action.option_strings else []
    if action.default not in (None, "", False, argparse.SUPPRESS) and "default" not in what[0] and not action.required:
        what.append(f"(default: {action.default})" if not isinstance(action.default, list) else "repeatable")
    text = "; ".join(part for part in what if part).replace("; (", " (").replace("|", "\\|")
    return f"| `{' '.join([name, values]).strip()}` | {text} |".replace("`|", "` |")


if __name__ == "__main__":
    print(page().rstrip())
