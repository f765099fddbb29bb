"""The Gazebo world, its bridge and its launch file, tested without Gazebo.

They are compared with the MuJoCo robot, with the node and with the source of Gazebo.
"""

import contextlib
import importlib
import importlib.machinery
import importlib.util
import io
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

import mujoco
import numpy as np
import yaml

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[2] / "sim/gazebo")]
import layout  # noqa: E402
from episode_runner import ROOT, EpisodeRunner, Program
from geometry_msgs.msg import TwistStamped
from programs import has_node
from rclpy.node import NodeNameNonExistentError
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64
from tabletop import expert, rollout
from tabletop import model as cell
from tabletop.kinematics import ToolKinematics
from tabletop.randomise import CAMERA
from tabletop.scene import BLOCK_COLOURS, BLOCK_REGION, DOWN, START_REGION
from tasks import NINE, Referee, instruction

SDF = xml.etree.ElementTree.parse(ROOT / "sim/gazebo/tabletop.sdf").getroot()
BRIDGE = yaml.safe_load((ROOT / "config/gz_bridge.yaml").read_text())
# Type conversions of ros_gz_bridge that are used here.
PAIRS = {
    "rosgraph_msgs/msg/Clock": "gz.msgs.Clock",
    "sensor_msgs/msg/Image": "gz.msgs.Image",
    "sensor_msgs/msg/JointState": "gz.msgs.Model",
    "std_msgs/msg/Float64": "gz.msgs.Double",
}
# gz-sim 8's systems, from its source (branch gz-sim8 at b81e26da): gz_add_system in
# src/systems/*/CMakeLists.txt, GZ_ADD_PLUGIN_ALIAS and the parameters in the .cc file beside it.
# File name -> name, parameters (those that are used here).
SYSTEMS = {
    "gz-sim-physics-system": ("Physics", set()),
    "gz-sim-user-commands-system": ("UserCommands", set()),
    "gz-sim-scene-broadcaster-system": ("SceneBroadcaster", set()),
    "gz-sim-sensors-system": ("Sensors", {"render_engine"}),
    "gz-sim-joint-state-publisher-system": ("JointStatePublisher", {"topic", "joint_name"}),
    "gz-sim-joint-controller-system": ("JointController", {"joint_name", "topic"}),
    "gz-sim-joint-position-controller-system": (
        "JointPositionController",
        {
            "joint_name",
            "topic",
            "p_gain",
            "i_gain",
            "d_gain",
            "cmd_max",
            "cmd_min",
            "initial_position",
        },
    ),
}
# Elements of a camera sensor in SDF 1.9 (sensor.sdf, camera.sdf) that may be useful here; Gazebo
# warns of unknown ones.
SENSOR = {"topic", "update_rate", "always_on", "visualize", "enable_metrics", "pose", "camera"}
CAMERA_ELEMENTS = {
    "horizontal_fov",
    "image",
    "clip",
    "optical_frame_id",
    "noise",
    "distortion",
    "lens",
    "pose",
}
# Topics between robot and node, with their types.
FROM_ROBOT = {
    "image": "sensor_msgs/msg/Image",
    "ee_pose": "geometry_msgs/msg/PoseStamped",
    "joint_states": "sensor_msgs/msg/JointState",
}
FROM_NODE = {
    "vla/command/twist": "geometry_msgs/msg/TwistStamped",
    "vla/command/gripper": "std_msgs/msg/Float64",
}

specification = importlib.util.spec_from_file_location("gazebo_arm", ROOT / "sim/gazebo/arm.py")
gazebo_arm = importlib.util.module_from_spec(specification)
specification.loader.exec_module(gazebo_arm)


def numbers(element, path, default="0 0 0 0 0 0"):
    found = element.find(path)
    return np.array([float(x) for x in (default if found is None else found.text).split()])


def turn(axis, angle):
    quaternion, matrix = np.empty(4), np.empty(9)
    mujoco.mju_axisAngle2Quat(quaternion, np.asarray(axis, dtype=float), angle)
    mujoco.mju_quat2Mat(matrix, quaternion)
    return matrix.reshape(3, 3)


def model_of(name):
    return next(m for m in SDF.iter("model") if m.get("name") == name)


def repeated_names(element):
    """Names that two children of one element have, each as "element: name"."""
    names = [child.get("name") for child in element if child.tag != "plugin"]
    names = [name for name in names if name is not None]
    found = [
        f"{element.tag} {element.get('name')}: {name}"
        for name in sorted(set(names))
        if names.count(name) > 1
    ]
    return found + [name for child in element for name in repeated_names(child)]


class SdfArm:
    """Forward kinematics of the world's arm, read from its XML.

    Poses of links are in the model's frame, with the arm straight up.
    """

    def __init__(self):
        arm = model_of("arm")
        self.place = {link.get("name"): numbers(link, "pose")[:3] for link in arm.iter("link")}
        self.joints = {j.get("name"): j for j in arm.iter("joint") if j.get("type") != "fixed"}
        self.tcp = next(f for f in arm.iter("frame") if f.get("name") == "tcp")

    def pose(self, positions):
        at, rotation, link = np.zeros(3), np.eye(3), "arm_base"
        for name, angle in zip(cell.ARM_JOINTS, positions):
            joint = self.joints[name]
            assert joint.findtext("parent") == link and joint.find("pose") is None
            child = joint.findtext("child")
            at = at + rotation @ (self.place[child] - self.place[link])
            rotation, link = rotation @ turn(numbers(joint, "axis/xyz"), angle), child
        assert self.tcp.get("attached_to") == link
        offset = numbers(self.tcp, "pose")
        return at + rotation @ offset[:3], rotation @ turn([0, 0, 1], offset[5])


class World(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = mujoco.MjModel.from_xml_string(cell.mjcf(3, 0, 64, 64))
        cls.data = mujoco.MjData(cls.model)
        cls.kinematics = ToolKinematics(cls.model, cell.ARM_JOINTS)
        cls.arm = SdfArm()

    def test_kinematics_equal_mujoco(self):
        random = np.random.default_rng(0)
        for _ in range(50):
            positions = random.uniform(*self.kinematics.limits.T)
            self.data.qpos[self.kinematics.qpos] = positions
            mujoco.mj_kinematics(self.model, self.data)
            position, rotation = self.kinematics.pose(self.data)
            at, turned = self.arm.pose(positions)
            np.testing.assert_allclose(at, position, atol=1e-6)
            np.testing.assert_allclose(turned, rotation, atol=1e-6)

    def test_joints_have_the_same_limits(self):
        for name, (low, high) in zip(cell.ARM_JOINTS, self.kinematics.limits):
            limit = self.arm.joints[name].find("axis/limit")
            self.assertEqual(float(limit.findtext("upper")), high, name)
            # The arm starts straight up, so the lower limit of the elbow may be lower.
            self.assertLessEqual(float(limit.findtext("lower")), low, name)
        for name in cell.FINGER_JOINTS:
            self.assertEqual(
                float(self.arm.joints[name].find("axis/limit").findtext("upper")),
                cell.FINGER_TRAVEL,
            )

    def test_camera_blocks_and_table_equal_mujoco(self):
        position, target, view = CAMERA
        x, y, z, roll, pitch, yaw = numbers(model_of("camera"), "pose")
        np.testing.assert_allclose([x, y, z], position)
        forward = turn([0, 0, 1], yaw) @ turn([0, 1, 0], pitch) @ [1, 0, 0]
        np.testing.assert_allclose(
            forward, (target - position) / np.linalg.norm(target - position), atol=1e-4
        )
        sensor = model_of("camera").find("link/sensor")
        self.assertAlmostEqual(
            float(sensor.findtext("camera/horizontal_fov")), np.radians(view), places=5
        )
        self.assertEqual(
            [sensor.findtext(f"camera/image/{k}") for k in ("width", "height", "format")],
            ["224", "224", "R8G8B8"],
        )
        for colour in ("red", "green", "blue"):
            block = model_of(f"{colour}_block")
            np.testing.assert_allclose(
                numbers(block, "link/collision/geometry/box/size"), [cell.BLOCK_SIZE] * 3
            )
            self.assertEqual(numbers(block, "pose")[2], cell.BLOCK_SIZE / 2)
        table = model_of("table")
        self.assertAlmostEqual(
            numbers(table, "pose")[2] + numbers(table, "link/collision/geometry/box/size")[2] / 2,
            0.0,
        )

    def test_camera_is_valid_sdf_1_9(self):
        self.assertEqual(SDF.get("version"), "1.9")
        sensor = model_of("camera").find("link/sensor")
        self.assertLessEqual({child.tag for child in sensor}, SENSOR)
        self.assertLessEqual({child.tag for child in sensor.find("camera")}, CAMERA_ELEMENTS)
        # The frame of images of sim/robot_sim_node.py; gz-sensors 8 uses it for the image too.
        self.assertEqual(sensor.findtext("camera/optical_frame_id"), "camera")

    def test_systems_are_those_of_gz_sim_8(self):
        for plugin in SDF.iter("plugin"):
            name, parameters = SYSTEMS[plugin.get("filename")]
            self.assertEqual(plugin.get("name"), f"gz::sim::systems::{name}")
            self.assertLessEqual({child.tag for child in plugin}, parameters)

    def test_names_are_unique_among_siblings(self):
        # As in SDFormat's own check: whatever the kind of the siblings.
        self.assertEqual(repeated_names(SDF), [])
        for joint in model_of("arm").iter("joint"):
            links = {link.get("name") for link in model_of("arm").iter("link")}
            self.assertIn(joint.findtext("child"), links)
            self.assertIn(joint.findtext("parent"), links | {"world"})

    def test_check_detects_repeated_names(self):
        broken = xml.etree.ElementTree.fromstring(
            '<link name="a"><visual name="b"/><collision name="b"/></link>'
        )
        self.assertEqual(repeated_names(broken), ["link a: b"])

    def test_masses_equal_mujoco(self):
        for link in model_of("arm").iter("link"):
            name = link.get("name").removesuffix("_pad")
            if name == "arm_base":  # fixed
                continue
            # MuJoCo's upper and lower arm are capsules of the same mass.
            mass = float(link.findtext("inertial/mass"))
            self.assertAlmostEqual(mass, self.model.body(name).mass[0], places=6, msg=name)
        for k, colour in enumerate(layout.COLOURS):
            mass = float(model_of(f"{colour}_block").findtext("link/inertial/mass"))
            self.assertAlmostEqual(mass, self.model.body(f"block{k}").mass[0], places=6)

    def test_pads_and_table_equal_mujoco(self):
        for name in cell.FINGER_JOINTS:
            geom = self.model.geom(f"{name}_pad")
            link = next(x for x in model_of("arm").iter("link") if x.get("name") == f"{name}_pad")
            np.testing.assert_allclose(
                numbers(link, "collision/geometry/box/size"), 2 * geom.size, atol=1e-9
            )
            np.testing.assert_allclose(numbers(link, "collision/pose")[:3], geom.pos, atol=1e-9)
        size = numbers(model_of("table"), "link/collision/geometry/box/size")
        np.testing.assert_allclose(size, 2 * self.model.geom("table").size, atol=1e-9)

    def test_contacts_have_the_friction_of_mujoco(self):
        # DART takes the smaller value of two surfaces, MuJoCo the larger one.
        def sdf(model, link=None):
            found = {
                float(f.text)
                for x in model_of(model).iter("link")
                if link in (None, x.get("name"))
                for tag in ("mu", "mu2")
                for f in x.iter(tag)
            }
            (value,) = found
            return value

        def mujoco_friction(geom):
            return self.model.geom(geom).friction[0]

        pad, block, table = sdf("arm", "finger_left_pad"), sdf("red_block"), sdf("table")
        self.assertEqual(
            [sdf("arm", "finger_right_pad"), sdf("green_block"), sdf("blue_block")],
            [pad, block, block],
        )
        self.assertEqual(
            min(pad, block), max(mujoco_friction("finger_left_pad"), mujoco_friction("block0"))
        )
        self.assertEqual(
            min(block, table), max(mujoco_friction("block0"), mujoco_friction("table"))
        )

    def test_efforts_cannot_force_the_fingers_open(self):
        efforts = [
            float(self.arm.joints[name].findtext("axis/limit/effort")) for name in cell.ARM_JOINTS
        ]
        self.assertEqual(efforts, [20, 20, 20, 5, 5, 5])


class RefereedScene(layout.FixedLayoutScene):
    """Watched by the referee of Gazebo in every control period."""

    referee = judged_at = None

    def apply(self, *command):
        super().apply(*command)
        if self.referee is not None and self.judged_at is None:
            if self.referee.done(self.targets(), self.ee_pose()[0]):
                self.judged_at = self.time


class Layout(unittest.TestCase):
    """The world's fixed layout and the start of the arm, with the MuJoCo robot."""

    @classmethod
    def setUpClass(cls):
        cls.places = layout.block_places()
        cls.scene = RefereedScene(width=64, height=64)
        cls.addClassCleanup(cls.scene.close)

    def test_start_lies_in_the_training_region(self):
        controller = gazebo_arm.ArmController()
        position, _ = controller.pose(controller.start)
        np.testing.assert_allclose(position, layout.START, atol=1e-4)
        low, high = START_REGION.T
        self.assertTrue((low <= position).all() and (position <= high).all(), position)
        _, rotation = controller.kinematics.pose(controller.data)
        np.testing.assert_allclose(rotation, DOWN, atol=1e-4)

    def test_blocks_lie_in_the_training_region(self):
        low, high = BLOCK_REGION.T
        places = [np.array(place) for place in self.places.values()]
        for k, place in enumerate(places):
            self.assertTrue((low <= place).all() and (place <= high).all(), place)
            self.assertTrue(all(self.scene._apart(place - other) for other in places[:k]))

    def test_blocks_have_their_colours(self):
        self.scene.arrange(self.places, "touch", "blue")
        for k, colour in enumerate(layout.COLOURS):
            seen = self.scene.model.geom(f"block{k}").rgba[:3]
            visual = model_of(f"{colour}_block").find("link/visual/material")
            np.testing.assert_allclose(seen, BLOCK_COLOURS[colour], atol=1e-6)
            np.testing.assert_allclose(numbers(visual, "diffuse")[:3], seen, atol=1e-6)

    def test_expert_does_every_task_and_referees_agree(self):
        self.assertEqual(len(NINE), 9)
        for task, colour in NINE:
            self.scene.arrange(self.places, task, colour)
            self.assertEqual(self.scene.instruction, instruction(task, colour))
            self.scene.referee = Referee(task, colour, self.scene.targets())
            self.scene.judged_at = None
            clearances = []
            result = rollout(
                self.scene,
                expert,
                seconds=5.0,
                on_step=lambda scene, _: clearances.append(scene.clearance()),
            )
            self.assertTrue(result.success, (task, colour))
            self.assertEqual(result.first_touched, colour)
            # The smallest distance of the fingers and the moved block from another block.
            self.assertGreater(min(clearances), 0.04, (task, colour))
            # By poses alone; the scene's own verdict comes up to a policy period later.
            self.assertIsNotNone(self.scene.judged_at, (task, colour))
            self.assertAlmostEqual(self.scene.judged_at, result.seconds, delta=0.21)
            self.assertEqual(self.scene.referee.first_touched, colour)


class Finger:
    """A finger on its slide, controlled by gz::math::PID as in JointPositionController.

    `implicit`: whether the joint's damping is integrated implicitly, as in DART.
    """

    STEP = float(SDF.findtext("world/physics/max_step_size"))

    def __init__(self, name, implicit, d_gain=None):
        arm = model_of("arm")
        joint = next(j for j in arm.iter("joint") if j.get("name") == name)
        link = next(x for x in arm.iter("link") if x.get("name") == joint.findtext("child"))
        controller = next(
            p
            for p in arm.iter("plugin")
            if "position" in p.get("filename") and p.findtext("joint_name") == name
        )
        gains = {
            child.tag: float(child.text)
            for child in controller
            if child.tag not in ("joint_name", "topic")
        }
        self.p, self.d, self.i = (
            gains["p_gain"],
            gains["d_gain"] if d_gain is None else d_gain,
            gains.get("i_gain", 0.1),
        )
        self.most = min(gains["cmd_max"], float(joint.findtext("axis/limit/effort")))
        self.mass, self.damping = (
            float(link.findtext("inertial/mass")),
            float(joint.findtext("axis/dynamics/damping")),
        )
        self.low, self.high, self.fastest = (
            float(joint.findtext(f"axis/limit/{k}")) for k in ("lower", "upper", "velocity")
        )
        self.implicit, self.position, self.velocity = implicit, gains["initial_position"], 0.0
        self.last, self.sum = 0.0, 0.0

    def step(self, goal):
        error = self.position - goal
        rate, self.last = (error - self.last) / self.STEP, error
        self.sum = float(np.clip(self.sum + self.i * self.STEP * error, -1.0, 1.0))
        force = float(np.clip(-self.p * error - self.sum - self.d * rate, -self.most, self.most))
        share = self.STEP / self.mass
        if self.implicit:
            self.velocity = (self.velocity + share * force) / (1 + share * self.damping)
        else:
            self.velocity += share * (force - self.damping * self.velocity)
        self.velocity = float(np.clip(self.velocity, -self.fastest, self.fastest))
        desired = self.position + self.STEP * self.velocity
        self.position = float(np.clip(desired, self.low, self.high))
        if desired != self.position:
            self.velocity = 0.0
        return force

    def rest(self, goal, seconds=1.0):
        """Largest speed and distance from the goal in the last fifth of `seconds`."""
        steps = round(seconds / self.STEP)
        worst = [0.0, 0.0]
        for k in range(steps):
            self.step(goal)
            if 0.8 * steps <= k:
                worst = [
                    max(worst[0], abs(self.velocity)),
                    max(worst[1], abs(self.position - goal)),
                ]
        return worst


class Gripper(unittest.TestCase):
    def test_fingers_settle(self):
        for name in cell.FINGER_JOINTS:
            for implicit in (True, False):
                for goals in ((0.0, 0.04, 0.0), (0.02, 0.03, 0.01), (0.04, 0.0, 0.021)):
                    finger = Finger(name, implicit)
                    for goal in goals:
                        speed, off = finger.rest(goal)
                        self.assertLess(speed, 0.001, (name, implicit, goal))
                        self.assertLess(off, 0.0005, (name, implicit, goal))

    def test_check_detects_a_chattering_finger(self):
        for implicit in (True, False):
            speed, _ = Finger("finger_left", implicit, d_gain=25.0).rest(0.02)
            self.assertGreater(speed, 0.05)


class Bridge(unittest.TestCase):
    def test_entries_are_valid(self):
        keys = {"ros_topic_name", "gz_topic_name", "ros_type_name", "gz_type_name", "direction"}
        for entry in BRIDGE:
            self.assertEqual(set(entry), keys)
            self.assertIn(entry["direction"], ("GZ_TO_ROS", "ROS_TO_GZ"))
            self.assertEqual(PAIRS.get(entry["ros_type_name"]), entry["gz_type_name"], entry)
            package, _, name = entry["ros_type_name"].split("/")
            self.assertTrue(hasattr(importlib.import_module(f"{package}.msg"), name))
            self.assertRegex(entry["gz_topic_name"], r"^/[a-z_/]+$")
        self.assertEqual(len({e["ros_topic_name"] for e in BRIDGE}), len(BRIDGE))

    def test_topics_equal_those_of_the_world(self):
        world = {topic.text for topic in SDF.iter("topic")} | {"/clock"}
        self.assertEqual(world, {entry["gz_topic_name"] for entry in BRIDGE})

    def test_node_commands_are_not_bridged(self):
        named = {entry["ros_topic_name"] for entry in BRIDGE}
        self.assertFalse(any("command" in name for name in named))


class Launch(unittest.TestCase):
    def setUp(self):
        self.text = (ROOT / "launch/gazebo.launch.yaml").read_text()
        self.entries = yaml.safe_load(self.text)["launch"]
        self.arguments = {
            entry["arg"]["name"]: entry["arg"] for entry in self.entries if "arg" in entry
        }

    def test_arguments_are_described_and_used(self):
        self.assertEqual(set(re.findall(r"\$\(var (\w+)\)", self.text)), set(self.arguments))
        for name, argument in self.arguments.items():
            self.assertGreater(len(argument["description"]), 15, name)

    def test_included_arguments_exist(self):
        known = {
            entry["arg"]["name"]
            for entry in yaml.safe_load((ROOT / "launch/vla.launch.yaml").read_text())["launch"]
            if "arg" in entry
        }
        (vla,) = (
            e["include"]
            for e in self.entries
            if "vla.launch.yaml" in e.get("include", {}).get("file", "")
        )
        given = {argument["name"]: argument["value"] for argument in vla["arg"]}
        self.assertLessEqual(set(given), known)
        self.assertEqual((given["use_sim_time"], given["autostart"]), ("true", "true"))

    def test_named_files_exist(self):
        for path in re.findall(r"\$\(var sources\)/([\w/.]+)", self.text):
            self.assertTrue((ROOT / path).exists(), path)

    def test_gazebo_ends_with_its_controller(self):
        (arm,) = (e["executable"] for e in self.entries if "executable" in e)
        self.assertEqual(arm["on_exit"], "shutdown")

    def test_world_path_with_spaces_is_one_word(self):
        (gazebo,) = (
            e["include"] for e in self.entries if "gz_sim" in e.get("include", {}).get("file", "")
        )
        (arguments,) = (a["value"] for a in gazebo["arg"] if a["name"] == "gz_args")
        # ros_gz_sim gives the value to a shell.
        for name, value in (("gz_options", "-s -r"), ("sources", "/a folder/of mine")):
            arguments = arguments.replace(f"$(var {name})", value)
        self.assertEqual(
            shlex.split(arguments), ["-s", "-r", "/a folder/of mine/sim/gazebo/tabletop.sdf"]
        )
        self.assertIn("--headless-rendering", self.arguments["gz_options"]["description"])

    def test_launch_parses_it(self):
        try:
            from launch.frontend import Parser
        except ImportError:
            self.skipTest("launch is not among the wheels; a sourced ROS 2 has it")
        entity, parser = Parser.load(str(ROOT / "launch/gazebo.launch.yaml"))
        parser.parse_description(entity)


class Controller(unittest.TestCase):
    """The controller with an ideal arm."""

    PERIOD = 0.02

    def setUp(self):
        self.controller, self.positions, self.now = gazebo_arm.ArmController(), np.zeros(6), 0.0

    def turn(self, twist):
        """Simulates one period; returns the joint velocities."""
        self.now += self.PERIOD
        self.controller.take(self.positions, self.now)
        speeds = self.controller.velocities(np.array(twist, dtype=float), self.PERIOD, self.now)
        self.positions = self.positions + self.PERIOD * speeds
        return speeds

    def home(self):
        for _ in range(500):
            there = self.positions
            # Twists have no effect before the start posture is reached.
            self.turn([9.0, 0, 0, 0, 0, 0])
            if self.controller.at_home:
                self.positions = there
                break
        self.assertTrue(self.controller.at_home)

    def test_follows_twists_from_the_start_posture(self):
        self.home()
        np.testing.assert_allclose(self.positions, self.controller.start, atol=0.03)
        begin, _ = self.controller.pose(self.positions)
        for _ in range(50):
            self.turn([0.05, 0.08, -0.06, 0, 0, 0])
        end, pointing = self.controller.pose(self.positions)
        np.testing.assert_allclose(end - begin, [0.05, 0.08, -0.06], atol=0.004)
        np.testing.assert_allclose(np.abs(pointing), [1, 0, 0, 0], atol=0.01)

    def test_limits_hold_out_of_reach(self):
        self.home()
        low, high = self.controller.kinematics.limits.T
        for _ in range(400):
            speeds = self.turn([0.25, 0.1, 0.25, 0.6, 0, 0.6])
            self.assertTrue(
                np.isfinite(speeds).all() and (np.abs(speeds) <= gazebo_arm.JOINT_SPEED).all()
            )
            self.assertTrue(((low - 0.05 < self.positions) & (self.positions < high + 0.05)).all())

    def test_missing_joint_states_stop_the_arm(self):
        twist = np.array([0.1, 0, 0, 0, 0, 0])
        np.testing.assert_array_equal(
            self.controller.velocities(twist, self.PERIOD, 0.0), np.zeros(6)
        )
        # Before and after the start posture is reached.
        for reach in (lambda: self.turn(twist), self.home):
            reach()
            last = self.now
            self.assertTrue(
                np.any(
                    self.controller.velocities(
                        twist, self.PERIOD, last + gazebo_arm.JOINT_STATES_TIMEOUT_S - 0.001
                    )
                )
            )
            np.testing.assert_array_equal(
                self.controller.velocities(
                    twist, self.PERIOD, last + gazebo_arm.JOINT_STATES_TIMEOUT_S + 0.001
                ),
                np.zeros(6),
            )
            self.assertTrue(np.any(self.turn(twist)))


class Process(unittest.TestCase):
    """sim/gazebo/arm.py as a process, without Gazebo: the test publishes its joint states."""

    def setUp(self):
        self.runner = EpisodeRunner("test_arm")
        self.addCleanup(self.close)
        node, self.speeds, self.positions = self.runner.node, {}, None
        for name in cell.ARM_JOINTS:
            node.create_subscription(
                Float64,
                f"arm/{name}/velocity",
                lambda m, n=name: self.speeds.setdefault(n, []).append(m.data),
                100,
            )
        self.joints = node.create_publisher(JointState, "joint_states", qos_profile_sensor_data)
        self.twist = node.create_publisher(TwistStamped, "vla/command/twist", 10)
        self.arm = Program("gazebo_arm", [sys.executable, str(ROOT / "sim/gazebo/arm.py")], {})
        self.runner.programs.append(self.arm)
        self.runner.on_spin = self.publish
        self.runner.wait_until(
            "the controller subscribes",
            lambda: (
                self.joints.get_subscription_count() and self.twist.get_subscription_count() >= 2
            ),
        )

    def close(self):
        self.runner.on_spin = None
        self.assertEqual(self.runner.close(), [])

    def publish(self):
        if self.positions is not None:
            self.joints.publish(
                JointState(name=list(cell.ARM_JOINTS), position=[float(x) for x in self.positions])
            )

    def log(self):
        return pathlib.Path(self.arm.log.name).read_text()

    def moving(self):
        return any(sent[-1] != 0.0 for sent in self.speeds.values())

    def test_stops_without_joint_states_and_at_the_end(self):
        self.positions = np.zeros(6)
        self.runner.wait_until("it is on its way to the start posture", self.moving)
        self.assertNotIn("start posture", self.log())
        self.positions = None
        self.runner.wait_until("zeros follow a silence", lambda: not self.moving())
        self.assertIn("no joint_states", self.log())
        self.positions = np.zeros(6)
        self.runner.wait_until("it goes on", self.moving)
        self.runner.programs.remove(self.arm)  # it may end now
        self.arm.process.send_signal(signal.SIGTERM)
        self.runner.wait_until("zeros come", lambda: not self.moving())
        self.runner.wait_until("it ends", lambda: self.arm.process.poll() is not None)
        for _ in range(30):
            self.runner.spin_once()
        self.assertFalse(self.moving())
        self.assertEqual(self.arm.stop(), 0)

    def test_logs_start_once_and_refuses_another_frame(self):
        self.positions = gazebo_arm.ArmController().start
        self.runner.wait_until("it is logged", lambda: "the start posture is reached" in self.log())
        message = TwistStamped()
        message.header.frame_id, message.twist.linear.x = "tcp", 0.1
        self.twist.publish(message)
        self.runner.wait_until("the other frame is refused", lambda: "in frame 'tcp'" in self.log())
        self.assertIn("'base'", self.log())
        self.assertEqual(self.log().count("the start posture is reached"), 1)
        message.header.frame_id = "base"
        self.runner.wait_until(
            "a twist in its own moves it",
            lambda: (
                self.twist.publish(message)
                or any(abs(sent[-1]) > 0.01 for sent in self.speeds.values())
            ),
        )


class Graph(unittest.TestCase):
    """Topics and types of both robots and of the node on a real graph."""

    def setUp(self):
        self.runner = EpisodeRunner("test_graph")
        self.addCleanup(lambda: self.assertEqual(self.runner.close(), []))

    def await_topics(self, query, name, expected):
        """Types of the topics of the node `name`, once all of `expected` are in the graph.

        `query`: a function of rclpy's Node. Discovery of a node and of its topics takes a while;
        until it has found the node, rclpy raises NodeNameNonExistentError.
        """
        found = {}

        def complete():
            try:
                entries = query(name, "/")
            except NodeNameNonExistentError:
                return False
            found.update((topic.lstrip("/"), kinds[0]) for topic, kinds in entries)
            return expected <= found.keys()

        self.runner.wait_until(f"the topics {sorted(expected)} of {name} are known", complete)
        return found

    def published(self, name, expected):
        return self.await_topics(
            self.runner.node.get_publisher_names_and_types_by_node, name, set(expected)
        )

    def subscribed(self, name, expected):
        return self.await_topics(
            self.runner.node.get_subscriber_names_and_types_by_node, name, set(expected)
        )

    def assert_types(self, found, expected):
        self.assertEqual({topic: found[topic] for topic in expected}, expected)

    def test_both_robots_have_the_topics_of_the_node(self):
        self.runner.start_robot_sim(publish_clock=True)
        command = [sys.executable, str(ROOT / "sim/gazebo/arm.py")]
        self.runner.programs.append(Program("gazebo_arm", command, {"use_sim_time": True}))
        bridged = {entry["ros_topic_name"].lstrip("/"): entry for entry in BRIDGE}

        published = self.published("tabletop", FROM_ROBOT | {"clock": ""})
        self.assert_types(published, FROM_ROBOT)
        self.assertEqual(published["clock"], bridged["clock"]["ros_type_name"])
        self.assert_types(self.subscribed("tabletop", FROM_NODE), FROM_NODE)

        to_gazebo = {
            topic: entry["ros_type_name"]
            for topic, entry in bridged.items()
            if entry["direction"] == "ROS_TO_GZ"
        }
        arm = {topic: kind for topic, kind in FROM_ROBOT.items() if topic not in bridged}
        arm |= to_gazebo
        self.assert_types(self.published("gazebo_arm", arm), arm)
        self.assert_types(self.subscribed("gazebo_arm", FROM_NODE), FROM_NODE)
        for topic, kind in FROM_ROBOT.items():
            if topic in bridged:
                self.assertEqual(bridged[topic]["ros_type_name"], kind, topic)

    @unittest.skipUnless(has_node(), "the node is not built")
    def test_the_node_has_the_topics_of_the_robots(self):
        self.runner.start_robot_sim()  # the node needs images and poses to become active
        self.runner.start_node(
            ROOT / "tests/data/openvla_tiny/ckpt",
            ROOT / "config/policies/openvla_tiny.yaml",
            "bridge_orig",
        )
        # The node subscribes to joint_states only for a policy that uses them.
        expected = FROM_ROBOT | {"instruction": "std_msgs/msg/String"}
        del expected["joint_states"]
        found = self.subscribed("vla", expected)
        self.assert_types(found, expected)
        if "joint_states" in found:
            self.assertEqual(found["joint_states"], FROM_ROBOT["joint_states"])
        self.assert_types(self.published("vla", FROM_NODE), FROM_NODE)


class NineTasks(unittest.TestCase):
    """Parts of tools/gazebo/run, which cannot be run without Gazebo Harmonic."""

    # As `gz topic --echo` prints it; zeros are left out.
    MESSAGE = """header {
  stamp {
    sec: 12
    nsec: 500000000
  }
}
pose {
  name: "red_block"
  id: 9
  position {
    x: 0.39
    y: -0.03
    z: 0.02
  }
  orientation {
    w: 1
  }
}
pose {
  name: "hand"
  id: 40
  position {
    x: 0.45
    z: 0.335
  }
  orientation {
    x: 1
  }
}

"""

    @classmethod
    def setUpClass(cls):
        loader = importlib.machinery.SourceFileLoader("run", str(ROOT / "tools/gazebo/run"))
        cls.run_tasks = importlib.util.module_from_spec(
            importlib.util.spec_from_loader("run", loader)
        )
        loader.exec_module(cls.run_tasks)
        import poses

        cls.poses = poses

    def stream(self, moves):
        """Poses at 50 Hz. `moves`: for every moment the tool and what is added to the red block."""
        blocks = {name: np.array([*place, 0.02]) for name, place in layout.block_places().items()}
        for k, (tool, added) in enumerate(moves):
            found = {f"{name}_block": np.array([*at, 0, 0, 0, 1]) for name, at in blocks.items()}
            found["red_block"][:3] += added
            hand = np.array(tool) + self.poses.TOOL_IN_HAND
            found["hand"] = np.array([*hand, 1, 0, 0, 0])  # pointing down
            yield 0.02 * k, found

    def test_reads_printed_poses(self):
        lines = (self.MESSAGE * 2).splitlines(keepends=True)
        texts = list(self.poses.messages(lines))
        self.assertEqual(len(texts), 2)
        time, found = self.poses.read_pose_message(texts[0])
        self.assertEqual(time, 12.5)
        np.testing.assert_allclose(found["red_block"], [0.39, -0.03, 0.02, 0, 0, 0, 1])
        np.testing.assert_allclose(self.poses.tool_position(found), layout.START, atol=1e-9)
        with self.assertRaises(ValueError):
            self.poses.parse_text("pose {")

    def test_judges_by_poses(self):
        judge, away = self.run_tasks.judge, [0.45, 0.0, 0.165]
        red = [*layout.block_places()["red"], 0.045]  # 5 mm above the block
        still, pushed, lifted = np.zeros(3), [0.035, 0, 0], [0, 0, 0.045]
        begin = [(away, still)] * 50
        for task, end in (("touch", (red, still)), ("push", (away, pushed)),
                          ("pick", (away, lifted))):  # fmt: skip
            moves = [*begin, end]
            self.assertAlmostEqual(judge(self.stream(moves), task, "red", 5.0), 1.0)
            self.assertIsNone(judge(self.stream(moves), task, "blue", 5.0), task)
            self.assertIsNone(judge(self.stream(moves), task, "red", 0.5), task)
            self.assertIsNone(judge(self.stream(begin), task, "red", 5.0), task)
        # Another block first: not done.
        moves = [*begin, (away, [0.003, 0, 0]), ([*layout.block_places()["blue"], 0.045], still)]
        self.assertIsNone(judge(self.stream(moves), "touch", "blue", 5.0))

    def test_arguments(self):
        self.assertEqual(self.run_tasks.TASKS, layout.TASKS)
        options = self.run_tasks.arguments(["--tasks", "touch,pick", "--repeats", "2"])
        self.assertEqual((options.tasks, options.repeats), (("touch", "pick"), 2))
        for words in (["--tasks", "place"], ["--repeats", "0"], ["--seconds", "-1"]):
            with contextlib.redirect_stderr(io.StringIO()), self.assertRaises(SystemExit):
                self.run_tasks.arguments(words)
        command = self.run_tasks.launch_command(self.run_tasks.arguments([]))
        self.assertEqual(command[:4], ["ros2", "launch", "openvla_tt", "gazebo.launch.yaml"])
        launch = yaml.safe_load((ROOT / "launch/gazebo.launch.yaml").read_text())["launch"]
        known = {entry["arg"]["name"] for entry in launch if "arg" in entry}
        self.assertLessEqual({word.split(":=")[0] for word in command[4:]}, known)

    def test_table_and_exit_status(self):
        results = {(task, colour): [1.5] for task, colour in NINE}
        results["pick", "blue"] = [None]
        self.assertEqual(
            self.run_tasks.table(results).splitlines(),
            [
                "| task | red | green | blue | done |",
                "|---|---|---|---|---|",
                "| touch | 1.5 | 1.5 | 1.5 | 3 of 3 |",
                "| push | 1.5 | 1.5 | 1.5 | 3 of 3 |",
                "| pick | 1.5 | 1.5 | - | 2 of 3 |",
            ],
        )
        self.assertEqual(self.run_tasks.exit_status(results), 0)
        for task in ("touch", "push"):
            self.assertEqual(self.run_tasks.exit_status(results | {(task, "red"): [1.0, None]}), 1)

    def test_whole_run_with_substitutes(self):
        # The substitute's tool goes to the red block, whatever the instruction.
        programs = ROOT / "tests/sim/gazebo_substitutes"
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [str(ROOT / "tools/gazebo/run"), "--tasks", "touch", "--seconds", "1.5"],
                env=os.environ
                | {"PATH": f"{programs}:{os.environ['PATH']}", "SUBSTITUTES": folder},
                stderr=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                timeout=100,
            )
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertRegex(done.stdout, r"\| touch \| \d\.\d \| - \| - \| 1 of 3 \|")

    def test_without_gazebo_it_says_what_to_install(self):
        done = subprocess.run(
            [sys.executable, str(ROOT / "tools/gazebo/run")],
            env=os.environ | {"PATH": "/nonexistent"},
            capture_output=True,
            text=True,
        )
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("gz and ros2 not found", done.stderr)


if __name__ == "__main__":
    unittest.main()
