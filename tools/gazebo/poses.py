"""Poses from Gazebo: reads what `gz topic --echo` prints of a world's dynamic_pose/info."""

import re

import numpy as np

TOOL_IN_HAND = np.array([0.0, 0.0, 0.17])  # frame `tcp` of sim/gazebo/tabletop.sdf
_TOKEN = re.compile(r'(\w+)\s*\{|(\})|(\w+):\s*("(?:[^"\\]|\\.)*"|\S+)')


def parse_text(text):
    """A protobuf message in text format: {field: [value, ...]}, nested messages as dicts."""
    top = {}
    stack = [top]
    for opened, closed, name, value in _TOKEN.findall(text):
        if opened:
            stack.append({})
            stack[-2].setdefault(opened, []).append(stack[-1])
        elif closed:
            if len(stack) == 1:
                raise ValueError("a message has a closing brace too many")
            stack.pop()
        else:
            stack[-1].setdefault(name, []).append(value.strip('"'))
    if len(stack) != 1:
        raise ValueError("a message ends within a brace")
    return top


def _numbers(message, field, names):
    """Text format leaves out zeros."""
    inner = message.get(field, [{}])[0]
    return np.array([float(inner.get(name, ["0"])[0]) for name in names])


def _rotate(quaternion, vector):
    """`vector` turned by a quaternion (x, y, z, w)."""
    axis, real = quaternion[:3], quaternion[3]
    return vector + 2 * np.cross(axis, np.cross(axis, vector) + real * vector)


def read_pose_message(text):
    """(simulated time [s], {name: position and quaternion (x, y, z, w), 7 numbers})."""
    message = parse_text(text)
    stamp = message.get("header", [{}])[0].get("stamp", [{}])[0]
    time = int(stamp.get("sec", ["0"])[0]) + 1e-9 * int(stamp.get("nsec", ["0"])[0])
    poses = {
        pose["name"][0]: np.concatenate(
            [_numbers(pose, "position", "xyz"), _numbers(pose, "orientation", "xyzw")]
        )
        for pose in message.get("pose", [])
        if "name" in pose
    }
    return time, poses


def tool_position(poses):
    """Of the tool centre point [m]: poses of links are in the arm's frame, which is the world's."""
    hand = poses["hand"]
    return hand[:3] + _rotate(hand[3:], TOOL_IN_HAND)


def messages(lines):
    """Splits the printed lines into messages: a blank line ends one."""
    gathered = []
    for line in lines:
        if line.strip():
            gathered.append(line)
        elif gathered:
            yield "".join(gathered)
            gathered = []
    if gathered:
        yield "".join(gathered)
