"""The rclpy half of tests/ros_messages.rs: compares every field and sends the messages back.

Reads from standard input one JSON object {"action": {...}, "status": {...}} with the expected
values. Waits for one message of each type, publishes each on its `echo` topic, and ends when these
publications have been acknowledged.
"""

import json
import sys
import time

import rclpy
from openvla_tt_msgs.msg import Action, Status
from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

TIMEOUT_S = 30.0
QOS = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)


def plain(value):
    """A message, sequence or number as JSON types."""
    if hasattr(value, "get_fields_and_field_types"):
        return {name: plain(getattr(value, name)) for name in value.get_fields_and_field_types()}
    if isinstance(value, (str, bool, int, float)):
        return value
    return [plain(item) for item in value]


def compare(kind: str, message, expected: dict) -> None:
    """Ends the process with the name of the first field that differs."""
    got = plain(message)
    if got.keys() != expected.keys():
        sys.exit(f"{kind}: fields {sorted(got)} instead of {sorted(expected)}")
    for name, value in expected.items():
        if got[name] != value:
            sys.exit(f"{kind}.{name}: {got[name]!r} instead of {value!r}")


def main() -> None:
    expected = json.load(sys.stdin)
    # Constants of the two languages must be equal, or one state would be taken for another.
    for name, value in expected.pop("constants").items():
        if getattr(Status, name) != value:
            sys.exit(f"Status.{name} is {getattr(Status, name)}, in Rust {value}")
    rclpy.init()
    node = rclpy.create_node("echo_peer")
    answered = {}

    def answer(kind, publisher, message):
        compare(kind, message, expected[kind])
        publisher.publish(message)
        answered[kind] = publisher

    for kind, message_type in (("action", Action), ("status", Status)):
        publisher = node.create_publisher(message_type, f"echo/{kind}", QOS)
        node.create_subscription(
            message_type,
            f"sent/{kind}",
            lambda message, k=kind, p=publisher: answer(k, p, message),
            QOS,
        )
    deadline = time.monotonic() + TIMEOUT_S
    while len(answered) < len(expected):
        if time.monotonic() > deadline:
            sys.exit(f"only {sorted(answered)} of {sorted(expected)} arrived within {TIMEOUT_S} s")
        rclpy.spin_once(node, timeout_sec=0.1)
    for kind, publisher in answered.items():
        # Without a discovered subscriber there would be nothing to acknowledge.
        while publisher.get_subscription_count() == 0 and time.monotonic() < deadline:
            rclpy.spin_once(node, timeout_sec=0.1)
        if not publisher.wait_for_all_acked(Duration(seconds=10)):
            sys.exit(f"echo/{kind} was not acknowledged")
    node.destroy_node()
    rclpy.shutdown()


if __name__ == "__main__":
    main()
