"""Success of the nine tasks in Gazebo, from poses alone; the criteria are the MuJoCo robot's."""

import itertools

import numpy as np
from layout import COLOURS, TASKS
from tabletop import model as cell
from tabletop.scene import LIFT_HEIGHT, PUSH_DISTANCE, TOUCH_HEIGHT

NINE = tuple(itertools.product(TASKS, COLOURS))
TOUCHED = 0.002  # a block that moved this far was touched [m]: contacts are not known here
INSTRUCTIONS = {"touch": "touch the {} block", "push": "push the {} block",
                "pick": "pick up the {} block"}  # fmt: skip


def instruction(task, colour):
    return INSTRUCTIONS[task].format(colour)


class Referee:
    """Watches one task. Positions of blocks: {colour: (x, y, z)} [m]; `tool`: (x, y, z) [m]."""

    def __init__(self, task, colour, blocks):
        self.task, self.colour = task, colour
        self.begin = {name: np.array(place, dtype=float) for name, place in blocks.items()}
        self.first_touched = None

    def _touched(self, place, begin, tool):
        away = np.asarray(tool) - place
        over = max(abs(away[0]), abs(away[1])) < cell.BLOCK_SIZE / 2
        near = over and 0 <= away[2] - cell.BLOCK_SIZE / 2 < TOUCH_HEIGHT
        return near or np.linalg.norm(place - begin) > TOUCHED

    def done(self, blocks, tool):
        """Whether the task is done. Call it for every pose: it remembers the first touch."""
        for name, place in blocks.items():
            if self.first_touched is None and self._touched(
                np.asarray(place), self.begin[name], tool
            ):
                self.first_touched = name
        moved = np.asarray(blocks[self.colour]) - self.begin[self.colour]
        if self.task == "touch":
            return self.first_touched == self.colour
        return bool(moved[0] > PUSH_DISTANCE if self.task == "push" else moved[2] > LIFT_HEIGHT)
