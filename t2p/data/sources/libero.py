"""LIBERO's demonstrations: one HDF5 file per task, as its scripts/create_dataset.py writes them.

<task>_demo.hdf5: data/demo_k/{actions [T, 7], states [T, 1 + nq + nv], obs/{<view>_rgb [T, H, W, 3], <state> [T, d]}},
attributes model_file (MJCF) and init_state of each demo, bddl_file_name and bddl_file_content of all. Row t holds the
simulator's state BEFORE action t and what was observed AFTER it, when the actions were played back. Pictures are stored
as OpenGL gives them, upside down. AMPLIFY also wants text_emb at the root, which stock files lack.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args
from xml.etree import ElementTree

import numpy as np

from t2p.data.sources import SourceError
from t2p.data.sources.decode import MAX_BYTES, Size, natural, resize
from t2p.data.sources.external import files_below, hdf5, libero_sentence, numeric
from t2p.io import PathLike, UserError
from t2p.types import Episode

FPS = 20.0  # LIBERO's control rate
LAYOUT = "data/demo_k/{actions [T,d], obs/{<view>_rgb [T,H,W,3], <state> [T,d]}}"
Sentence = Literal["file", "bddl"]
Align = Literal["stored", "causal"]
_FLIPPED = {"opengl": True, "opencv": False}  # macros_image_convention: whether row 0 is the bottom


class LiberoSource:
    """Keys: <file below `path`, without suffix>/demo_k.

    views: only these cameras. language: the sentence in the file's name, as policies are judged by, or the one in the
    BDDL file; they differ in 29 of the 130 tasks. align: "stored" takes the rows as they are, as ATM's and AMPLIFY's
    loaders do: frame t is beside the action that led to it and states[t] is one step older; "causal" puts what was seen
    in row t - 1 beside row t's state and action, which follows it (one row less).
    """

    def __init__(
        self,
        path: PathLike,
        *,
        views: Sequence[str] = (),
        size: Size | None = None,
        language: Sentence = "file",
        align: Align = "stored",
    ):
        for name, value, known in (("language", language, get_args(Sentence)), ("align", align, get_args(Align))):
            if value not in known:
                raise UserError(f"{name} is {value!r}; expected {' or '.join(known)}")
        self.views, self.size, self.language, self.align = tuple(views), size, language, align
        files = files_below(path, (".hdf5",), "LIBERO's <task>_demo.hdf5")
        self._demos = {key: place for stem, file in files.items() for key, place in _places(stem, file).items()}

    def keys(self) -> list[str]:
        return list(self._demos)

    def read(self, key: str) -> Episode:
        """One demonstration: see `read_demo`. Raises SourceError."""
        file, demo = self._demos[key]
        return read_demo(key, file, demo, views=self.views, size=self.size, language=self.language, align=self.align)


def _places(stem: str, file: Path) -> dict[str, tuple[Path, str]]:
    """{key: (file, demo)} of a file; one that cannot be listed has one key, whose reading says why."""
    try:
        with hdf5(stem, file, LAYOUT) as f:
            names = sorted(f["data"].keys(), key=natural)
    except SourceError:
        names = []
    return {f"{stem}/{name}": (file, name) for name in names} or {stem: (file, "")}


def read_demo(
    key: str,
    file: Path,
    demo: str,
    *,
    views: Sequence[str] = (),
    size: Size | None = None,
    language: Sentence = "file",
    align: Align = "stored",
) -> Episode:
    """A demonstration, upright: frames of all its cameras (or `views`); columns "actions", "proprio/<state>" of all
    vectors observed and, in float64, "states" (time, qpos, qvel); what its scene needs under info["libero"]. Only this
    demonstration is read. Raises SourceError."""
    with hdf5(key, file, LAYOUT) as f:
        data = f["data"]
        if not demo or not hasattr(data, "keys"):
            raise SourceError(key, f"{file.name} holds no demonstrations; the layout is {LAYOUT}")
        rows = _Rows(key, data[demo], align)
        frames = _frames(rows, _flipped(key, data.attrs), views)
        columns = _columns(rows)
        info: dict[str, Any] = {"libero": _scene(key, file, demo, data, align)}
        if "text_emb" in f:
            info["text_emb"] = numeric(f["text_emb"][()]).ravel().tolist()
        sentence = libero_sentence(file.stem) if language == "file" else _bddl_sentence(key, data.attrs)
    small = {view: np.ascontiguousarray(resize(video, size)) for view, video in frames.items()}
    return Episode(key, FPS, small, columns, (sentence,), source="libero", task=info["libero"]["task"], info=info)


class _Rows:
    """The arrays of one demonstration, checked to have as many rows as there are actions."""

    def __init__(self, key: str, demo: Any, align: Align):
        self.key, self.demo, self.obs = key, demo, demo["obs"]
        self.length = len(demo["actions"])
        shift = int(align == "causal")
        if self.length <= shift:
            raise SourceError(key, f"it has {self.length} rows; align={align!r} needs {shift + 1}")
        self._before, self._after = slice(shift, None), slice(self.length - shift)

    def acted(self, name: str) -> np.ndarray:
        """demo/<name> [T, d], of the moment at which the action starts."""
        return self._read(name, self.demo[name], 2, self._before)

    def observed(self, name: str, ndim: int) -> np.ndarray:
        """obs/<name>, of the moment at which the action has ended."""
        return self._read(f"obs/{name}", self.obs[name], ndim, self._after)

    def names(self, ndim: int) -> list[str]:
        """What of the observed is an array of so many axes."""
        return [name for name, array in self.obs.items() if getattr(array, "ndim", 0) == ndim]

    def _read(self, name: str, array: Any, ndim: int, rows: slice) -> np.ndarray:
        shape: tuple[int, ...] = getattr(array, "shape", ())
        if len(shape) != ndim or shape[0] != self.length:
            raise SourceError(self.key, f"{name} is {list(shape)}; expected {ndim} axes, the first {self.length} long")
        if array.nbytes > MAX_BYTES:  # a size that a damaged file claims is not believed
            raise SourceError(self.key, f"{name} is {list(shape)}: {array.nbytes / 2**30:.0f} GiB, at most 4 are read")
        return array[rows]


def _flipped(key: str, attributes: Mapping[str, Any]) -> bool:
    convention = _text(attributes.get("macros_image_convention", "opengl"))
    if convention not in _FLIPPED:
        raise SourceError(key, f"macros_image_convention is {convention!r}; expected {' or '.join(_FLIPPED)}")
    return _FLIPPED[convention]


def _frames(rows: _Rows, flipped: bool, views: Sequence[str]) -> dict[str, np.ndarray]:
    """{view: uint8 [T, H, W, 3], row 0 on top}."""
    there = [name.removesuffix("_rgb") for name in rows.names(4) if name.endswith("_rgb")]
    if not there:
        raise SourceError(rows.key, f"it has no cameras; the layout is {LAYOUT}")
    if missing := [view for view in views if view not in there]:
        raise SourceError(rows.key, f"it has no camera {missing[0]!r}; it has {', '.join(there)}")
    frames = {}
    for view in views or there:
        video = rows.observed(f"{view}_rgb", 4)
        if video.dtype != np.uint8 or video.shape[-1] != 3:
            raise SourceError(rows.key, f"obs/{view}_rgb must be uint8 [T, H, W, 3], got {video.dtype} {video.shape}")
        frames[view] = video[:, ::-1] if flipped else video
    return frames


def _columns(rows: _Rows) -> dict[str, np.ndarray]:
    columns = {"actions": numeric(rows.acted("actions"))}
    columns |= {f"proprio/{name}": numeric(rows.observed(name, 2)) for name in rows.names(2)}
    if "states" in rows.demo:
        columns["states"] = rows.acted("states").astype(np.float64)
    return columns


def _scene(key: str, file: Path, demo: str, data: Any, align: Align) -> dict[str, Any]:
    """What rebuilds the scene: task (<suite>/<name> where the suite is known), demo, and where the file has them
    init_state [1 + nq + nv] and the fixtures' poses, which are no part of a state."""
    bddl = Path(_text(data.attrs.get("bddl_file_name", "")).replace("\\", "/"))
    suite = next((name for name in (bddl.parent.name, file.parent.name) if name.startswith("libero_")), "")
    facts: dict[str, Any] = {"task": f"{suite}/{file.stem.removesuffix('_demo')}".lstrip("/")}
    facts |= {"demo": demo, "align": align}
    attributes = data[demo].attrs
    if "init_state" in attributes:
        facts["init_state"] = np.asarray(attributes["init_state"], np.float64).ravel().tolist()
    if "model_file" in attributes:
        facts["fixtures"] = fixture_poses(key, _text(attributes["model_file"]))
    return facts


def fixture_poses(key: str, model_file: str) -> dict[str, dict[str, list[float]]]:
    """{body: {"pos": [3], "quat": [4] (w, x, y, z)}} of the fixtures in a demonstration's compiled MJCF: the bodies
    <instance>_main of the world that have no free joint. MuJoCo writes six digits."""
    try:
        world = ElementTree.fromstring(model_file).find("worldbody")
    except ElementTree.ParseError as e:
        raise SourceError(key, f"its model_file is no XML ({e})") from e
    bodies = [] if world is None else world.findall("body")
    fixtures = (b for b in bodies if b.get("name", "").endswith("_main") and not _is_free(b))
    return {
        b.get("name", ""): {"pos": _floats(b, "pos", "0 0 0"), "quat": _floats(b, "quat", "1 0 0 0")} for b in fixtures
    }


def _is_free(body: ElementTree.Element) -> bool:
    return body.find("freejoint") is not None or any(j.get("type") == "free" for j in body.findall("joint"))


def _floats(body: ElementTree.Element, name: str, default: str) -> list[float]:
    return [float(number) for number in body.get(name, default).split()]


def _bddl_sentence(key: str, attributes: Mapping[str, Any]) -> str:
    """(:language ...) of the BDDL file in the attributes, lower-case; its comments run from ; to the line's end."""
    text = re.sub(r";[^\n]*", "", _text(attributes.get("bddl_file_content", ""))).lower()
    found = re.search(r"\(\s*:language\s([^()]*)\)", text)
    if found is None:
        raise SourceError(key, "its attribute bddl_file_content has no (:language ...); use language='file'")
    return " ".join(found[1].split())


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
