"""Instructions arrive from publishers of every QoS, and mistakes on topics are named.

The node is not configured: no checkpoint is loaded.
"""

import tempfile

import peer
from diagnostic_msgs.msg import DiagnosticArray
from peer import NodeProcess, Peer
from rcl_interfaces.msg import Log
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String


def qos(reliability, durability):
    return QoSProfile(
        depth=1,
        reliability=getattr(ReliabilityPolicy, reliability),
        durability=getattr(DurabilityPolicy, durability),
    )


def scenario(executable, logs):
    logs.append(f"{tempfile.mkdtemp()}/node.log")
    # Published before the node exists: only a latched instruction can arrive.
    graph = Peer(node_name="robot1/vla", publish=False)
    latched = graph.node.create_publisher(
        String, "robot1/instruction", qos("RELIABLE", "TRANSIENT_LOCAL")
    )
    latched.publish(String(data="latched before the start"))
    diagnostics, lines = [], []
    create = graph.node.create_subscription
    create(DiagnosticArray, "/diagnostics", diagnostics.append, 10)
    create(Log, "/rosout", lines.append, qos("RELIABLE", "TRANSIENT_LOCAL"))
    node = NodeProcess(
        [*executable],
        logs[-1],
        remap=["__ns:=/robot1", "image:=/cam/image_raw"],
    )
    try:
        expected = ["latched before the start"]
        graph.until("the latched one", lambda: graph.instruction() == expected[-1])
        instructions(graph, expected)
        topics(graph)
        camera_line(graph, diagnostics)
        names = {line.name for line in lines if "instruction: " in line.msg}
        assert names == {"robot1.vla"}, names
        assert node.stop() == 0
    finally:
        graph.close()
        node.process.kill()


def instructions(graph, expected):
    """One publisher of each QoS; of a reliable one a single message, as `ros2 topic pub -1`."""
    for reliability in ("RELIABLE", "BEST_EFFORT"):
        for durability in ("VOLATILE", "TRANSIENT_LOCAL"):
            expected.append(f"{reliability} {durability}".lower().replace("_", " "))
            publish_once(graph, qos(reliability, durability), expected[-1])
    graph.spin(1.2)
    received = [m.instruction for _, m in graph.statuses if m.instruction]
    changes = [text for i, text in enumerate(received) if i == 0 or received[i - 1] != text]
    assert changes == expected, changes
    print(f"instructions in order, each once: {changes}")


def publish_once(graph, profile, text):
    publisher = graph.node.create_publisher(String, "robot1/instruction", profile)
    # Each subscription that this publisher's QoS matches.
    reliable = profile.reliability == ReliabilityPolicy.RELIABLE
    latched = profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
    matches = 1 + reliable + (reliable and latched)
    graph.until("subscribed", lambda: matches <= publisher.get_subscription_count())
    publish = lambda: publisher.publish(String(data=text))
    publish()
    # A best-effort message is lost where the node has not discovered the publisher yet.
    again = None if reliable else graph.node.create_timer(0.5, publish)
    graph.until(f"'{text}' arrives", lambda: graph.instruction() == text)
    if again:
        graph.node.destroy_timer(again)


def cause(graph, name):
    """The sentence of a cause in the newest status, or None."""
    named = zip(graph.status.causes, graph.status.cause_details)
    return next((text for code, text in named if peer.REASONS[code] == name), None)


def topics(graph):
    """Absent, wrong and doubled publishers of the camera's topic."""
    create = graph.node.create_publisher
    text = graph.until("absence is named", lambda: cause(graph, "TOPIC_NO_PUBLISHER"))
    assert "/cam/image_raw" in text and "no topic of type" in text, text
    other = create(Image, "/elsewhere/image", qos_profile_sensor_data)
    graph.until(
        "the alternative is named",
        lambda: "/elsewhere/image" in (cause(graph, "TOPIC_NO_PUBLISHER") or ""),
    )
    wrong = create(CompressedImage, "/cam/image_raw", qos_profile_sensor_data)
    text = graph.until("the type is named", lambda: cause(graph, "TOPIC_TYPE_MISMATCH"))
    assert "CompressedImage" in text and "image_transport" in text, text
    graph.node.destroy_publisher(wrong)
    cameras = [create(Image, "/cam/image_raw", qos_profile_sensor_data) for _ in range(2)]
    text = graph.until("the second camera is named", lambda: cause(graph, "TOPIC_MANY_PUBLISHERS"))
    assert "2 nodes publish on /cam/image_raw" in text, text
    for camera in (cameras.pop(), other):
        graph.node.destroy_publisher(camera)
    graph.until("all is well", lambda: not cause(graph, "TOPIC_MANY_PUBLISHERS"))
    command = create(peer.TwistStamped, "robot1/vla/command/twist", 1)
    text = graph.until("the second commander", lambda: cause(graph, "TOPIC_MANY_PUBLISHERS"))
    assert "/robot1/vla/command/twist" in text, text
    graph.node.destroy_publisher(command)
    print("topics: absent, other type, doubled camera and doubled command are named")


def camera_line(graph, diagnostics):
    """The camera's line of /diagnostics is no OK while no image arrives."""
    graph.until("diagnostics", lambda: diagnostics)
    line = next(s for s in diagnostics[-1].status if s.name == "/robot1/vla: Camera")
    assert line.level != b"\x00", line


if __name__ == "__main__":
    peer.main(scenario)
