"""Shared by the graph tests: the node as a process, and an rclpy peer.

The peer publishes to the node, records what the node publishes, and measures time.
"""

import itertools
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy
import rclpy
from geometry_msgs.msg import TwistStamped
from lifecycle_msgs.msg import Transition, TransitionEvent
from lifecycle_msgs.srv import ChangeState, GetState
from openvla_tt_msgs.msg import Action, Status
from PIL import Image as Picture
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Float64, String
from std_srvs.srv import SetBool, Trigger

ROOT = pathlib.Path(__file__).resolve().parents[2]
KIT = ROOT / "tests/data/openvla_tiny"
POLICY_FILE = str(ROOT / "config/policies/openvla_tiny.yaml")
LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
# The node keeps 20 statuses; a slow peer must not lose any of them.
STATUS = QoSProfile(
    depth=200, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
RELIABLE = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
STATES = {
    getattr(Status, name): name
    for name in "UNCONFIGURED INACTIVE IDLE RUNNING HOLDING FAULT ESTOPPED".split()
}
REASONS = {
    getattr(Status, name): name[7:] for name in dir(type(Status)) if name.startswith("REASON_")
}
# The limits every test runs with: the node's defaults.
VELOCITY, ACCELERATION, JERK = (0.25, 0.6), (1.0, 3.0), (10.0, 30.0)
# v/a + a/j of the slower group, and one period of the stream.
STOP_S = max(v / a + a / j for v, a, j in zip(VELOCITY, ACCELERATION, JERK)) + 0.02


def slow_policy_file(folder, hz=1.0):
    """The kit's policy file at another rate.

    At 1 Hz an action is held for a second, so that the command reaches it also where inference is
    slow.
    """
    text = pathlib.Path(POLICY_FILE).read_text()
    assert "policy_hz: 5.0" in text
    path = pathlib.Path(folder) / "policy.yaml"
    path.write_text(text.replace("policy_hz: 5.0", f"policy_hz: {hz}"))
    return str(path)


def kit_cases():
    return json.loads((KIT / "cases.json").read_text())["cases"]


def pixels(case, mode="RGB"):
    return numpy.asarray(Picture.open(KIT / case["image"]).convert(mode))


# For tests that compare golden tokens while the robot moves: the image must stay the same to the
# last bit, so the limits of the frozen-image watchdog are raised.
EXACT_PICTURES = dict(unchanged_image__distance=10.0, unchanged_image__angle=100.0)

# A node in motion whose watchdogs a busy machine does not trip: ages, stamps and inference may be
# late. For tests of something else.
PATIENT = dict(
    unnorm_key="bridge_orig",
    autostart=True,
    dry_run=False,
    overrun_s=0.4,
    observation_timeout_s=1.0,
    stamp_past_tolerance_s=5.0,
    inference_timeout_s=20.0,
    inference_niceness=0,
)


def noisy(array, shot):
    """An image with a camera's noise: the last bit of its last pixel alternates."""
    array = array.copy()
    array[-1, -1] ^= shot & 1
    return array


def expected_twist(action, policy_hz):
    """The twist of an action that only the velocity limit changes."""
    desired = numpy.asarray(action[:6]) * policy_hz
    for part, limit in ((slice(0, 3), VELOCITY[0]), (slice(3, 6), VELOCITY[1])):
        length = numpy.linalg.norm(desired[part])
        desired = desired * min(1.0, limit / length) if length > limit else desired
    return desired


def image_message(array, encoding, stamp, padding=0, frame="camera"):
    message = Image()
    message.header.stamp, message.header.frame_id = stamp, frame
    message.height, message.width = array.shape[:2]
    rows = array.reshape(message.height, -1)
    if padding:
        rows = numpy.concatenate(
            [rows, numpy.full((message.height, padding), 0xAB, numpy.uint8)], axis=1
        )
    message.encoding, message.step, message.data = encoding, rows.shape[1], rows.tobytes()
    return message


class NodeProcess:
    """The node under test. Its log goes to a file, which is printed when a test fails."""

    started = []

    def __init__(self, executable, log, popen=None, remap=(), **parameters):
        # These tests expect an action for every image, except where the rate limit is tested.
        parameters = {"inference_rate_hz": 1000.0, **parameters}
        arguments = [*executable, "--ros-args"]
        for name, value in parameters.items():
            text = value if isinstance(value, str) else json.dumps(value)
            arguments += ["-p", f"{name.replace('__', '.')}:={text}"]
        for rule in remap:
            arguments += ["-r", rule]
        self.log_path = log
        self.log = open(log, "wb")
        streams = dict(stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)
        self.process = subprocess.Popen(arguments, **{**streams, **(popen or {})})
        self.started.append(self.process)

    def stop(self, how=signal.SIGINT, timeout=15.0):
        """Sends a signal and returns the exit status; fails if the process does not end."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(how)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the node did not end within {timeout} s of {how.name}") from None
        finally:
            self.log.close()

    def text(self):
        self.log.flush()
        return pathlib.Path(self.log_path).read_text(errors="replace")

    def resident_mib(self):
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise AssertionError("the node has no VmRSS")


class Peer:
    """Publishes images and instructions; records messages and their arrival times."""

    def __init__(self, name="peer", node_name="vla", listen=True, noise=True, publish=True):
        rclpy.init()
        self.node = rclpy.create_node(name)
        self.vla = node_name
        if publish:
            create = self.node.create_publisher
            self.image = create(Image, "image", qos_profile_sensor_data)
            self.compressed = create(CompressedImage, "image/compressed", qos_profile_sensor_data)
            self.instructions = create(String, "instruction", LATCHED)
        self.actions, self.twists, self.grippers = [], [], []
        self.statuses, self.transitions = [], []
        now = time.monotonic
        subscribe = self.node.create_subscription
        subscribe(Action, f"{node_name}/action", lambda m: self.actions.append(m), RELIABLE)
        subscribe(Status, f"{node_name}/status", lambda m: self.statuses.append((now(), m)), STATUS)
        subscribe(
            TransitionEvent,
            f"{node_name}/transition_event",
            lambda m: self.transitions.append(m),
            RELIABLE,
        )
        self.command = None
        self.zero = None
        if listen:
            self.listen()
        self.clients = {}
        self.camera = None  # called before every spin
        self.noise, self.shots = noise, itertools.count()
        self.next_image = 0.0
        self.executor = rclpy.executors.SingleThreadedExecutor()
        self.executor.add_node(self.node)

    def listen(self):
        """Subscribes to the command."""
        self.command = self.node.create_subscription(
            TwistStamped,
            f"{self.vla}/command/twist",
            lambda m: self.twists.append((time.monotonic(), m)),
            RELIABLE,
        )
        self.gripper = self.node.create_subscription(
            Float64, f"{self.vla}/command/gripper", lambda m: self.grippers.append(m.data), RELIABLE
        )

    def stop_listening(self):
        """Destroys the subscription to the command."""
        self.node.destroy_subscription(self.command)
        self.node.destroy_subscription(self.gripper)
        self.command = None

    def forget(self):
        """Forgets everything that was received."""
        for received in (
            self.actions,
            self.twists,
            self.grippers,
            self.statuses,
            self.transitions,
        ):
            received.clear()

    def close(self):
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown()

    # -- time

    def spin(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.spin_once()

    def spin_once(self):
        if self.camera and self.next_image <= time.monotonic():
            self.next_image = time.monotonic() + self.camera()
        self.executor.spin_once(timeout_sec=0.005)

    def happens(self, holds, timeout):
        """What `holds` returns as soon as it is true; its last value when the time is over."""
        end = time.monotonic() + timeout
        while not (found := holds()) and time.monotonic() <= end:
            self.spin_once()
        return found

    def until(self, what, holds, timeout=15.0):
        """As `happens`, but what does not happen fails the test."""
        found = self.happens(holds, timeout)
        if not found:
            raise AssertionError(f"not within {timeout} s: {what}; last status: {self.shown()}")
        return found

    # -- publishing and calling

    def stamp(self):
        return self.node.get_clock().now().to_msg()

    def film(self, array, hz=10.0, encoding="rgb8", padding=0, stamp=None):
        """Publishes an image at a rate from now on, with noise unless `noise` is False."""

        def shoot():
            picture = noisy(array, next(self.shots)) if self.noise else array
            self.image.publish(
                image_message(picture, encoding, stamp() if stamp else self.stamp(), padding)
            )
            return 1.0 / hz

        self.camera, self.next_image = shoot, 0.0

    def film_bytes(self, data, hz=10.0, format="png"):
        """Publishes a compressed image at a rate from now on."""

        def shoot():
            message = CompressedImage(format=format, data=data)
            message.header.stamp = self.stamp()
            self.compressed.publish(message)
            return 1.0 / hz

        self.camera, self.next_image = shoot, 0.0

    def dark(self):
        """No more images."""
        self.camera = None

    def say(self, text):
        self.instructions.publish(String(data=text))

    def call(self, kind, name, request, timeout=20.0):
        client = self.clients.get(name)
        if client is None:
            client = self.clients[name] = self.node.create_client(kind, f"{self.vla}/{name}")
            self.until(f"service {name}", client.service_is_ready)
        future = client.call_async(request)
        self.until(f"an answer of {name}", future.done, timeout)
        return future.result()

    def enable(self, on=True):
        return self.call(SetBool, "enable", SetBool.Request(data=on))

    def enable_when_possible(self, timeout=15.0):
        """Enables motion as soon as no watchdog prevents it."""
        end = time.monotonic() + timeout
        while True:
            answer = self.enable()
            if answer.success:
                return
            assert time.monotonic() < end, f"enable refused: {answer.message}"
            self.spin(0.05)

    def resume(self, timeout=30.0):
        """Waits for motion; enables it again if a hold lasted longer than rearm_window_s."""
        end = time.monotonic() + timeout
        while not (self.state == "RUNNING" and self.moving()):
            assert time.monotonic() < end, f"no motion within {timeout} s: {self.shown()}"
            if self.state == "IDLE":
                self.enable()
            self.spin(0.05)

    def estop(self):
        return self.call(Trigger, "estop", Trigger.Request())

    def reset(self):
        return self.call(Trigger, "reset", Trigger.Request())

    def reset_when_possible(self, timeout=10.0):
        end = time.monotonic() + timeout
        while True:
            answer = self.reset()
            if answer.success:
                return
            assert time.monotonic() < end, f"reset refused: {answer.message}"
            self.spin(0.1)

    def change(self, label, timeout=30.0):
        return self.call(
            ChangeState,
            "change_state",
            ChangeState.Request(transition=Transition(label=label)),
            timeout,
        ).success

    def lifecycle(self):
        return self.call(GetState, "get_state", GetState.Request()).current_state.label

    # -- what was received

    @property
    def status(self):
        return self.statuses[-1][1] if self.statuses else None

    @property
    def state(self):
        return STATES[self.status.state] if self.status else None

    @property
    def reason(self):
        return REASONS[self.status.reason] if self.status else None

    @staticmethod
    def reasons(status):
        """The names of all causes of a status."""
        return [REASONS[code] for code in status.causes]

    def shown(self):
        return f"{self.state} {self.reason} '{self.status.detail}'" if self.status else "none"

    def instruction(self):
        return self.status.instruction if self.status else None

    def in_state(self, *names):
        return lambda: self.state in names

    @staticmethod
    def numbers(twist):
        t = twist.twist
        return numpy.array(
            [t.linear.x, t.linear.y, t.linear.z, t.angular.x, t.angular.y, t.angular.z]
        )

    def moving(self):
        return bool(self.twists) and bool(numpy.any(self.numbers(self.twists[-1][1])))

    def rested(self, since, what):
        """Waits for a zero command, and sees that each one stamped after `since` is zero.

        An answer and the commands before it come by different topics, thus in any order; the
        stamps have one clock, time.time().
        """
        self.until(what, lambda: not self.moving(), 5.0)
        for _, message in reversed(self.twists):
            stamp = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
            if stamp <= since:
                return
            assert not numpy.any(self.numbers(message)), f"{what}: {message}"

    def run(self, case, instruction=None, enable=True):
        """Films a case of the kit until the robot moves."""
        self.film(pixels(case))
        self.say(instruction or case["instruction"])
        self.until("active", self.in_state("IDLE", "RUNNING", "HOLDING"), 60.0)
        if enable:
            self.enable_when_possible()
            self.resume()

    def steady(self, wanted, timeout=10.0):
        """Waits until the command is the wanted twist."""
        close = lambda: (
            self.twists and numpy.allclose(self.numbers(self.twists[-1][1]), wanted, atol=1e-9)
        )
        return self.until(f"the twist is {wanted}", close, timeout)

    def time_to_stop(self, since, timeout=15.0, still_s=0.3):
        """Seconds from `since` to the first zero command that zeros follow for `still_s`.

        That command is kept in `zero`. Times are those of arrival at this peer.
        """

        def stopped():
            zero_since = self.zero = None
            for at, twist in reversed(self.twists):
                if numpy.any(self.numbers(twist)):
                    break
                zero_since, self.zero = at, twist
            return (
                zero_since is not None
                and since <= self.twists[-1][0]
                and still_s <= self.twists[-1][0] - zero_since
                and zero_since
            )

        return max(0.0, self.until("the command is zero", stopped, timeout) - since)

    def check_limits(self, begin=0):
        """Checks the limits by finite differences over the stamps of the whole stream."""
        worst = [0.0, 0.0]
        previous = None
        for _, message in self.twists[begin:]:
            stamp = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
            numbers = self.numbers(message)
            assert numpy.all(numpy.isfinite(numbers)), numbers
            for k, part in enumerate((slice(0, 3), slice(3, 6))):
                assert numpy.linalg.norm(numbers[part]) <= VELOCITY[k] * (1 + 1e-9), numbers
                if previous is not None:
                    # Stamps are taken just before the step and jitter by much less than a period.
                    interval = max(stamp - previous[0], 0.012)
                    change = numpy.linalg.norm(numbers[part] - previous[1][part]) / interval
                    worst[k] = max(worst[k], change / ACCELERATION[k])
            previous = (stamp, numbers)
        assert max(worst) <= 1.7, f"acceleration {worst} times the limit"
        return worst


def main(scenario):
    """Runs a scenario; its arguments are the node's command line. Prints the logs on failure."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    logs = []
    try:
        scenario(sys.argv[1:], logs)
    except BaseException:
        for path in logs:
            try:
                text = pathlib.Path(path).read_text(errors="replace")
            except OSError as error:  # gone with its temporary folder
                text = str(error)
            print(
                f"---- {path}\n" + "\n".join(re.sub(r"\x1b\[\d*m", "", text).splitlines()[-60:]),
                file=sys.stderr,
            )
        raise
    finally:
        # Also where a scenario failed before it could.
        for process in NodeProcess.started:
            process.kill()
