"""What chance achieves: a random direction at the expert's speed and a random gripper, for a second each."""

import numpy as np

from .expert import LARGEST
from .tracking import POLICY_HZ

# The tool stays inside, as behind the node's workspace (config/robots/tabletop.yaml with its
# margin) [m].
BOX = np.array([[0.25, 0.65], [-0.23, 0.23], [0.005, 0.31]])
SECONDS = 1.0


def chance(scene):
    """The action for `scene`, shape [7]; as the expert without a memory: the layout's seed and its time are all that it depends on."""
    random = np.random.default_rng([scene.seed, 99, int(scene.time / SECONDS + 0.5 / POLICY_HZ)])
    direction = random.normal(size=3)
    tip = scene.ee_pose()[0]
    move = np.clip(tip + LARGEST * direction / np.linalg.norm(direction), *BOX.T) - tip
    return np.concatenate([move, np.zeros(3), [random.integers(2)]])
