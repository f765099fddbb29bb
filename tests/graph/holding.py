"""The stop condition `stop_when_holding` of ~/run_policy: a goal ends when the gripper, commanded
closed, stays open around something. The peer plays the gripper's driver, with a joint or a topic.
"""

import pathlib
import tempfile

from openvla_tt_msgs.action import RunPolicy
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64

import peer
import run_policy
from peer import KIT, PATIENT, ROOT, STOP_S, NodeProcess, Peer, kit_cases, pixels
from peer import slow_policy_file
from run_policy import CASE, HZ, SLACK_S, Client

Result = RunPolicy.Result
# The source's values of closed and open: a joint that grows while it closes.
CLOSED, OPEN = 0.8, 0.0
HELD = 0.4
HOLD_S = 0.5


class Hand:
    """A gripper that follows its command within a second, and stops at what it holds."""

    def __init__(self, graph, joint):
        self.graph, self.joint = graph, joint
        self.opening, self.object, self.on, self.free = 1.0, 0.0, False, True
        create = graph.node.create_publisher
        kind, topic = (JointState, "joint_states") if joint else (Float64, "hand/opening")
        self.publisher = create(kind, topic, qos_profile_sensor_data)
        graph.node.create_timer(0.02, self.step)

    def step(self):
        command = self.graph.grippers[-1] if self.graph.grippers else 1.0
        wanted = max(command, self.object) if self.free else 1.0
        self.opening += max(-0.02, min(0.02, wanted - self.opening))
        value = CLOSED + self.opening * (OPEN - CLOSED)
        if not self.on:
            return
        if self.joint:
            # Another driver's message on the same topic, without the joint.
            self.publisher.publish(JointState(name=["elbow"], position=[1.0]))
            self.publisher.publish(JointState(name=["elbow", "finger"], position=[1.0, value]))
        else:
            self.publisher.publish(Float64(data=value))

    def release(self, thing):
        """Opens, with another object between the fingers, until `free` is set."""
        self.opening, self.object, self.free = 1.0, thing, False


def robot_file(folder, states):
    """The robot's own file with the peer's topics and another gripper section."""
    text = (ROOT / "config/robots/tabletop.yaml").read_text()
    head, gripper = text.split("gripper:\n")
    assert "states:" in gripper and head.count("workspace:") == 1
    head = head.split("workspace:")[0]
    path = pathlib.Path(folder) / "robot.yaml"
    path.write_text(f"{head}gripper:\n  min_dwell_s: 0.1\n{states}")
    return str(path)


def start(executable, logs, states):
    folder = tempfile.mkdtemp()
    logs.append(f"{folder}/node.log")
    return NodeProcess(
        executable,
        logs[-1],
        checkpoint=str(KIT / "ckpt"),
        policy_file=slow_policy_file(folder, HZ),
        robot_file=robot_file(folder, states),
        **PATIENT,
        faults_to_latch=8,
    )


def scenario(executable, logs):
    case = kit_cases()[CASE]
    for joint in (True, False):
        source = "joint: finger" if joint else "topic: hand/opening"
        states = f"  states: [{{{source}, closed: {CLOSED}, open: {OPEN}}}]\n"
        node = start(executable, logs, states)
        graph = Peer()
        try:
            client, hand = Client(graph, case["instruction"]), Hand(graph, joint)
            graph.until("idle", graph.in_state("IDLE"), 60.0)
            run_policy.film(graph, kit_cases())
            holds(client, hand, source)
            assert node.stop() == 0
        finally:
            graph.close()
            node.process.kill()
    without_source(executable, logs, case)


def holds(client, hand, source):
    graph, refused = client.graph, Result.REFUSED
    name = source.split(": ")[1]
    client.send(stop_when_holding=True).ended(refused, "NONE", "no recent opening", name)
    hand.on = True
    graph.spin(0.3)
    bad = client.send(stop_when_holding=True, holding_time_s=20.0)
    bad.ended(refused, "NONE", "holding_time_s is 20")

    # Nothing between the fingers: the goal goes on.
    goal = client.send(stop_when_holding=True)
    graph.until("closed on nothing", lambda: hand.opening < 0.01, 20.0)
    goes_on(goal)

    # Something between them.
    hand.release(HELD)
    goal = client.send(stop_when_holding=True).moves()
    hand.free = True
    result = goal.ended(Result.DONE, "NONE", "gripper 0 holds something", f"rests at {HELD:.2f}")
    graph.until("at rest", lambda: not graph.moving())
    assert 0.0 <= result.time_to_rest_s <= STOP_S + SLACK_S, result
    assert HOLD_S < result.elapsed_s, result
    assert graph.grippers[-1] == 0.0, "the gripper keeps its command"
    print(
        f"{source}: {result.detail}; {result.elapsed_s:.2f} s after the goal, at rest "
        f"{result.time_to_rest_s:.3f} s later, promised {STOP_S:.3f} s"
    )

    # It is still held: a further goal is not ended by that, nor one without the condition.
    goes_on(client.send(stop_when_holding=True).moves())
    hand.release(HELD)
    goal = client.send().moves()
    hand.free = True
    closed = lambda: hand.opening < HELD + 0.01 and graph.grippers[-1] == 0.0
    graph.until("closed on the object", closed, 20.0)
    goes_on(goal)


def goes_on(goal):
    """A goal in motion does not end in twice the time after which holding would end it."""
    goal.graph.spin(2.0 * HOLD_S + SLACK_S)
    assert not goal.future.done(), goal.future.result()
    goal.cancel()
    goal.ended(Result.CANCELLED)


def without_source(executable, logs, case):
    """A robot file that names no source."""
    node, graph = start(executable, logs, ""), Peer()
    try:
        client = Client(graph, case["instruction"])
        graph.until("idle", graph.in_state("IDLE"), 60.0)
        graph.film(pixels(case))
        goal = client.send(stop_when_holding=True)
        result = goal.ended(Result.REFUSED, "NONE", "set gripper.states in the robot file")
        assert graph.instruction() in ("", None), "nothing begins"
        print(f"refused: {result.detail}")
        assert node.stop() == 0
    finally:
        graph.close()
        node.process.kill()


if __name__ == "__main__":
    peer.main(scenario)
