"""The simulated robot as a ROS 2 node: commands, episodes, invalid input, and the real node."""

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
from command_receiver import CommandReceiver
from geometry_msgs.msg import PoseStamped, TwistStamped
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from episode_runner import ROOT, SceneView, EpisodeRunner, RunnerError, node_executable, seconds_of
from std_msgs.msg import Float64, String
from std_srvs.srv import Trigger
from tabletop import expert

KIT = ROOT / "tests/data/openvla_tiny"


def node_or_none():
    try:
        return node_executable()
    except RunnerError:
        return None


class Driver:
    """Publishes commands to the robot as the node does."""

    def __init__(self, runner):
        self.runner = runner
        self.twist = runner.node.create_publisher(TwistStamped, "vla/command/twist", 10)
        self.gripper = runner.node.create_publisher(Float64, "vla/command/gripper", 10)
        runner.wait_until(
            "the robot subscribes to commands",
            lambda: (
                self.twist.get_subscription_count() >= 2
                and self.gripper.get_subscription_count() >= 2
            ),
        )

    def send(self, velocity, gripper=None, frame="base"):
        message = TwistStamped()
        message.header.stamp, message.header.frame_id = (
            self.runner.node.get_clock().now().to_msg(),
            frame,
        )
        v = message.twist.linear
        v.x, v.y, v.z = map(float, velocity)
        self.twist.publish(message)
        if gripper is not None:
            self.gripper.publish(Float64(data=float(gripper)))

    def follow(self, policy, task, seconds):
        """Drives with `policy(state)` at 10 Hz until the task is done."""
        end = time.monotonic() + seconds
        while not self.runner.state["success"] and time.monotonic() < end:
            action = policy(self.runner.state)
            self.hold(action[:3] * 5, action[6], 0.1, lambda: self.runner.state["success"])
        assert self.runner.state["success"], (task, self.runner.state)

    def hold(self, velocity, gripper, seconds, stop=lambda: False):
        """Publishes the same command at 50 Hz."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not stop():
            self.send(velocity, gripper)
            until = time.monotonic() + 0.02
            while time.monotonic() < until:
                self.runner.spin_once(0.005)


class Robot(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.runner = EpisodeRunner("test_robot_sim_node", images=True)
        cls.received = {}
        for kind, topic in (
            (PoseStamped, "ee_pose"),
            (JointState, "joint_states"),
            (Image, "image"),
        ):
            cls.runner.node.create_subscription(
                kind,
                topic,
                lambda m, t=topic: cls.received.setdefault(t, []).append(m),
                qos_profile_sensor_data,
            )
        cls.instructions = []
        cls.runner.node.create_subscription(
            String, "instruction", lambda m: cls.instructions.append(m.data), 10
        )
        cls.runner.start_robot_sim(seed=3, image_hz=10.0)
        cls.driver = Driver(cls.runner)
        cls.runner.wait_until("an image has come", lambda: cls.runner.picture is not None)

    @classmethod
    def tearDownClass(cls):
        bad = cls.runner.close()
        assert not bad, bad

    def episode(self, **wanted):
        self.runner.new_scene(**wanted)
        return self.runner.state

    def test_expert_succeeds_over_topics(self):
        for task in ("touch", "push", "pick"):
            state = self.episode(seed=4, task=task, block=None)
            self.assertFalse(state["success"])
            self.driver.follow(lambda state: expert(SceneView(state)), task, 15)
            self.assertIn(task, self.runner.state["done"][state["target"]])
            client = self.runner.node.create_client(Trigger, "tabletop/success")
            answer = self.runner.call(client, Trigger.Request())
            self.assertTrue(answer.success)
            self.assertRegex(answer.message, r"done after \d")

    def test_arm_stops_after_the_command_timeout(self):
        state = self.episode(seed=5)
        self.driver.hold([0.0, 0.0, 0.15], 1.0, 0.4)
        before = self.runner.state["command_timeouts"]
        self.runner.wait_until(
            "the driver gives up on the command",
            lambda: self.runner.state["command_timeouts"] > before,
            3.0,
        )
        self.runner.wait_until(
            "a later state",
            lambda t=self.runner.state["time_s"]: self.runner.state["time_s"] > t + 0.3,
        )
        rest = self.runner.state["tool"]
        self.assertGreater(rest[2] - state["tool"][2], 0.02)
        # 0.4 s of driving, 0.2 s until the timeout, and the arm's lag: 0.15 m/s for no longer than
        # that.
        self.assertLess(rest[2] - state["tool"][2], 0.15 * (0.4 + 0.2 + 0.25))
        self.runner.wait_until(
            "a later state",
            lambda t=self.runner.state["time_s"]: self.runner.state["time_s"] > t + 0.5,
        )
        self.assertLess(math.dist(rest, self.runner.state["tool"]), 0.002)

    def test_non_finite_commands_are_refused(self):
        self.episode(seed=5)
        before = self.runner.state["refused"]
        self.driver.send([float("nan"), 0, 0], float("inf"))
        self.runner.wait_until(
            "both are refused", lambda: self.runner.state["refused"] == before + 2, 5.0
        )
        self.assertTrue(np.isfinite(self.runner.state["tool"]).all())

    def test_peaks_of_commands_and_of_the_tool(self):
        # Commands of an earlier test have timed out.
        before = self.runner.state["commands"]
        self.driver.send([0.0, 0.0, 0.0])
        self.runner.wait_until(
            "the arm is to stand", lambda: self.runner.state["commands"] > before
        )
        self.assertEqual(
            self.episode(seed=6)["measured"], dict(linear_speed=0.0, linear_acceleration=0.0)
        )
        self.driver.hold(
            [0.03, 0.04, 0.0],
            1.0,
            5.0,
            lambda: self.runner.state["measured"]["linear_speed"] > 0.045,
        )
        self.assertAlmostEqual(self.runner.state["peaks"]["linear_speed"], 0.05, places=3)
        self.assertGreater(self.runner.state["measured"]["linear_speed"], 0.045)
        self.assertLess(self.runner.state["measured"]["linear_speed"], 0.06)
        self.assertTrue(
            0.1 < self.runner.state["measured"]["linear_acceleration"] < 3.0,
            self.runner.state["measured"],
        )

    def test_twists_in_another_frame_are_refused(self):
        before = self.episode(seed=5)["refused"]
        for frame in ("tcp", "", "base_link"):
            for _ in range(3):
                self.driver.send([0.0, 0.0, 0.2], frame=frame)
        self.runner.wait_until(
            "all are refused", lambda: self.runner.state["refused"] == before + 9, 5.0
        )
        self.assertEqual(
            (self.runner.state["commands"], self.runner.state["peaks"]["linear_speed"]), (0, 0.0)
        )
        (warning,) = [
            line
            for line in pathlib.Path(self.runner.robot_sim.log.name).read_text().splitlines()
            if "twist refused" in line
        ]
        self.assertIn("in frame 'tcp', this arm takes them in 'base'", warning)

    def test_state_topics_have_their_types(self):
        self.runner.wait_until(
            "everything has come",
            lambda: all(self.received.get(t) for t in ("ee_pose", "joint_states", "image")),
        )
        image, pose, joints = (
            self.received["image"][-1],
            self.received["ee_pose"][-1],
            self.received["joint_states"][-1],
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

    def test_instruction_is_published(self):
        state = self.episode(seed=7, task="push")
        self.runner.wait_until(
            "it is published",
            lambda: (
                self.instructions and self.instructions[-1] == f"push the {state['target']} block"
            ),
        )
        self.episode(seed=7, task="push", instruction="")
        self.runner.wait_until("it is withdrawn", lambda: self.instructions[-1] == "")

    def set(self, **values):
        """Sets parameters of the robot; returns the reasons of those refused."""
        setter = self.runner.node.create_client(SetParameters, "tabletop/set_parameters")
        request = SetParameters.Request(
            parameters=[
                Parameter(name, value=value).to_parameter_msg() for name, value in values.items()
            ]
        )
        return [
            result.reason
            for result in self.runner.call(setter, request).results
            if not result.successful
        ]

    def reset(self):
        return self.runner.call(
            self.runner.node.create_client(Trigger, "tabletop/reset"), Trigger.Request()
        )

    def test_reset_service_uses_seed_and_parameters(self):
        self.episode(seed=20)
        answer = self.reset()
        self.assertTrue(answer.success and answer.message.startswith("seed 21: "), answer)
        # Twice: a seed that was set is used also when its value is the same as before.
        for _ in range(2):
            self.assertEqual(self.set(seed=40, task="push"), [])
            self.assertRegex(self.reset().message, "^seed 40: push the ")
        self.assertRegex(self.reset().message, "^seed 41: push the ")
        # A refused reset keeps the seed for the next reset.
        self.assertEqual(self.set(block="pink", seed=50), [])
        answer = self.reset()
        self.assertFalse(answer.success)
        self.assertIn("'pink'", answer.message)
        self.assertEqual(self.runner.state["seed"], 41)
        self.assertEqual(self.set(block="", task=""), [])
        self.assertRegex(self.reset().message, "^seed 50: ")

    def test_parameters_without_effect_are_read_only(self):
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
            (dict(seed="x"), "seed: 'x' is not of type int"),
            (dict(task=3), "task: 3 is not of type str"),
        ):
            (reason,) = self.set(**values)
            self.assertIn(words, reason)

    def test_invalid_episodes_are_refused_in_one_line(self):
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
            ({"displaced_after_m": "1"}, "displaced_after_m: '1'"),
            ({"distractors": True}, "distractors: True"),
            ({"distractors": 1}, "distractors: 1 is not between 0 and 0"),
            ({"task": 7}, "task: 7"),
            ({"block": ["red"]}, "block: ['red']"),
            ({"task": False}, "task: False"),
            ({"bowl": "white"}, "there is no 'white' bowl"),
            ({"instruction": 3}, "instruction: 3"),
            ({"instruction": "a\0b"}, "is not a text"),
            # Characters that JSON has and UTF-8 has not, and line breaks.
            ({"instruction": "\ud800"}, "is not a text"),
            ({"block": "\udfff"}, "is not a text"),
            ({"\ud800": 1}, "unknown: "),
            ({"a\nb": 1}, "unknown: a b"),
            ({"seed": "7" * 5000}, "seed: '777"),
        ):
            with self.assertRaises(RunnerError) as raised:
                self.runner.new_scene(**wanted)
            self.assertIn(words, str(raised.exception))
            self.assertNotIn("\n", str(raised.exception))
            self.assertLess(len(str(raised.exception)), 400)
        for text in ("{", "[]", "3", '"x"', "[" * 5000):
            before = self.runner.state["refusals"]
            self.runner.episode_topic.publish(String(data=text))
            self.runner.wait_until(
                "it is refused", lambda: self.runner.state["refusals"] > before, 5.0
            )
        same = ("episode", "seed", "task", "target", "bowl", "instruction", "camera")
        self.assertEqual(
            {name: self.runner.state[name] for name in same}, {name: state[name] for name in same}
        )
        self.assertEqual(list(self.runner.state["blocks"]), list(state["blocks"]))
        for colour, place in state["blocks"].items():
            self.assertLess(math.dist(place, self.runner.state["blocks"][colour]), 0.001)
        self.assertGreater(self.runner.state["time_s"], state["time_s"])

    def test_camera_modes(self):
        def images(camera, begins=0.0):
            self.runner.new_scene(seed=9, camera=camera, camera_from_s=begins)
            self.received["image"] = []
            t = self.runner.state["time_s"]
            self.runner.wait_until("half a second", lambda: self.runner.state["time_s"] > t + 0.6)
            return [(bytes(m.data), seconds_of(m.header.stamp)) for m in self.received["image"][1:]]

        self.assertGreater(len({stamp for _, stamp in images("live")}), 2)
        self.assertEqual(len({pixels for pixels, _ in images("still")}), 1)
        self.assertEqual(len({stamp for _, stamp in images("frozen")}), 1)
        self.assertEqual(images("off"), [])
        # Live at first, like a camera that is lost during a motion: of six images (in simulated
        # time) three remain, or three have the same stamp.
        self.assertLess(len(images("off", 0.3)), 4)
        stamps = [stamp for _, stamp in images("frozen", 0.3)]
        self.assertEqual(len(set(stamps[-3:])), 1)
        self.assertEqual(self.runner.state["camera"], "frozen")


class Place(unittest.TestCase):
    """A robot with bowls."""

    def test_expert_places_over_topics(self):
        runner = EpisodeRunner("test_place")
        try:
            runner.start_robot_sim(seed=1, bowls=1, tasks="place")
            driver = Driver(runner)
            state = runner.state
            self.assertRegex(state["instruction"], r"^put the \w+ block in the \w+ bowl$")
            self.assertEqual(
                (list(state["bowls"]), state["done"]),
                ([state["bowl"]], {colour: [] for colour in state["blocks"]}),
            )
            driver.follow(lambda state: expert(SceneView(state)), "place", 30)
            state = runner.state
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
            self.assertEqual(runner.close(), [])


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

    def test_acceleration_at_every_rate(self):
        for hz in (20.0, 50.0, 100.0, 250.0):
            command = CommandReceiver(0.2, "base")
            end = self.drive(command, 10.0, np.arange(50) / hz, hz)
            self.assertAlmostEqual(command.peaks["linear_acceleration"], 1.0, places=6)
            # A step of twice the size has twice the acceleration. A new episode resets the peaks
            # and keeps the period.
            command.new_episode()
            self.assertEqual(command.peaks["linear_acceleration"], 0.0)
            self.drive(command, end, [51 / hz], hz)
            self.assertAlmostEqual(command.peaks["linear_acceleration"], 2.0, places=6)

    def test_close_stamps_are_not_an_acceleration(self):
        command = CommandReceiver(0.2, "base")
        # Every seventh stamp is 19 ms late: 1 ms before the next.
        self.drive(command, 10.0, 0.02 * np.arange(60), jitter=lambda k: 0.019 * (k % 7 == 3))
        self.assertLess(command.peaks["linear_acceleration"], 1.0 / 0.6 + 1e-6)
        self.assertGreater(command.peaks["linear_acceleration"], 1.0)

    def test_start_after_a_timeout_is_a_jump(self):
        # Time without a command at the driver and between the stamps [s], whether the command timed
        # out, acceleration of the next one [m/s2].
        for silence, stamped, timed_out, acceleration in (
            (0.3, 0.3, True, 5.0),
            (0.1, 0.1, False, 0.0),
            (0.3, 0.02, True, 0.0),
        ):
            command = CommandReceiver(0.2, "base")
            with unittest.mock.patch("time.monotonic", lambda: 100.0):
                end = self.drive(command, 10.0, 31 * [0.1])
                # From rest within one period.
                self.assertAlmostEqual(command.peaks["linear_acceleration"], 5.0, places=6)
                command.new_episode()
            with unittest.mock.patch("time.monotonic", lambda: 100.0 + silence):
                self.assertEqual(command.command()[0], 0.0 if timed_out else 0.1)
                # In the last case the driver was suspended and the sender was not.
                self.drive(command, end - 0.02 + stamped, [0.1])
            self.assertAlmostEqual(command.peaks["linear_acceleration"], acceleration, places=6)
            self.assertEqual(command.timeouts, int(timed_out))

    def test_another_frame_is_refused(self):
        warnings = []
        command = CommandReceiver(0.2, "base", warnings.append)
        message = TwistStamped()
        message.twist.linear.x = 0.1
        for frame in ("", "tcp", "Base"):
            message.header.frame_id = frame
            command.take_twist(message)
        self.assertEqual(
            (command.refused, command.received, command.received_at, command.twist.any()),
            (3, 0, None, False),
        )
        self.assertEqual(len(warnings), 1)
        self.assertIn("it is in frame '', this arm takes them in 'base'", warnings[0])


class Starting(unittest.TestCase):
    def test_invalid_parameters_end_it_in_one_line(self):
        for arguments, words in (
            (["-p", "image_size:=7"], "image_size: 7 is outside 64..640"),
            (["-p", "blocks:=many"], "blocks: 'many' is not of type int"),
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
        command = [
            sys.executable,
            "-W",
            "ignore",
            ROOT / "sim/robot_sim_node.py",
            "--ros-args",
            *arguments,
        ]
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

    def test_simulated_time_is_monotonic(self):
        runner = EpisodeRunner("test_clock")
        times = []
        runner.node.create_subscription(
            Clock, "/clock", lambda m: times.append(seconds_of(m.clock)), qos_profile_sensor_data
        )
        try:
            runner.start_robot_sim(publish_clock=True, real_time_factor=4.0)
            begin = time.monotonic()
            runner.wait_until("simulated time passes", lambda: len(times) > 30)
            runner.new_scene(seed=2)
            last = times[-1]
            runner.wait_until("it goes on", lambda: times[-1] > last + 2.0)
            self.assertEqual(times, sorted(times))
            self.assertGreater(times[-1] - times[0], 1.2 * (time.monotonic() - begin - 2))
        finally:
            self.assertEqual(runner.close(), [])


@unittest.skipIf(node_or_none() is None, "the node is not built")
class Loop(unittest.TestCase):
    """The node with the golden kit's random weights drives the simulated robot."""

    def test_node_moves_the_arm_within_limits(self):
        runner = EpisodeRunner("test_loop")
        try:
            runner.start_robot_sim(seed=1)
            # At 1 Hz an action is held for a second, so that it reaches the arm also with a slow
            # debug build.
            with tempfile.TemporaryDirectory() as folder:
                policy_file = pathlib.Path(folder) / "policy.yaml"
                policy_file.write_text(
                    (ROOT / "config/policies/openvla_tiny.yaml")
                    .read_text()
                    .replace("policy_hz: 5.0", "policy_hz: 1.0")
                )
                runner.start_node(
                    KIT / "ckpt",
                    policy_file,
                    "bridge_orig",
                    observation_timeout_s=10.0,
                    inference_timeout_s=20.0,
                    overrun_s=0.5,
                )
            episode = runner.run(
                11,
                task="touch",
                seconds=60.0,
                success_check=lambda state: (
                    state["commands"] > 60 and state["path_length_m"] > 0.02
                ),
            )
            self.assertTrue(episode.success, episode)
            self.assertGreater(episode.tool_moved, 0.01)
            self.assertEqual(episode.instruction, runner.state["instruction"])
            self.assertLessEqual(episode.peaks["linear_speed"], 0.25 * (1 + 1e-9))
            self.assertLessEqual(episode.peaks["angular_speed"], 0.6 * (1 + 1e-9))
            self.assertTrue(
                episode.ages_s and all(0 < age < 20 for age in episode.ages_s), episode.ages_s
            )
            silent = runner.run(11, task="touch", instruction="", seconds=1.0)
            self.assertLess(silent.tool_moved, 0.002)
            dark = runner.run(11, task="touch", camera="off", seconds=1.0)
            self.assertLess(dark.tool_moved, 0.002)
        finally:
            self.assertEqual(runner.close(), [])

    def test_killed_node_stops_the_arm(self):
        runner = EpisodeRunner("test_kill")
        try:
            poses, speeds = [], []
            position = lambda m: (m.pose.position.x, m.pose.position.y, m.pose.position.z)
            runner.node.create_subscription(
                PoseStamped,
                "ee_pose",
                lambda m: poses.append((seconds_of(m.header.stamp), position(m))),
                qos_profile_sensor_data,
            )
            runner.node.create_subscription(
                TwistStamped,
                "vla/command/twist",
                lambda m: speeds.append(
                    math.hypot(m.twist.linear.x, m.twist.linear.y, m.twist.linear.z)
                ),
                10,
            )
            runner.start_robot_sim(seed=1)
            runner.start_node(
                KIT / "ckpt",
                ROOT / "config/policies/openvla_tiny.yaml",
                "bridge_orig",
                observation_timeout_s=10.0,
                inference_timeout_s=20.0,
                overrun_s=0.5,
            )
            runner.new_scene(seed=12, task="touch")
            runner.wait_until(
                "the node has the instruction",
                lambda: runner.status.instruction == runner.state["instruction"],
            )
            self.assertTrue(runner.enable_motion(60.0), runner.describe_status())
            # The node is killed while the speed still grows.
            runner.wait_until(
                "the arm is commanded to move",
                lambda: len(speeds) > 1 and speeds[-1] > max(0.05, speeds[-2]),
                60.0,
            )
            timeouts = runner.state["command_timeouts"]
            runner.programs.remove(runner.vla)
            runner.vla.process.kill()
            killed = time.time()
            runner.vla.process.wait()
            runner.wait_until(
                "the command times out", lambda: runner.state["command_timeouts"] > timeouts, 5.0
            )
            noticed = runner.state["time_s"]
            self.assertGreater(speeds[-1], 0.05)
            runner.wait_until(
                "the arm has come to rest", lambda: runner.state["time_s"] > noticed + 0.3
            )
            rest = runner.state["tool"]
            begin = next(place for stamp, place in poses if killed <= stamp)
            # The driver's timeout of 0.2 s; 0.1 s until the last command is received on a busy
            # machine; five periods that the robot may catch up with; 0.1 s for the joints to reach
            # their goals (time constant 20 ms). And 0.1 mm, the resolution of the state.
            self.assertLess(
                math.dist(begin, rest), max(speeds[-10:]) * (0.2 + 0.1 + 0.1 + 0.1) + 0.0001
            )
            runner.wait_until("a later state", lambda: runner.state["time_s"] > noticed + 0.8)
            self.assertLess(math.dist(rest, runner.state["tool"]), 0.001)
            os.unlink(runner.vla.log.name)
        finally:
            self.assertEqual(runner.close(), [])


if __name__ == "__main__":
    unittest.main()
