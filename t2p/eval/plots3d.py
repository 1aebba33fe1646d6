"""Tracks in space as plots that can be turned, for reports; the library that draws them is embedded, once a page."""

from __future__ import annotations

import html
from collections.abc import Mapping

import numpy as np

from t2p.geometry.cameras import transform_points

# The pose of a camera (x right, y down, z forward) that looks straight ahead, in axes whose z is up: [4, 4].
LEVEL = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
COLORS = ("#1f77b4", "#d95f02", "#7570b3")
LINES = 200  # tracks at most in a plot


def library() -> str:
    """What a page with plots needs before the first of them."""
    from plotly.offline import get_plotlyjs

    return f"<script>{get_plotlyjs()}</script>"


def tracks(named: Mapping[str, np.ndarray], caption: str, pose: np.ndarray = LEVEL, points: int = LINES) -> str:
    """{name: tracks [T, N, 3] in metres, camera frame} of the same points: a line each, a dot where each one ends.

    pose: [4, 4] of the camera in a frame whose z is up, such as T_base_cam: the plot's axes; it is first seen about as
    the camera sees. At most `points` of the points are drawn, evenly spread. Needs `library` on the page."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for (name, value), color in zip(named.items(), COLORS, strict=False):
        chosen = np.unique(np.linspace(0, value.shape[1] - 1, points).astype(int))
        turned = np.round(1000 * transform_points(pose, np.asarray(value, np.float64)[:, chosen]), 1)  # millimetres
        lines = np.full((len(chosen), len(turned) + 1, 3), np.nan)  # a gap after each line
        lines[:, :-1] = turned.swapaxes(0, 1)
        x, y, z = lines.reshape(-1, 3).T.astype(np.float32)
        figure.add_scatter3d(x=x, y=y, z=z, mode="lines", name=name, line={"color": color, "width": 3})
        x, y, z = turned[-1].T.astype(np.float32)
        marker = {"color": color, "size": 2.5}
        figure.add_scatter3d(x=x, y=y, z=z, mode="markers", marker=marker, name=f"{name}: at the end")
    eye = 2.2 * (-pose[:3, 2] + 0.25 * pose[:3, 1])  # somewhat below the camera: z stays up even from above
    axes = {f"{axis}axis": {"title": {"text": f"{axis}, mm"}} for axis in "xyz"}
    figure.update_layout(
        width=560,
        height=460,
        margin={"l": 0, "r": 0, "t": 10, "b": 0},
        legend={"orientation": "h", "y": 0},
        scene={"aspectmode": "data", "camera": {"eye": dict(zip("xyz", eye.tolist()))}, **axes},
    )
    plot = figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False})
    return f"<figure>{plot}<figcaption>{html.escape(caption)}</figcaption></figure>"
