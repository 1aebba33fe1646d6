"""Which official files can be read: one entry per model, imported when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from t2p.convert.base import Arrays, Constant, Row


@dataclass(frozen=True)
class Converter:
    """What `t2p convert` needs to know of one official model.

    stage: key of methods.registry.STAGES. anchor: an array that each file of it has. settings(arrays, image_size)
    -> the model's settings; rows(settings) -> the table of names; text_width(arrays) -> width of the sentence
    vectors it expects."""

    stage: str
    anchor: str
    settings: Callable[[Arrays, tuple[int, int] | None], dict[str, Any]]
    rows: Callable[[dict[str, Any]], list[Row | Constant]]
    text_width: Callable[[Arrays], int]


def _atm_track_transformer() -> Converter:
    from t2p.convert import atm

    return Converter(
        stage="atm.track_transformer",
        anchor=atm.ANCHOR,
        settings=atm.track_transformer_settings,
        rows=atm.track_transformer_rows,
        text_width=atm.text_width,
    )


CONVERTERS: dict[str, Callable[[], Converter]] = {"atm.track_transformer": _atm_track_transformer}
