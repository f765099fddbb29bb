"""A simulated tabletop robot: six-joint arm, parallel gripper, coloured blocks and one camera.

Needs MuJoCo and NumPy, no ROS.
"""

import os

# Off-screen rendering through EGL (a GPU, or Mesa in software) unless the user has chosen another
# backend. MuJoCo reads the variable when it is imported for the first time.
os.environ.setdefault("MUJOCO_GL", "egl")
# Mesa's llvmpipe renders in the calling thread, whatever the environment says: with threads of its
# own it occasionally corrupts the heap (sim/README.md, "Drawing in software"). It reads this
# variable when the first image is rendered.
os.environ["LP_NUM_THREADS"] = "0"

from .expert import expert  # noqa: E402
from .random_policy import random_policy  # noqa: E402
from .rollout import Rollout, rollout  # noqa: E402
from .scene import BLOCK_COLOURS, BOWL_COLOURS, TASKS, TabletopScene  # noqa: E402
from .tracking import NODE_LOOP, ChunkTracking, Loop, NodeTracking  # noqa: E402

__all__ = [
    "BLOCK_COLOURS",
    "BOWL_COLOURS",
    "ChunkTracking",
    "Loop",
    "NODE_LOOP",
    "NodeTracking",
    "Rollout",
    "TASKS",
    "TabletopScene",
    "expert",
    "other_colour",
    "random_policy",
    "rollout",
]


def other_colour(colours, colour):
    """The colour that a swapped instruction names: the one after `colour` in `colours`."""
    return colours[(list(colours).index(colour) + 1) % len(colours)]
