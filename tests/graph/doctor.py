"""`openvla doctor` on a real graph: a camera in order, late stamps, nothing, another type.

Arguments: OPENVLA.
"""

import json
import pathlib
import subprocess
import tempfile

import numpy
import peer
from geometry_msgs.msg import TwistStamped
from peer import ROOT, Peer, image_message
from rclpy.duration import Duration
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64, String
from trajectory_msgs.msg import JointTrajectory

JOINTS = ["base_yaw", "shoulder", "elbow", "forearm_roll", "wrist_pitch", "wrist_roll"]
POLICY_FILE = ROOT / "config/policies/tabletop_scripted_joint_position.yaml"
ROBOT_FILE = ROOT / "config/robots/tabletop_joint_trajectory.yaml"
TRAJECTORY = "joint_trajectory_controller/joint_trajectory"


class Robot(Peer):
    """Cameras and joints at 33 Hz, as `late`, `joints` and `encoding` say."""

    def __init__(self, folder):
        # The rate that cameras must reach: this peer does also on a loaded machine.
        text = POLICY_FILE.read_text()
        assert "policy_hz: 10.0" in text
        policy_file = pathlib.Path(folder) / "policy.yaml"
        policy_file.write_text(text.replace("policy_hz: 10.0", "policy_hz: 1.0"))
        self.files = [f"--policy-file={policy_file}", f"--robot-file={ROBOT_FILE}"]
        super().__init__(listen=False, publish=False)
        create = self.node.create_publisher
        self.cameras = {
            name: create(Image, name, qos_profile_sensor_data) for name in ("image", "wrist_image")
        }
        self.joint_states = create(JointState, "joint_states", qos_profile_sensor_data)
        self.gripper_state = create(Float64, "gripper_state", qos_profile_sensor_data)
        self.node.create_subscription(JointTrajectory, TRAJECTORY, lambda _: None, 1)
        self.node.create_subscription(Float64, "gripper/command", lambda _: None, 1)
        self.late, self.joints, self.encoding = 0.0, JOINTS, "rgb8"
        self.camera = self.tick

    def tick(self):
        now = self.node.get_clock().now()
        stamp = (now - Duration(seconds=self.late)).to_msg()
        for publisher in self.cameras.values():
            array = numpy.zeros((48, 64, 3), numpy.uint8)
            publisher.publish(image_message(array, self.encoding, stamp))
        joints = JointState(name=self.joints, position=[0.5] * len(self.joints))
        joints.header.stamp = now.to_msg()
        self.joint_states.publish(joints)
        self.gripper_state.publish(Float64(data=1.0))
        return 0.03

    def doctor(self, openvla, *options, seconds=3):
        """Runs the doctor while this peer publishes; its checks by name, and its exit status."""
        command = [openvla, "doctor", "--json", f"--seconds={seconds}", *self.files, *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            while process.poll() is None:
                self.spin(0.1)
            out, error = process.communicate()
        finally:
            process.kill()
        assert out.count(b"\n") == 1, (out, error)
        answer = json.loads(out)
        assert (process.returncode != 0) == (0 < answer["errors"]), (answer, error)
        return {check["name"]: check for check in answer["checks"]}


def is_(checks, name, level, *texts):
    check = checks[name]
    text = f"{check['value']}; {check.get('remedy', '')}"
    assert check["level"] == level and all(part in text for part in texts), (level, texts, check)


def scenario(arguments, logs):
    (openvla,) = arguments
    with tempfile.TemporaryDirectory() as folder:
        robot = Robot(folder)
        try:
            in_order(robot, openvla)
            with_mistakes(robot, openvla)
            elsewhere(robot, openvla)
        finally:
            robot.close()


def in_order(robot, openvla):
    # Bounds that a loaded machine keeps.
    bounds = [f"-p={name}:=5.0" for name in ("observation_timeout_s", "state_timeout_s")]
    checks = robot.doctor(openvla, *bounds)
    cameras = [name for name in checks if name.startswith("camera ")]
    assert len(cameras) == 2, checks
    for name in cameras:
        is_(checks, name, "ok", "64x48 rgb8", "Hz, stamps ", "from /peer (best effort)")
    is_(checks, "joint states", "ok", "/joint_states, 6 joints")
    is_(checks, "gripper state", "ok", "/gripper_state, now 1")
    is_(checks, "command", "ok", TRAJECTORY, "subscribed, no other publisher")
    is_(checks, "gripper command", "ok", "/gripper/command")
    assert "joints" not in checks, checks["joints"]


def with_mistakes(robot, openvla):
    robot.late, robot.encoding, robot.joints = 2.0, "rgb8", JOINTS[:4]
    # Another node commands; a camera's topic is remapped to one of another type.
    other = robot.node.create_publisher(JointTrajectory, TRAJECTORY, 1)
    words = robot.node.create_publisher(String, "words", 1)
    checks = robot.doctor(openvla, "-r", "wrist_image:=/words")
    late = next(name for name in checks if "/image," in checks[name]["value"])
    is_(checks, late, "error", "stamps ", "synchronise the clocks")
    wrong = next(name for name in checks if "/words" in checks[name]["value"])
    is_(checks, wrong, "error", "std_msgs/msg/String by /peer, not sensor_msgs/msg/Image")
    is_(checks, "joints", "error", "no position of wrist_pitch, wrist_roll", "robot file")
    is_(checks, "command", "warning", "published by /peer", "only the node may command")
    robot.node.destroy_publisher(other)
    robot.node.destroy_publisher(words)


def elsewhere(robot, openvla):
    """Nothing is where it is looked for; the alternatives are named. An unsupported encoding."""
    robot.late, robot.encoding = 0.0, "32FC1"
    twist = robot.node.create_subscription(TwistStamped, TRAJECTORY + "2", lambda _: None, 1)
    rules = ["image:=/nowhere", "joint_states:=/arm/joint_states", f"{TRAJECTORY}:={TRAJECTORY}2"]
    checks = robot.doctor(openvla, *(f"-r={rule}" for rule in rules))
    lost = next(name for name in checks if "/nowhere" in checks[name]["value"])
    is_(checks, lost, "error", "no node publishes on /nowhere", "is published on /")
    is_(checks, "joint states", "error", "/arm/joint_states", "/joint_states")
    depth = next(name for name in checks if "/wrist_image," in checks[name]["value"])
    is_(checks, depth, "error", "32FC1")
    is_(checks, "command", "error", "is geometry_msgs/msg/TwistStamped, not trajectory_msgs")
    robot.node.destroy_subscription(twist)


if __name__ == "__main__":
    peer.main(scenario)
