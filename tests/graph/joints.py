"""An arm with six joints, two cameras and a gripper: each source fails, each failure is a stop.

The policy is the scripted one (models/scripted/joint_position); the peer is cameras, joint states
and an arm that follows every commanded position. Ends with a table: time from the fault to the last
command that moves, its bound, the cause and its source.
"""

import tempfile
import time

import numpy
import peer
from peer import LATCHED, ROOT, NodeProcess, Peer, image_message
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64, String
from trajectory_msgs.msg import JointTrajectory

JOINTS = ["base_yaw", "shoulder", "elbow", "forearm_roll", "wrist_pitch", "wrist_roll"]
HOME = dict(zip(JOINTS, [0.0, 0.3, 1.5, 0.0, 0.5, 0.0]))
# Limits of config/robots/tabletop_joint_trajectory.yaml.
VELOCITY, ACCELERATION, JERK = 1.0, 3.0, 30.0
POSITIONS = dict(
    zip(JOINTS, [(-2.7, 2.7), (-1.5, 2.1), (0.3, 2.7), (-2.7, 2.7), (-2.1, 2.1), (-2.9, 2.9)])
)
TIMEOUT_S = 0.5  # of images and of the state
DECISION_S = 0.8  # from one decision to the next: 8 steps at 10 Hz
STOP_S = VELOCITY / ACCELERATION + ACCELERATION / JERK + 0.04
# A stop may be seen later by what other processes take of the machine.
SLACK_S = 0.25
ROWS = []


class Arm(Peer):
    """Cameras, joint states and an arm that follows."""

    def __init__(self):
        super().__init__(listen=False, publish=False)
        create = self.node.create_publisher
        self.cameras = {
            name: create(Image, name, qos_profile_sensor_data) for name in ("image", "wrist_image")
        }
        self.joint_states = create(JointState, "joint_states", qos_profile_sensor_data)
        self.gripper_state = create(Float64, "gripper_state", qos_profile_sensor_data)
        self.instructions = create(String, "instruction", LATCHED)
        topic = "joint_trajectory_controller/joint_trajectory"
        self.node.create_subscription(JointTrajectory, topic, self.follow, peer.RELIABLE)
        self.position = dict(HOME)
        self.commands = []  # arrival, positions, velocities
        self.fault = lambda kind, message: message
        self.ticks = 0
        self.camera = self.tick

    def follow(self, message):
        assert message.joint_names == JOINTS, message.joint_names
        point = message.points[0]
        self.position.update(zip(JOINTS, point.positions))
        self.commands.append((time.monotonic(), list(point.positions), list(point.velocities)))

    def tick(self):
        """Every 20 ms the joints and the gripper, every 60 ms the images."""
        self.ticks += 1
        names = list(self.position)
        joints = JointState(name=names, position=[self.position[name] for name in names])
        joints.header.stamp = self.stamp()
        self.send("joint_states", self.joint_states, joints)
        self.send("gripper_state", self.gripper_state, Float64(data=1.0))
        if self.ticks % 3 == 0:
            for name, publisher in self.cameras.items():
                array = numpy.full((48, 64, 3), self.ticks % 251, numpy.uint8)
                self.send(name, publisher, image_message(array, "rgb8", self.stamp()))
        return 0.02

    def send(self, kind, publisher, message):
        message = self.fault(kind, message)
        if message is not None:
            publisher.publish(message)

    def moving(self):
        recent = [v for at, _, v in self.commands if time.monotonic() - 0.1 < at]
        return bool(recent) and 0.05 < numpy.abs(recent[-1]).max()

    def go(self, yaw):
        """A goal far enough that the motion outlasts a fault."""
        goal = {**HOME, "base_yaw": yaw}
        self.say("move to " + " ".join(f"{goal[name]:.4f}" for name in JOINTS))

    def last_motion(self):
        return max((at for at, _, v in self.commands if numpy.abs(v).max() > 1e-9), default=0.0)

    def check_limits(self):
        """Positions and velocities of all commands; their steps by the node's period of 20 ms."""
        for (_, before, _), (_, after, velocities) in zip(self.commands, self.commands[1:]):
            for name, a, b, v in zip(JOINTS, before, after, velocities):
                low, high = POSITIONS[name]
                assert low <= b <= high or abs(b - a) < 1e-9 or (b - a) * (b - low) < 0, (name, b)
                assert abs(v) <= VELOCITY * (1 + 1e-9), (name, v)


def fails(graph, name, source, reason, fault, timeout_s=TIMEOUT_S):
    """Injects a fault in motion, and checks that the arm stops in time with the cause named."""
    # At least 2 rad away at 0.5 rad/s; motion towards the goal of before does not count.
    goal = -2.0 if 0.0 < graph.position["base_yaw"] else 2.0
    graph.go(goal)
    graph.until("motion", lambda: 0.4 < numpy.sign(goal) * graph.commands[-1][2][0])
    graph.fault, at = fault, time.monotonic()

    def named():
        return any(
            reason in graph.reasons(m) and source in " ".join([m.source, *m.cause_details])
            for since, m in graph.statuses
            if at < since
        )

    graph.until(f"{name}: {reason} of {source}", named, 5.0)
    graph.until("rest", lambda: 0.3 < time.monotonic() - graph.last_motion(), 5.0)
    took = graph.last_motion() - at
    bound = timeout_s + STOP_S
    ROWS.append((name, took, bound, reason, source))
    assert took <= bound + SLACK_S, f"{name}: {took:.3f} s, bound {bound:.3f} s"
    graph.fault = lambda kind, message: message
    graph.until("settled", lambda: graph.state in ("RUNNING", "IDLE", "FAULT"), 10.0)
    if graph.status.latched:
        graph.reset_when_possible()
    graph.resume()


def only(kind, change):
    """A fault of one source: `change` gives the message to publish, or None."""
    return lambda of, message: change(message) if of == kind else message


def frozen():
    """Messages with the stamp of the first one."""
    first = []

    def change(message):
        first.append(message.header.stamp)
        message.header.stamp = first[0]
        return message

    return change


def late(seconds):
    def change(message):
        message.header.stamp.sec -= seconds
        return message

    return change


def truncated(message):
    message.data = message.data[:-7]
    return message


def without(joint):
    def change(message):
        index = message.name.index(joint)
        del message.name[index]
        message.position = [*message.position[:index], *message.position[index + 1 :]]
        return message

    return change


def not_a_number(message):
    message.position[2] = float("nan")
    return message


def reordered(message):
    message.name = message.name[::-1]
    message.position = message.position[::-1]
    return message


def sources_fail(graph):
    lost = lambda _: None
    for camera in ("image", "wrist_image"):
        name = f"camera {camera}"
        fails(graph, f"{name} lost", name, "IMAGE_STALE", only(camera, lost))
        fails(graph, f"{name} frozen", name, "IMAGE_FROZEN", only(camera, frozen()))
        fails(graph, f"{name} 5 s late", name, "IMAGE_STAMP_PAST", only(camera, late(5)), 0.1)
        # An image is decoded when a decision needs it.
        noticed = DECISION_S + TIMEOUT_S
        bad = only(camera, truncated)
        fails(graph, f"{name} malformed", name, "IMAGE_MALFORMED", bad, noticed)
    fails(graph, "joint_states lost", "joint_states", "STATE_STALE", only("joint_states", lost))
    fails(
        graph,
        "joint_states 5 s late",
        "joint_states",
        "STATE_STAMP",
        only("joint_states", late(5)),
        0.1,
    )
    missing = only("joint_states", without("elbow"))
    fails(graph, "joint elbow missing", "elbow", "STATE_INVALID", missing)
    fails(
        graph, "joint elbow NaN", "elbow", "STATE_INVALID", only("joint_states", not_a_number), 0.1
    )
    fails(graph, "gripper lost", "gripper_state", "STATE_STALE", only("gripper_state", lost))


def order_does_not_matter(graph):
    """Joints are known by name: another order in the messages changes nothing."""
    graph.fault = only("joint_states", reordered)
    graph.go(0.0)
    near = lambda: abs(graph.position["base_yaw"]) < 0.01 and not graph.moving()
    graph.until("the goal with joints in another order", near, 20.0)
    assert graph.state == "RUNNING", graph.shown()
    graph.fault = lambda kind, message: message
    for name in JOINTS:
        assert abs(graph.position[name] - HOME[name]) < 0.02, (name, graph.position)


def outside_at_start(graph):
    """A joint outside of its limits may only move inwards, and the status says so."""
    graph.enable(False)
    graph.until("rest", lambda: 0.5 < time.monotonic() - graph.last_motion(), 10.0)
    graph.position["elbow"] = 0.2  # the limit is 0.3
    graph.commands.clear()
    graph.spin(0.3)
    graph.go(0.5)
    graph.enable_when_possible()
    graph.until("inside again", lambda: 0.3 <= graph.position["elbow"], 10.0)
    elbow = [positions[2] for _, positions, _ in graph.commands]
    assert all(b - a >= -1e-9 for a, b in zip(elbow, elbow[1:]) if a < 0.3), "outwards"
    assert any("JOINT_OUTSIDE" in graph.reasons(m) for _, m in graph.statuses), graph.shown()


def scenario(executable, logs):
    folder = tempfile.mkdtemp()
    settings = dict(
        checkpoint=str(ROOT / "models/scripted/joint_position"),
        policy_file=str(ROOT / "config/policies/tabletop_scripted_joint_position.yaml"),
        robot_file=str(ROOT / "config/robots/tabletop_joint_trajectory.yaml"),
        autostart=True,
        dry_run=False,
        observation_timeout_s=TIMEOUT_S,
        inference_rate_hz=0.0,
        faults_to_latch=8,
        fault_window_s=0.5,
    )
    logs.append(f"{folder}/node.log")
    node, graph = NodeProcess(executable, logs[-1], **settings), Arm()
    try:
        graph.go(2.0)
        graph.until("active", graph.in_state("IDLE", "RUNNING", "HOLDING"), 60.0)
        graph.enable_when_possible()
        graph.resume()
        sources_fail(graph)
        order_does_not_matter(graph)
        outside_at_start(graph)
        graph.check_limits()
        assert node.stop() == 0
    finally:
        graph.close()
        node.process.kill()
    print(f"{'fault':28} {'last motion after':>17} {'bound':>8}  cause")
    for name, took, bound, reason, source in ROWS:
        print(f"{name:28} {took:15.3f} s {bound:6.3f} s  {reason} ({source})")


if __name__ == "__main__":
    peer.main(scenario)
