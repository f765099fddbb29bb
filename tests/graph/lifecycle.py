"""The managed lifecycle through its services, as `ros2 lifecycle` and nav2's manager call them.

`nodes`, `listed` and `set_as_ros2` reimplement the verbs of ros2lifecycle 0.32 (Jazzy), because no
wheel contains that command line.
"""

import tempfile
import time

import peer
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetAvailableStates, GetAvailableTransitions, GetState
from peer import POLICY_FILE, KIT, STOP_S, NodeProcess, Peer, kit_cases
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import DescribeParameters, GetParameters, ListParameters, SetParameters


def set_parameter(graph, name, value):
    message = (
        ParameterValue(type=4, string_value=value)
        if isinstance(value, str)
        else ParameterValue(type=3, double_value=value)
    )
    answer = graph.call(
        SetParameters,
        "set_parameters",
        SetParameters.Request(parameters=[Parameter(name=name, value=message)]),
    )
    return answer.results[0]


def nodes(graph):
    """`ros2 lifecycle nodes`: those with a service of this name and type."""
    services = graph.node.get_service_names_and_types()
    return [
        name.removesuffix("/get_state")
        for name, types in services
        if name.endswith("/get_state") and "lifecycle_msgs/srv/GetState" in types
    ]


def listed(graph):
    """`ros2 lifecycle list`: the transitions that start in the present state."""
    state = graph.call(GetState, "get_state", GetState.Request()).current_state
    edges = graph.call(
        GetAvailableTransitions, "get_available_transitions", GetAvailableTransitions.Request()
    ).available_transitions
    assert all(edge.start_state == state for edge in edges), (state, edges)
    whole = graph.call(
        GetAvailableTransitions, "get_transition_graph", GetAvailableTransitions.Request()
    ).available_transitions
    # What `list --all` shows of this state, but for the ends of work, which only the node itself
    # takes.
    assert [e for e in whole if e.start_state == state and e.transition.id < 10] == edges, (
        whole,
        edges,
    )
    return [edge.transition for edge in edges]


def set_as_ros2(graph, wanted):
    """`ros2 lifecycle set`: finds the transition by label, then by number, and requests it."""
    offered = listed(graph)
    transition = next((t for t in offered if t.label == wanted), None) or next(
        t for t in offered if str(t.id) == wanted
    )
    return graph.call(
        ChangeState, "change_state", ChangeState.Request(transition=transition), 30.0
    ).success


def scenario(executable, logs):
    case = kit_cases()[0]
    logs.append(f"{tempfile.mkdtemp()}/node.log")
    node = NodeProcess(
        executable,
        logs[-1],
        checkpoint="/no/such/folder",
        policy_file=POLICY_FILE,
        unnorm_key="bridge_orig",
        dry_run=False,
        overrun_s=0.4,
        observation_timeout_s=2.0,
        inference_timeout_s=5.0,
    )
    graph = Peer()
    try:
        assert graph.lifecycle() == "unconfigured"
        assert nodes(graph) == ["/vla"], nodes(graph)
        states = graph.call(
            GetAvailableStates, "get_available_states", GetAvailableStates.Request()
        ).available_states
        assert {s.label: s.id for s in states}["active"] == 3 and len(states) == 10
        edges = graph.call(
            GetAvailableTransitions, "get_available_transitions", GetAvailableTransitions.Request()
        ).available_transitions
        assert [(e.transition.label, e.transition.id) for e in edges] == [
            ("configure", 1),
            ("shutdown", 5),
        ]
        whole = graph.call(
            GetAvailableTransitions, "get_transition_graph", GetAvailableTransitions.Request()
        ).available_transitions
        assert len(whole) == 25
        assert not graph.change("activate"), "not from unconfigured"
        answer = graph.enable()
        assert not answer.success and "not configured" in answer.message

        # Configuring fails: back to unconfigured, with the reason; then the parameter is set right.
        assert not graph.change("configure")
        graph.until(
            "the reason",
            lambda: (
                graph.reason == "CONFIGURATION_INVALID" and "/no/such/folder" in graph.status.detail
            ),
        )
        print(f"configure without a checkpoint: {graph.status.detail}")
        result = set_parameter(graph, "checkpoint", str(KIT / "ckpt"))
        assert result.successful, result.reason
        result = set_parameter(graph, "limits.linear.velocity", 40.0)
        assert not result.successful and "0.001..3" in result.reason, result
        result = set_parameter(graph, "command_rate_hz", 100.0)
        assert not result.successful and "started" in result.reason, result
        result = set_parameter(graph, "nonsense", 1.0)
        assert not result.successful and "no such parameter" in result.reason, result
        for key in ("bridge", "nomask_5d"):
            result = set_parameter(graph, "unnorm_key", key)
            assert not result.successful and "bridge_orig" in result.reason, result
        parameter_services(graph)

        begin = time.monotonic()
        assert graph.change("configure")
        configured = time.monotonic() - begin
        assert graph.lifecycle() == "inactive"
        graph.until("inactive", graph.in_state("INACTIVE"))
        loaded_mib = node.resident_mib()
        graph.film(peer.pixels(case))
        graph.say(case["instruction"])
        graph.spin(0.5)
        assert not graph.actions and not graph.twists, (
            "nothing is inferred or published while inactive"
        )
        refused = graph.enable()
        assert not refused.success and "not active" in refused.message
        result = set_parameter(graph, "checkpoint", "x")
        assert not result.successful and "unconfigured" in result.reason

        assert graph.change("activate") and graph.lifecycle() == "active"
        graph.until("idle", graph.in_state("IDLE"))
        graph.until("zero is streamed before enabling", lambda: len(graph.twists) > 10)
        assert not graph.moving()
        graph.enable_when_possible()
        graph.until("moving", lambda: graph.state == "RUNNING" and graph.moving())

        # Deactivation answers only when the command has come to zero.
        begin = time.monotonic()
        assert graph.change("deactivate")
        answered, answered_at = time.monotonic(), time.time()
        graph.spin(0.1)
        graph.rested(answered_at, "the last command before the answer is zero")
        assert answered - begin <= STOP_S + 0.3, f"{answered - begin:.3f} s"
        silent_from = len(graph.twists)
        graph.spin(0.5)
        assert len(graph.twists) <= silent_from + 1, "an inactive node is silent"
        graph.until("inactive", graph.in_state("INACTIVE"))
        assert graph.change("activate")
        graph.until("idle: it must be enabled again", graph.in_state("IDLE"))
        assert (
            graph.change("deactivate")
            and graph.change("cleanup")
            and graph.lifecycle() == "unconfigured"
        )
        print(
            f"configure {configured:.2f} s, deactivation mid-motion answered after "
            f"{answered - begin:.3f} s, memory loaded {loaded_mib:.0f} MiB, "
            f"cleaned up {node.resident_mib():.0f} MiB"
        )

        # An e-stop while the checkpoint is loaded is not forgotten when it has been loaded.
        future = graph.clients["change_state"].call_async(
            ChangeState.Request(transition=Transition(label="configure"))
        )
        assert graph.estop().success
        graph.until("configured", future.done)
        assert future.result().success and graph.change("activate")
        refused = graph.enable()
        assert not refused.success and "reset" in refused.message, refused
        graph.until("still stopped", graph.in_state("ESTOPPED"))
        graph.reset_when_possible()
        assert graph.change("deactivate") and graph.change("cleanup")

        # The whole way as `ros2 lifecycle` goes it, by label and by number.
        for wanted, reached in (
            ("configure", "inactive"),
            ("3", "active"),
            ("deactivate", "inactive"),
            ("activate", "active"),
            ("4", "inactive"),
            ("cleanup", "unconfigured"),
        ):
            assert set_as_ros2(graph, wanted) and graph.lifecycle() == reached, wanted

        # Again, by number instead of label, and the end.
        for number in (
            Transition.TRANSITION_CONFIGURE,
            Transition.TRANSITION_ACTIVATE,
            Transition.TRANSITION_ACTIVE_SHUTDOWN,
        ):
            request = ChangeState.Request(transition=Transition(id=number))
            assert graph.call(ChangeState, "change_state", request, 30.0).success, number
        assert graph.lifecycle() == "finalized" and not graph.change("configure")
        assert listed(graph) == []
        # ~/transition_event tells every step once, in order: each begins where the one before it
        # ended.
        graph.until("the last event", lambda: graph.transitions[-1].goal_state.label == "finalized")
        for before, after in zip(graph.transitions, graph.transitions[1:]):
            assert before.goal_state == after.start_state and before.timestamp <= after.timestamp, (
                before,
                after,
            )
        labels = [
            (e.start_state.label, e.transition.label, e.goal_state.label) for e in graph.transitions
        ]
        for wanted in (
            ("unconfigured", "configure", "configuring"),
            ("configuring", "transition_failure", "unconfigured"),
            ("configuring", "transition_success", "inactive"),
            ("active", "deactivate", "deactivating"),
            ("deactivating", "transition_success", "inactive"),
            ("cleaningup", "transition_success", "unconfigured"),
            ("shuttingdown", "transition_success", "finalized"),
        ):
            assert wanted in labels, (wanted, labels)
        assert node.stop() == 0
        graph.check_limits()
    finally:
        graph.close()
        node.process.kill()


def parameter_services(graph):
    names = graph.call(ListParameters, "list_parameters", ListParameters.Request()).result.names
    assert {"checkpoint", "dry_run", "limits.linear.velocity", "workspace.min"} <= set(names), names
    values = graph.call(
        GetParameters,
        "get_parameters",
        GetParameters.Request(names=["dry_run", "limits.linear.velocity", "nonsense"]),
    ).values
    assert (values[0].bool_value, values[1].double_value, values[2].type) == (False, 0.25, 0), (
        values
    )
    described = graph.call(
        DescribeParameters,
        "describe_parameters",
        DescribeParameters.Request(names=["frame_id", "limits.linear.jerk"]),
    ).descriptors
    assert described[0].read_only and "m/s3" in described[1].description and described[1].type == 3


if __name__ == "__main__":
    peer.main(scenario)
