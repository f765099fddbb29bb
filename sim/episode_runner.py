"""Runs episodes: starts the node and the simulated robot and observes both on the ROS graph.

Used by the demo, the evaluation and the tests. Node and robot are processes of their own.
"""

import functools
import json
import math
import sys
import time

import numpy as np
import rclpy
from episode import Episode
from geometry_msgs.msg import TwistStamped
from openvla_tt_msgs.msg import Action, Status
from policy_server import PolicyServer
from processes import ROOT, Program, RunnerError, node_executable
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from std_msgs.msg import Float64, String
from std_srvs.srv import SetBool, Trigger

LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
RELIABLE = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
DRIVER_PERIOD_S = 0.02  # of the simulated arm's driver, sim/robot_sim_node.py
STATES = {
    getattr(Status, name): name
    for name in "UNCONFIGURED INACTIVE IDLE RUNNING HOLDING FAULT ESTOPPED".split()
}


def rate(times):
    """Events per second between the first and the last of these times [s]; 0 for fewer than two."""
    if len(times) < 2 or times[-1] <= times[0]:
        return 0.0
    return round((len(times) - 1) / (times[-1] - times[0]), 2)


def seconds_of(stamp):
    """A ROS time in seconds."""
    return stamp.sec + stamp.nanosec * 1e-9


class SceneView:
    """The part of a TabletopScene that the scripted expert uses, read from the robot's ~/state."""

    def __init__(self, state):
        self.task, self.target, self.bowl = state["task"], state["target"], state["bowl"]
        self.state = state

    def ee_pose(self):
        return np.array(self.state["tool"]), None

    def targets(self):
        return {colour: np.array(place) for colour, place in self.state["blocks"].items()}

    def bowl_places(self):
        return {colour: np.array(place) for colour, place in self.state.get("bowls", {}).items()}

    def gripper_opening(self):
        return self.state["gripper"]


class EpisodeRunner:
    """An rclpy node and the programs that it has started; `close` stops them all.

    Newest messages: `state` (dict, ~/state of the robot), `status`, `action`, `twist`, `gripper`,
    and, with `images`, `picture` and `wrist`. Since the episode was enabled: `actions` (stamp,
    latency, instruction), `twists` (stamps), `reasons` (texts of Status.detail), `seams` (between
    chunks, m).
    """

    def __init__(self, name="episode_runner", images=False):
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node(name)
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.programs = []
        self.robot_sim = self.vla = None
        self.state = self.status = self.action = None
        self.picture = self.wrist = self.twist = self.gripper = None
        self.actions, self.twists, self.reasons, self.seams = [], [], [], []
        self.on_spin = None  # called after each turn of the executor
        self._subscribe(images)
        self.episode_topic = self.node.create_publisher(String, "tabletop/episode", RELIABLE)
        self.enable_client = self.node.create_client(SetBool, "vla/enable")
        self.reset_client = self.node.create_client(Trigger, "vla/reset")

    def _subscribe(self, images):
        subscribe = self.node.create_subscription
        subscribe(String, "tabletop/state", self._take_state, LATCHED)
        subscribe(Status, "vla/status", self._take_status, LATCHED)
        subscribe(Action, "vla/action", self._take_action, RELIABLE)
        subscribe(TwistStamped, "vla/command/twist", self._take_twist, RELIABLE)
        subscribe(
            Float64, "vla/command/gripper", lambda m: setattr(self, "gripper", m.data), RELIABLE
        )
        if images:
            for topic, name in (("image", "picture"), ("wrist_image", "wrist")):
                take = functools.partial(setattr, self, name)
                subscribe(Image, topic, take, qos_profile_sensor_data)

    def _take_state(self, message):
        self.state = json.loads(message.data)

    def _take_status(self, message):
        if self.status is not None and message.seams > self.status.seams:
            self.seams.append(message.seam_last[0])
        self.status = message
        if not self.reasons or self.reasons[-1] != message.detail:
            self.reasons.append(message.detail)

    def _take_action(self, message):
        self.action = message
        self.actions.append(
            (seconds_of(message.header.stamp), message.latency_s, message.instruction)
        )

    def _take_twist(self, message):
        self.twist = message
        self.twists.append(seconds_of(message.header.stamp))

    # -- Processes

    def start_robot_sim(self, **parameters):
        """Starts sim/robot_sim_node.py and waits for its first state."""
        command = [sys.executable, str(ROOT / "sim/robot_sim_node.py")]
        self.robot_sim = Program("tabletop", command, parameters)
        self.programs.append(self.robot_sim)
        self.wait_until("the simulated robot runs", lambda: self.state is not None, 60.0)

    def start_policy_server(self, checkpoint, *options):
        """Starts `openvla serve` with these options and waits until clients can connect."""
        server = PolicyServer(checkpoint, *options)
        self.programs.append(server)
        self.wait_until("the policy server listens", lambda: server.port() is not None, 300.0)
        return server

    def start_node(self, checkpoint, policy_file, unnorm_key="", **parameters):
        """Starts the node and waits until it is active. A second node replaces the first.

        With the parameter `remote` the policy is a server's and `checkpoint` is empty.
        """
        if self.vla is not None:
            self.stop_node()
        self.status = None
        defaults = dict(
            checkpoint=str(checkpoint),
            policy_file=str(policy_file),
            robot_file=str(ROOT / "config/robots/tabletop.yaml"),
            unnorm_key=unnorm_key,
            autostart=True,
            dry_run=False,
        )
        self.vla = Program("vla_node", [node_executable()], defaults | parameters)
        self.programs.append(self.vla)
        self.wait_until("the node is active", self._active, parameters.get("load_timeout_s", 300.0))

    def _active(self):
        if self.status is None:
            return False
        # The node retries a failed configuration, but a wrong folder or policy file stays wrong.
        if self.status.reason == Status.REASON_CONFIGURATION_INVALID:
            raise RunnerError(f"the node cannot be configured: {self.status.detail}")
        return STATES[self.status.state] in ("IDLE", "HOLDING", "FAULT")

    def stop_node(self):
        status = self.vla.stop(self.spin_once)
        self.programs.remove(self.vla)
        self.vla = None
        if status != 0:
            raise RunnerError(f"the node ended with status {status}")

    def close(self):
        """Stops every program, the newest first, so that the node ramps down before the robot ends.

        Returns a text for each program that did not end with status 0.
        """
        bad = []
        for program in reversed(self.programs):
            status = program.stop(self.spin_once)
            if status != 0:
                bad.append(f"{program.name} ended with status {status}, log {program.log.name}")
        self.programs = []
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown()
        return bad

    # -- Waiting

    def spin_once(self, timeout=0.02):
        """Handles one message, or waits `timeout` seconds for it; then calls `on_spin`."""
        self.executor.spin_once(timeout_sec=timeout)
        if self.on_spin is not None:
            self.on_spin()

    def spin_for(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.spin_once()

    def wait_until(self, what, condition, seconds=15.0):
        """Spins until `condition()`; after `seconds` raises RunnerError with the text `what`."""
        end = time.monotonic() + seconds
        while not condition():
            for program in self.programs:
                program.check()
            if end < time.monotonic():
                raise RunnerError(
                    f"waited {seconds:g} s in vain until {what}; the node's status:"
                    f" {self.describe_status()}"
                )
            self.spin_once()

    def command_speed(self):
        """Norm of the newest twist, with m/s and rad/s added: only good for comparison with 0."""
        t = self.twist.twist
        return math.hypot(t.linear.x, t.linear.y, t.linear.z, t.angular.x, t.angular.y, t.angular.z)

    def command_is_zero(self):
        return self.twist is not None and self.command_speed() == 0.0

    def describe_status(self):
        return f"{STATES[self.status.state]} '{self.status.detail}'" if self.status else "none yet"

    def call(self, client, request, seconds=10.0):
        """The response of a service."""
        self.wait_until(f"service {client.srv_name} exists", client.service_is_ready, seconds)
        response = client.call_async(request)
        self.wait_until(f"{client.srv_name} responds", response.done, seconds)
        return response.result()

    def interventions(self):
        """Number of control periods by name of the intervention, since the node started."""
        return dict(zip(self.status.intervention_names, self.status.interventions))

    # -- Episodes

    def new_scene(self, **wanted):
        """Starts an episode at the robot (keys of ~/episode; None: not given) and awaits it."""
        before, refusals = self.state["episode"], self.state["refusals"]
        self.wait_until(
            "the robot subscribes to ~/episode",
            lambda: self.episode_topic.get_subscription_count() > 0,
        )
        self.episode_topic.publish(
            String(data=json.dumps({k: v for k, v in wanted.items() if v is not None}))
        )
        self.wait_until(
            "the episode begins",
            lambda: self.state["episode"] > before or self.state["refusals"] > refusals,
        )
        if self.state["refusals"] > refusals:
            raise RunnerError(self.state["error"])

    def bring_to_rest(self):
        """Disables motion, waits for a command of zero and resets a latched fault."""
        self.call(self.enable_client, SetBool.Request(data=False))
        self.twist = None
        self.wait_until("the node's command is zero", self.command_is_zero)
        for attempt in range(100):
            if STATES[self.status.state] not in ("FAULT", "ESTOPPED"):
                return
            if attempt == 0:
                # A reset is refused while a watchdog is active: images must arrive again.
                self.new_scene(camera="live")
            self.call(self.reset_client, Trigger.Request())
            self.spin_for(0.1)
        raise RunnerError(f"the node cannot be reset: {self.describe_status()}")

    def enable_motion(self, timeout_s=10.0):
        """Requests motion until the node grants it; whether it did within `timeout_s`.

        The node refuses while a watchdog is active, e.g. until the first image of a new scene.
        """
        end = time.monotonic() + timeout_s
        while not self.call(self.enable_client, SetBool.Request(data=True)).success:
            if end <= time.monotonic():
                return False
            self.spin_for(0.05)
        return True

    def _await_instruction(self, instruction):
        if instruction:
            self.wait_until(
                "the node has the instruction",
                lambda: self.status.instruction.lower() == instruction.lower(),
            )
        else:
            self.wait_until("the node has no instruction", lambda: not self.status.instruction)

    def run(
        self,
        seed,
        task=None,
        block=None,
        bowl=None,
        instruction=None,
        camera="live",
        camera_from_s=0.0,
        faults=None,
        seconds=10.0,
        wait_s=0.0,
        later_s=1.0,
        success_check=None,
        **more,
    ):
        """Runs one episode in real time and returns its Episode. `more`: keys of ~/episode.

        A new scene, `wait_s` of nothing, then motion is enabled until `success_check(state)` (by
        default: the task is done) or for `seconds`; then it is disabled until the command is zero.
        """
        success_check = success_check or (lambda state: state["success"])
        self.bring_to_rest()
        self.new_scene(
            seed=seed,
            task=task,
            block=block,
            bowl=bowl,
            instruction=instruction,
            camera=camera,
            camera_from_s=camera_from_s,
            faults=faults,
            **more,
        )
        instruction = self.state["instruction"] if instruction is None else instruction
        instruction = instruction.strip()
        self._await_instruction(instruction)
        self.spin_for(wait_s)
        before, late = self.interventions(), self.status.late_results
        lost, tool = self.state["lost_periods"], self.state["tool"]
        self.actions, self.twists, self.reasons, self.seams = [], [], [], []
        # Without an instruction or without images the node refuses motion, which is right.
        possible = instruction and (camera in ("live", "still") or camera_from_s > 0.0)
        if not self.enable_motion(10.0 if possible else 0.0) and possible:
            raise RunnerError(f"the node refuses motion: {self.describe_status()}")
        began = self.state["time_s"]
        moved, moved_later = self._observe(tool, seconds, later_s, success_check)
        state, status, reasons = self.state, self.status, self.reasons[:20]
        ages, streamed, seams = self._ages(), list(self.twists), list(self.seams)
        self._disable()
        after = self.interventions()
        return Episode(
            seed=state["seed"],
            task=state["task"],
            target=state["target"],
            instruction=instruction,
            success=bool(success_check(state)),
            success_s=None if state["success_s"] is None else round(state["success_s"] - began, 3),
            seconds=round(state["time_s"] - began, 3),
            path_length=state["path_length_m"],
            tool_moved=round(moved, 4),
            first_touched=state["first_touched"],
            done=state["done"],
            moved_later=round(moved_later, 4),
            policy_hz=rate([stamp + latency for stamp, latency, _ in self.actions]),
            command_hz=rate(streamed),
            ages_s=[round(age, 4) for age in ages],
            interventions={
                n: after[n] - before.get(n, 0) for n in after if after[n] > before.get(n, 0)
            },
            late_results=self.status.late_results - late,
            seams=[round(seam, 5) for seam in seams],
            peaks=self.state["peaks"],
            measured=self.state["measured"],
            lost_s=round((self.state["lost_periods"] - lost) * DRIVER_PERIOD_S, 3),
            command_timeouts=state["command_timeouts"],
            end_state=STATES[status.state],
            reasons=reasons,
        )

    def _observe(self, start, seconds, later_s, success_check):
        """Spins until success or for `seconds`, also when a fault latches meanwhile.

        Returns the largest distances of the tool [m] from `start` and from its position at
        `later_s`.
        """
        begin, later = time.monotonic(), None
        moved = moved_later = 0.0
        while time.monotonic() - begin < seconds and not success_check(self.state):
            for program in self.programs:
                program.check()
            self.spin_once()
            moved = max(moved, math.dist(start, self.state["tool"]))
            if later_s < time.monotonic() - begin:
                later = later or self.state["tool"]
                moved_later = max(moved_later, math.dist(later, self.state["tool"]))
        return moved, moved_later

    def _disable(self):
        """Disables motion and waits for rest: the stop belongs to the episode, as do its peaks."""
        self.call(self.enable_client, SetBool.Request(data=False))
        self.wait_until(
            "the command is zero", lambda: not self.status.enabled and self.command_is_zero()
        )
        time_s = self.state["time_s"]
        self.wait_until("a later state of the robot", lambda: self.state["time_s"] > time_s)

    def _ages(self):
        """Time from the stamp of each answered image to the first command after its action [s]."""
        ages, k = [], 0
        for stamp, latency, _ in self.actions:
            if not math.isfinite(latency):
                continue
            while k < len(self.twists) and self.twists[k] < stamp + latency:
                k += 1
            if k < len(self.twists):
                ages.append(self.twists[k] - stamp)
        return ages
