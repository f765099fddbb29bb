"""A simulated tabletop robot: six-joint arm, parallel gripper, coloured blocks, one camera. Needs MuJoCo and NumPy, no ROS."""

import os

# Without a display MuJoCo draws through EGL, which Mesa serves in software; an existing choice is kept.
# The variable must be set before mujoco is imported for the first time.
os.environ.setdefault("MUJOCO_GL", "egl")
# Mesa's llvmpipe draws in the thread that asks for the picture, whatever was set before. With threads
# of its own it damages the heap now and then: sim/README.md, "Drawing in software". It reads this when
# the first picture is drawn.
os.environ["LP_NUM_THREADS"] = "0"

from .chance import chance  # noqa: E402
from .expert import expert  # noqa: E402
from .rollout import Rollout, rollout  # noqa: E402
from .scene import BLOCK_COLOURS, BOWL_COLOURS, TASKS, TabletopScene  # noqa: E402
from .tracking import NodeTracking  # noqa: E402

__all__ = ["BLOCK_COLOURS", "BOWL_COLOURS", "NodeTracking", "Rollout", "TASKS", "TabletopScene", "chance", "expert", "other_colour", "rollout"]


def other_colour(colours, colour):
    """The colour that a swapped instruction names: the one after `colour` on the table."""
    return colours[(list(colours).index(colour) + 1) % len(colours)]
