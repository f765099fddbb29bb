#!/usr/bin/env python3
"""A small stand-in for the node with its scripted policy, for tests of the simulated robot alone.

It has the node's name, parameters, topics and services as far as sim/scripted_expert.py uses them,
and moves to the goal of `move to <numbers>` within the limits of the robot file: two moving
averages over a setpoint of limited rate. Commands carry the time for which they were computed.
"""

import collections
import signal

import numpy as np
import rclpy
import yaml
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import PoseStamped, TwistStamped
from openvla_tt_msgs.msg import Status
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64, Float64MultiArray, String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
PERIOD = 0.02
POSITIONS = ("joint_trajectory", "joint_state", "joint_position_array")  # outputs


class Smoothed:
    """Positions that follow a goal with |v| <= V, |a| <= A, |j| <= J (arrays of shape [n])."""

    def __init__(self, start, limits):
        speed, acceleration, jerk = (np.asarray(limit, dtype=float) for limit in limits)
        self.step = 0.9 * speed * PERIOD
        first = int(np.ceil((2 * speed / acceleration).max() / PERIOD))
        second = int(np.ceil((4 * speed / jerk).max() / PERIOD / (first * PERIOD)))
        self.first = collections.deque([start] * first, maxlen=first)
        self.second = collections.deque([start] * max(second, 1), maxlen=max(second, 1))
        self.setpoint = self.position = np.array(start)
        self.velocity = np.zeros(len(start))

    def advance(self, goal):
        """One period; without a goal the setpoint stays. True while it moves."""
        if goal is not None:
            way = goal - self.setpoint
            factor = max(1.0, float((np.abs(way) / self.step).max()))
            self.setpoint = self.setpoint + way / factor
        self.first.append(self.setpoint)
        self.second.append(np.mean(self.first, axis=0))
        position = np.mean(self.second, axis=0)
        self.velocity, self.position = (position - self.position) / PERIOD, position
        return bool(np.abs(self.setpoint - position).max() > 1e-7)


class StandIn:
    def __init__(self):
        self.node = node = rclpy.create_node(
            "vla",
            allow_undeclared_parameters=True,
            automatically_declare_parameters_from_overrides=True,
        )
        robot = yaml.safe_load(open(node.get_parameter("robot_file").value, encoding="utf-8"))
        policy = yaml.safe_load(open(node.get_parameter("policy_file").value, encoding="utf-8"))
        self.space, command = policy["action"]["space"], robot["command"]
        self.output = command.get("output", "twist")
        if self.space == "end_effector":
            limits = robot["limits"]["linear"]
            kinds = ("velocity", "acceleration", "jerk")
            # Per axis: the limits are those of the vector.
            self.limits = [np.full(3, limits[kind] / 2) for kind in kinds]
            self.command = node.create_publisher(TwistStamped, "vla/command/twist", 10)
            node.create_subscription(
                PoseStamped, "ee_pose", self.take_pose, qos_profile_sensor_data
            )
        else:
            self.names = [joint["name"] for joint in robot["joints"]]
            self.limits = [
                [joint[kind] for joint in robot["joints"]]
                for kind in ("velocity", "acceleration", "jerk")
            ]
            kind = dict(joint_trajectory=JointTrajectory, joint_state=JointState).get(
                self.output, Float64MultiArray
            )
            self.command = node.create_publisher(kind, command["topic"], 10)
            node.create_subscription(
                JointState, "joint_states", self.take_joints, qos_profile_sensor_data
            )
        self.gripper = node.create_publisher(Float64, "gripper/command", 10)
        self.status = node.create_publisher(Status, "vla/status", LATCHED)
        node.create_subscription(String, "instruction", self.take_instruction, LATCHED)
        node.create_service(SetBool, "vla/enable", self.enable)
        node.create_service(Trigger, "vla/reset", self.reset)
        self.measured = self.goal = self.motion = None
        self.enabled, self.instruction, self.ticks = False, "", 0
        node.create_timer(PERIOD, self.tick)
        node.create_timer(0.2, self.publish_status)
        self.publish_status()

    def take_pose(self, message):
        p = message.pose.position
        self.measured = np.array([p.x, p.y, p.z])

    def take_joints(self, message):
        where = dict(zip(message.name, message.position))
        self.measured = np.array([where[name] for name in self.names])

    def take_instruction(self, message):
        self.instruction = message.data
        words = message.data.split()
        self.goal = np.array([float(word) for word in words[2:]])
        self.publish_status()

    def enable(self, request, response):
        self.enabled = request.data and self.measured is not None and self.goal is not None
        response.success = self.enabled or not request.data
        self.publish_status()
        return response

    def reset(self, _, response):
        response.success = True
        return response

    def publish_status(self):
        message = Status(enabled=self.enabled, instruction=self.instruction)
        message.state = Status.RUNNING if self.enabled else Status.IDLE
        self.status.publish(message)

    def tick(self):
        if self.enabled and self.motion is None:
            self.motion = Smoothed(self.measured, self.limits)
            now = self.node.get_clock().now().nanoseconds
            self.began, self.ticks = now, 0
        if self.motion is None:
            return
        # Where the timer was late, the command is the one of now.
        due = int((self.node.get_clock().now().nanoseconds - self.began) / (PERIOD * 1e9))
        moving = True
        for _ in range(max(1, due - self.ticks)):
            self.ticks += 1
            moving = self.motion.advance(self.goal if self.enabled else None)
        self.publish(self.began + round(self.ticks * PERIOD * 1e9))
        # Velocities that were not followed leave the arm elsewhere: start anew from there.
        if not moving and not (self.enabled and self.output in POSITIONS):
            self.motion = None

    def publish(self, nanoseconds):
        """The command for that time; without a stamp, for now."""
        stamp = Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)
        positions, velocities = self.motion.position.tolist(), self.motion.velocity.tolist()
        if self.space == "end_effector":
            message = TwistStamped()
            message.header.stamp, message.header.frame_id = stamp, "base"
            linear = message.twist.linear
            linear.x, linear.y, linear.z = velocities
        elif self.output == "joint_trajectory":
            point = JointTrajectoryPoint(positions=positions, velocities=velocities)
            point.time_from_start = Duration(nanosec=round(PERIOD * 1e9))
            message = JointTrajectory(joint_names=self.names, points=[point])
            message.header.stamp = stamp
        elif self.output == "joint_state":
            message = JointState(name=self.names, position=positions, velocity=velocities)
            message.header.stamp = stamp
        else:
            late = (self.node.get_clock().now().nanoseconds - nanoseconds) * 1e-9
            now = self.motion.position + min(late, PERIOD) * self.motion.velocity
            data = now.tolist() if self.output == "joint_position_array" else velocities
            message = Float64MultiArray(data=data)
        self.command.publish(message)


def main():
    stopped = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.append(True))
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    stand_in = StandIn()
    while not stopped:
        rclpy.spin_once(stand_in.node, timeout_sec=0.1)
    rclpy.shutdown()


if __name__ == "__main__":
    main()
