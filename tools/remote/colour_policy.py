#!/usr/bin/env python3
"""A policy server of one's own in a hundred lines: openpi's server as it is on PyPI, with a policy
that touches the block whose colour the instruction names, on the simulated tabletop robot.

No network: pixels of that colour are found, their centre is projected through the camera's known
pose on the plane of the blocks' tops, and the tool moves above it and down. State and answers are
those of tools/remote/colour.yaml.

    tools/remote/colour_policy PORT     (sets up its environment)
"""

import sys

import numpy as np
from openpi_client.base_policy import BasePolicy
from openpi_server.websocket_policy_server import WebsocketPolicyServer

# Hue of each colour [degree], and by how much it may differ.
HUES, HUE_WITHIN = {"red": 0.0, "green": 130.0, "blue": 230.0, "yellow": 52.0}, 16.0
# The camera in the base frame: position and target [m], vertical field of view [degree].
CAMERA, TARGET, VIEW = np.array([0.98, 0.0, 0.72]), np.array([0.425, 0.0, 0.085]), 32.0
BLOCK = 0.04  # edge of a block [m]
SEEN = 12  # pixels of a block that are enough
HOVER, LONGEST, GAIN = 0.11, 0.025, 0.5  # height [m], longest step [m], share of the way per step
SCANNED = 0.12  # below this height the hand may hide the block: its last position is kept [m]


def hue_and_chroma(image):
    """Hue [degree] and chroma, 0 to 1, of each pixel."""
    rgb = image.astype(np.float32) / 255.0
    high, low = rgb.max(axis=2), rgb.min(axis=2)
    spread = np.maximum(high - low, 1e-6)
    r, g, b = np.moveaxis(rgb, 2, 0)
    sectors = [(g - b) / spread % 6.0, (b - r) / spread + 2.0, (r - g) / spread + 4.0]
    return 60.0 * np.select([high == r, high == g], sectors[:2], sectors[2]), high - low


def block_position(image, colour):
    """Centre of the top of the block of this colour in the base frame, x and y [m], or None."""
    hue, chroma = hue_and_chroma(image)
    off = np.abs((hue - HUES[colour] + 180.0) % 360.0 - 180.0)
    rows, columns = np.nonzero((off < HUE_WITHIN) & (0.25 < chroma))
    if len(rows) < SEEN:
        return None
    back = (CAMERA - TARGET) / np.linalg.norm(CAMERA - TARGET)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    up = np.cross(back, right)
    size = image.shape[0]
    scale = 2.0 * np.tan(np.radians(VIEW / 2)) / size
    x, y = scale * (np.median(columns) + 0.5 - size / 2), scale * (size / 2 - np.median(rows) - 0.5)
    ray = x * right + y * up - back
    # Top and front of the block are seen: their common centre is between the two.
    along = (0.75 * BLOCK - CAMERA[2]) / ray[2]
    front = np.array([BLOCK / 4, 0.0])
    return (CAMERA + along * ray)[:2] - front


class ColourPolicy(BasePolicy):
    """Answers with one step: dx dy dz droll dpitch dyaw of the tool [m, rad], gripper closed."""

    def __init__(self):
        self.goal, self.sentence = None, None

    def infer(self, observation):
        sentence = observation["prompt"]
        colour = next((c for c in HUES if c in sentence), None)
        if sentence != self.sentence:
            self.goal, self.sentence = None, sentence
        tool = observation["state"][:3]
        step = np.zeros((1, 7), np.float32)
        if colour is None:
            return {"actions": step}  # nothing to move to
        if self.goal is None or SCANNED < tool[2]:
            seen = block_position(observation["image"], colour)
            self.goal = self.goal if seen is None else seen
        if self.goal is not None:
            off = np.hypot(*(self.goal - tool[:2]))
            above = BLOCK + 0.002
            height = above + np.clip((off - 0.01) / 0.08, 0.0, 1.0) * (HOVER - above)
            way = GAIN * (np.array([*self.goal, height]) - tool)
            step[0, :3] = way * min(1.0, LONGEST / max(np.linalg.norm(way), 1e-9))
        return {"actions": step}

    def reset(self):
        pass


if __name__ == "__main__":
    port, metadata = int(sys.argv[1]), {"policy": "colour"}
    WebsocketPolicyServer(ColourPolicy(), "127.0.0.1", port, metadata).serve_forever()
