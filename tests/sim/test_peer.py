"""The simulated robot as a ROS 2 node: driven by twists, by the real node, refused nonsense, its own stop. Runs in a domain of its own."""

import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest
import unittest.mock

import numpy as np
import yaml
from command import Command
from geometry_msgs.msg import PoseStamped, TwistStamped
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from session import ROOT, SceneView, Session, SessionError, node_executable, seconds_of
from std_msgs.msg import Float64, String
from std_srvs.srv import SetBool, Trigger
from tabletop import expert

KIT = ROOT / "tests/data/openvla_tiny"


def node_or_none():
    try:
        return node_executable()
    except SessionError:
        return None


class Driver:
    """Publishes commands to the peer as the node would."""

    def __init__(self, session):
        self.session = session
        self.twist = session.node.create_publisher(TwistStamped, "vla/command/twist", 10)
        self.gripper = session.node.create_publisher(Float64, "vla/command/gripper", 10)
        session.until(
            "the peer listens",
            lambda: (
                self.twist.get_subscription_count() >= 2
                and self.gripper.get_subscription_count() >= 2
            ),
        )

    def send(self, velocity, gripper=None, frame="base"):
        message = TwistStamped()
        message.header.stamp, message.header.frame_id = (
            self.session.node.get_clock().now().to_msg(),
            frame,
        )
        v = message.twist.linear
        v.x, v.y, v.z = map(float, velocity)
        self.twist.publish(message)
        if gripper is not None:
            self.gripper.publish(Float64(data=float(gripper)))

    def follow(self, policy, task, seconds):
        """The scripted expert at 10 Hz, until the peer says that the task is done."""
        end = time.monotonic() + seconds
        while not self.session.state["success"] and time.monotonic() < end:
            action = policy(self.session.state)
            self.hold(action[:3] * 5, action[6], 0.1, lambda: self.session.state["success"])
        assert self.session.state["success"], (task, self.session.state)

    def hold(self, velocity, gripper, seconds, stop=lambda: False):
        """The same command at 50 Hz."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not stop():
            self.send(velocity, gripper)
            until = time.monotonic() + 0.02
            while time.monotonic() < until:
                self.session.turn(0.005)


class Robot(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.session = Session("test_peer", images=True)
        cls.heard = {}
        for kind, topic in (
            (PoseStamped, "ee_pose"),
            (JointState, "joint_states"),
            (Image, "image"),
        ):
            cls.session.node.create_subscription(
                kind,
                topic,
                lambda m, t=topic: cls.heard.setdefault(t, []).append(m),
                qos_profile_sensor_data,
            )
        cls.said = []
        cls.session.node.create_subscription(
            String, "instruction", lambda m: cls.said.append(m.data), 10
        )
        cls.session.start_peer(seed=3, image_hz=10.0)
        cls.driver = Driver(cls.session)
        cls.session.until("an image has come", lambda: cls.session.picture is not None)

    @classmethod
    def tearDownClass(cls):
        bad = cls.session.close()
        assert not bad, bad

    def episode(self, **wanted):
        self.session.new_scene(**wanted)
        return self.session.state

    def test_the_scripted_expert_drives_it_to_success_over_topics(self):
        for task in ("touch", "push", "pick"):
            state = self.episode(seed=4, task=task, block=None)
            self.assertFalse(state["success"])
            self.driver.follow(lambda state: expert(SceneView(state)), task, 15)
            self.assertIn(task, self.session.state["done"][state["target"]])
            client = self.session.node.create_client(Trigger, "tabletop/success")
            answer = self.session.call(client, Trigger.Request())
            self.assertTrue(answer.success)
            self.assertRegex(answer.message, r"done after \d")

    def test_the_arm_stops_when_commands_stop(self):
        state = self.episode(seed=5)
        self.driver.hold([0.0, 0.0, 0.15], 1.0, 0.4)
        before = self.session.state["command_timeouts"]
        self.session.until(
            "the driver gives up on the command",
            lambda: self.session.state["command_timeouts"] > before,
            3.0,
        )
        self.session.until(
            "a later state",
            lambda t=self.session.state["time_s"]: self.session.state["time_s"] > t + 0.3,
        )
        rest = self.session.state["tool"]
        self.assertGreater(rest[2] - state["tool"][2], 0.02)
        # 0.4 s of driving, 0.2 s until the timeout, and the arm's lag: 0.15 m/s for no longer than
        # that.
        self.assertLess(rest[2] - state["tool"][2], 0.15 * (0.4 + 0.2 + 0.25))
        self.session.until(
            "a later state",
            lambda t=self.session.state["time_s"]: self.session.state["time_s"] > t + 0.5,
        )
        self.assertLess(math.dist(rest, self.session.state["tool"]), 0.002)

    def test_numbers_that_are_none_are_refused(self):
        self.episode(seed=5)
        before = self.session.state["refused"]
        self.driver.send([float("nan"), 0, 0], float("inf"))
        self.session.until(
            "both are refused", lambda: self.session.state["refused"] == before + 2, 5.0
        )
        self.assertTrue(np.isfinite(self.session.state["tool"]).all())

    def test_the_peaks_are_what_was_commanded_and_the_tool_did(self):
        # What an earlier test commanded is over.
        before = self.session.state["commands"]
        self.driver.send([0.0, 0.0, 0.0])
        self.session.until("the arm is to stand", lambda: self.session.state["commands"] > before)
        self.assertEqual(
            self.episode(seed=6)["measured"], dict(linear_speed=0.0, linear_acceleration=0.0)
        )
        self.driver.hold(
            [0.03, 0.04, 0.0],
            1.0,
            5.0,
            lambda: self.session.state["measured"]["linear_speed"] > 0.045,
        )
        self.assertAlmostEqual(self.session.state["peaks"]["linear_speed"], 0.05, places=3)
        self.assertGreater(self.session.state["measured"]["linear_speed"], 0.045)
        self.assertLess(self.session.state["measured"]["linear_speed"], 0.06)
        self.assertTrue(
            0.1 < self.session.state["measured"]["linear_acceleration"] < 3.0,
            self.session.state["measured"],
        )

    def test_twists_in_another_frame_are_refused_and_it_is_said_once(self):
        before = self.episode(seed=5)["refused"]
        for frame in ("tcp", "", "base_link"):
            for _ in range(3):
                self.driver.send([0.0, 0.0, 0.2], frame=frame)
        self.session.until(
            "all are refused", lambda: self.session.state["refused"] == before + 9, 5.0
        )
        self.assertEqual(
            (self.session.state["commands"], self.session.state["peaks"]["linear_speed"]), (0, 0.0)
        )
        (said,) = [
            line
            for line in pathlib.Path(self.session.peer.log.name).read_text().splitlines()
            if "twist refused" in line
        ]
        self.assertIn("in frame 'tcp', this arm takes them in 'base'", said)

    def test_state_topics_are_those_of_the_interfaces(self):
        self.session.until(
            "everything has come",
            lambda: all(self.heard.get(t) for t in ("ee_pose", "joint_states", "image")),
        )
        image, pose, joints = (
            self.heard["image"][-1],
            self.heard["ee_pose"][-1],
            self.heard["joint_states"][-1],
        )
        self.assertEqual(
            (image.encoding, image.width, image.height, image.step, len(image.data)),
            ("rgb8", 224, 224, 672, 224 * 672),
        )
        robot = yaml.safe_load((ROOT / "config/robots/tabletop.yaml").read_text())
        self.assertEqual(pose.header.frame_id, robot["frames"]["base"])
        self.assertEqual(len(joints.name), 8)
        box = robot["workspace"]
        p = pose.pose.position
        self.assertTrue(
            all(low < x < high for low, x, high in zip(box["min"], (p.x, p.y, p.z), box["max"]))
        )

    def test_an_episode_is_said_on_the_instruction_topic(self):
        state = self.episode(seed=7, task="push")
        self.session.until(
            "it is said", lambda: self.said and self.said[-1] == f"push the {state['target']} block"
        )
        self.episode(seed=7, task="push", instruction="")
        self.session.until("it is taken back", lambda: self.said[-1] == "")

    def set(self, **values):
        """Sets parameters of the peer; the reasons of those that were refused."""
        setter = self.session.node.create_client(SetParameters, "tabletop/set_parameters")
        request = SetParameters.Request(
            parameters=[
                Parameter(name, value=value).to_parameter_msg() for name, value in values.items()
            ]
        )
        return [
            result.reason
            for result in self.session.call(setter, request).results
            if not result.successful
        ]

    def reset(self):
        return self.session.call(
            self.session.node.create_client(Trigger, "tabletop/reset"), Trigger.Request()
        )

    def test_a_service_resets_to_the_next_seed_or_to_what_the_parameters_say(self):
        self.episode(seed=20)
        answer = self.reset()
        self.assertTrue(answer.success and answer.message.startswith("seed 21: "), answer)
        # Twice the same: a seed that was set is the next one, also when it is the one it was
        # before.
        for _ in range(2):
            self.assertEqual(self.set(seed=40, task="push"), [])
            self.assertRegex(self.reset().message, "^seed 40: push the ")
        self.assertRegex(self.reset().message, "^seed 41: push the ")
        # A reset that is refused leaves the seed to the next one.
        self.assertEqual(self.set(block="pink", seed=50), [])
        answer = self.reset()
        self.assertFalse(answer.success)
        self.assertIn("'pink'", answer.message)
        self.assertEqual(self.session.state["seed"], 41)
        self.assertEqual(self.set(block="", task=""), [])
        self.assertRegex(self.reset().message, "^seed 50: ")

    def test_parameters_that_would_have_no_effect_cannot_be_set(self):
        self.assertEqual(
            [
                len(self.set(**{name: value}))
                for name, value in (
                    ("image_hz", 5.0),
                    ("tasks", "touch"),
                    ("command_timeout_s", 1.0),
                )
            ],
            [1, 1, 1],
        )
        for values, words in (
            (dict(seed=-1), "seed: -1 is outside"),
            (dict(seed="x"), "seed: 'x' is no int"),
            (dict(task=3), "task: 3 is no str"),
        ):
            (reason,) = self.set(**values)
            self.assertIn(words, reason)

    def test_nonsense_is_refused_in_one_line_and_changes_nothing(self):
        state = self.episode(seed=8, task="touch")
        for wanted, words in (
            ({"seed": -1}, "seed: -1"),
            ({"seed": True}, "seed: True"),
            ({"task": "dance"}, "'dance'"),
            ({"block": "pink"}, "'pink'"),
            ({"sed": 3}, "unknown: sed"),
            ({"camera": "lost"}, "camera: 'lost'"),
            ({"camera_from_s": -1}, "camera_from_s: -1"),
            ({"camera_from_s": True}, "camera_from_s: True"),
            ({"task": 7}, "task: 7"),
            ({"block": ["red"]}, "block: ['red']"),
            ({"task": False}, "task: False"),
            ({"bowl": "white"}, "there is no 'white' bowl"),
            ({"instruction": 3}, "instruction: 3"),
            ({"instruction": "a\0b"}, "is no text"),
            # What JSON can say and UTF-8 cannot, and what would not be one line.
            ({"instruction": "\ud800"}, "is no text"),
            ({"block": "\udfff"}, "is no text"),
            ({"\ud800": 1}, "unknown: "),
            ({"a\nb": 1}, "unknown: a b"),
            ({"seed": "7" * 5000}, "seed: '777"),
        ):
            with self.assertRaises(SessionError) as raised:
                self.session.new_scene(**wanted)
            self.assertIn(words, str(raised.exception))
            self.assertNotIn("\n", str(raised.exception))
            self.assertLess(len(str(raised.exception)), 400)
        for text in ("{", "[]", "3", '"x"', "[" * 5000):
            before = self.session.state["refusals"]
            self.session.episode_topic.publish(String(data=text))
            self.session.until(
                "it is refused", lambda: self.session.state["refusals"] > before, 5.0
            )
        same = ("episode", "seed", "task", "target", "bowl", "instruction", "camera")
        self.assertEqual(
            {name: self.session.state[name] for name in same}, {name: state[name] for name in same}
        )
        self.assertEqual(list(self.session.state["blocks"]), list(state["blocks"]))
        for colour, place in state["blocks"].items():
            self.assertLess(math.dist(place, self.session.state["blocks"][colour]), 0.001)
        self.assertGreater(self.session.state["time_s"], state["time_s"])

    def test_the_camera_can_stand_still_freeze_and_go_dark(self):
        def images(camera, begins=0.0):
            self.session.new_scene(seed=9, camera=camera, camera_from_s=begins)
            self.heard["image"] = []
            t = self.session.state["time_s"]
            self.session.until("half a second", lambda: self.session.state["time_s"] > t + 0.6)
            return [(bytes(m.data), seconds_of(m.header.stamp)) for m in self.heard["image"][1:]]

        self.assertGreater(len({stamp for _, stamp in images("live")}), 2)
        self.assertEqual(len({pixels for pixels, _ in images("still")}), 1)
        self.assertEqual(len({stamp for _, stamp in images("frozen")}), 1)
        self.assertEqual(images("off"), [])
        # Live at first, as a camera that is lost in the middle of a motion: of six images (in
        # simulated time) three are left, or three with one stamp.
        self.assertLess(len(images("off", 0.3)), 4)
        stamps = [stamp for _, stamp in images("frozen", 0.3)]
        self.assertEqual(len(set(stamps[-3:])), 1)
        self.assertEqual(self.session.state["camera"], "frozen")


class Place(unittest.TestCase):
    """A robot with bowls."""

    def test_the_scripted_expert_places_over_topics(self):
        session = Session("test_place")
        try:
            session.start_peer(seed=1, bowls=1, tasks="place")
            driver = Driver(session)
            state = session.state
            self.assertRegex(state["instruction"], r"^put the \w+ block in the \w+ bowl$")
            self.assertEqual(
                (list(state["bowls"]), state["done"]),
                ([state["bowl"]], {colour: [] for colour in state["blocks"]}),
            )
            driver.follow(lambda state: expert(SceneView(state)), "place", 30)
            state = session.state
            self.assertIn("place", state["done"][state["target"]])
            self.assertFalse(
                any(
                    "place" in done
                    for colour, done in state["done"].items()
                    if colour != state["target"]
                )
            )
            self.assertLess(
                math.dist(state["blocks"][state["target"]][:2], state["bowls"][state["bowl"]][:2]),
                0.055,
            )
        finally:
            self.assertEqual(session.close(), [])


class Commands(unittest.TestCase):
    """The driver without a graph."""

    def drive(self, command, begin, samples, hz=50.0, jitter=lambda k: 0.0):
        """Twists along x with stamps at `hz`; the time after the last."""
        for k, speed in enumerate(samples):
            message = TwistStamped()
            nanoseconds = round((begin + k / hz + jitter(k)) * 1e9)
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(nanoseconds, 10**9)
            message.header.frame_id, message.twist.linear.x = "base", float(speed)
            command.take_twist(message)
        return begin + len(samples) / hz

    def test_acceleration_is_measured_at_every_rate(self):
        for hz in (20.0, 50.0, 100.0, 250.0):
            command = Command(0.2, "base")
            end = self.drive(command, 10.0, np.arange(50) / hz, hz)
            self.assertAlmostEqual(command.peaks["linear_acceleration"], 1.0, places=6)
            # One step that is twice too large is seen as such; a new episode begins with nothing
            # and knows the period.
            command.new_episode()
            self.assertEqual(command.peaks["linear_acceleration"], 0.0)
            self.drive(command, end, [51 / hz], hz)
            self.assertAlmostEqual(command.peaks["linear_acceleration"], 2.0, places=6)

    def test_stamps_that_lie_together_make_no_acceleration(self):
        command = Command(0.2, "base")
        # Every seventh stamp is 19 ms late, and lies 1 ms before the next.
        self.drive(command, 10.0, 0.02 * np.arange(60), jitter=lambda k: 0.019 * (k % 7 == 3))
        self.assertLess(command.peaks["linear_acceleration"], 1.0 / 0.6 + 1e-6)
        self.assertGreater(command.peaks["linear_acceleration"], 1.0)

    def test_a_start_after_a_silence_is_a_jump(self):
        # How long the driver heard nothing, how far the stamps lie apart, whether it gave up on the
        # command, what the next one makes [m/s2].
        for heard, stamped, gave_up, acceleration in (
            (0.3, 0.3, True, 5.0),
            (0.1, 0.1, False, 0.0),
            (0.3, 0.02, True, 0.0),
        ):
            command = Command(0.2, "base")
            with unittest.mock.patch("time.monotonic", lambda: 100.0):
                end = self.drive(command, 10.0, 31 * [0.1])
                self.assertAlmostEqual(
                    command.peaks["linear_acceleration"], 5.0, places=6
                )  # from standstill within one period
                command.new_episode()
            with unittest.mock.patch("time.monotonic", lambda: 100.0 + heard):
                self.assertEqual(command.command()[0], 0.0 if gave_up else 0.1)
                # In the last case it was asleep, and the sender was not.
                self.drive(command, end - 0.02 + stamped, [0.1])
            self.assertAlmostEqual(command.peaks["linear_acceleration"], acceleration, places=6)
            self.assertEqual(command.timeouts, int(gave_up))

    def test_another_frame_is_no_command(self):
        said = []
        command = Command(0.2, "base", said.append)
        message = TwistStamped()
        message.twist.linear.x = 0.1
        for frame in ("", "tcp", "Base"):
            message.header.frame_id = frame
            command.take_twist(message)
        self.assertEqual(
            (command.refused, command.received, command.heard, command.twist.any()),
            (3, 0, None, False),
        )
        self.assertEqual(len(said), 1)
        self.assertIn("it is in frame '', this arm takes them in 'base'", said[0])


class Starting(unittest.TestCase):
    def test_what_a_user_does_wrong_ends_it_with_one_line(self):
        for arguments, words in (
            (["-p", "image_size:=7"], "image_size: 7 is outside 64..640"),
            (["-p", "blocks:=many"], "blocks: 'many' is no int"),
            (["-p", "real_time_factor:=2.0"], "needs publish_clock"),
            (["-p", "task:=dance"], "'dance'"),
            (["-p", "bowl:=white"], "there is no 'white' bowl"),
            (["-p", "tasks:=place"], "place needs bowls"),
            (["-p", "viewer:=true"], "viewer: true needs a display"),
            (["-p", "seed"], "-p seed"),
            (["-p", "use_sim_time:=5"], "use_sim_time"),
            (["-r", "__node:=a-b"], "__node:=a-b"),
            (["--", "seed:=7"], "unknown argument 'seed:=7'"),
        ):
            self.refused(arguments, words)
        for drawing in ("bogus", "glfw"):
            self.refused([], f"MUJOCO_GL={drawing}", MUJOCO_GL=drawing)

    def refused(self, arguments, words, **variables):
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in ("DISPLAY", "WAYLAND_DISPLAY")
        } | variables
        command = [sys.executable, "-W", "ignore", ROOT / "sim/peer.py", "--ros-args", *arguments]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
            env=environment,
        )
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertRegex(done.stderr, r"\Atabletop: [^\n]*\n\Z")
        self.assertIn(words, done.stderr)

    def test_simulated_time_never_goes_back(self):
        session = Session("test_clock")
        times = []
        session.node.create_subscription(
            Clock, "/clock", lambda m: times.append(seconds_of(m.clock)), qos_profile_sensor_data
        )
        try:
            session.start_peer(publish_clock=True, real_time_factor=4.0)
            begin = time.monotonic()
            session.until("simulated time passes", lambda: len(times) > 30)
            session.new_scene(seed=2)
            last = times[-1]
            session.until("it goes on", lambda: times[-1] > last + 2.0)
            self.assertEqual(times, sorted(times))
            self.assertGreater(times[-1] - times[0], 1.2 * (time.monotonic() - begin - 2))
        finally:
            self.assertEqual(session.close(), [])


@unittest.skipIf(node_or_none() is None, "the node is not built")
class Loop(unittest.TestCase):
    """The node with the golden kit's random weights on the simulated robot: the chain holds, whatever the policy wants."""

    def test_the_node_moves_the_arm_within_its_limits(self):
        session = Session("test_loop")
        try:
            session.start_peer(seed=1)
            # At 1 Hz an action is held for a second: it reaches the arm also where a debug build
            # takes that long for it.
            with tempfile.TemporaryDirectory() as folder:
                policy_file = pathlib.Path(folder) / "policy.yaml"
                policy_file.write_text(
                    (ROOT / "config/policies/openvla_tiny.yaml")
                    .read_text()
                    .replace("policy_hz: 5.0", "policy_hz: 1.0")
                )
                session.start_node(
                    KIT / "ckpt",
                    policy_file,
                    "bridge_orig",
                    observation_timeout_s=10.0,
                    inference_timeout_s=20.0,
                    overrun_s=0.5,
                )
            episode = session.run(
                11,
                task="touch",
                seconds=60.0,
                judge=lambda state: state["commands"] > 60 and state["path_length_m"] > 0.02,
            )
            self.assertTrue(episode.success, episode)
            self.assertGreater(episode.tool_moved, 0.01)
            self.assertEqual(episode.instruction, session.state["instruction"])
            self.assertLessEqual(episode.peaks["linear_speed"], 0.25 * (1 + 1e-9))
            self.assertLessEqual(episode.peaks["angular_speed"], 0.6 * (1 + 1e-9))
            self.assertTrue(
                episode.ages_s and all(0 < age < 20 for age in episode.ages_s), episode.ages_s
            )
            silent = session.run(11, task="touch", instruction="", seconds=1.0)
            self.assertLess(silent.tool_moved, 0.002)
            dark = session.run(11, task="touch", camera="off", seconds=1.0)
            self.assertLess(dark.tool_moved, 0.002)
        finally:
            self.assertEqual(session.close(), [])

    def test_a_node_that_is_killed_in_mid_motion_stops_the_arm(self):
        session = Session("test_kill")
        try:
            poses, speeds = [], []
            position = lambda m: (m.pose.position.x, m.pose.position.y, m.pose.position.z)
            session.node.create_subscription(
                PoseStamped,
                "ee_pose",
                lambda m: poses.append((seconds_of(m.header.stamp), position(m))),
                qos_profile_sensor_data,
            )
            session.node.create_subscription(
                TwistStamped,
                "vla/command/twist",
                lambda m: speeds.append(
                    math.hypot(m.twist.linear.x, m.twist.linear.y, m.twist.linear.z)
                ),
                10,
            )
            session.start_peer(seed=1)
            session.start_node(
                KIT / "ckpt",
                ROOT / "config/policies/openvla_tiny.yaml",
                "bridge_orig",
                observation_timeout_s=10.0,
                inference_timeout_s=20.0,
                overrun_s=0.5,
            )
            session.new_scene(seed=12, task="touch")
            session.until(
                "the node has the instruction",
                lambda: session.status.instruction == session.state["instruction"],
            )
            session.call(session.enable_client, SetBool.Request(data=True))
            # Growing: it is killed with all of its motion before it.
            session.until(
                "the arm is commanded to move",
                lambda: len(speeds) > 1 and speeds[-1] > max(0.05, speeds[-2]),
                60.0,
            )
            timeouts = session.state["command_timeouts"]
            session.programs.remove(session.vla)
            session.vla.process.kill()
            killed = time.time()
            session.vla.process.wait()
            session.until(
                "the driver notices", lambda: session.state["command_timeouts"] > timeouts, 5.0
            )
            noticed = session.state["time_s"]
            self.assertGreater(speeds[-1], 0.05)
            session.until(
                "the arm has come to rest", lambda: session.state["time_s"] > noticed + 0.3
            )
            rest = session.state["tool"]
            begin = next(place for stamp, place in poses if killed <= stamp)
            # The driver's timeout of 0.2 s; 0.1 s until the last command is heard on a busy
            # machine; five periods that the robot may have to catch up with; 0.1 s by which the
            # joints follow their goals (a time constant of 20 ms). And a tenth of a millimetre by
            # which the state is rounded.
            self.assertLess(
                math.dist(begin, rest), max(speeds[-10:]) * (0.2 + 0.1 + 0.1 + 0.1) + 0.0001
            )
            session.until("a later state", lambda: session.state["time_s"] > noticed + 0.8)
            self.assertLess(math.dist(rest, session.state["tool"]), 0.001)
            os.unlink(session.vla.log.name)
        finally:
            self.assertEqual(session.close(), [])


if __name__ == "__main__":
    unittest.main()
