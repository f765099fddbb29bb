"""MJCF model of the tabletop cell: six-joint arm, parallel gripper, table, blocks, bowls, camera.

Units are metres, kilograms, seconds and radians. Frame `base`: origin on the table under the arm's
first axis, x away from the robot over the table, y to its left, z up. The tool centre point (`tcp`)
is between the fingertips; its z axis points along the fingers, so that a gripper pointing down has
roll, pitch, yaw (pi, 0, 0).
"""

import math

TABLE_CENTRE = (0.45, 0.0)
BLOCK_SIZE = 0.04  # edge [m]
FINGER_TRAVEL = 0.04  # each finger, from closed to open [m]
BOWL_RADIUS = 0.055
BOWL_HEIGHT = 0.03
TIMESTEP = 0.004
NO_CONTACT = 'contype="0" conaffinity="0"'  # of a geom that is only seen

ARM_JOINTS = ("base_yaw", "shoulder", "elbow", "forearm_roll", "wrist_pitch", "wrist_roll")
FINGER_JOINTS = ("finger_left", "finger_right")
# On the hand beside the fingers: it sees the fingertips and the table under them.
_WRIST_CAMERA = (
    '<camera name="wrist_camera" pos="0.075 0 0.045" euler="3.14159265358979 0.30 0" fovy="75"/>'
)
# Joint positions [rad] with the elbow up and the gripper pointing down above the middle of the
# table: the start of the inverse kinematics.
READY_POSTURE = (0.0, 0.1, 1.9, 0.0, math.pi - 2.0, 0.0)

# Name: axis, range [rad], stiffness kp [Nm/rad]. Gravity is compensated; joints follow within about
# 20 ms.
_JOINT_FACTS = {
    "base_yaw": ("0 0 1", (-2.8, 2.8), 400),
    "shoulder": ("0 1 0", (-1.6, 2.2), 400),
    "elbow": ("0 1 0", (0.2, 2.8), 400),
    "forearm_roll": ("0 0 1", (-2.8, 2.8), 120),
    "wrist_pitch": ("0 1 0", (-2.2, 2.2), 120),
    "wrist_roll": ("0 0 1", (-3.0, 3.0), 60),
}
# Joint: range [rad; m of a finger].
JOINT_RANGES = {name: limits for name, (_, limits, _) in _JOINT_FACTS.items()} | {
    name: (0.0, FINGER_TRAVEL) for name in FINGER_JOINTS
}


def _joint(name):
    axis, limits, _ = _JOINT_FACTS[name]
    return (
        f'<joint name="{name}" axis="{axis}" range="{limits[0]} {limits[1]}" limited="true"'
        ' armature="0.05" damping="1"/>'
    )


def _block(index):
    half = BLOCK_SIZE / 2
    return (
        f'<body name="block{index}" pos="0 {0.1 * index} {half}"><freejoint name="block{index}"/>'
        f'<geom name="block{index}" type="box" size="{half} {half} {half}" density="350"'
        ' friction="0.9 0.01 0.001" condim="4"/></body>'
    )


def _bowl(index, walls=10):
    """A ring of walls on a plate, fixed to the table."""
    parts = [
        f'<geom name="bowl{index}_plate" type="cylinder" size="{BOWL_RADIUS} 0.003"'
        f' pos="0 0 0.003" material="bowl{index}"/>'
    ]
    for k in range(walls):
        angle = 2 * math.pi * k / walls
        width = BOWL_RADIUS * math.tan(math.pi / walls) + 0.002
        parts.append(
            f'<geom type="box" size="0.004 {width:.4f} {BOWL_HEIGHT / 2}" material="bowl{index}"'
            f' euler="0 0 {angle:.5f}" pos="{BOWL_RADIUS * math.cos(angle):.5f}'
            f' {BOWL_RADIUS * math.sin(angle):.5f} {BOWL_HEIGHT / 2}"/>'
        )
    return f'<body name="bowl{index}" pos="0.45 {0.2 * index} 0">' + "".join(parts) + "</body>"


# Things that no instruction names and no policy was trained with: geometry, height of its centre
# [m], colour.
DISTRACTORS = (
    ('type="cylinder" size="0.022 0.025"', 0.025, "0.55 0.15 0.70 1"),
    ('type="sphere" size="0.024"', 0.024, "0.95 0.50 0.10 1"),
)
AWAY = -1.5  # height of a distractor that is not on the table: below the floor [m]


def _distractor(index):
    """Fixed to the table where the scene puts it."""
    shape, _, colour = DISTRACTORS[index]
    return (
        f'<body name="distractor{index}" pos="0 0 {AWAY}"><geom name="distractor{index}" {shape}'
        f' rgba="{colour}"/></body>'
    )


def _finger(name, side):
    # Fingers open along y of the tool; `side` is +1 or -1.
    return f"""
      <body name="{name}" pos="0 {side * 0.006} 0.1" gravcomp="1">
        <joint name="{name}" type="slide" axis="0 {side} 0" range="0 {FINGER_TRAVEL}" limited="true"
          armature="0.02" damping="4"/>
        <geom name="{name}_pad" type="box" size="0.009 0.005 0.035" pos="0 0 0.035" mass="0.03"
          material="finger" friction="1.6 0.02 0.001" condim="4" solref="0.01 1"/>
      </body>"""


def mjcf(blocks, bowls, width, height, wrist_camera=False, distractors=0):
    """The model with that many things on the table and that image size [pixels], as XML text."""
    actuators = "".join(
        f'<position name="{name}" joint="{name}" kp="{kp}" dampratio="1"'
        f' ctrlrange="{limits[0]} {limits[1]}"/>'
        for name, (_, limits, kp) in _JOINT_FACTS.items()
    )
    actuators += "".join(
        f'<position name="{name}" joint="{name}" kp="150" kv="25" ctrlrange="0 {FINGER_TRAVEL}"'
        ' forcerange="-12 12"/>'
        for name in FINGER_JOINTS
    )
    return f"""
<mujoco model="tabletop">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="{TIMESTEP}" integrator="implicitfast" cone="elliptic" impratio="5"
    iterations="30"/>
  <size memory="8M"/>
  <statistic center="0.45 0 0.1" extent="1.2"/>
  <visual>
    <!-- A small shadow map and no multisampling: three times as many images per second with a
      software renderer, and the shadow under the hand still shows its height. -->
    <global offwidth="{width}" offheight="{height}"/>
    <quality shadowsize="512" offsamples="0" numslices="12" numstacks="8" numquads="2"/>
    <headlight ambient="0.35 0.35 0.35" diffuse="0.25 0.25 0.25" specular="0 0 0"/>
    <map znear="0.05" zfar="8" shadowclip="1.0" shadowscale="0.9"/>
  </visual>
  <asset>
    <material name="table" rgba="0.75 0.72 0.68 1" specular="0" reflectance="0"/>
    <material name="floor" rgba="0.35 0.35 0.38 1" specular="0" reflectance="0"/>
    <material name="arm" rgba="0.30 0.31 0.34 1" specular="0.1"/>
    <material name="hand" rgba="0.88 0.88 0.90 1" specular="0.1"/>
    <material name="finger" rgba="0.95 0.20 0.85 1" specular="0"/>
    {"".join(f'<material name="bowl{k}" rgba="0.8 0.8 0.8 1" specular="0"/>' for k in range(bowls))}
  </asset>
  <worldbody>
    <light name="sun" directional="true" pos="0.45 0 2" dir="0 0 -1" diffuse="0.55 0.55 0.55"
      specular="0 0 0" castshadow="true"/>
    <geom name="floor" type="plane" size="4 4 1" pos="0 0 -0.7" material="floor" {NO_CONTACT}/>
    <geom name="table" type="box" size="0.42 0.45 0.02"
      pos="{TABLE_CENTRE[0]} {TABLE_CENTRE[1]} -0.02" material="table" friction="0.9 0.01 0.001"/>
    <camera name="camera" pos="1 0 0.7" fovy="40"/>
    <body name="arm_base">
      <geom type="cylinder" size="0.06 0.1" pos="0 0 0.1" material="arm" {NO_CONTACT}/>
      <body name="turret" pos="0 0 0.25" gravcomp="1">
        {_joint("base_yaw")}
        <geom type="sphere" size="0.055" mass="1" material="arm" {NO_CONTACT}/>
        <body name="upper_arm" gravcomp="1">
          {_joint("shoulder")}
          <geom type="capsule" size="0.035" fromto="0 0 0 0 0 0.35"
            mass="1" material="arm" {NO_CONTACT}/>
          <body name="lower_arm" pos="0 0 0.35" gravcomp="1">
            {_joint("elbow")}
            <geom type="capsule" size="0.028" fromto="0 0 0 0 0 0.18"
              mass="0.5" material="arm" {NO_CONTACT}/>
            <body name="forearm" pos="0 0 0.18" gravcomp="1">
              {_joint("forearm_roll")}
              <geom type="capsule" size="0.024" fromto="0 0 0 0 0 0.15"
                mass="0.4" material="arm" {NO_CONTACT}/>
              <body name="wrist" pos="0 0 0.15" gravcomp="1">
                {_joint("wrist_pitch")}
                <geom type="sphere" size="0.024" mass="0.2" material="hand" {NO_CONTACT}/>
                <body name="hand" gravcomp="1">
                  {_joint("wrist_roll")}
                  <geom type="capsule" size="0.014" fromto="0 0 0 0 0 0.08"
                    mass="0.2" material="hand" {NO_CONTACT}/>
                  <geom name="palm" type="box" size="0.014 0.05 0.008" pos="0 0 0.092"
                    mass="0.1" material="hand" {NO_CONTACT}/>
                  {_finger("finger_left", 1)}
                  {_finger("finger_right", -1)}
                  <site name="tcp" pos="0 0 0.17" euler="0 0 3.14159265358979" size="0.003"
                    rgba="0 0 0 0"/>{_WRIST_CAMERA if wrist_camera else ""}
                </body>
              </body>
            </body>
          </body>
        </body>
      </body>
    </body>
    {"".join(_block(k) for k in range(blocks))}
    {"".join(_bowl(k) for k in range(bowls))}
    {"".join(_distractor(k) for k in range(distractors))}
  </worldbody>
  <actuator>{actuators}</actuator>
</mujoco>"""
