"""A policy of random actions, as a baseline."""

import numpy as np

from .expert import LARGEST
from .tracking import POLICY_HZ

# Bounds of the tool's position [m], base frame: the workspace of config/robots/tabletop.yaml less
# its margin.
BOX = np.array([[0.25, 0.65], [-0.23, 0.23], [0.005, 0.31]])
SECONDS = 1.0  # how long each direction is kept


def random_policy(scene):
    """The action for `scene`, shape [7]: random direction at the expert's speed, random gripper.

    Like the expert it has no memory: it depends only on the scene's seed and time.
    """
    random = np.random.default_rng([scene.seed, 99, int(scene.time / SECONDS + 0.5 / POLICY_HZ)])
    direction = random.normal(size=3)
    tip = scene.ee_pose()[0]
    move = np.clip(tip + LARGEST * direction / np.linalg.norm(direction), *BOX.T) - tip
    return np.concatenate([move, np.zeros(3), [random.integers(2)]])
