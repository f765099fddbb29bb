"""The node and the simulated robot, each in a process of its own, and an rclpy peer that runs episodes on them: for the demo, the evaluation and the tests."""

import ctypes
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import rclpy
from episode import Episode
from geometry_msgs.msg import TwistStamped
from openvla_tt_msgs.msg import Action, Status
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from std_msgs.msg import Float64, String
from std_srvs.srv import SetBool, Trigger

ROOT = pathlib.Path(__file__).resolve().parents[1]
LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
RELIABLE = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
DRIVER_PERIOD_S = 0.02  # of the simulated arm's driver, sim/peer.py
STATES = {
    getattr(Status, name): name
    for name in "UNCONFIGURED INACTIVE IDLE RUNNING HOLDING FAULT ESTOPPED".split()
}


class SessionError(RuntimeError):
    """Something that was started does not do what it should; the text says what and where its log is."""


def node_executable():
    """The node that $VLA_NODE names, or the one that was built last."""
    found = (
        [pathlib.Path(os.environ["VLA_NODE"])]
        if os.environ.get("VLA_NODE")
        else [ROOT / f"target/{kind}/vla_node" for kind in ("release", "debug")]
    )
    for path in found:
        if path.is_file():
            return str(path)
    raise SessionError(f"no node at {' or '.join(map(str, found))}; run `make node`")


def rate(times):
    """How many a second between the first and the last of these moments [s]; 0 when there are not two."""
    return (
        round((len(times) - 1) / (times[-1] - times[0]), 2)
        if 1 < len(times) and times[0] < times[-1]
        else 0.0
    )


def die_with_parent():
    """The child gets SIGTERM when this program dies, however it dies (Linux)."""
    try:
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        pass


class Program:
    """A ROS program in a session of its own: Ctrl-C reaches the caller alone, who then lets it come to rest."""

    def __init__(self, name, command, parameters):
        arguments = [*command, "--ros-args"]
        for key, value in parameters.items():
            arguments += ["-p", f"{key}:={json.dumps(value)}"]
        self.name = name
        self.log = tempfile.NamedTemporaryFile(prefix=f"{name}-", suffix=".log", delete=False)
        self.process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )

    def check(self):
        if self.process.poll() is not None:
            raise SessionError(
                f"{self.name} ended with status {self.process.returncode}; its log {self.log.name} ends: {self.tail(3)}"
            )

    def tail(self, lines):
        self.log.flush()
        return " | ".join(
            pathlib.Path(self.log.name).read_text(errors="replace").splitlines()[-lines:]
        )

    def stop(self, turn=lambda: time.sleep(0.02), seconds=8.0):
        """Ends it, and removes its log when all was well. Its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            end = time.monotonic() + seconds
            while self.process.poll() is None and time.monotonic() < end:
                turn()
            if self.process.poll() is None:
                self.process.kill()
        status = self.process.wait()
        self.log.close()
        if status == 0 and os.path.exists(self.log.name):
            os.unlink(self.log.name)
        return status


class SceneView:
    """What the scripted expert needs, read from the peer's ~/state instead of from a scene."""

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


def seconds_of(stamp):
    return stamp.sec + stamp.nanosec * 1e-9


class Session:
    """Everything that is started here is stopped by `close`."""

    def __init__(self, name="session", images=False):
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node(name)
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.programs = []
        self.peer = self.vla = None
        self.state, self.status, self.action, self.picture, self.twist, self.gripper = (
            None,
            None,
            None,
            None,
            None,
            None,
        )
        self.actions, self.twists, self.reasons = [], [], []
        self.on_turn = None
        subscribe = self.node.create_subscription
        subscribe(String, "tabletop/state", self._take_state, LATCHED)
        subscribe(Status, "vla/status", self._take_status, LATCHED)
        subscribe(Action, "vla/action", self._take_action, RELIABLE)
        subscribe(TwistStamped, "vla/command/twist", self._take_twist, RELIABLE)
        subscribe(
            Float64, "vla/command/gripper", lambda m: setattr(self, "gripper", m.data), RELIABLE
        )
        if images:
            subscribe(
                Image, "image", lambda m: setattr(self, "picture", m), qos_profile_sensor_data
            )
        self.episode_topic = self.node.create_publisher(String, "tabletop/episode", RELIABLE)
        self.enable_client = self.node.create_client(SetBool, "vla/enable")
        self.reset_client = self.node.create_client(Trigger, "vla/reset")

    def _take_state(self, message):
        self.state = json.loads(message.data)

    def _take_status(self, message):
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

    # -- processes
    # ----------------------------------------------------------------------------------------------------------

    def start_peer(self, **parameters):
        self.peer = Program("tabletop", [sys.executable, str(ROOT / "sim/peer.py")], parameters)
        self.programs.append(self.peer)
        self.until("the simulated robot runs", lambda: self.state is not None, 60.0)

    def start_node(self, checkpoint, policy_file, unnorm_key="", **parameters):
        """Starts the node and waits until it is active. A second node replaces the first."""
        if self.vla is not None:
            self.stop_node()
        self.status = None
        parameters = (
            dict(
                checkpoint=str(checkpoint),
                policy_file=str(policy_file),
                robot_file=str(ROOT / "config/robots/tabletop.yaml"),
                unnorm_key=unnorm_key,
                autostart=True,
                dry_run=False,
            )
            | parameters
        )
        self.vla = Program("vla_node", [node_executable()], parameters)
        self.programs.append(self.vla)
        self.until("the node is active", self._active, parameters.get("load_timeout_s", 300.0))

    def _active(self):
        if self.status is None:
            return False
        # It tries again and again; a folder or a policy file that is wrong stays so.
        if self.status.reason == Status.REASON_CONFIGURATION_INVALID:
            raise SessionError(f"the node cannot be configured: {self.status.detail}")
        return STATES[self.status.state] in ("IDLE", "HOLDING", "FAULT")

    def stop_node(self):
        status = self.vla.stop(self.turn)
        self.programs.remove(self.vla)
        self.vla = None
        if status != 0:
            raise SessionError(f"the node ended with status {status}")

    def close(self):
        """Stops what runs, the node first: it comes to rest while the robot still listens. Names what did not end well."""
        bad = []
        for program in reversed(self.programs):
            status = program.stop(self.turn)
            if status != 0:
                bad.append(f"{program.name} ended with status {status}, log {program.log.name}")
        self.programs = []
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown()
        return bad

    # -- time passes
    # ----------------------------------------------------------------------------------------------------------

    def turn(self, longest=0.02):
        """Takes what has arrived."""
        self.executor.spin_once(timeout_sec=longest)
        if self.on_turn is not None:
            self.on_turn()

    def until(self, what, holds, seconds=15.0):
        end = time.monotonic() + seconds
        while not holds():
            for program in self.programs:
                program.check()
            if end < time.monotonic():
                raise SessionError(
                    f"waited {seconds:g} s in vain until {what}; the node says {self.said()}"
                )
            self.turn()

    def command_speed(self):
        """Norm of the newest twist, metres and radians together: for the question whether it is zero."""
        t = self.twist.twist
        return math.hypot(t.linear.x, t.linear.y, t.linear.z, t.angular.x, t.angular.y, t.angular.z)

    def said(self):
        return f"{STATES[self.status.state]} '{self.status.detail}'" if self.status else "nothing"

    def call(self, client, request, seconds=10.0):
        self.until(f"service {client.srv_name} is there", client.service_is_ready, seconds)
        answer = client.call_async(request)
        self.until(f"{client.srv_name} answers", answer.done, seconds)
        return answer.result()

    # -- episodes
    # ---------------------------------------------------------------------------------------------------------------

    def new_scene(self, **wanted):
        """Asks the peer for an episode (seed, task, block, bowl, instruction, camera) and waits until it has begun."""
        before, refusals = self.state["episode"], self.state["refusals"]
        self.until(
            "the peer hears ~/episode", lambda: self.episode_topic.get_subscription_count() > 0
        )
        self.episode_topic.publish(
            String(data=json.dumps({k: v for k, v in wanted.items() if v is not None}))
        )
        self.until(
            "the episode begins",
            lambda: self.state["episode"] > before or self.state["refusals"] > refusals,
        )
        if self.state["refusals"] > refusals:
            raise SessionError(self.state["error"])

    def at_rest(self):
        """Disabled, nothing latched, the command zero."""
        self.call(self.enable_client, SetBool.Request(data=False))
        self.twist = None
        self.until(
            "the node's command is zero",
            lambda: self.twist is not None and self.command_speed() == 0.0,
        )
        for attempt in range(100):
            if STATES[self.status.state] not in ("FAULT", "ESTOPPED"):
                return
            if attempt == 0:
                # A latch opens only when no watchdog complains any more: the camera must be back.
                self.new_scene(camera="live")
            self.call(self.reset_client, Trigger.Request())
            end = time.monotonic() + 0.1
            while time.monotonic() < end:
                self.turn()
        raise SessionError(f"the node cannot be reset: {self.said()}")

    def run(
        self,
        seed,
        task=None,
        block=None,
        bowl=None,
        instruction=None,
        camera="live",
        camera_from_s=0.0,
        seconds=10.0,
        wait_s=0.0,
        later_s=1.0,
        judge=None,
    ):
        """One episode: a new scene, `wait_s` of nothing, the arm enabled, until `judge(state)` (the task is done) or the time is over."""
        judge = judge or (lambda state: state["success"])
        self.at_rest()
        self.new_scene(
            seed=seed,
            task=task,
            block=block,
            bowl=bowl,
            instruction=instruction,
            camera=camera,
            camera_from_s=camera_from_s,
        )
        said = (self.state["instruction"] if instruction is None else instruction).strip()
        if said:
            self.until(
                "the node has the instruction",
                lambda: self.status.instruction.lower() == said.lower(),
            )
        else:
            self.until("the node has no instruction", lambda: not self.status.instruction)
        end = time.monotonic() + wait_s
        while time.monotonic() < end:
            self.turn()
        before = dict(zip(self.status.intervention_names, self.status.interventions))
        late, lost, tool = self.status.late_results, self.state["lost_periods"], self.state["tool"]
        self.actions, self.twists, self.reasons = [], [], []
        self.call(self.enable_client, SetBool.Request(data=True))
        begin, began, moved, later, moved_later = (
            time.monotonic(),
            self.state["time_s"],
            0.0,
            None,
            0.0,
        )
        enabled = True
        while time.monotonic() - begin < seconds and not judge(self.state):
            for program in self.programs:
                program.check()
            self.turn()
            moved = max(moved, math.dist(tool, self.state["tool"]))
            if later_s < time.monotonic() - begin:
                later = later or self.state["tool"]
                moved_later = max(moved_later, math.dist(later, self.state["tool"]))
            if STATES[self.status.state] == "FAULT" and enabled:
                enabled = False  # latched: the episode is over, but the arm is watched to its end
        state, status, reasons = self.state, self.status, self.reasons[:20]
        ages, streamed = self._ages(), list(self.twists)
        self.call(self.enable_client, SetBool.Request(data=False))
        # The stop belongs to the episode: what was commanded at most is read when it is over.
        self.until(
            "the command is zero",
            lambda: (
                not self.status.enabled and self.twist is not None and self.command_speed() == 0.0
            ),
        )
        told = self.state["time_s"]
        self.until("the robot has told of it", lambda: self.state["time_s"] > told)
        after = dict(zip(self.status.intervention_names, self.status.interventions))
        return Episode(
            seed=state["seed"],
            task=state["task"],
            target=state["target"],
            instruction=said,
            success=bool(judge(state)),
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
            peaks=self.state["peaks"],
            measured=self.state["measured"],
            lost_s=round((self.state["lost_periods"] - lost) * DRIVER_PERIOD_S, 3),
            command_timeouts=state["command_timeouts"],
            end_state=STATES[status.state],
            reasons=reasons,
        )

    def _ages(self):
        """From the stamp of each image that was answered to the stamp of the first command after the answer."""
        ages, k = [], 0
        for stamp, latency, _ in self.actions:
            if not math.isfinite(latency):
                continue
            while k < len(self.twists) and self.twists[k] < stamp + latency:
                k += 1
            if k < len(self.twists):
                ages.append(self.twists[k] - stamp)
        return ages
