"""The vocabulary that all rooms share: plain frozen dataclasses with NumPy or JAX arrays inside.

Axis letters: B batch, T track time steps, To observation time steps, N points, V views, H, W image
height and width, A action dimension, E text embedding width. Coordinates of image tracks are (x, y),
x right, y down, in units of the image's width and height: 0 is the left (top) edge and 1 the right
(bottom) edge, so pixel i has its centre at (i + 0.5) / size. No JAX is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np

Array = Any  # np.ndarray or jax.Array

Space = Literal["image", "image_depth", "camera"]
Layout = Literal["global", "window"]
Padding = Literal["repeat", "zero"]

# The view name under which a batch carries images and tracks when each example shows one view of several.
ANY_VIEW = "any"


@dataclass(frozen=True)
class Tracks:
    """Point tracks, time-major.

    points:  [..., T, N, D] float32. D = 2 (x, y) in [0, 1] for space "image"; D = 3 (x, y in [0, 1], depth
             in metres) for "image_depth"; D = 3 metres in the OpenCV camera frame for "camera".
    visible: [..., T, N] bool.
    queries: [..., N, 3] float32, (t in frames, x, y in [0, 1]), or None where the queries are not known.
    valid:   [..., T] bool, False on steps that pad a window past its episode's end, or None: all are real.
    """

    points: Array
    visible: Array
    queries: Array | None = None
    valid: Array | None = None
    space: Space = "image"

    def replace(self, **changes: Any) -> Tracks:
        return replace(self, **changes)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera. K: [3, 3] in pixels of an image of `size` = (height, width), raster convention (the
    first pixel's centre is at 0.5); T_base_cam: [4, 4], camera frame (OpenCV) to robot base, metres."""

    K: Array
    T_base_cam: Array
    size: tuple[int, int]


@dataclass(frozen=True)
class TrackSet:
    """The tracks of one view of one episode as they are stored, with where they came from.

    layout "global": points [T, N, D], visible [T, N]: each point followed through the whole episode.
    layout "window": points [T, h, N, D], visible [T, h, N]: queries restarted at each frame t and followed
    over t .. t + h - 1 (the last frame repeated past the end).
    queries: [N, 3] (t in frames, x, y); for "window", t counts from the window's start.
    """

    layout: Layout
    points: np.ndarray
    visible: np.ndarray
    queries: np.ndarray
    tracker: str
    version: str
    space: Space = "image"


@dataclass(frozen=True)
class Episode:
    """One recording of T frames, in memory.

    id: unique in its dataset. frames: {view: [T, H, W, 3] uint8, row 0 on top}. columns: numeric columns, one
    row per frame: "actions" [T, A], "proprio/<name>" [T, d], any other name. language: instruction
    sentences (may be empty). tracks: {set name: {view: TrackSet}}. info: JSON-able facts (task, split keys).
    """

    id: str
    fps: float
    frames: Mapping[str, np.ndarray]
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    language: tuple[str, ...] = ()
    cameras: Mapping[str, Camera] = field(default_factory=dict)
    tracks: Mapping[str, Mapping[str, TrackSet]] = field(default_factory=dict)
    source: str = ""
    task: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def length(self) -> int:
        return len(next(iter(self.frames.values())))


@dataclass(frozen=True)
class Cloud:
    """A point cloud in a camera's frame. points: [..., N, 3] float32, metres (OpenCV frame); colors: [..., N, 3] uint8;
    valid: [..., N] bool, False on points that only fill up the array."""

    points: Array
    colors: Array
    valid: Array


@dataclass(frozen=True)
class Batch:
    """What a Stage sees. Any field may be absent (None or empty).

    images: {view: uint8 [B, To, H, W, 3]}; clean: the same before augmentation, where a window asks for them; features:
    {view: [B, To, P, C]}, what a frozen network makes of each picture, read instead of computed; depth: {view: float32
    [B, To, H, W], metres}; cloud: of the first frame, in the first view's camera; goal: {view: uint8 [B, H, W, 3]};
    tracks: {set name: {view: Tracks [B, T, N, D]}}; text: [B, E] float32; proprio: {name: [B, To, d]}; actions: [B, Ha,
    A] with action_valid [B, Ha] bool; cameras: {view: (K [B, 3, 3], T_base_cam [B, 4, 4])}; has: {field: bool [B]},
    False where a mixture's source lacks the field (then zeros stand there); index: [B] int64, the global position of
    each example; mask: [B] bool, False on rows that only fill up the last batch of an evaluation.
    """

    images: Mapping[str, Array] = field(default_factory=dict)
    clean: Mapping[str, Array] = field(default_factory=dict)
    features: Mapping[str, Array] = field(default_factory=dict)
    depth: Mapping[str, Array] = field(default_factory=dict)
    cloud: Cloud | None = None
    goal: Mapping[str, Array] = field(default_factory=dict)
    tracks: Mapping[str, Mapping[str, Tracks]] = field(default_factory=dict)
    text: Array | None = None
    proprio: Mapping[str, Array] = field(default_factory=dict)
    actions: Array | None = None
    action_valid: Array | None = None
    cameras: Mapping[str, Any] = field(default_factory=dict)
    has: Mapping[str, Array] = field(default_factory=dict)
    index: Array | None = None
    mask: Array | None = None

    def replace(self, **changes: Any) -> Batch:
        return replace(self, **changes)


Observation = Batch  # a Batch without targets, To = 1: what a Policy sees of E environments (the batch axis)


@dataclass(frozen=True)
class FieldWindow:
    """Which frames of an episode one field of an example takes.

    offsets: frames relative to the window's start (negative: before it), or "last" (the episode's last
    frame) or "goal" (the last frame of the row's own span). pad: what stands where an offset leaves the episode.
    """

    offsets: tuple[int | Literal["last", "goal"], ...]
    pad: Padding = "repeat"


@dataclass(frozen=True)
class WindowSpec:
    """What a Stage wants of every example; the pipeline cuts it from episodes.

    Windows start at every real frame of an episode; with `whole` there is one per episode, at its first frame.
    clean: examples carry their pictures as they are, too, beside the augmented ones. one_view: each (episode, start,
    view) is an example of its own and the batch carries it as ANY_VIEW. track_set, feature_set: the names of what
    `tracks` and `features` take. num_points: so many tracks are drawn uniformly among those visible at the window's
    start (None: all, in stored order), with replacement or, where there are enough, without.
    track_clamp: cut tracks off at the borders of AMPLIFY's pictures of (H, W), as its release does before it resamples
    (t2p.geometry.conventions.clamp_amplify). track_steps: resample the window's tracks in time to so many steps (None:
    as they are), by track_method.
    cameras: the views' intrinsics and poses.

    What of the data's shapes the stage counts on, so that a batch can be told without data: image_size: (H, W) of the
    pictures; points: in the track set, where all are taken; feature_shape: (P, C) of a frame's features; space: of the
    tracks; widths: {column: numbers}, "actions" and "proprio/<name>".
    """

    views: tuple[str, ...]
    one_view: bool = False
    whole: bool = False
    images: FieldWindow | None = None
    clean: bool = False
    features: FieldWindow | None = None
    feature_set: str | None = None
    goal: FieldWindow | None = None
    track_set: str | None = None
    tracks: FieldWindow | None = None
    num_points: int | None = None
    replacement: bool = True
    track_clamp: tuple[int, int] | None = None
    track_steps: int | None = None
    track_method: Literal["linear", "spline"] = "linear"
    actions: FieldWindow | None = None
    proprio: FieldWindow | None = None
    proprio_keys: tuple[str, ...] = ()
    text: bool = False
    cameras: bool = False
    image_size: tuple[int, int] | None = None
    points: int | None = None
    feature_shape: tuple[int, int] | None = None
    space: Space = "image"
    widths: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Statistics:
    """Statistics of one numeric column over all frames of a dataset's split; arrays are [d] float64."""

    count: int
    mean: Array
    std: Array
    min: Array
    max: Array
    q01: Array
    q99: Array


@dataclass(frozen=True)
class Prediction:
    """What a Stage predicts. tracks: Tracks or None; actions: [B, Ha, A] or None; aux: named intermediates."""

    tracks: Tracks | None = None
    actions: Array | None = None
    aux: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class InitialState:
    """Where an episode starts. time: seconds; qpos: [nq]; qvel: [nv]; body_pos: [nbody, 3] and body_quat: [nbody, 4]
    (w, x, y, z), each body's frame in its parent's: fixtures' poses are fields of the model, not of the state."""

    time: float
    qpos: np.ndarray
    qvel: np.ndarray
    body_pos: np.ndarray
    body_quat: np.ndarray


ActionKind = Literal["setpoint_pose", "osc_delta"]


@dataclass(frozen=True)
class ActionSpec:
    """What one action of a policy means.

    "setpoint_pose" [10]: the tool's position (m), 6D rotation (first two columns) and gripper (0 open, 1 closed),
    held until it has settled. "osc_delta" [7] in [-1, 1]: relative motion at 20 Hz and gripper (-1 opens, 1 closes).
    frame: in which positions and axes are given; "base": the robot's base."""

    kind: ActionKind
    dim: int
    frame: Literal["base"] = "base"


@dataclass(frozen=True)
class Observe:
    """What is observed beside proprioception and cameras.

    images, depth: names of views. size: (H, W) in pixels. cloud: so many points (0: none) on the task's kept bodies,
    from the first view's depth: a random subset, filled up with valid = False where there are fewer. floor: whether
    points of the world body (the floor) are among them, if the task keeps them at all. every_step: False takes
    pictures and clouds at resets only; then the old ones stay. goal: observations carry a goal's pictures."""

    images: tuple[str, ...] = ()
    depth: tuple[str, ...] = ()
    size: tuple[int, int] = (128, 128)
    cloud: int = 0
    floor: bool = True
    every_step: bool = True
    goal: bool = False


@dataclass(frozen=True)
class StepResult:
    """One policy step of E environments. obs: what they see after it; success, failed: [E] bool (failed: the physics
    came apart; the environment then rests until it is reset); sim_time: [E] float64, seconds since each reset."""

    obs: Observation
    success: np.ndarray
    failed: np.ndarray
    sim_time: np.ndarray


class DepthSource(Protocol):
    """Metric depth of a video."""

    def depth(self, episode_id: str, view: str, size: tuple[int, int]) -> np.ndarray:
        """-> [T, H, W] float32 metres at `size` = (H, W); NaN where unknown."""
        ...


class MaskSource(Protocol):
    """Pixels of the embodiment (robot, hand), whose points are not to be learned from."""

    def mask(self, episode_id: str, view: str, size: tuple[int, int]) -> np.ndarray:
        """-> [T, H, W] bool at `size` = (H, W), True on the embodiment."""
        ...
