"""Inverse kinematics by damped least squares."""

import mujoco
import numpy as np

DAMPING = 0.02  # of the pseudo-inverse: keeps joint speeds finite near a singularity
ORIENTATION_GAIN = 5.0  # of the feedback towards the commanded orientation [1/s]


def rotation_error(wanted, actual):
    """Rotation vector in the base frame [rad] that turns `actual` into `wanted` (both 3x3)."""
    delta = wanted @ actual.T
    quaternion, vector = np.empty(4), np.empty(3)
    mujoco.mju_mat2Quat(quaternion, delta.ravel())
    mujoco.mju_quat2Vel(vector, quaternion, 1.0)
    return vector


def rotate(rotation, vector):
    """`rotation` (3x3) after a rotation by `vector` [rad] about axes of the base frame."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return rotation
    quaternion, matrix = np.empty(4), np.empty(9)
    mujoco.mju_axisAngle2Quat(quaternion, vector / angle, angle)
    mujoco.mju_quat2Mat(matrix, quaternion)
    return matrix.reshape(3, 3) @ rotation


class ToolKinematics:
    """Forward and inverse kinematics of the site `tcp` for the arm's joints."""

    def __init__(self, model, joints):
        self.model = model
        self.site = model.site("tcp").id
        self.dofs = np.array([model.joint(name).dofadr[0] for name in joints])
        self.qpos = np.array([model.joint(name).qposadr[0] for name in joints])
        self.limits = model.jnt_range[[model.joint(name).id for name in joints]]
        self._translation, self._rotation = np.zeros((3, model.nv)), np.zeros((3, model.nv))

    def pose(self, data):
        """Position [m] and rotation matrix of the tool in the base frame."""
        return data.site_xpos[self.site].copy(), data.site_xmat[self.site].reshape(3, 3).copy()

    def joint_velocity(self, data, twist):
        """Joint velocities [rad/s] for a twist [m/s, rad/s] of the tool in the base frame."""
        mujoco.mj_jacSite(self.model, data, self._translation, self._rotation, self.site)
        jacobian = np.vstack([self._translation[:, self.dofs], self._rotation[:, self.dofs]])
        return jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + DAMPING**2 * np.eye(6), twist)

    def solve(self, data, position, rotation, start, iterations=100):
        """Joint positions [rad] for a pose, also written to `data`.

        `start`: initial joint positions. Raises ValueError for a pose out of reach.
        """
        data.qpos[self.qpos] = start
        for _ in range(iterations):
            mujoco.mj_kinematics(self.model, data)
            mujoco.mj_comPos(self.model, data)
            at, turned = self.pose(data)
            error = np.concatenate([position - at, rotation_error(rotation, turned)])
            if np.linalg.norm(error) < 1e-5:
                return data.qpos[self.qpos].copy()
            data.qpos[self.qpos] = np.clip(
                data.qpos[self.qpos] + self.joint_velocity(data, error), *self.limits.T
            )
        raise ValueError(
            f"the arm does not reach {np.round(position, 3).tolist()} m:"
            f" {np.linalg.norm(error):.4f} off after {iterations} iterations"
        )
