"""The robot in joint space without a graph: referee, driver input, faults, kinematics, camera."""

import math
import pathlib
import tempfile
import types
import unittest
import unittest.mock

import numpy as np
import yaml
from builtin_interfaces.msg import Duration, Time
from faults import Fault, read_faults
from joint_receiver import INTERFACES, JointReceiver
from joint_referee import CommandReferee, JointLimits, JointMotion
from processes import ROOT
from refused import Refused
from scripted_expert import cartesian_ratios, instruction_of, seams
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray
from streams import CHANGES, Stream
from tabletop import TabletopScene
from tabletop.model import ARM_JOINTS, FINGER_JOINTS, JOINT_RANGES
from tabletop.reach import Reach
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

JOINT_FILES = sorted((ROOT / "config/robots").glob("tabletop_joint_*.yaml"))
T = 0.02
# Speed, acceleration and jerk of `curve`, whose largest values are these.
SPEED, ACCELERATION, JERK = 0.5, 0.5, 1.0
LIMITS = JointLimits(*(np.full(1, x) for x in (-2.0, 2.0, SPEED, ACCELERATION, JERK)))


def curve(time):
    """A position whose derivatives have the largest values above, at rest at 0."""
    return SPEED / 2.0 * (time - math.sin(2.0 * time) / 2.0) if time > 0 else 0.0


class Referee(unittest.TestCase):
    """The referee of one joint."""

    def referee(self, limits=LIMITS):
        return CommandReferee(["a"], limits, T, 0.2)

    def feed(self, referee, positions, times, velocities=None, measured=0.0):
        for k, (time, position) in enumerate(zip(times, positions)):
            referee.take(
                round((100.0 + time) * 1e9),
                None if position is None else np.array([position]),
                None if velocities is None else np.array([velocities[k]]),
                np.array([measured]),
            )
        return referee.report()

    def test_a_curve_within_its_limits_is_never_judged_beyond_them(self):
        # At any sampling: its peaks are found, and no jitter of the stamps exceeds them.
        random = np.random.default_rng(0)
        for jitter in (0.0, 0.3, 0.9):
            times = T * (np.arange(300) + random.uniform(0, jitter, 300))
            ratios = self.feed(self.referee(), [curve(t) for t in times], times)["ratios"]
            self.assertLess(ratios["position"], 1.0)
            for quantity in ("velocity", "acceleration", "jerk"):
                self.assertLessEqual(ratios[quantity], 1.0 + 1e-4, (jitter, quantity))
                self.assertGreater(ratios[quantity], 0.98, (jitter, quantity))

    def test_each_limit_is_measured(self):
        times = T * np.arange(300)
        for factor in (0.5, 2.0):
            found = self.feed(self.referee(), [factor * curve(t) for t in times], times)
            for quantity, limit in (
                ("velocity", SPEED),
                ("acceleration", ACCELERATION),
                ("jerk", JERK),
            ):
                self.assertAlmostEqual(found["ratios"][quantity], factor, delta=0.02 * factor)
                self.assertAlmostEqual(
                    found["largest"][quantity], factor * limit, delta=0.02 * factor * limit
                )
        found = self.feed(self.referee(), [2.5], [0.0])
        self.assertEqual((found["ratios"]["position"], found["joint"]["position"]), (1.25, "a"))

    def test_velocities_have_one_difference_less(self):
        times = T * np.arange(300)
        speeds = [SPEED * math.sin(t) ** 2 for t in times]
        found = self.feed(self.referee(), [None] * 300, times, speeds)
        self.assertEqual(found["ratios"]["position"], 0.0)
        self.assertAlmostEqual(found["ratios"]["velocity"], 1.0, delta=0.01)
        self.assertAlmostEqual(found["largest"]["acceleration"], SPEED, delta=0.01)
        # The first command follows rest: a jump within one period.
        found = self.feed(self.referee(), [None], [0.0], [0.1])
        self.assertAlmostEqual(found["largest"]["acceleration"], 0.1 / T, places=5)

    def test_one_late_step_is_found(self):
        times = T * np.arange(100)
        positions = [curve(t) for t in times]
        positions[60] = positions[59]
        ratios = self.feed(self.referee(), positions, times)["ratios"]
        self.assertGreater(ratios["acceleration"], 10.0)

    def test_a_start_at_the_measured_position_is_no_jump(self):
        times = T * np.arange(40)
        positions = [0.0] * 20 + [0.03 + curve(t) for t in T * np.arange(20)]
        found = self.feed(self.referee(), positions, times, measured=0.03)
        self.assertEqual(found["starts"], 2)
        self.assertLess(max(found["ratios"].values()), 1.01)
        # Elsewhere, or in motion, it is one.
        found = self.feed(self.referee(), positions, times, measured=0.2)
        self.assertEqual(found["starts"], 1)
        self.assertGreater(found["ratios"]["velocity"], 2.0)
        moving = [curve(t) for t in times[:20]] + [x + curve(times[19]) for x in positions[20:]]
        found = self.feed(self.referee(), moving, times, measured=0.03 + curve(times[19]))
        self.assertGreater(found["ratios"]["velocity"], 2.0)

    def test_rest_after_a_silence_of_the_sender_only(self):
        positions, times = [curve(2.0 + t) for t in (0.0, T, 2 * T)], [0.0, T, 2 * T]
        fast = self.feed(self.referee(), positions, times)["ratios"]["jerk"]
        self.assertGreater(fast, 10.0)  # from rest at once
        referee = self.referee()
        self.feed(referee, [curve(t) for t in T * np.arange(101)], T * np.arange(101))
        later = [curve(2.0 + t) for t in (0.15, 0.15 + T)]
        ratios = self.feed(referee, later, [2.15, 2.15 + T])["ratios"]
        self.assertLessEqual(ratios["jerk"], 1.0001)  # 0.15 s late in the middle of the motion
        ratios = self.feed(referee, [0.0, 0.0], [3.0, 3.0 + T])["ratios"]
        self.assertLessEqual(ratios["velocity"], 1.0001)

    def test_stamps_that_do_not_increase_are_counted(self):
        found = self.feed(self.referee(), [0.0, 0.0, 0.1, 0.0], [0.0, T, T, 2 * T])
        self.assertEqual((found["backwards"], found["ratios"]["velocity"]), (1, 0.0))

    def test_limits_of_every_robot_file(self):
        self.assertEqual(
            [path.stem for path in JOINT_FILES],
            [f"tabletop_{name}" for name in sorted(INTERFACES) if name != "twist"],
        )
        for path in JOINT_FILES:
            text = yaml.safe_load(path.read_text())
            self.assertEqual(f"tabletop_{text['command']['output']}", path.stem)
            self.assertEqual(text["command"]["topic"], INTERFACES[text["command"]["output"]][1])
            self.assertEqual([joint["name"] for joint in text["joints"]], list(ARM_JOINTS))
            limits = JointLimits.read(path, ARM_JOINTS)
            for name, low, high in zip(ARM_JOINTS, limits.low, limits.high):
                self.assertTrue(JOINT_RANGES[name][0] < low < high < JOINT_RANGES[name][1], name)

    def test_unusable_robot_files_are_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "robot.yaml"
            for text, words in (
                (None, "No such file"),
                ("{", "has no list `joints`"),
                ("limits: 3", "has no list `joints`"),
                ("joints: [{name: elbow}]", "has no joint 'base_yaw'"),
                ("joints: [{name: b, position: [0, 1], velocity: 1}]", "joints need position"),
            ):
                if text is not None:
                    path.write_text(text)
                with self.assertRaisesRegex(Refused, words):
                    JointLimits.read(path, ["b"] if "name: b" in (text or "") else ARM_JOINTS)

    def test_motion_of_the_joints(self):
        motion = JointMotion(["a"], LIMITS, T)
        motion.new_episode(np.zeros(1))
        for time in T * np.arange(1, 300):
            motion.take(np.array([curve(time)]))
        ratios = motion.peaks.report()["ratios"]
        self.assertAlmostEqual(ratios["velocity"], 1.0, delta=0.02)
        self.assertAlmostEqual(ratios["acceleration"], 1.0, delta=0.05)
        self.assertAlmostEqual(ratios["jerk"], 1.0, delta=0.1)


def trajectory(names, positions, velocities=(), after=0.02, points=1):
    point = JointTrajectoryPoint(positions=list(positions), velocities=list(velocities))
    point.time_from_start = Duration(sec=int(after), nanosec=round(after % 1 * 1e9))
    return JointTrajectory(joint_names=list(names), points=[point] * points)


class Receiver(unittest.TestCase):
    """The driver's input with goals at zero."""

    def setUp(self):
        self.warnings, self.goal, self.driven = [], np.zeros(3), None

    def receiver(self, interface, order=("a", "b", "c"), delay=0.0):
        names = ["a", "b", "c"]
        arm = JointReceiver(
            interface,
            names,
            order,
            lambda: self.goal,
            lambda: self.goal,
            CommandReferee(names, None, T, 0.2),
            0.2,
            T,
            delay,
            self.warnings.append,
        )
        return arm

    def apply_joints(self, gripper, dt, positions=None, velocities=None):
        self.driven = positions, velocities
        if positions is not None:
            self.goal = positions

    def test_joints_are_taken_by_name(self):
        arm = self.receiver("joint_trajectory")
        arm.take(trajectory(["c", "a", "b"], [0.03, 0.01, 0.02]), 0, 0)
        arm.drive(self, 20_000_000)
        np.testing.assert_allclose(self.driven[0], [0.01, 0.02, 0.03])
        arm = self.receiver("joint_state")
        arm.take(JointState(name=["b", "c", "a"], velocity=[0.2, 0.3, 0.1]), 0, 0)
        arm.drive(self, 0)
        self.assertIsNone(self.driven[0])
        np.testing.assert_allclose(self.driven[1], [0.1, 0.2, 0.3])
        for interface, k in (("joint_position_array", 0), ("joint_velocity_array", 1)):
            self.goal = np.zeros(3)
            arm = self.receiver(interface, ["b", "c", "a"])
            arm.take(Float64MultiArray(data=[0.02, 0.03, 0.01]), 0, 0)
            arm.drive(self, 0)
            np.testing.assert_allclose(self.driven[k], [0.01, 0.02, 0.03])
            self.assertIsNone(self.driven[1 - k])

    def test_a_point_is_reached_when_its_time_has_come(self):
        arm = self.receiver("joint_trajectory")
        arm.take(trajectory("abc", [0.2, 0.0, -0.1], after=0.1), 0, 0)
        seen = []
        for k in range(6):
            arm.drive(self, round((k + 1) * T * 1e9))
            seen.append(self.goal[0])
        np.testing.assert_allclose(seen, [0.04, 0.08, 0.12, 0.16, 0.2, 0.2])

    def test_uneven_messages_are_followed_evenly(self):
        # Sent every 20 ms and received three at a time; the driver is late by up to 60 ms too.
        for interface, stamped, delay, even in (
            ("joint_trajectory", True, 0.15, True),
            ("joint_position_array", False, 0.15, True),
            ("joint_trajectory", True, 0.0, False),
        ):
            self.goal = np.zeros(3)
            arm, motion = self.receiver(interface, delay=delay), JointMotion(["a"], LIMITS, T)
            motion.new_episode(np.zeros(1))
            ns = lambda k: 10**12 + k * 20_000_000
            for k in range(0, 150, 3):
                for message_k in range(k, k + 3):
                    positions = [curve(T * message_k), 0.0, 0.0]
                    message = trajectory("abc", positions, after=0.0)
                    message.header.stamp = Time(sec=1000, nanosec=message_k * 20_000_000 % 10**9)
                    message.header.stamp.sec += message_k * 20_000_000 // 10**9
                    if not stamped:
                        message = Float64MultiArray(data=positions)
                    arm.take(message, ns(message_k), ns(k + 2))
                for tick in range(k, k + 3):
                    arm.drive(self, ns(tick) + 7_000_000)
                    motion.take(self.goal[:1])
            ratio = max(motion.peaks.report()["ratios"].values())
            self.assertEqual(ratio < 1.1, even, (interface, delay, motion.peaks.report()))
            self.assertEqual(arm.refused, 0)
            # It ends where the commands do.
            arm.drive(self, ns(200))
            self.assertAlmostEqual(self.goal[0], curve(T * 149))

    def test_a_newer_point_replaces_later_ones_and_other_clocks_count_from_now(self):
        arm = self.receiver("joint_trajectory")
        arm.take(trajectory("abc", [1.0, 0.0, 0.0], after=2.0), 0, 0)
        arm.take(trajectory("abc", [0.04, 0.0, 0.0]), 0, 0)
        for sent in (-(10**12), 10**15):
            self.goal = np.zeros(3)
            arm.take(trajectory("abc", [0.04, 0.0, 0.0]), sent, 0)
            for k in range(5):
                arm.drive(self, round((k + 1) * T * 1e9))
            self.assertAlmostEqual(self.goal[0], 0.04)

    def test_refused_commands(self):
        nan = math.nan
        for interface, message, words in (
            ("joint_trajectory", trajectory("ab", [0, 0]), "joints a, b are not a, b, c"),
            ("joint_trajectory", trajectory("abd", [0, 0, 0]), "joints a, b, d are not"),
            ("joint_trajectory", trajectory("aab", [0, 0, 0]), "joints a, a, b are not"),
            ("joint_trajectory", trajectory("abc", [0, 0]), "positions: 2 numbers for 3 joints"),
            ("joint_trajectory", trajectory("abc", [0, nan, 0]), "positions of b is not finite"),
            ("joint_trajectory", trajectory("abc", []), "positions is empty"),
            ("joint_trajectory", trajectory("abc", [0, 0, 0], [0]), "velocities: 1 numbers"),
            ("joint_trajectory", trajectory("abc", [0, 0, 0], points=2), "points: 2"),
            ("joint_trajectory", trajectory("abc", [0, 0, 0], points=0), "points: 0"),
            ("joint_trajectory", trajectory("abc", [0, 0, 0], after=-1.0), "is negative"),
            ("joint_position_array", Float64MultiArray(data=[0.0, 0.0]), "2 numbers for 3"),
            ("joint_position_array", Float64MultiArray(data=[0.0, 0.0, math.inf]), "of c is not"),
            ("joint_velocity_array", Float64MultiArray(data=[nan, 0.0, 0.0]), "of a is not"),
            ("joint_velocity_array", Float64MultiArray(), "0 numbers for 3 joints"),
            ("joint_state", JointState(name=["a", "b", "c"]), "position and velocity are empty"),
            ("joint_state", JointState(position=[0.0]), "joints .none. are not a, b, c"),
        ):
            arm = self.receiver(interface)
            self.warnings.clear()
            for _ in range(3):
                arm.take(message, 0, 0)
            arm.drive(self, 0)
            self.assertEqual((arm.refused, arm.received, self.driven), (3, 0, (None, None)))
            self.assertEqual(len(self.warnings), 1)
            self.assertRegex(self.warnings[0], words)

    def test_a_jump_is_refused(self):
        arm = self.receiver("joint_position_array")
        # Before the first command that is near the joints, everything else is.
        arm.take(Float64MultiArray(data=[0.1, 0.0, 0.0]), 0, 0)
        self.assertIn("would need 5.0 rad/s", self.warnings[0])
        arm.take(Float64MultiArray(data=[0.01, 0.0, 0.0]), 0, 0)
        arm.take(
            Float64MultiArray(data=[0.2, 0.0, 0.0]), 0, 0
        )  # late messages, to be caught up with
        arm.take(Float64MultiArray(data=[0.4, 0.0, 0.0]), 0, 0)
        self.assertEqual((arm.received, arm.refused), (2, 2))
        arm.new_episode()
        arm.take(Float64MultiArray(data=[0.2, 0.0, 0.0]), 0, 0)
        self.assertEqual((arm.received, arm.refused), (0, 3))
        # A point that is far away in space and time is not a jump.
        arm = self.receiver("joint_trajectory")
        arm.take(trajectory("abc", [1.0, 0.0, 0.0], after=1.0), 0, 0)
        self.assertEqual(arm.received, 1)

    def test_timeout(self):
        arm = self.receiver("joint_velocity_array")
        with unittest.mock.patch("time.monotonic", lambda: 100.0):
            arm.take(Float64MultiArray(data=[0.1, 0.0, 0.0]), 0, 0)
        for now, driven in ((100.19, True), (100.21, False), (101.0, False)):
            with unittest.mock.patch("time.monotonic", lambda now=now: now):
                arm.drive(self, 0)
            self.assertEqual(self.driven[1] is not None, driven)
        self.assertEqual(arm.timeouts, 1)

    def test_late_points_are_counted(self):
        arm = self.receiver("joint_trajectory")
        message = trajectory("abc", [0.0, 0.0, 0.0], after=0.02)
        for stamp, late in ((0, 0), (10, 0), (9, 1)):
            message.header.stamp = Time(sec=stamp)
            arm.take(message, 0, 10 * 10**9)
            self.assertEqual(arm.late, late)


class Faults(unittest.TestCase):
    def test_reading(self):
        entries = [
            dict(stream="image", kind="off", from_s=1, until_s=2.5),
            dict(stream="joint_states", kind="nan", joint="elbow"),
            dict(stream="wrist_image", kind="size", size=[320, 240]),
        ]
        faults = read_faults(entries, ["image", "joint_states", "wrist_image"])
        self.assertEqual(faults[0], Fault("image", "off", None, 1.0, 2.5))
        self.assertEqual(faults[1], Fault("joint_states", "nan", "elbow"))
        self.assertEqual(
            [faults[0].applies(t) for t in (0.99, 1.0, 2.49, 2.5)], [False, True, True, False]
        )

    def test_refused(self):
        streams = ["image", "joint_states"]
        for entries, words in (
            ({}, "a JSON list, not dict"),
            ([3], "a JSON object, not int"),
            ([{}], "stream: None"),
            ([dict(stream=["image"], kind="off")], "stream: "),
            ([dict(stream="image", kind="nan")], "kind: 'nan' of image"),
            ([dict(stream="image", kind={})], "kind: {} of image"),
            ([dict(stream="wrist_image", kind="off")], "does not publish wrist_image"),
            ([dict(stream="image", kind="off", joint="elbow")], "unknown: joint"),
            ([dict(stream="image", kind="delay")], "seconds: None is not a number"),
            ([dict(stream="image", kind="delay", seconds=math.nan)], "seconds: nan"),
            ([dict(stream="image", kind="delay", seconds=11)], "seconds: 11"),
            ([dict(stream="image", kind="delay", seconds=True)], "seconds: True"),
            ([dict(stream="image", kind="size", size=[0, 3])], "size: .0, 3."),
            ([dict(stream="image", kind="rename", topic="a b")], "name of a topic"),
            ([dict(stream="image", kind="off", from_s=-1)], "from_s: -1"),
            ([dict(stream="image", kind="off", until_s="x")], "until_s: 'x'"),
            ([dict(stream="joint_states", kind="missing", joint="knee")], "joint: 'knee'"),
            ([dict(stream="joint_states", kind="missing", joint=["a"])], "joint: .'a'. is not"),
            ([dict(stream="image", kind="off")] * 33, "33 are more than 32"),
        ):
            with self.assertRaisesRegex(Refused, words):
                read_faults(entries, streams)

    def test_changes_of_messages(self):
        pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
        image = Image(height=4, width=6, encoding="rgb8", step=18, data=pixels.tobytes())
        other = CHANGES["size"](image, [3, 2])
        self.assertEqual((other.height, other.width, other.step), (2, 3, 9))
        np.testing.assert_array_equal(np.array(other.data).reshape(2, 3, 3), pixels[::2, ::2])
        joints = JointState(name=["elbow", "shoulder"], position=[0.5, 0.2], velocity=[1.0, 2.0])
        other = CHANGES["missing"](joints, "elbow")
        self.assertEqual(
            (other.name, list(other.position), list(other.velocity)), (["shoulder"], [0.2], [2.0])
        )
        other = CHANGES["reordered"](joints, None)
        self.assertEqual((other.name, list(other.position)), (["shoulder", "elbow"], [0.2, 0.5]))
        self.assertTrue(math.isnan(CHANGES["nan"](joints, "shoulder").position[1]))
        other = CHANGES["out_of_limits"](joints, "elbow")
        self.assertGreater(other.position[0], JOINT_RANGES["elbow"][1])
        self.assertEqual(list(joints.position), [0.5, 0.2])


class Streams(unittest.TestCase):
    """A stream with a publisher that only notes what it was given."""

    def stream(self, faults):
        self.events, self.stamp = [], 0

        def create(kind, topic, qos):
            self.events.append(f"+{topic}")
            return types.SimpleNamespace(publish=lambda m: self.note(topic, m), topic=topic)

        node = types.SimpleNamespace(
            create_publisher=create,
            destroy_publisher=lambda publisher: self.events.append(f"-{publisher.topic}"),
        )
        stream = Stream(node, JointState, "joint_states", 10)
        self.events.clear()
        entries = [dict(stream="joint_states", **fault) for fault in faults]
        stream.new_episode(read_faults(entries, ["joint_states"]))
        return stream

    def note(self, topic, message):
        self.events.append((topic, message.header.stamp.sec, list(message.position)[0]))

    def run_stream(self, faults, steps=4):
        """Offers position k with stamp k at time k; the events."""
        stream = self.stream(faults)
        for k in range(steps):
            stream.offer(
                lambda k=k: JointState(name=["elbow"], position=[float(k)], velocity=[0.0]),
                Time(sec=k),
                float(k),
                float(k),
            )
            stream.flush(float(k))
        return self.events

    def test_each_kind(self):
        j = "joint_states"
        live = [(j, k, float(k)) for k in range(4)]
        for fault, expected in (
            (None, live),
            (dict(kind="off", from_s=1, until_s=3), [live[0], live[3]]),
            (dict(kind="kill", from_s=1, until_s=3), [live[0], f"-{j}", f"+{j}", live[3]]),
            (dict(kind="frozen", from_s=2), [*live[:2], live[1], live[1]]),
            (dict(kind="frozen"), [live[0]] * 4),
            (dict(kind="still", from_s=2), [*live[:2], (j, 2, 1.0), (j, 3, 1.0)]),
            (dict(kind="delay", seconds=2), live[:2]),
            (dict(kind="delay", seconds=2, until_s=1), [live[1], live[2], live[0], live[3]]),
            (
                dict(kind="rename", topic="other", from_s=1, until_s=3),
                [
                    live[0],
                    f"-{j}",
                    "+other",
                    ("other", 1, 1.0),
                    ("other", 2, 2.0),
                    "-other",
                    f"+{j}",
                    live[3],
                ],
            ),
        ):
            self.assertEqual(self.run_stream([fault] if fault else []), expected, fault)

    def test_the_last_fault_that_applies_counts(self):
        faults = [dict(kind="off"), dict(kind="frozen", from_s=2)]
        self.assertEqual(len(self.run_stream(faults)), 2)


class Scene(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scene = TabletopScene(0, wrist_camera=True)

    def test_the_wrist_camera_changes_nothing_else(self):
        plain = TabletopScene(5)
        self.scene.reset(5)
        image = self.scene.render().copy()
        wrist = self.scene.render("wrist_camera").copy()
        np.testing.assert_array_equal(image, plain.render())
        np.testing.assert_array_equal(self.scene.data.qpos, plain.data.qpos)
        # Fixed to the tool: the fingers stay where they are in the image while the arm moves.
        pink = lambda pixels: (pixels[..., 0] > 90) & (pixels[..., 1] < 60) & (pixels[..., 2] > 70)
        goal = self.scene.joint_goals() + [0.3, 0.0, 0.0, 0.0, 0.0, 0.0]
        for _ in range(30):
            self.scene.apply_joints(1.0, T, positions=goal)
        moved = self.scene.render("wrist_camera")
        self.assertGreater(pink(wrist).sum(), 1000)
        self.assertLess((pink(wrist) ^ pink(moved)).sum(), 0.1 * pink(wrist).sum())
        self.assertGreater((np.abs(wrist.astype(int) - moved) > 20).mean(), 0.05)

    def test_joint_commands_are_followed(self):
        self.scene.reset(6)
        start = self.scene.joint_goals()
        goal = start + [0.2, -0.1, 0.1, 0.1, -0.1, 0.2]
        for _ in range(25):
            self.scene.apply_joints(1.0, T, positions=goal)
        names, positions, velocities = self.scene.joint_states()
        self.assertEqual(names, list(ARM_JOINTS + FINGER_JOINTS))
        np.testing.assert_allclose(positions[:6], goal, atol=2e-3)
        for _ in range(25):
            self.scene.apply_joints(1.0, T, velocities=np.full(6, -0.2))
        np.testing.assert_allclose(self.scene.joint_goals(), goal - 0.1, atol=1e-9)
        np.testing.assert_allclose(self.scene.joint_states()[2][:6], -0.2, atol=0.02)
        for _ in range(25):
            self.scene.apply_joints(1.0, T)
        np.testing.assert_allclose(self.scene.joint_states()[2][:6], 0.0, atol=1e-3)

    def test_speed_and_range_of_the_driver(self):
        self.scene.reset(6)
        start = self.scene.joint_goals()
        self.scene.apply_joints(1.0, T, positions=start + [9.0, 0, 0, 0, 0, 0])
        self.assertAlmostEqual(self.scene.joint_goals()[0] - start[0], 3.0 * T, places=9)
        for _ in range(100):
            self.scene.apply_joints(1.0, T, velocities=[9.0, 0, 0, 0, 0, 0])
        self.assertLessEqual(self.scene.joint_goals()[0], JOINT_RANGES["base_yaw"][1] + 1e-9)
        for given in (dict(positions=[0.0] * 5), dict(velocities=[math.nan] * 6)):
            with self.assertRaisesRegex(ValueError, "are not six and one finite"):
                self.scene.apply_joints(1.0, T, **given)

    def test_expert_touches_by_joint_positions(self):
        limits = yaml.safe_load(JOINT_FILES[0].read_text())["joints"]
        limits = {joint["name"]: joint["position"] for joint in limits}
        reach = Reach(limits)
        for seed in range(12):
            self.scene.reset(seed, task="touch")
            block = self.scene.targets()[self.scene.target]
            for waypoint in reach.touch(block, self.scene.joint_states()[1][:6]):
                np.testing.assert_allclose(reach.point(waypoint.joints), waypoint.point, atol=1e-4)
                for name, position in zip(ARM_JOINTS, waypoint.joints):
                    self.assertTrue(limits[name][0] < position < limits[name][1], name)
                for _ in range(150):
                    way = waypoint.joints - self.scene.joint_goals()
                    step = way * min(1.0, T / max(np.abs(way).max(), T))
                    self.scene.apply_joints(0.0, T, positions=self.scene.joint_goals() + step)
            self.assertTrue(self.scene.success(), seed)
        with self.assertRaisesRegex(ValueError, "the arm does not reach"):
            reach.joints([1.5, 0.0, 0.1])
        with self.assertRaisesRegex(ValueError, "the arm does not reach"):
            Reach(limits | {"elbow": (2.6, 2.7)}).joints([0.5, 0.0, 0.1])


class Expert(unittest.TestCase):
    def test_instructions(self):
        waypoint = Reach().touch([0.45, -0.1, 0.02])[0]
        self.assertEqual(
            instruction_of("end_effector", waypoint), "move to 0.45000 -0.10000 0.11000"
        )
        order = ARM_JOINTS[::-1]
        words = instruction_of("joint_position", waypoint, order).split()
        self.assertEqual(words[:2], ["move", "to"])
        np.testing.assert_allclose(
            [float(word) for word in words[2:]], waypoint.joints[::-1], atol=1e-5
        )

    def test_seams_of_the_status(self):
        self.assertEqual(seams(object()), dict(seam_last=None, seam_largest=None))
        status = types.SimpleNamespace(seam_last=math.nan, seam_largest=np.array([0.1, 0.2]))
        self.assertEqual(seams(status), dict(seam_last=None, seam_largest=[0.1, 0.2]))

    def test_cartesian_ratios(self):
        robot = yaml.safe_load((ROOT / "config/robots/tabletop.yaml").read_text())
        peaks = dict(linear_speed=0.5, linear_acceleration=0.5, angular_speed=0.3)
        self.assertEqual(
            cartesian_ratios(peaks, robot),
            dict(linear_velocity=2.0, linear_acceleration=0.5, angular_velocity=0.5),
        )

    def test_policy_files_name_the_joints_of_the_robot(self):
        files = sorted((ROOT / "config/policies").glob("tabletop_scripted_*.yaml"))
        self.assertEqual(len(files), 3)
        for path in files:
            policy = yaml.safe_load(path.read_text())
            self.assertEqual(path.stem, f"tabletop_scripted_{policy['action']['space']}")
            for joint in policy["action"].get("joints", []):
                self.assertIn(joint, (*ARM_JOINTS, *policy["action"]["grippers"]))


if __name__ == "__main__":
    unittest.main()
