"""Small files in the layout of LIBERO's demonstrations, made by h5py alone; every row can be told from its numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from recordings import gray

TASK = "KITCHEN_SCENE3_turn_on_the_stove"
VIEWS = ("agentview", "eye_in_hand")
STATE = 12  # 1 + nq + nv
ATTRIBUTES = {
    "env_name": "Libero_Kitchen_Tabletop_Manipulation",
    "problem_info": json.dumps({"problem_name": "libero_kitchen_tabletop_manipulation"}),
    "env_args": json.dumps({"bddl_file": "...", "env_kwargs": {}}),
    "bddl_file_name": f"libero/libero/bddl_files/libero_90/{TASK}.bddl",
    "bddl_file_content": "(define (problem X) ; (:language a remark)\n  (:language Turn on\n the Stove)\n)",
}
MODEL = """<mujoco model="base"><worldbody><geom name="floor" type="plane"/><body name="kitchen_table" pos="0 0 0.9"/>
<body name="robot0_base" pos="-0.66 0 0.912"><body name="inner_main" pos="1 1 1"/></body>
<body name="bowl_1_main" pos="0 -0.1 0"><joint name="bowl_1_joint0" type="free" damping="0.0005"/></body>
<body name="plate_1_main"><freejoint name="plate_1_joint0"/></body>
<body name="flat_stove_1_main" pos="-0.411966 0.13304 {x}"><body name="knob"><joint type="hinge"/></body></body>
<body name="cabinet_1_main" pos="0.03 -0.28 0.905" quat="0.22314 0 0 0.974786"/></worldbody></mujoco>"""
POSES = {
    "flat_stove_1_main": {"pos": [-0.411966, 0.13304, 0.5], "quat": [1.0, 0.0, 0.0, 0.0]},
    "cabinet_1_main": {"pos": [0.03, -0.28, 0.905], "quat": [0.22314, 0.0, 0.0, 0.974786]},
}


def pictures(rows: int, view: str, size: tuple[int, int] = (24, 32)) -> np.ndarray:
    """[rows, H, W, 3], upright: row t is gray(t + 1), what is seen after action t; row 0 of the hand's is white."""
    frames = np.stack([np.full((*size, 3), gray(t + 1), np.uint8) for t in range(rows)])
    frames[:, : 1 + (view == "eye_in_hand"), : size[1] // 2] = 255
    return frames


def rows_of(rows: int, demo: int = 0) -> dict[str, np.ndarray]:
    """The arrays of a demonstration by their place. Moment m has the number m: states[t] is of moment t, what was
    observed in row t of moment t + 1."""
    before = np.arange(rows, dtype=np.float64)[:, None] + 1e-9 + 100 * demo
    after = before + 1
    widths = {"joint_states": 7, "gripper_states": 2, "ee_pos": 3, "ee_ori": 3, "ee_states": 6}
    arrays = {f"obs/{name}": after.repeat(width, 1) for name, width in widths.items()}
    arrays |= {f"obs/{view}_rgb": pictures(rows, view)[:, ::-1] for view in VIEWS}
    arrays |= {"actions": before.repeat(7, 1) / 1000, "states": before.repeat(STATE, 1)}
    arrays |= {"robot_states": after.repeat(9, 1), "rewards": np.zeros(rows, np.uint8)}
    return {**arrays, "dones": (np.arange(rows) == rows - 1).astype(np.uint8)}


def libero_file(path: Path, lengths: tuple[int, ...] = (6, 5), **changes: Any) -> Path:
    """Writes data/demo_0 ... changes: attributes of `data`; None leaves one out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as f:
        data = f.create_group("data")
        for name, value in {**ATTRIBUTES, "macros_image_convention": "opengl", **changes}.items():
            if value is not None:
                data.attrs[name] = value
        data.attrs["num_demos"], data.attrs["total"] = len(lengths), sum(lengths)
        for k, rows in enumerate(lengths):
            demo = data.create_group(f"demo_{k}")
            for name, array in rows_of(rows, k).items():
                demo[name] = array
            demo.attrs["num_samples"], demo.attrs["model_file"] = rows, MODEL.format(x=0.5 + k)
            demo.attrs["init_state"] = np.arange(STATE) + 0.25 + k
    return path
