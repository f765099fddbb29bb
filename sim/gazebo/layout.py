"""The layout of sim/gazebo/tabletop.sdf for the MuJoCo robot: same blocks, same start."""

import pathlib
import xml.etree.ElementTree

import mujoco
import numpy as np
from tabletop import TabletopScene
from tabletop import model as cell
from tabletop.randomise import paint
from tabletop.scene import BLOCK_COLOURS, DOWN, START_REGION

WORLD = pathlib.Path(__file__).parent / "tabletop.sdf"
START = START_REGION.mean(axis=1)  # tool position at which sim/gazebo/arm.py begins [m]
COLOURS = ("red", "green", "blue")
TASKS = ("touch", "push", "pick")
SETTLE_STEPS = 25  # as in TabletopScene.reset


def block_places(world=WORLD):
    """Positions of the blocks in an SDF world: {colour: (x, y)}, metres."""
    models = xml.etree.ElementTree.parse(world).getroot().iter("model")
    poses = {model.get("name"): model.findtext("pose") for model in models}
    return {
        colour: tuple(float(value) for value in poses[f"{colour}_block"].split()[:2])
        for colour in COLOURS
    }


class FixedLayoutScene(TabletopScene):
    """The MuJoCo cell in its standard look, with given blocks instead of a seed's."""

    def __init__(self, **options):
        super().__init__(0, blocks=len(COLOURS), randomize=False, **options)

    def arrange(self, places, task, block, *, start=START, yaw=0.0):
        """Starts an episode with the tool at `start` [m], pointing down.

        `places`: {colour: (x, y)} [m]. `yaw`: of every block [rad].
        """
        self.colours = list(places)
        paints = {f"block{k}": BLOCK_COLOURS[colour] for k, colour in enumerate(self.colours)}
        paint(self.model, np.random.default_rng(0), paints, 0.0)
        posture = self.kinematics.solve(self._scratch, start, DOWN, cell.READY_POSTURE)
        mujoco.mj_resetData(self.model, self.data)
        self._put(places.values(), [yaw] * len(places), [])
        self.data.qpos[self.kinematics.qpos] = posture
        self.data.ctrl[: len(posture)] = posture
        self.data.qpos[self._finger_qpos] = cell.FINGER_TRAVEL
        self.data.ctrl[len(posture) :] = cell.FINGER_TRAVEL
        self._rotation = DOWN.copy()
        for _ in range(SETTLE_STEPS):
            mujoco.mj_step(self.model, self.data)
        self.data.qvel[:] = 0
        self.data.time = 0.0
        mujoco.mj_forward(self.model, self.data)
        self._begin = np.array([self.block_position(k) for k in range(len(self._blocks))])
        self.first_touched, self.path_length = None, 0.0
        self.set_task(task, block)

    def clearance(self):
        """Smallest distance [m] of fingers and target block from any other block, up to 0.1."""
        target = self.colours.index(self.target)
        moving = [self.model.geom(f"{name}_pad").id for name in cell.FINGER_JOINTS]
        moving += [self.model.geom("palm").id, self.model.geom(f"block{target}").id]
        others = [self.model.geom(f"block{k}").id for k in range(len(self.colours)) if k != target]
        return min(
            mujoco.mj_geomDistance(self.model, self.data, one, other, 0.1, None)
            for one in moving
            for other in others
        )
