"""The scripted expert: an action from the present state alone.

It has no memory, so that a policy can learn it from single images. An action is that of OpenVLA:
[dx, dy, dz, droll, dpitch, dyaw] of the tool in metres and radians per policy step (5 Hz), base
frame, and the gripper, 1 open, 0 closed. The gripper always points down.
"""

import numpy as np

from .model import BLOCK_SIZE

HOVER = 0.11  # height of the fingertips on the way to a block [m]
PUSH_HEIGHT = 0.02  # [m]
GRASP_HEIGHT = 0.018  # [m]
BEHIND = 0.055  # start of a push: distance from the block's centre, on the robot's side [m]
LARGEST = 0.03  # longest step [m]: 0.15 m/s
GAIN = 0.55  # share of the distance made in one step; the loop has about one step of delay
ALIGNED = 0.01  # horizontal distance that counts as above the goal [m]
HELD_OPENING = 0.62  # below this a block is held: fingers around one are at 0.5 of their travel


def _towards(goal, tip, gain=GAIN):
    step = gain * (goal - tip)
    length = np.linalg.norm(step)
    return step * min(1.0, LARGEST / length) if length > 0 else step


def _descend(goal, tip, cone=0.3):
    """Above the goal first, then down: the height is a funnel around the goal's vertical axis.

    A funnel has no discontinuity, which would be harder to learn.
    """
    off = np.hypot(*(goal[:2] - tip[:2]))
    height = goal[2] + np.clip((off - ALIGNED) / cone * 4.0, 0.0, 1.0) * (HOVER - goal[2])
    return _towards(np.array([goal[0], goal[1], max(height, goal[2])]), tip)


def expert(scene):
    """The action for `scene`'s task, shape [7]."""
    tip, _ = scene.ee_pose()
    block = scene.targets()[scene.target]
    top = block[2] + BLOCK_SIZE / 2
    gripper = 0.0
    if scene.task == "touch":
        move = _descend(np.array([block[0], block[1], top + 0.002]), tip)
    elif scene.task == "push":
        move = _push(block, tip)
    elif scene.task == "pick":
        move, gripper = _pick(scene, block, tip)
    else:
        move, gripper = _place(scene, block, tip)
    return np.concatenate([move, np.zeros(3), [gripper]])


def _push(block, tip):
    away = block - tip
    # Forward once the tool is low, behind the block and in line with it.
    if tip[2] < PUSH_HEIGHT + 0.012 and abs(away[1]) < 0.017 and 0.0 < away[0] < 0.09:
        return np.array([0.025, GAIN * away[1], GAIN * (PUSH_HEIGHT - tip[2])])
    return _descend(np.array([block[0] - BEHIND, block[1], PUSH_HEIGHT]), tip)


def _pick(scene, block, tip):
    away = block - tip
    at_block = np.hypot(away[0], away[1]) < 0.015 and abs(away[2]) < 0.014
    if not at_block:
        return _descend(
            np.array([block[0], block[1], block[2] - BLOCK_SIZE / 2 + GRASP_HEIGHT]), tip
        ), 1.0
    if scene.gripper_opening() > HELD_OPENING:
        return 0.3 * np.array([away[0], away[1], 0.0]), 0.0
    return np.array([0.0, 0.0, 0.025]), 0.0


def _place(scene, block, tip):
    bowl = scene.bowl_places()[scene.bowl]
    over = bowl[:2] - tip[:2]
    in_bowl = np.hypot(*(block[:2] - bowl[:2])) < 0.04 and block[2] < 0.06
    if in_bowl:
        return np.array([0.0, 0.0, 0.02]), 1.0
    move, gripper = _pick(scene, block, tip)
    held = gripper == 0.0 and scene.gripper_opening() <= HELD_OPENING
    if not held:
        return move, gripper
    if np.hypot(*over) < 0.015:
        low = np.array([bowl[0], bowl[1], 0.06])
        return _towards(low, tip), 1.0 if tip[2] < 0.07 else 0.0
    if tip[2] < 0.09:
        return np.array([0.0, 0.0, 0.025]), 0.0
    return _towards(np.array([bowl[0], bowl[1], HOVER]), tip), 0.0
