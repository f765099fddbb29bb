"""The Gazebo world in SDFormat's own parser and in Gazebo's physics engine, next to MuJoCo.

Needs the packages of tools/gazebo/setup. Where they cannot be had a line with SKIPPED is printed.
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/sim/gazebo_physics")]
import manoeuvres  # noqa: E402
from tabletop.scene import START_REGION  # noqa: E402

WORLD = ROOT / "sim/gazebo/tabletop.sdf"
stepper = reason = None


def setUpModule():
    global stepper, reason
    try:
        stepper = manoeuvres.find_stepper()
    except manoeuvres.SetupError as error:
        if error.status != 3:
            raise
        reason = str(error)
        print(f"SKIPPED gazebo: {reason}", flush=True)


class NeedsPackages(unittest.TestCase):
    # Not by setUpClass: each test counts as skipped in the sum of tools/test/run.
    def setUp(self):
        if reason is not None:
            self.skipTest(reason)


def check(world):
    """(exit status, output) of SDFormat's parser: Gazebo Harmonic's, or ign of Debian."""
    program = "gz" if shutil.which("gz") else "ign"
    done = subprocess.run(
        [program, "sdf", "--check", str(world)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout


class Parser(NeedsPackages):
    def test_world_is_valid_sdf(self):
        status, output = check(WORLD)
        self.assertEqual(status, 0, output)
        self.assertIn("Valid.", output)

    def test_parser_detects_repeated_names(self):
        with tempfile.TemporaryDirectory() as folder:
            broken = pathlib.Path(folder) / "broken.sdf"
            broken.write_text(WORLD.read_text().replace("pad_visual", "pad"))
            status, output = check(broken)
        self.assertNotEqual(status, 0)
        self.assertEqual(output.count("Non-unique names"), 2, output)


class Physics(NeedsPackages):
    """Bounds of the figures that tools/gazebo/physics prints."""

    @classmethod
    def setUpClass(cls):
        if reason is not None:
            return
        found = manoeuvres.measure(stepper, [WORLD, None])
        cls.gazebo, cls.mujoco = found[WORLD], found[None]
        print(manoeuvres.table({"Gazebo's physics": cls.gazebo, "MuJoCo": cls.mujoco}))

    def test_engine_has_the_options_of_the_world(self):
        self.assertEqual(
            self.gazebo["engine"],
            {"collision_detector": "fcl", "solver": "DantzigBoxedLcpSolver", "step": 0.004},
        )

    def test_arm_reaches_its_start(self):
        self.assertLess(self.gazebo["homing_s"], 5.0)
        low, high = START_REGION.T
        home = np.array(self.gazebo["home"])
        self.assertTrue((low <= home).all() and (home <= high).all(), home)

    def test_arm_holds_and_follows(self):
        self.assertLess(self.gazebo["kinematics"], 1e-5)
        self.assertLess(self.gazebo["hold"], 1e-4)
        self.assertLess(self.gazebo["follow"], 0.002)
        self.assertLess(self.gazebo["reverse"], 0.01)
        self.assertLess(self.gazebo["twist"], 0.002)
        for key in ("follow", "reverse", "twist"):
            self.assertLessEqual(self.gazebo[key], self.mujoco[key], key)

    def test_grips_hold_at_every_yaw(self):
        self.assertGreaterEqual(sum(self.gazebo["held"]), 39, self.gazebo["held"])
        self.assertEqual(sum(self.mujoco["held"]), 40, self.mujoco["held"])

    def test_pressing_does_not_sink_a_block(self):
        self.assertGreaterEqual(self.gazebo["pressed_block"], -0.0005)
        self.assertGreaterEqual(self.gazebo["pressed_block"], self.mujoco["pressed_block"])

    def test_pressing_on_the_table_moves_nothing(self):
        self.assertLess(self.gazebo["pressed_table_opening"], 0.001)
        self.assertLess(self.gazebo["pressed_table_slide"], 0.002)

    def test_blocks_stand_and_slide_as_in_mujoco(self):
        for robot in (self.gazebo, self.mujoco):
            self.assertLess(robot["slide_below_friction"], 0.001)
        above = self.gazebo["slide_above_friction"], self.mujoco["slide_above_friction"]
        self.assertGreater(min(above), 0.05)
        self.assertAlmostEqual(*above, delta=0.015)

    def test_expert_does_every_task(self):
        for robot in (self.gazebo, self.mujoco):
            self.assertEqual(len(robot["tasks"]), 9)
            for task, colour, seconds, _ in robot["tasks"]:
                self.assertIsNotNone(seconds, (task, colour))
                self.assertLess(seconds, 5.0, (task, colour))
        self.assertGreater(min(depth for *_, depth in self.gazebo["tasks"]), -0.001)


if __name__ == "__main__":
    unittest.main()
