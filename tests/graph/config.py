"""The configuration on the graph: topics of robot files, descriptors, changes, dump and load."""

import pathlib
import tempfile

import peer
import yaml
from lifecycle_msgs.srv import GetState
from peer import KIT, POLICY_FILE, ROOT, NodeProcess, Peer
from rcl_interfaces.msg import Parameter, ParameterEvent, ParameterType, ParameterValue
from rcl_interfaces.srv import DescribeParameters, GetParameters, ListParameters, SetParameters
from rclpy.node import NodeNameNonExistentError
from rclpy.qos import ReliabilityPolicy

NUMERIC = (
    ParameterType.PARAMETER_INTEGER,
    ParameterType.PARAMETER_DOUBLE,
    ParameterType.PARAMETER_DOUBLE_ARRAY,
)
# Numbers without a unit: between 0 and 1.
WITHOUT_UNIT = ("gripper.threshold", "gripper.hysteresis")


def started(executable, logs, files=(), **parameters):
    """A node with parameter files and parameters, and a peer that does not listen to commands."""
    logs.append(f"{tempfile.mkdtemp()}/node.log")
    arguments = [argument for file in files for argument in ("--params-file", str(file))]
    node = NodeProcess([*executable, "--ros-args", *arguments], logs[-1], **parameters)
    return node, Peer(listen=False)


def ended(node, graph):
    assert node.stop() == 0
    graph.close()


def names(graph):
    return graph.call(ListParameters, "list_parameters", ListParameters.Request()).result.names


def values(graph, wanted):
    request = GetParameters.Request(names=wanted)
    return graph.call(GetParameters, "get_parameters", request).values


def plain(value):
    """A value as `ros2 param dump` writes it."""
    return {
        ParameterType.PARAMETER_BOOL: lambda: value.bool_value,
        ParameterType.PARAMETER_INTEGER: lambda: value.integer_value,
        ParameterType.PARAMETER_DOUBLE: lambda: value.double_value,
        ParameterType.PARAMETER_STRING: lambda: value.string_value,
        ParameterType.PARAMETER_DOUBLE_ARRAY: lambda: list(value.double_array_value),
    }[value.type]()


def put(graph, name, value):
    kind = ParameterType.PARAMETER_DOUBLE if isinstance(value, float) else 2
    message = ParameterValue(type=kind)
    if isinstance(value, float):
        message.double_value = value
    else:
        message.integer_value = value
    request = SetParameters.Request(parameters=[Parameter(name=name, value=message)])
    return graph.call(SetParameters, "set_parameters", request).results[0]


def policy_file_for(robot):
    """A policy file of the robot's joints; none is needed for a robot that takes twists."""
    wanted = [joint["name"] for joint in robot.get("joints", [])]
    for path in sorted((ROOT / "config/policies").glob("*.yaml")) if wanted else []:
        policy = yaml.safe_load(path.read_text())
        if "remote" in policy:
            continue  # needs the address of a server
        action = policy["action"]
        grippers = action.get("grippers", [])
        if wanted == [name for name in action.get("joints", []) if name not in grippers]:
            return dict(policy_file=str(path), unnorm_key=policy["unnorm_keys"][0])
    assert not wanted, f"no policy file for the joints {wanted}"
    return {}


def a_robot_file_decides_the_topics(executable, logs, path):
    robot = yaml.safe_load(path.read_text())
    command = robot["command"]
    motion = command.get("twist_topic") or command["topic"]
    grippers = command.get("gripper_topics") or [command["gripper_topic"]]
    full = lambda name: name.replace("~", "/vla") if name[0] in "~/" else f"/{name}"
    topics = [full(name) for name in [motion, *grippers]]
    node, graph = started(executable, logs, robot_file=str(path), **policy_file_for(robot))
    try:
        graph.until("the node answers", lambda: graph.status is not None)

        def published():
            try:
                pairs = graph.node.get_publisher_names_and_types_by_node("vla", "/")
            except NodeNameNonExistentError:
                return False  # its topics may be discovered before its name
            offered = {name for name, _ in pairs}
            private = {name for name in offered if name.startswith("/vla/command/")}
            return set(topics) <= offered and private <= set(topics)

        graph.until(f"{path.name}: commands on {topics} and nowhere else", published)
    finally:
        ended(node, graph)
    print(f"{path.name}: commands on {', '.join(topics)}")


def every_number_has_range_and_unit(graph):
    listed = names(graph)
    request = DescribeParameters.Request(names=listed)
    described = graph.call(DescribeParameters, "describe_parameters", request).descriptors
    numbers = [descriptor for descriptor in described if descriptor.type in NUMERIC]
    assert len(numbers) > 30, len(numbers)
    for descriptor in numbers:
        ranges = [*descriptor.floating_point_range, *descriptor.integer_range]
        assert len(ranges) == 1 and ranges[0].from_value < ranges[0].to_value, descriptor
        whole = descriptor.type == ParameterType.PARAMETER_INTEGER
        unit = "Unit: " in descriptor.description
        assert whole or unit or descriptor.name in WITHOUT_UNIT, descriptor
    assert all(descriptor.type != ParameterType.PARAMETER_NOT_SET for descriptor in described)
    print(f"{len(numbers)} of {len(listed)} parameters are numbers, each with a range")


def limits_change_while_inactive(graph):
    assert graph.change("configure"), graph.shown()
    assert put(graph, "limits.linear.velocity", 0.02).successful
    (velocity,) = values(graph, ["limits.linear.velocity"])
    assert velocity.double_value == 0.02
    laxer = put(graph, "limits.linear.velocity", 0.5)
    assert not laxer.successful and "0.5 m/s" in laxer.reason and "0.25 m/s" in laxer.reason
    threads = put(graph, "threads", 3)
    assert not threads.successful and "clean it up first" in threads.reason, threads.reason
    label = graph.call(GetState, "get_state", GetState.Request()).current_state.label
    assert label == "inactive", label


def dump_can_be_given_back(executable, logs, folder, **parameters):
    """`ros2 param dump`, given back as a parameter file: every value is the same."""
    node, graph = started(executable, logs, **parameters)
    try:
        listed = list(names(graph))
        before = [plain(value) for value in values(graph, listed)]
    finally:
        ended(node, graph)
    dump = folder / "dump.yaml"
    text = yaml.safe_dump({"/vla": {"ros__parameters": dict(zip(listed, before))}})
    assert "null" not in text, text
    dump.write_text(text)
    node, graph = started(executable, logs, files=(dump,))
    try:
        after = [plain(value) for value in values(graph, listed)]
        differences = [n for n, a, b in zip(listed, before, after) if a != b]
        assert not differences, differences
    finally:
        ended(node, graph)
    print(f"{len(listed)} dumped parameters given back")


def a_pattern_applies_and_is_logged(executable, logs, folder):
    shared = folder / "shared.yaml"
    shared.write_text("/**: {ros__parameters: {clear_s: 0.7, of_another_node: 1}}\n")
    node, graph = started(executable, logs, files=(shared,))
    try:
        (clear,) = values(graph, ["clear_s"])
        assert clear.double_value == 0.7
        log = node.text()
    finally:
        ended(node, graph)
    assert "read /** (clear_s of_another_node)" in log, log
    assert "there is no such parameter" in log, log


def a_change_is_an_event(graph, events):
    known = lambda: graph.node.count_publishers("/parameter_events") == 2  # the peer's own too
    graph.until("the node's events", known)
    assert put(graph, "clear_s", 0.9).successful
    graph.until("an event of the change", lambda: any(e.node == "/vla" for e in events))
    assert not put(graph, "clear_s", -1.0).successful
    assert put(graph, "rearm_window_s", 1.5).successful
    mine = lambda: [e for e in events if e.node == "/vla"]
    graph.until("an event of the second change", lambda: len(mine()) == 2)
    changes = [[(p.name, plain(p.value)) for p in e.changed_parameters] for e in mine()]
    assert changes == [[("clear_s", 0.9)], [("rearm_window_s", 1.5)]], changes
    assert all(e.stamp.sec and not e.new_parameters for e in mine())


def qos_is_overridden_by_topic(executable, logs, folder):
    shared = folder / "qos.yaml"
    policies = "{subscription: {reliability: reliable, depth: 2}, publisher: {depth: 7}}"
    topics = f"{{/cam/image: {policies}, /not/ours: {policies}}}"
    shared.write_text(f"/**: {{ros__parameters: {{qos_overrides: {topics}}}}}\n")
    arguments = ["--ros-args", "-r", "image:=/cam/image"]
    node, graph = started([*executable, *arguments], logs, files=(shared,))
    try:
        events = []
        subscribe = graph.node.create_subscription
        subscribe(ParameterEvent, "/parameter_events", events.append, 100)
        found = lambda: graph.node.get_subscriptions_info_by_topic("/cam/image")
        (camera,) = graph.until("the camera's subscription", found)
        assert camera.qos_profile.reliability == ReliabilityPolicy.RELIABLE, camera.qos_profile
        a_change_is_an_event(graph, events)
        log = node.text()  # complete: the node has answered requests
    finally:
        ended(node, graph)
    assert "qos_overrides./not/ours.subscription has no effect" in log, log
    assert "qos_overrides./cam/image.publisher.depth" in log, log


def scenario(executable, logs):
    for path in sorted((ROOT / "config/robots").glob("*.yaml")):
        a_robot_file_decides_the_topics(executable, logs, path)
    robot = str(ROOT / "config/robots/tabletop.yaml")
    given = {
        "checkpoint": str(KIT / "ckpt"),
        "policy_file": POLICY_FILE,
        "unnorm_key": "bridge_orig",
    }
    node, graph = started(executable, logs, robot_file=robot, **given)
    try:
        every_number_has_range_and_unit(graph)
        limits_change_while_inactive(graph)
    finally:
        ended(node, graph)
    folder = pathlib.Path(tempfile.mkdtemp())
    dump_can_be_given_back(executable, logs, folder, robot_file=robot, **given)
    dump_can_be_given_back(executable, logs, folder)
    a_pattern_applies_and_is_logged(executable, logs, folder)
    qos_is_overridden_by_topic(executable, logs, folder)


if __name__ == "__main__":
    peer.main(scenario)
