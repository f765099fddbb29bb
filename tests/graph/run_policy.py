"""The action ~/run_policy: every outcome, cancellation in motion with its time to rest, preemption,
many goals in a row. A rclpy action client in its own process.

OPENVLA_TT_GOALS sets the number of goals in a row.
"""

import os
import pathlib
import tempfile
import time

import numpy
from action_msgs.msg import GoalStatus
from action_msgs.srv import CancelGoal
from openvla_tt_msgs.action import RunPolicy
from rclpy.action import ActionClient
from std_msgs.msg import Bool

import peer
from peer import KIT, PATIENT, REASONS, ROOT, STATES, STOP_S, NodeProcess, Peer, kit_cases, pixels
from peer import slow_policy_file

SLACK_S = 0.3
# A case with a long step, at a rate that a busy machine keeps.
CASE, HZ = 8, 2.0
GOALS = int(os.environ.get("OPENVLA_TT_GOALS", "4"))
PROFILE = "FASTRTPS_DEFAULT_PROFILES_FILE"
Result = RunPolicy.Result
STATUS = {
    Result.DONE: GoalStatus.STATUS_SUCCEEDED,
    Result.CANCELLED: GoalStatus.STATUS_CANCELED,
}


class Goal:
    """A goal that was sent, its feedback and its result."""

    def __init__(self, client, **fields):
        self.graph, self.feedback = client.graph, []
        goal = RunPolicy.Goal(instruction=client.instruction, time_limit_s=60.0, enable=True)
        for name, value in fields.items():
            setattr(goal, name, value)
        future = client.action.send_goal_async(goal, lambda m: self.feedback.append(m.feedback))
        self.graph.until("an answer to the goal", future.done)
        self.handle = future.result()
        assert self.handle.accepted
        self.future = self.handle.get_result_async()

    def ended(self, outcome, reason="NONE", *words, timeout=20.0):
        """Waits for the result and checks it."""
        self.graph.until("a result", self.future.done, timeout)
        ended_at = time.time()
        answer = self.future.result()
        result = answer.result
        assert result.outcome == outcome and REASONS[result.reason] == reason, result
        assert answer.status == STATUS.get(outcome, GoalStatus.STATUS_ABORTED), answer
        for word in words:
            assert word in result.detail, result
        if outcome not in (Result.REFUSED, Result.PREEMPTED):  # there, another goal may move
            self.graph.rested(ended_at, "the result comes at rest")
        return result

    def moves(self):
        """Waits until the goal is in motion."""
        running = lambda: self.feedback and STATES[self.feedback[-1].state] == "RUNNING"
        self.graph.until("the goal runs", running)
        self.graph.until("the robot moves", lambda: self.graph.state == "RUNNING")
        self.graph.until("the command is not zero", self.graph.moving)
        return self

    def cancel(self):
        return self.handle.cancel_goal_async()


class Client:
    """An action client on the peer's node."""

    def __init__(self, graph, instruction):
        self.graph, self.instruction = graph, instruction
        self.action = ActionClient(graph.node, RunPolicy, f"{graph.vla}/run_policy")
        self.done = graph.node.create_publisher(Bool, f"{graph.vla}/done", 5)
        graph.until("the action server", self.action.server_is_ready, 30.0)

    def send(self, **fields):
        return Goal(self, **fields)


def scenario(executable, logs):
    cases = kit_cases()
    folder = tempfile.mkdtemp()
    logs.append(f"{folder}/node.log")
    node = NodeProcess(
        executable,
        logs[-1],
        checkpoint=str(KIT / "ckpt"),
        policy_file=slow_policy_file(folder, HZ),
        **PATIENT,
        detectors__constant_steps=4,
        faults_to_latch=8,
        fault_window_s=0.5,
    )
    graph = Peer()
    try:
        client = Client(graph, cases[CASE]["instruction"])
        graph.until("idle", graph.in_state("IDLE"), 60.0)
        refusals(client)
        film(graph, cases)
        conditions(client)
        cancellation(client)
        preemption(client, cases)
        stops(client, cases)
        later_enabling(client)
        in_a_row(client)
        graph.check_limits()
        shut_down(client, node)
    finally:
        graph.close()
        node.process.kill()
    killed_node_ends_no_client(executable, logs, folder, cases)


def film(graph, cases):
    """Films until control accepts the images."""
    graph.film(pixels(cases[CASE]))
    old = {"IMAGE_MISSING", "IMAGE_STALE"}
    graph.until("images", lambda: not old & set(graph.reasons(graph.status)))


def refusals(client):
    """A goal that cannot begin has a result that says why; nothing moves."""
    refused = Result.REFUSED
    client.send(instruction=" ").ended(refused, "INSTRUCTION_REJECTED", "instruction refused")
    client.send(time_limit_s=0.0).ended(refused, "NONE", "time_limit_s is 0")
    client.send(time_limit_s=float("nan")).ended(refused, "NONE", "must be from 0.1 to 3600")
    client.send(stop_in_box=True).ended(refused, "NONE", "ee_pose")
    result = client.send().ended(refused, "IMAGE_MISSING")
    assert client.graph.instruction() == "", "the instruction is withdrawn"
    assert not client.graph.moving()
    print(f"refused without images: {result.detail}")


def conditions(client):
    """DONE by the topic and by a stall; the time limit."""
    graph = client.graph
    goal = client.send(stop_on_done=True).moves()
    client.done.publish(Bool(data=False))
    progress = lambda: 0 < goal.feedback[-1].generation and 0.01 < goal.feedback[-1].path_m
    graph.until("feedback of the motion", progress)
    assert not goal.future.done()
    client.done.publish(Bool(data=True))
    result = goal.ended(Result.DONE, "NONE", "~/done")
    assert 0.0 < result.time_to_rest_s <= STOP_S + SLACK_S, result
    assert 0.0 < result.path_m < 0.3 * result.elapsed_s and 0 < result.inferences, result
    last = goal.feedback[-1]
    assert 0.0 < last.path_m <= result.path_m and 0 < last.steps and 0 < last.generation, last
    print(
        f"done by topic: {result.path_m:.3f} m in {result.elapsed_s:.2f} s, at rest "
        f"{result.time_to_rest_s:.3f} s later, promised {STOP_S:.3f} s"
    )
    result = client.send(stop_when_stalled=True).ended(Result.DONE, "NONE", "repeats one action")
    print(f"done by a stall after {result.elapsed_s:.2f} s")
    result = client.send(time_limit_s=1.5).ended(Result.TIMED_OUT, "NONE", "limit of 1.5 s")
    assert 1.5 <= result.elapsed_s <= 1.5 + SLACK_S, result


def cancellation(client):
    """Cancelled in motion: zero within the stop time, the result after it."""
    graph = client.graph
    goal = client.send().moves()
    begin = time.monotonic()
    answer = goal.cancel()
    took = graph.time_to_stop(begin)
    result = goal.ended(Result.CANCELLED)
    assert answer.done() and len(answer.result().goals_canceling) == 1, answer
    assert took <= STOP_S + SLACK_S, f"{took:.3f} s"
    print(f"cancelled in motion: zero {took:.3f} s after the call; result {result}")
    again = goal.cancel()
    graph.until("an answer", again.done)
    assert again.result().return_code == CancelGoal.Response.ERROR_GOAL_TERMINATED, again.result()


def preemption(client, cases):
    graph = client.graph
    first = client.send().moves()
    client.send().ended(Result.REFUSED, "NONE", "set `preempt`")
    assert not first.future.done()
    other = cases[0]["instruction"]
    assert other != client.instruction
    second = client.send(instruction=other, preempt=True)
    first.ended(Result.PREEMPTED, "NONE", "another goal")
    graph.until("the new instruction", lambda: graph.instruction() == other)
    second.moves()
    graph.say(client.instruction)
    second.ended(Result.PREEMPTED, "NONE", "topic")
    graph.until("the topic's instruction", lambda: graph.instruction() == client.instruction)
    graph.say("")
    graph.until("no instruction", lambda: graph.instruction() == "")


def stops(client, cases):
    """What stops the robot ends the goal with its reason."""
    graph = client.graph
    goal = client.send().moves()
    assert graph.estop().success
    goal.ended(Result.STOPPED, "ESTOP")
    client.send().ended(Result.REFUSED, "ESTOP", "emergency stop")
    graph.reset_when_possible()
    goal = client.send().moves()
    graph.dark()
    result = goal.ended(Result.STOPPED, "IMAGE_STALE", "call ~/enable")
    print(f"camera lost: {result.detail}")
    film(graph, cases)
    goal = client.send().moves()
    assert graph.enable(False).success
    goal.ended(Result.STOPPED, "NOT_ENABLED")
    goal = client.send().moves()
    assert graph.change("deactivate")
    goal.ended(Result.STOPPED, "DEACTIVATING")
    assert graph.change("activate")


def later_enabling(client):
    """Without `enable` a goal waits for the operator."""
    graph, since = client.graph, time.time()
    goal = client.send(enable=False)
    waits = lambda: goal.feedback and REASONS[goal.feedback[-1].reason] == "NOT_ENABLED"
    graph.until("feedback says what is missing", waits)
    graph.rested(since, "nothing moves before it is enabled")
    graph.enable_when_possible()
    goal.moves().cancel()
    goal.ended(Result.CANCELLED)
    graph.until("not enabled any more", lambda: not graph.status.enabled)
    result = client.send(enable=False, time_limit_s=0.5).ended(Result.TIMED_OUT)
    assert "not enabled" in result.detail, result


def in_a_row(client):
    """Goals one after the other, each cancelled or done in motion."""
    begin, slowest = time.monotonic(), 0.0
    for number in range(GOALS):
        goal = client.send(stop_on_done=True).moves()
        if number % 2:
            goal.cancel()
            result = goal.ended(Result.CANCELLED)
        else:
            client.done.publish(Bool(data=True))
            result = goal.ended(Result.DONE)
        assert not numpy.isnan(result.time_to_rest_s), result
        slowest = max(slowest, result.time_to_rest_s)
    print(
        f"{GOALS} goals in a row in {time.monotonic() - begin:.1f} s, longest time to rest "
        f"{slowest:.3f} s"
    )


def shut_down(client, node):
    """The end of the node ends the goal, with a result."""
    goal = client.send().moves()
    node.process.send_signal(2)
    result = goal.ended(Result.STOPPED, "NONE", "SHUTTING_DOWN")
    assert result.time_to_rest_s <= STOP_S + SLACK_S, result
    assert node.stop() == 0


def short_lease(folder):
    """The profile of Fast DDS by which others miss a killed process after 3 s instead of 20 s."""
    lease = "<leaseDuration><sec>3</sec></leaseDuration>"
    lease += "<leaseAnnouncement><sec>1</sec></leaseAnnouncement>"
    lease = f"<builtin><discovery_config>{lease}</discovery_config></builtin>"
    text = (ROOT / "config/fastdds.xml").read_text()
    assert text.count("</rtps>") == 1
    path = pathlib.Path(folder) / "fastdds.xml"
    path.write_text(text.replace("</rtps>", f"{lease}</rtps>"))
    return str(path)


def killed_node_ends_no_client(executable, logs, folder, cases):
    """A client of a killed node gets no result, and finds that the server is gone."""
    logs.append(f"{folder}/killed.log")
    node = NodeProcess(
        executable,
        logs[-1],
        popen=dict(env=os.environ | {PROFILE: short_lease(folder)}),
        checkpoint=str(KIT / "ckpt"),
        autostart=False,
    )
    graph = Peer()
    try:
        client = Client(graph, cases[CASE]["instruction"])
        result = client.send().ended(Result.REFUSED, "NOT_CONFIGURED", "not configured")
        assert result.time_to_rest_s == 0.0, result
        node.process.kill()
        graph.until("the server is gone", lambda: not client.action.server_is_ready(), 60.0)
    finally:
        graph.close()
        node.process.kill()
    assert pathlib.Path(logs[-1]).exists()


if __name__ == "__main__":
    peer.main(scenario)
