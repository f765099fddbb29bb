"""Where a scripted touch of a block leads: above it, then down, as tool points and joint positions.

The joint positions are those of inverse kinematics by damped least squares with the gripper
pointing down, within the model's limits or narrower ones.
"""

import dataclasses

import mujoco
import numpy as np

from . import model as cell
from .expert import HOVER
from .kinematics import ToolKinematics

DOWN = np.diag([1.0, -1.0, -1.0])
TOUCH_GAP = 0.002  # of the fingertips above the block, as of the scripted expert [m]


@dataclasses.dataclass(frozen=True)
class Waypoint:
    """A point of the tool [m], base frame, and the joint positions [rad] that lead to it."""

    name: str
    point: np.ndarray
    joints: np.ndarray


class Reach:
    """Inverse kinematics of the arm alone. `limits`: {joint: (low, high)} [rad], optional."""

    def __init__(self, limits=None):
        self._model = mujoco.MjModel.from_xml_string(cell.mjcf(1, 0, 64, 64))
        self._data = mujoco.MjData(self._model)
        self._kinematics = ToolKinematics(self._model, cell.ARM_JOINTS)
        if limits is not None:
            wanted = np.array([limits[name] for name in cell.ARM_JOINTS], dtype=float)
            own = self._kinematics.limits
            self._kinematics.limits = np.column_stack(
                [np.maximum(wanted[:, 0], own[:, 0]), np.minimum(wanted[:, 1], own[:, 1])]
            )

    def joints(self, point, start=cell.READY_POSTURE):
        """Joint positions [rad] for the tool at `point`, pointing down, found from `start`.

        Raises ValueError for a point out of reach.
        """
        return self._kinematics.solve(self._data, np.asarray(point), DOWN, start)

    def point(self, joints):
        """The tool's position [m] for joint positions [rad]."""
        self._data.qpos[self._kinematics.qpos] = joints
        mujoco.mj_kinematics(self._model, self._data)
        return self._kinematics.pose(self._data)[0]

    def touch(self, block, start=cell.READY_POSTURE):
        """The waypoints of a touch of the block with its centre at `block` [m]."""
        top = block[2] + cell.BLOCK_SIZE / 2
        waypoints = []
        for name, height in (("above", HOVER), ("touch", top + TOUCH_GAP)):
            point = np.array([block[0], block[1], height])
            start = self.joints(point, start)
            waypoints.append(Waypoint(name, point, start))
        return waypoints
