"""The chunks that chunk policies learn: executed in the simulator they do every task."""

import itertools
import pathlib
import sys
import unittest

import numpy as np
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "sim"), str(ROOT / "tools/train_demo")]

from tabletop import NODE_LOOP, TASKS, ChunkTracking, Loop, TabletopScene  # noqa: E402
from train_demo.ideal import (  # noqa: E402
    CHUNK,
    POLICY_HZ,
    IdealScene,
    chunk,
    chunks,
    combinations,
    perturbed_prefix,
    planned,
)

EXECUTE, DELAY = 5, 2  # as in config/policies/tabletop_pi05.yaml; 0.2 s of latency


class IdealChunks(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scene = TabletopScene(0, bowls=2, tasks=TASKS)

    def test_every_task_is_done_by_replanned_chunks(self):
        robot = yaml.safe_load((ROOT / "config/robots/tabletop.yaml").read_text())
        failed, fastest = [], 0.0
        for task in TASKS:
            for seed in range(5):
                self.scene.reset(seed, task=task)
                drive = ChunkTracking(self.scene, POLICY_HZ, EXECUTE, DELAY)
                while not self.scene.success() and self.scene.time < 12.0:
                    actions = chunk(self.scene)
                    speeds = np.linalg.norm(actions[:, :3], axis=1) * POLICY_HZ
                    fastest = max(fastest, float(speeds.max()))
                    drive.step(actions, self.scene.success)
                if not self.scene.success():
                    failed.append((task, seed))
        self.assertEqual(failed, [])
        # Nothing is learnt that the node's limits would change.
        self.assertLess(fastest, robot["limits"]["linear"]["velocity"])
        self.assertGreater(fastest, 0.1)

    def test_every_task_is_done_by_chunks_for_steps_that_are_executed_meanwhile(self):
        failed, delay, continued = [], 4, 0.0
        for loop, task, seed in itertools.product((Loop(), NODE_LOOP), TASKS, range(3)):
            self.scene.reset(seed, task=task)
            drive = ChunkTracking(self.scene, POLICY_HZ, EXECUTE, delay, loop)
            while not self.scene.success() and self.scene.time < 12.0:
                given = [*drive.flying(), *drive.rest[:delay]]
                actions = planned(IdealScene.of(self.scene), given)
                np.testing.assert_array_equal(actions[: len(given)], np.reshape(given, (-1, 7)))
                continued = max(continued, np.abs(actions - chunk(self.scene)).max())
                drive.step(actions, self.scene.success)
            if not self.scene.success():
                failed.append((loop, task, seed))
        self.assertEqual(failed, [])
        # A prefix is not what would be planned now.
        self.assertGreater(continued, 0.01)

    def test_a_perturbed_prefix_is_corrected_after_its_steps(self):
        random, worse, corrected = np.random.default_rng(0), [], []
        self.scene.reset(5, task="touch")
        begin = IdealScene.of(self.scene)
        block = begin.blocks[begin.target]
        plain = np.linalg.norm((begin.tip + chunk(self.scene)[:8, :3].sum(0) - block)[:2])
        for _ in range(20):
            given = perturbed_prefix(begin, 8, random)
            actions = planned(begin.copy(), given)
            np.testing.assert_array_equal(actions[:8], given)
            way = begin.tip + np.cumsum(actions[:, :3], 0)
            worse.append(np.linalg.norm((way[7] - block)[:2]))
            corrected.append(np.linalg.norm((way[-1] - block)[:2]))
        self.assertGreater(max(worse), 3 * plain)
        self.assertLess(max(corrected), 0.5 * max(worse))

    def test_steps_in_flight_are_those_nearest_to_the_observation(self):
        steps = 5  # periods in a step
        for loop, expected in (
            (Loop(), 0),
            (Loop(ahead=2), 0),
            (Loop(ahead=3), 1),
            (Loop(known=2), 0),
            (Loop(known=3), 1),
            (Loop(ahead=4, known=6), 2),
        ):
            self.assertEqual(loop.in_flight(steps), expected, loop)
            drive = ChunkTracking(self.scene, POLICY_HZ, EXECUTE, DELAY, loop)
            self.assertEqual(len(drive.flying()), 0)
        self.scene.reset(1)
        drive.step(chunk(self.scene))
        self.assertEqual(len(drive.flying()), 2)
        np.testing.assert_array_equal(drive.flying()[-1], drive.begun[-1])

    def test_a_gripper_keeps_its_dwell_and_motion_its_lag(self):
        self.scene.reset(1)
        drive = ChunkTracking(self.scene, POLICY_HZ, 1, 0, Loop(lag=10, dwell=10))
        openings, tips = [], []
        for gripper in (1, 0, 1, 1, 1, 1):
            drive.step(np.array([[0.01, 0, 0, 0, 0, 0, gripper]]))
            openings.append(drive.tracking.gripper)
            tips.append(self.scene.ee_pose()[0][0])
        # Closed for two steps of five periods; the motion begins after two steps.
        self.assertEqual(openings, [1, 0, 0, 1, 1, 1])
        self.assertLess(abs(tips[1] - tips[0]), 1e-4)
        self.assertGreater(tips[3] - tips[1], 0.005)

    def test_chunks_are_those_of_each_instruction_and_change_no_scene(self):
        self.scene.reset(3, task="push")
        before = self.scene.task, self.scene.target, self.scene.bowl, self.scene.targets()
        made, named = chunks(self.scene), combinations(self.scene)
        self.assertEqual(made.shape, (3 * 3 + 3 * 2, CHUNK, 7))
        self.assertEqual(len(named), len(made))
        after = self.scene.task, self.scene.target, self.scene.bowl, self.scene.targets()
        self.assertEqual(before[:3], after[:3])
        for colour, place in before[3].items():
            np.testing.assert_array_equal(place, after[3][colour])
        for number, (task, block, bowl) in enumerate(named):
            self.scene.set_task(task, block, bowl)
            np.testing.assert_array_equal(chunk(self.scene), made[number])

    def test_a_touch_ends_above_the_block(self):
        self.scene.reset(5, task="touch")
        actions = chunk(self.scene)
        block, (tip, _) = self.scene.targets()[self.scene.target], self.scene.ee_pose()
        begin, end = (np.linalg.norm((p - block)[:2]) for p in (tip, tip + actions[:, :3].sum(0)))
        self.assertLess(end, 0.3 * begin)


if __name__ == "__main__":
    unittest.main()
