"""How the synthetic shapes move: twelve programs, each a velocity field over what one frame shows.

A shape's pose is (x, y, angle, radius). Lengths are in units of the image's shorter side, y down, angles in
radians, clockwise on the screen; time is in frames. A program gives the pose's rate of change from the pose
alone, so that the future follows from a single frame and a sentence. The sentence names a program and a manner
(MANNERS); a shape's colour and outline say how fast it follows, green ones not at all (COLOR_PACE, SHAPE_PACE).
No program moves at constant velocity: positions speed up, slow down or turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Pose = tuple[float, float, float, float]
Extent = tuple[float, float]  # (width, height) of the frame in units of the shorter side

# Factors on a program's rate.
MANNERS = {"gently": 0.75, "quickly": 1.15}
COLOR_PACE = {"red": 1.3, "blue": 0.45, "green": 0.0}
SHAPE_PACE = {"circle": 1.15, "star": 1.0, "triangle": 0.9, "square": 0.8}

SUBSTEPS = 4  # Runge-Kutta steps per frame
MARGIN = 0.14  # shapes come to rest with their centre this share of the frame from its edge


@dataclass(frozen=True)
class Program:
    """phrase: what the sentence says. rate: (pose, extent) -> d pose / d frame."""

    phrase: str
    rate: Callable[[Pose, Extent], Pose]


def _progress(position: float, extent: float) -> float:
    """0 at the near margin, 1 at the far one."""
    return (position - MARGIN * extent) / ((1 - 2 * MARGIN) * extent)


def _speed_up_then_stop(done: float) -> float:
    """Logistic growth of progress: slow, fast, at rest on arrival."""
    return 0.26 * (done + 0.1) * max(1 - done, 0.0)


def _right(pose: Pose, extent: Extent) -> Pose:
    return (_speed_up_then_stop(_progress(pose[0], extent[0])) * extent[0], 0.0, 0.0, 0.0)


def _left(pose: Pose, extent: Extent) -> Pose:
    return (-_speed_up_then_stop(1 - _progress(pose[0], extent[0])) * extent[0], 0.0, 0.0, 0.0)


def _lift(pose: Pose, extent: Extent) -> Pose:
    """Fast at first, easing to rest at the top."""
    return (0.0, -0.13 * max(_progress(pose[1], extent[1]), 0.0) * extent[1], 0.0, 0.0)


def _drop(pose: Pose, extent: Extent) -> Pose:
    """Free fall from just above the top margin: speed is the square root of the height fallen; stopped by the floor."""
    fallen = _progress(pose[1], extent[1])
    brake = min(max((1 - fallen) / 0.1, 0.0), 1.0)
    return (0.0, 0.09 * math.sqrt(max(fallen, 0.0) + 0.04) * brake * extent[1], 0.0, 0.0)


def _from_middle(pose: Pose, extent: Extent) -> tuple[float, float]:
    return pose[0] - extent[0] / 2, pose[1] - extent[1] / 2


def _gather(pose: Pose, extent: Extent) -> Pose:
    x, y = _from_middle(pose, extent)
    return (-0.14 * x, -0.14 * y, 0.0, 0.0)


def _scatter(pose: Pose, extent: Extent) -> Pose:
    """Away from the middle, ever faster, to rest on a ring."""
    x, y = _from_middle(pose, extent)
    growth = 0.24 * max(1 - math.hypot(x, y) / 0.42, 0.0)
    return (growth * x, growth * y, 0.0, 0.0)


def _orbit(pose: Pose, extent: Extent, rate: float) -> Pose:
    """Around the middle as if on a turntable."""
    x, y = _from_middle(pose, extent)
    return (-rate * y, rate * x, rate, 0.0)


def _clockwise(pose: Pose, extent: Extent) -> Pose:
    return _orbit(pose, extent, 0.085)


def _anticlockwise(pose: Pose, extent: Extent) -> Pose:
    return _orbit(pose, extent, -0.085)


def _wave(pose: Pose, extent: Extent, direction: int) -> Pose:
    """Sideways along a sine wave that is fixed in the picture."""
    done = _progress(pose[0], extent[0])
    left_over = 1 - done if direction > 0 else done
    speed = 0.032 * direction * min(max(left_over / 0.1, 0.0), 1.0)
    return (speed, -speed * 1.3 * math.cos(2 * math.pi * pose[0] / 0.4), 0.0, 0.0)


def _weave_left(pose: Pose, extent: Extent) -> Pose:
    return _wave(pose, extent, -1)


def _weave_right(pose: Pose, extent: Extent) -> Pose:
    return _wave(pose, extent, 1)


def _spin(pose: Pose, extent: Extent) -> Pose:
    return (0.0, 0.0, 0.14, 0.0)


def _unspin(pose: Pose, extent: Extent) -> Pose:
    return (0.0, 0.0, -0.14, 0.0)


PROGRAMS = {
    "left": Program("push the shapes to the left", _left),
    "right": Program("push the shapes to the right", _right),
    "lift": Program("lift the shapes to the top", _lift),
    "drop": Program("drop the shapes to the floor", _drop),
    "gather": Program("gather the shapes in the middle", _gather),
    "scatter": Program("scatter the shapes away from the middle", _scatter),
    "clockwise": Program("carry the shapes clockwise", _clockwise),
    "anticlockwise": Program("carry the shapes anticlockwise", _anticlockwise),
    "weave left": Program("weave the shapes leftwards", _weave_left),
    "weave right": Program("weave the shapes rightwards", _weave_right),
    "spin": Program("spin the shapes", _spin),
    "spin back": Program("spin the shapes backwards", _unspin),
}


def sentence(program: str, manner: str) -> str:
    """The instruction, for example "gently push the shapes to the left"."""
    return f"{manner} {PROGRAMS[program].phrase}"


def pace(shape: str, color: str, manner: str) -> float:
    """The factor on a program's rate for one shape."""
    return SHAPE_PACE[shape] * COLOR_PACE[color] * MANNERS[manner]


def advance(pose: Pose, program: str, pace: float, extent: Extent) -> Pose:
    """The pose one frame later (fourth-order Runge-Kutta). pace: factor on the program's rate."""
    rate = PROGRAMS[program].rate
    step = pace / SUBSTEPS
    for _ in range(SUBSTEPS):
        k1 = rate(pose, extent)
        k2 = rate(_shift(pose, k1, step / 2), extent)
        k3 = rate(_shift(pose, k2, step / 2), extent)
        k4 = rate(_shift(pose, k3, step), extent)
        for k, weight in ((k1, 1), (k2, 2), (k3, 2), (k4, 1)):
            pose = _shift(pose, k, step * weight / 6)
    return pose


def _shift(pose: Pose, rate: Pose, step: float) -> Pose:
    return (
        pose[0] + step * rate[0],
        pose[1] + step * rate[1],
        pose[2] + step * rate[2],
        pose[3] + step * rate[3],
    )


def roll_out(pose: Pose, program: str, pace: float, extent: Extent, steps: int) -> np.ndarray:
    """The pose at each of `steps` frames, the first included: [steps, 4] float64."""
    poses = [pose]
    for _ in range(steps - 1):
        poses.append(advance(poses[-1], program, pace, extent))
    return np.array(poses)
