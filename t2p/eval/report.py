"""Self-contained HTML reports: text, tables, curves and clips in one file that opens without a network."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from t2p.io import PathLike, write_bytes

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #1c2430; }
h1 { font-size: 1.6rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; margin: .8rem 0 } td, th { padding: .25rem .8rem; text-align: right;
border-bottom: 1px solid #dde2ea } td:first-child, th:first-child { text-align: left }
th { color: #5a6575; font-weight: 600 }
figure { display: inline-block; margin: .5rem 1rem .5rem 0; vertical-align: top } figcaption { max-width: 34rem;
font-size: .85rem; color: #5a6575 } p.note { color: #5a6575 } video, img { max-width: 100% }
"""


def number(value: Any) -> str:
    """A table cell: floats with four significant digits, everything else as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.floating):
        return html.escape(str(value))
    if isinstance(value, int) or not np.isfinite(value):
        return str(value)
    return f"{value:.4g}"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """An HTML table; the first column names the row."""
    cells = "".join(f"<th>{html.escape(h)}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{number(v)}</td>" for v in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]], xlabel: str, ylabel: str, *, log: bool = False
) -> str:
    """{label: (x, y)} as an inline SVG figure; many labels stand below it, where they hide nothing."""
    below = len(series) > 3
    figure, axes = _axes(3.6 + (0.24 * -(-len(series) // 2) if below else 0))
    for label, (x, y) in series.items():
        axes.plot(x, y, label=label, linewidth=1.6)
    axes.set(xlabel=xlabel, ylabel=ylabel, yscale="log" if log else "linear")
    axes.grid(alpha=0.25)
    if below:
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    else:
        axes.legend(frameon=False)
    return _svg(figure)


def bars(
    rates: Mapping[str, tuple[float, float, float]], xlabel: str, dots: Mapping[str, Sequence[float]] | None = None
) -> str:
    """{label: (rate, low, high)} in [0, 1] as horizontal bars with intervals, an inline SVG figure. dots: single values
    that are drawn over the bars of these labels."""
    figure, axes = _axes(0.9 + 0.45 * len(rates))
    for row, (label, (rate, low, high)) in enumerate(rates.items()):
        axes.barh(row, rate, height=0.6, color="#8fb4dd")
        axes.plot([low, high], [row, row], color="#1c2430", linewidth=1.4, marker="|", markersize=9)
        single = (dots or {}).get(label, ())
        axes.plot(single, [row] * len(single), "o", color="#c0392b", markersize=5, alpha=0.8)
    axes.set(xlabel=xlabel, xlim=(0, 1.02), yticks=range(len(rates)), yticklabels=list(rates))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.invert_yaxis()
    axes.grid(alpha=0.25, axis="x")
    return _svg(figure)


def _axes(height: float) -> tuple[Any, Any]:
    """A figure of this height in inches, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, height), layout="constrained")
    return figure, figure.add_subplot()


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    svg = buffer.getvalue()
    return f"<figure>{svg[svg.index('<svg') :]}</figure>"


def image(png: bytes, caption: str = "") -> str:
    """A PNG picture, embedded."""
    data = base64.b64encode(png).decode()
    return f'<figure><img src="data:image/png;base64,{data}"><figcaption>{html.escape(caption)}</figcaption></figure>'


def video(mp4: bytes, caption: str = "", width: int = 560) -> str:
    """An H.264 clip, embedded, looping."""
    data = base64.b64encode(mp4).decode()
    return (
        f'<figure><video width="{width}" autoplay loop muted playsinline controls '
        f'src="data:video/mp4;base64,{data}"></video><figcaption>{html.escape(caption)}</figcaption></figure>'
    )


def bullets(lines: Sequence[str]) -> str:
    """Lines of plain text, one under the other."""
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"


def departures(config: Mapping[str, Any]) -> str:
    """Where the settings depart from what was published, as the config says; "" where they do not."""
    found = tuple(config.get("departures", ()))
    return paragraph("Settings depart from what was published:") + bullets(found) if found else ""


def paragraph(text: str) -> str:
    """A line of plain text."""
    return f'<p class="note">{html.escape(text)}</p>'


def section(title: str, *parts: str) -> str:
    """A heading and what stands under it (HTML parts from the functions above)."""
    return f"<h2>{html.escape(title)}</h2>" + "".join(parts)


def write_report(path: PathLike, title: str, sections: Sequence[str]) -> Path:
    """Writes the page whole or not at all; returns its path."""
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{html.escape(title)}</h1>{''.join(sections)}</body></html>"
    )
    write_bytes(path, page.encode())
    return Path(path)
