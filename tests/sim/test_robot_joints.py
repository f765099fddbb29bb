"""The simulated robot on the graph in joint space: topics, commands, timeout, faults."""

import json
import math
import os
import pathlib
import subprocess
import sys
import time
import unittest

import numpy as np
from episode_runner import ROOT, EpisodeRunner, seconds_of
from geometry_msgs.msg import PoseStamped
from rclpy.qos import qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64, Float64MultiArray, String
from tabletop.model import ARM_JOINTS, FINGER_JOINTS, JOINT_RANGES
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

ROBOT_FILE = ROOT / "config/robots/tabletop_joint_trajectory.yaml"
JOINTS = list(ARM_JOINTS + FINGER_JOINTS)
TOPICS = dict(
    image=Image,
    wrist_image=Image,
    joint_states=JointState,
    ee_pose=PoseStamped,
    gripper_state=Float64,
)


class Peer:
    """An EpisodeRunner with a robot; `received` has the messages by topic, newest last."""

    def __init__(self, name, **parameters):
        self.runner = EpisodeRunner(name)
        self.received = {topic: [] for topic in (*TOPICS, "other")}
        for topic, kind in (TOPICS | dict(other=Image)).items():
            self.runner.node.create_subscription(
                kind, topic, self.received[topic].append, qos_profile_sensor_data
            )
        create = self.runner.node.create_publisher
        self.faults = create(String, "tabletop/faults", 10)
        self.gripper = create(Float64, "gripper/command", 10)
        self.trajectory = create(
            JointTrajectory, "joint_trajectory_controller/joint_trajectory", 10
        )
        self.velocities = create(Float64MultiArray, "forward_velocity_controller/commands", 10)
        self.runner.start_robot_sim(**parameters)
        self.runner.wait_until(
            "the robot subscribes", lambda: self.faults.get_subscription_count() == 1
        )

    def simulate(self, seconds):
        """Spins until that much time of the episode has passed."""
        end = self.runner.state["time_s"] + seconds
        self.runner.wait_until("time passes", lambda: self.runner.state["time_s"] > end)

    def gather(self, topic, count=3):
        """The next messages of a topic."""
        received = self.received[topic]
        received.clear()
        self.runner.wait_until(f"messages on {topic}", lambda: len(received) >= count)
        return received[:count]

    def inject(self, *faults):
        self.faults.publish(String(data=json.dumps(faults)))

    def joints(self):
        return np.array(self.runner.state["joints"]["positions"])

    def close(self):
        bad = self.runner.close()
        assert not bad, bad


class Trajectory(unittest.TestCase):
    """A robot with a wrist camera that takes joint trajectories."""

    @classmethod
    def setUpClass(cls):
        cls.peer = Peer(
            "test_robot_joints",
            command_interface="joint_trajectory",
            wrist_camera=True,
            robot_file=str(ROBOT_FILE),
            image_hz=20.0,
            image_size=64,
        )
        cls.runner = cls.peer.runner
        cls.runner.wait_until(
            "the robot subscribes to trajectories",
            lambda: cls.peer.trajectory.get_subscription_count() == 1,
        )

    @classmethod
    def tearDownClass(cls):
        cls.peer.close()

    def send(self, positions, names=ARM_JOINTS, after=0.02, **values):
        point = JointTrajectoryPoint(positions=[float(x) for x in positions])
        point.time_from_start.nanosec = round(after * 1e9)
        message = JointTrajectory(joint_names=list(names), points=[point])
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(
            values.get("stamp", 0), 10**9
        )
        self.peer.trajectory.publish(message)

    def stream(self, path, seconds):
        """Sends path(t) every 20 ms with the stamps of that grid."""
        start = self.runner.node.get_clock().now().nanoseconds
        begin = time.monotonic()
        for k in range(round(seconds / 0.02)):
            self.send(path(0.02 * k), ARM_JOINTS, stamp=start + k * 20_000_000)
            while time.monotonic() < begin + 0.02 * (k + 1):
                self.runner.spin_once(0.005)

    def test_topics_and_stamps(self):
        self.runner.new_scene(seed=3)
        image, wrist = self.peer.gather("image")[-1], self.peer.gather("wrist_image")[-1]
        self.assertEqual(
            (wrist.encoding, wrist.width, wrist.height, wrist.step, len(wrist.data)),
            ("rgb8", 64, 64, 192, 64 * 192),
        )
        self.assertEqual((image.header.frame_id, wrist.header.frame_id), ("camera", "wrist_camera"))
        self.assertNotEqual(bytes(image.data), bytes(wrist.data))
        stamps = {seconds_of(m.header.stamp) for m in self.peer.received["image"]}
        self.assertTrue(
            stamps & {seconds_of(m.header.stamp) for m in self.peer.received["wrist_image"]}
        )
        joints = self.peer.gather("joint_states")[-1]
        self.assertEqual(joints.name, JOINTS)
        np.testing.assert_allclose(joints.position[:6], self.peer.joints(), atol=0.01)
        self.assertEqual(len(joints.velocity), 8)

    def test_gripper(self):
        self.assertGreater(self.peer.gather("gripper_state")[-1].data, 0.98)
        self.peer.gripper.publish(Float64(data=0.0))
        received = self.peer.received["gripper_state"]
        self.runner.wait_until("the gripper closes", lambda: received[-1].data < 0.02)
        self.peer.gripper.publish(Float64(data=1.0))
        self.runner.wait_until("the gripper opens", lambda: received[-1].data > 0.98)

    def test_a_stream_is_followed_measured_and_times_out(self):
        self.runner.new_scene(seed=4)
        self.runner.wait_until("joints", lambda: len(self.peer.gather("joint_states")) > 0)
        joints = np.array(self.peer.received["joint_states"][-1].position[:6])
        timeouts = self.runner.state["command_timeouts"]
        # 0.2 rad within 1 s: at most 0.314 rad/s and 0.987 rad/s2.
        shape = np.array([1.0, -0.5, 0.5, 1.0, 0.5, -1.0])
        self.stream(lambda t: joints + 0.1 * (1.0 - math.cos(math.pi * min(t, 1.0))) * shape, 1.2)
        self.runner.wait_until(
            "it times out", lambda: self.runner.state["command_timeouts"] > timeouts
        )
        self.peer.simulate(0.3)
        state = self.runner.state
        np.testing.assert_allclose(self.peer.joints(), joints + 0.2 * shape, atol=0.003)
        found = state["joints"]["commanded"]
        self.assertEqual((state["refused"] > 0, found["starts"], found["backwards"]), (False, 1, 0))
        self.assertAlmostEqual(found["ratios"]["velocity"], 0.1 * math.pi, delta=0.001)
        self.assertAlmostEqual(found["ratios"]["acceleration"], 0.1 * math.pi**2 / 3.0, delta=0.002)
        # The driver follows messages when they arrive, which is not as even as their stamps.
        measured = state["joints"]["measured"]["largest"]["velocity"]
        self.assertTrue(0.25 < measured < 1.0, measured)
        rest = self.peer.joints()
        self.peer.simulate(0.4)
        np.testing.assert_allclose(self.peer.joints(), rest, atol=0.001)

    def test_commands_are_refused_with_a_log_line(self):
        self.runner.new_scene(seed=5)
        start, before = self.peer.joints(), self.runner.state["refused"]
        for positions, names in (
            ([0.0] * 6, ["a", *ARM_JOINTS[1:]]),
            ([0.0] * 5, ARM_JOINTS),
            ([math.nan] * 6, ARM_JOINTS),
            (start + 1.0, ARM_JOINTS),
        ):
            self.send(positions, names)
        self.peer.gripper.publish(Float64(data=math.nan))
        self.runner.wait_until(
            "all are refused", lambda: self.runner.state["refused"] == before + 5
        )
        np.testing.assert_allclose(self.peer.joints(), start, atol=0.001)
        log = pathlib.Path(self.runner.robot_sim.log.name).read_text()
        for words in ("joints a, ", "5 numbers for 6 joints", "is not finite", "would need 50.0"):
            self.assertIn(words, log)

    def test_names_may_come_in_any_order(self):
        self.runner.new_scene(seed=6)
        self.peer.simulate(0.1)
        start = self.peer.joints()
        goal = start + [0.05, 0.04, 0.03, 0.02, 0.01, 0.0]
        self.send(goal[::-1], ARM_JOINTS[::-1], after=0.1)
        self.runner.wait_until(
            "they are there", lambda: np.abs(self.peer.joints() - goal).max() < 0.002
        )

    def test_an_old_command_does_not_move_the_next_episode(self):
        self.runner.new_scene(seed=7)
        self.peer.simulate(0.1)
        old = self.peer.joints()
        self.send(old)
        self.runner.new_scene(seed=8)
        self.peer.simulate(0.1)
        start, before = self.peer.joints(), self.runner.state["refused"]
        self.assertGreater(np.abs(start - old).max(), 0.06)
        self.send(old)
        self.runner.wait_until("it is refused", lambda: self.runner.state["refused"] > before)
        self.peer.simulate(0.1)
        np.testing.assert_allclose(self.peer.joints(), start, atol=0.001)

    # -- Faults

    def test_faults_of_a_camera(self):
        for camera, other in (("image", "wrist_image"), ("wrist_image", "image")):
            self.runner.new_scene(seed=9)
            self.peer.inject(dict(stream=camera, kind="size", size=[48, 32]))
            self.await_last(camera, lambda m: (m.width, m.height) == (48, 32))
            self.peer.inject(dict(stream=camera, kind="delay", seconds=0.3))
            self.await_last(camera, lambda m: self.age(m) > 0.28)
            self.assertLess(self.age(self.peer.gather(other)[-1]), 0.45)
            self.peer.inject(dict(stream=camera, kind="frozen"))
            self.await_last(camera, lambda m: self.age(m) > 0.6)
            stamps = {seconds_of(m.header.stamp) for m in self.peer.gather(camera)}
            self.assertEqual(len(stamps), 1)
            self.peer.inject(dict(stream=camera, kind="kill"))
            count = self.runner.node.count_publishers
            self.runner.wait_until("the publisher is gone", lambda: count(camera) == 0)
            self.assertEqual(count(other), 1)
            self.peer.inject(dict(stream=camera, kind="rename", topic="other"))
            self.runner.wait_until("it is renamed", lambda: count("other") == 1)
            self.assertEqual((count(camera), len(self.peer.gather("other"))), (0, 3))
            self.peer.inject()
            self.await_last(camera, lambda m: self.age(m) < 0.28)

    def test_faults_of_joint_states(self):
        self.runner.new_scene(seed=9)
        elbow = JOINTS.index("elbow")
        for kind, joint, check in (
            ("missing", "elbow", lambda m: m.name == [n for n in JOINTS if n != "elbow"]),
            ("reordered", None, lambda m: m.name == JOINTS[::-1] and 0 < m.position[5] < 2.8),
            ("nan", "elbow", lambda m: math.isnan(m.position[elbow])),
            (
                "out_of_limits",
                "elbow",
                lambda m: m.position[elbow] > JOINT_RANGES["elbow"][1] + 0.05,
            ),
        ):
            fault = dict(stream="joint_states", kind=kind)
            self.peer.inject(fault | (dict(joint=joint) if joint else {}))
            self.await_last("joint_states", check)
        self.peer.inject(dict(stream="joint_states", kind="delay", seconds=0.3))
        self.await_last("joint_states", lambda m: self.age(m) > 0.28)
        self.peer.inject(dict(stream="joint_states", kind="frozen"))
        self.await_last("joint_states", lambda m: self.age(m) > 0.6)
        self.peer.inject(dict(stream="joint_states", kind="kill"))
        self.runner.wait_until(
            "the publisher is gone", lambda: self.runner.node.count_publishers("joint_states") == 0
        )
        # A new episode ends the faults, and begins those that it names.
        self.runner.new_scene(seed=10)
        self.await_last("joint_states", lambda m: m.name == JOINTS and self.age(m) < 0.28)
        fault = dict(stream="joint_states", kind="out_of_limits", joint="shoulder", from_s=0.0)
        self.runner.new_scene(seed=11, faults=[fault])
        first = self.peer.gather("joint_states")[-1]
        self.assertGreater(first.position[JOINTS.index("shoulder")], JOINT_RANGES["shoulder"][1])

    def test_invalid_faults_are_refused(self):
        for text, words in (
            ("{", "~/faults: "),
            ('[{"stream": "image", "kind": "dance"}]', "kind: 'dance'"),
            ("[" * 3000, "~/faults: "),
        ):
            before = self.runner.state["refusals"]
            self.peer.faults.publish(String(data=text))
            self.runner.wait_until(
                "it is refused", lambda: self.runner.state["refusals"] > before, 5.0
            )
            self.assertIn(words, self.runner.state["error"])

    def age(self, message):
        return self.runner.node.get_clock().now().nanoseconds * 1e-9 - seconds_of(
            message.header.stamp
        )

    def await_last(self, topic, check):
        received = self.peer.received[topic]
        received.clear()
        self.runner.wait_until(f"{topic} has it", lambda: bool(received) and check(received[-1]))


class Velocities(unittest.TestCase):
    """A robot that takes velocity arrays, with stamps of simulated time."""

    def test_order_rate_stamps_and_timeout(self):
        order = ["wrist_roll", *ARM_JOINTS[:5]]
        peer = Peer(
            "test_velocities",
            command_interface="joint_velocity_array",
            command_joints=",".join(order),
            joint_state_hz=10.0,
            publish_clock=True,
            image_hz=1.0,
            image_size=64,
        )
        runner, clock = peer.runner, []
        runner.node.create_subscription(
            Clock, "/clock", lambda m: clock.append(seconds_of(m.clock)), qos_profile_sensor_data
        )
        try:
            stamps = [seconds_of(m.header.stamp) for m in peer.gather("joint_states", 5)]
            np.testing.assert_allclose(np.diff(stamps)[1:], 0.1, atol=1e-6)
            runner.wait_until("the clock ticks", lambda: bool(clock))
            self.assertLess(abs(clock[-1] - stamps[-1]), 5.0)
            start, end = peer.joints(), time.monotonic() + 5.0
            runner.wait_until(
                "the robot subscribes", lambda: peer.velocities.get_subscription_count() == 1
            )
            while peer.joints()[5] - start[5] < 0.05 and time.monotonic() < end:
                peer.velocities.publish(Float64MultiArray(data=[0.2, 0, 0, 0, 0, -0.1]))
                runner.spin_for(0.02)
            moved = peer.joints() - start
            np.testing.assert_allclose(moved[[0, 1, 2, 3]], 0.0, atol=0.002)
            self.assertGreaterEqual(moved[5], 0.05)
            self.assertAlmostEqual(moved[4] / moved[5], -0.5, delta=0.05)
            timeouts = runner.state["command_timeouts"]
            runner.wait_until("it times out", lambda: runner.state["command_timeouts"] > timeouts)
            peer.simulate(0.2)
            rest = peer.joints()
            peer.simulate(0.3)
            np.testing.assert_allclose(peer.joints(), rest, atol=0.001)
            found = runner.state["joints"]["commanded"]
            self.assertNotIn("ratios", found)  # without a robot file
            self.assertAlmostEqual(found["largest"]["velocity"], 0.2)
            # From rest within one period of the driver; then it is constant.
            self.assertAlmostEqual(found["largest"]["acceleration"], 0.2 / 0.02)
        finally:
            peer.close()


class Starting(unittest.TestCase):
    def test_invalid_parameters_end_it_in_one_line(self):
        for parameters, words in (
            (
                ["command_interface:=telepathy", "command_joints:=a,b"],
                ("command_interface: 'telepathy' is not among", "command_joints: 'a,b' are not"),
            ),
            (
                ["command_interface:=joint_state", "robot_file:=/none.yaml"],
                ("robot_file: /none.yaml: No such file",),
            ),
        ):
            arguments = [part for value in parameters for part in ("-p", value)]
            done = subprocess.run(
                [sys.executable, ROOT / "sim/robot_sim_node.py", "--ros-args", *arguments],
                capture_output=True,
                text=True,
                timeout=60,
                stdin=subprocess.DEVNULL,
                env=os.environ,
            )
            self.assertEqual(done.returncode, 1, done.stderr)
            for part in words:
                self.assertIn(part, done.stderr)
            self.assertNotIn("Traceback", done.stderr)


if __name__ == "__main__":
    unittest.main()
