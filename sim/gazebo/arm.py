#!/usr/bin/env python3
"""Controller of the arm in Gazebo: twists to joint velocities, joint states to the tool's pose.

usage: tools/sim/run sim/gazebo/arm.py [--ros-args -p use_sim_time:=true]
launch/gazebo.launch.yaml starts it.

The counterpart of MoveIt Servo for a real arm: damped least squares, a command timeout, and first a
motion to the start posture. MuJoCo serves for its kinematics alone; tests/sim/test_gazebo.py
compares them with those of the SDF world.

Gazebo's JointController keeps its last velocity for ever. Therefore zeros are published while
joint_states are missing, and when this program ends by anything but SIGKILL. After a SIGKILL
launch/gazebo.launch.yaml shuts Gazebo down.
"""

import signal
import time

import mujoco
import numpy as np
import rclpy
from command_receiver import CommandReceiver
from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64
from tabletop import model as cell
from tabletop.kinematics import ORIENTATION_GAIN, ToolKinematics, rotate, rotation_error
from tabletop.scene import DOWN, START_REGION

PERIOD = 0.02  # of control [s]
COMMAND_TIMEOUT_S = 0.2
JOINT_STATES_TIMEOUT_S = 0.2  # Gazebo publishes them every 4 ms of its time
FRAME = "base"  # of twists and of ee_pose: the frame of the world
HOMING_GAIN, HOMING_SPEED, AT_HOME = 2.0, 0.8, 0.02  # [1/s], [rad/s], [rad]
JOINT_SPEED = 2.0  # limit of every joint [rad/s]
# Tool position at the start [m]: the middle of the region in which training episodes begin.
START = START_REGION.mean(axis=1)
RELIABLE = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)


class ArmController:
    """Joint velocities from joint positions and a twist, without ROS.

    First it moves the tool to START, pointing down; twists are ignored until it is there. `now` is
    the time on a steady clock [s].
    """

    def __init__(self):
        self.model = mujoco.MjModel.from_xml_string(cell.mjcf(1, 0, 64, 64))
        self.data = mujoco.MjData(self.model)
        self.kinematics = ToolKinematics(self.model, cell.ARM_JOINTS)
        self.start = self.kinematics.solve(
            mujoco.MjData(self.model), START, DOWN, cell.READY_POSTURE
        )
        self.at_home, self.orientation = False, DOWN.copy()
        self.positions, self.received_at = None, None

    def take(self, positions, now):
        """Joint positions [rad], shape [6]."""
        self.positions, self.received_at = np.asarray(positions, dtype=float), now

    def blind(self, now):
        """Whether joint positions are missing or too old."""
        return self.positions is None or JOINT_STATES_TIMEOUT_S < now - self.received_at

    def pose(self, positions):
        """Tool position [m] and quaternion (x, y, z, w) in the base frame."""
        self.data.qpos[self.kinematics.qpos] = positions
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        position, rotation = self.kinematics.pose(self.data)
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, rotation.ravel())
        return position, np.roll(quaternion, -1)

    def velocities(self, twist, period, now):
        """Joint velocities [rad/s] for the next `period` [s]."""
        if self.blind(now):
            return np.zeros(len(cell.ARM_JOINTS))
        positions = self.positions
        if not self.at_home:
            error = self.start - positions
            self.at_home = bool(np.abs(error).max() < AT_HOME)
            if not self.at_home:
                return np.clip(HOMING_GAIN * error, -HOMING_SPEED, HOMING_SPEED)
        self.pose(positions)
        _, turned = self.kinematics.pose(self.data)
        self.orientation = rotate(self.orientation, twist[3:] * period)
        desired = np.array(twist, dtype=float)
        desired[3:] += ORIENTATION_GAIN * rotation_error(self.orientation, turned)
        speeds = np.clip(
            self.kinematics.joint_velocity(self.data, desired), -JOINT_SPEED, JOINT_SPEED
        )
        low, high = self.kinematics.limits.T
        # At a limit a joint may only move away from it.
        return np.where(
            (positions <= low) & (speeds < 0) | (positions >= high) & (speeds > 0), 0.0, speeds
        )


class GazeboArm:
    """The ROS 2 node."""

    def __init__(self):
        self.node = rclpy.create_node("gazebo_arm")
        self.log = self.node.get_logger()
        self.controller = ArmController()
        self.command = CommandReceiver(COMMAND_TIMEOUT_S, FRAME, self.log.warning)
        create = self.node.create_publisher
        self.speeds = [
            create(Float64, f"arm/{name}/velocity", RELIABLE) for name in cell.ARM_JOINTS
        ]
        self.fingers = [
            create(Float64, f"arm/{name}/position", RELIABLE) for name in cell.FINGER_JOINTS
        ]
        self.ee_pose = create(PoseStamped, "ee_pose", qos_profile_sensor_data)
        self.start_logged, self.blind_logged = False, False
        subscribe = self.node.create_subscription
        subscribe(JointState, "joint_states", self.take_joints, qos_profile_sensor_data)
        subscribe(TwistStamped, "vla/command/twist", self.command.take_twist, RELIABLE)
        subscribe(Float64, "vla/command/gripper", self.command.take_gripper, RELIABLE)
        # On the steady clock, so that a command times out also while simulated time is paused.
        self.node.create_timer(PERIOD, self.control, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def take_joints(self, message):
        places = dict(zip(message.name, message.position))
        if not all(name in places and np.isfinite(places[name]) for name in cell.ARM_JOINTS):
            return
        self.controller.take([places[name] for name in cell.ARM_JOINTS], time.monotonic())
        position, orientation = self.controller.pose(self.controller.positions)
        pose = PoseStamped()
        pose.header.stamp, pose.header.frame_id = message.header.stamp, FRAME
        pose.pose.position.x, pose.pose.position.y, pose.pose.position.z = map(float, position)
        o = pose.pose.orientation
        o.x, o.y, o.z, o.w = map(float, orientation)
        self.ee_pose.publish(pose)

    def control(self):
        """Timer callback: publishes joint velocities and finger positions."""
        now = time.monotonic()
        self.publish(self.controller.velocities(self.command.command(), PERIOD, now))
        for publisher in self.fingers:
            publisher.publish(Float64(data=self.command.gripper * cell.FINGER_TRAVEL))
        if self.controller.at_home and not self.start_logged:
            self.start_logged = True
            self.log.info("the start posture is reached: twists are followed from now on")
        blind = self.controller.blind(now)
        if blind and not self.blind_logged:
            self.log.warning(
                "no joint_states: the arm is stopped until they arrive; are Gazebo and the bridge"
                " running?"
            )
        self.blind_logged = blind

    def publish(self, speeds):
        for publisher, speed in zip(self.speeds, speeds):
            publisher.publish(Float64(data=float(speed)))

    def halt(self):
        """Publishes zeros and waits until they are received: queued messages would be lost."""
        self.publish(np.zeros(len(self.speeds)))
        end = time.monotonic() + 1.0
        for publisher in self.speeds:
            publisher.wait_for_all_acked(Duration(seconds=max(0.0, end - time.monotonic())))


def main():
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    signals = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: signals.append(True))
    arm = GazeboArm()
    executor = SingleThreadedExecutor()
    executor.add_node(arm.node)
    try:
        while not signals:
            executor.spin_once(timeout_sec=0.2)
    finally:
        arm.halt()
        rclpy.shutdown()


if __name__ == "__main__":
    main()
