"""A scene of a few boxes under LIBERO's names, for tests that must run without its assets."""

from __future__ import annotations

import mujoco

from t2p.sim.libero import bddl

TASK = """
(define (problem LIBERO_Tabletop_Manipulation)
  (:domain robosuite)
  (:language put the bowl on the plate)
  (:regions
    (left (:target main_table) (:ranges ((-0.2 -0.1 -0.1 0.1))))
    (right (:target main_table) (:ranges ((0.1 -0.1 0.2 0.1) (0.3 -0.1 0.4 0.1))))
    (back (:target main_table) (:ranges ((-0.02 0.3 0.0 0.4))) (:yaw_rotation ((1.0 2.0))))
    (narrow (:target main_table) (:ranges ((0.0 0.0 0.01 0.2))))
    (top_region (:target wooden_cabinet_1))
    (top_side (:target wooden_cabinet_1))
    (cook_region (:target flat_stove_1))
    (inside (:target bowl_drainer_1)))
  (:fixtures main_table - table wooden_cabinet_1 - wooden_cabinet flat_stove_1 - flat_stove wine_rack_1 - wine_rack)
  (:objects akita_black_bowl_1 - akita_black_bowl plate_1 - plate)
  (:obj_of_interest akita_black_bowl_1)
  (:init START)
  (:goal (And GOAL)))
"""
START = (
    "(On akita_black_bowl_1 main_table_left) (On plate_1 main_table_right) (On wooden_cabinet_1 main_table_back)"
    "(On flat_stove_1 main_table_left) (On wine_rack_1 main_table_right)"
)
GOAL = "(On akita_black_bowl_1 plate_1)"

_LINKS = "".join(
    f"<body name='robot0_link{i}'><joint name='robot0_joint{i}' axis='0 0 1'/><geom size='0.01' mass='1'/>"
    for i in range(1, 8)
)
_MOTORS = "".join(f"<motor name='robot0_torq_j{i}' joint='robot0_joint{i}'/>" for i in range(1, 8))
_FINGERS = "".join(
    f"<body name='finger{i}'><joint name='gripper0_finger_joint{i}' type='slide'/><geom size='0.01' mass='0.1'/></body>"
    for i in (1, 2)
)
_GRIPS = "".join(
    f"<position name='gripper0_gripper_finger_joint{i}' joint='gripper0_finger_joint{i}'/>" for i in (1, 2)
)

SCENE = f"""
<mujoco><option gravity='0 0 0'/><worldbody>
  <body name='table'>
    <site name='main_table_left' type='box' size='0.05 0.1 0.007' pos='-0.15 0 0.9'/>
    <site name='main_table_narrow' type='box' size='0.06 0.03 0.08' pos='0 0.1 0.9' euler='20 70 30'/>
    <site name='main_table_right' type='box' size='0.05 0.1 0.007' pos='0.15 0 0.9'/>
  </body>
  <body name='robot0_base' pos='-2 0 0'><body name='robot0_link0'>{_LINKS}
    <body name='robot0_right_hand'><site name='gripper0_grip_site'/>{_FINGERS}</body>
  {"</body>" * 7}</body></body>
  <body name='akita_black_bowl_1_main' pos='0 0 1'><freejoint name='akita_black_bowl_1_joint0'/>
    <geom type='box' size='0.02 0.02 0.02' mass='0.1'/>
    <geom type='box' size='0.2 0.2 0.2' group='1' contype='0' conaffinity='0'/>
  </body>
  <body name='plate_1_main' pos='0.3 0 1'><freejoint name='plate_1_joint0'/>
    <geom type='box' size='0.06 0.06 0.03' mass='0.1'/>
  </body>
  <body name='wooden_cabinet_1_main' pos='0 0 0.1' quat='0.96 0 0 0.28'>
    <geom type='box' size='0.1 0.1 0.05' pos='0 0 -0.05'/>
    <site name='wooden_cabinet_1_top_side' type='box' size='0.1 0.1 0.02' pos='0.01 0.02 0.1'/>
    <body name='drawer' pos='0 0 0.05'>
      <joint name='wooden_cabinet_1_top_level' type='slide' axis='0 1 0' range='-0.16 0.01' limited='true'/>
      <geom type='box' size='0.1 0.1 0.02'/>
      <site name='wooden_cabinet_1_top_region' type='box' size='0.08 0.06 0.02'/>
    </body>
    <body name='lower' pos='0 0 -0.1'>
      <joint name='wooden_cabinet_1_bottom_level' type='slide' axis='0 1 0' range='-0.16 0.01' limited='true'/>
      <geom type='box' size='0.1 0.1 0.02'/>
    </body>
  </body>
  <body name='flat_stove_1_main' pos='1 0 0'>
    <geom type='box' size='0.1 0.1 0.02'/>
    <site name='flat_stove_1_cook_region' type='box' size='0.05 0.05 0.01' pos='0 0 0.03'/>
    <site name='flat_stove_1_burner'/>
    <body name='knob' pos='0.1 0 0'><joint name='flat_stove_1_button' axis='0 0 1'/><geom size='0.01'/></body>
  </body>
  <body name='wine_rack_1_main' pos='2 0 0'><geom type='box' size='0.1 0.1 0.02'/></body>
</worldbody><actuator>{_MOTORS}{_GRIPS}</actuator></mujoco>
"""


def problem(start: str = START, goal: str = GOAL) -> bddl.Problem:
    return bddl.parse(TASK.replace("START", start).replace("GOAL", goal))


def model() -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_string(SCENE)
