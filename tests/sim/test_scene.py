"""The simulated cell without ROS: seeds, commands, tasks and the scripted expert."""

import pathlib
import re
import unittest

import numpy as np
from tabletop import BLOCK_COLOURS, NodeTracking, TabletopScene, expert, rollout

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Seeds(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scene = TabletopScene(0)

    def test_a_seed_determines_layout_looks_and_task(self):
        self.scene.reset(5)
        image, blocks, said = self.scene.render().copy(), self.scene.targets(), self.scene.instruction
        self.scene.reset(6)
        self.assertFalse(np.array_equal(image, self.scene.render()))
        again = TabletopScene(5)
        np.testing.assert_array_equal(image, again.render())
        self.assertEqual((blocks.keys(), said), (again.targets().keys(), again.instruction))
        for colour, place in blocks.items():
            np.testing.assert_array_equal(place, again.targets()[colour])

    def test_the_task_changes_nothing_that_is_seen(self):
        self.scene.reset(8, task="touch", block=None)
        image, colours = self.scene.render().copy(), list(self.scene.colours)
        for colour in colours:
            self.scene.reset(8, task="push", block=colour)
            self.assertEqual(self.scene.instruction, f"push the {colour} block")
            np.testing.assert_array_equal(image, self.scene.render())

    def test_images_have_the_size_and_hold_every_block(self):
        for seed in range(12):
            self.scene.reset(seed)
            image = self.scene.render()
            self.assertEqual((image.shape, image.dtype), ((224, 224, 3), np.uint8))
            for colour in self.scene.colours:
                # Pixels of the block's hue, shaded or not: at least a part of it is seen.
                wanted = np.array(BLOCK_COLOURS[colour]) / max(BLOCK_COLOURS[colour])
                scaled = image / np.maximum(image.max(axis=2, keepdims=True), 1)
                near = (np.abs(scaled - wanted).max(axis=2) < 0.22) & (image.max(axis=2) > 40)
                self.assertGreater(near.sum(), 25, f"seed {seed}: {colour}")

    def test_blocks_lie_apart_and_within_reach(self):
        for seed in range(30):
            self.scene.reset(seed)
            self.assertFalse(self.scene.success())
            places = list(self.scene.targets().values())
            for i, one in enumerate(places):
                self.assertTrue(0.35 < one[0] < 0.54 and abs(one[1]) < 0.15 and 0.0 < one[2] < 0.03, one)
                for other in places[:i]:
                    self.assertGreater(np.hypot(*(one - other)[:2]), 0.09)

    def test_nonsense_is_refused_by_name(self):
        for wanted, call in {
            "blocks: 9": lambda: TabletopScene(0, blocks=9),
            "tasks: ['place']": lambda: TabletopScene(0, tasks=("place",)),
            "task: 'juggle'": lambda: self.scene.reset(0, task="juggle"),
            "there is no 'pink' block": lambda: self.scene.reset(0, block="pink"),
            "are not six and one finite": lambda: self.scene.apply([0, 0, np.nan, 0, 0, 0], 1.0, 0.02),
        }.items():
            with self.assertRaisesRegex(ValueError, re.escape(wanted)):
                call()


class Commands(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scene = TabletopScene(0)

    def test_the_tool_follows_a_twist_and_keeps_its_orientation(self):
        for axis in range(3):
            for sign in (1, -1):
                self.scene.reset(1)
                begin, pointing = self.scene.ee_pose()
                np.testing.assert_allclose(np.abs(pointing), [1, 0, 0, 0], atol=0.01)
                twist = np.zeros(6)
                twist[axis] = 0.1 * sign
                for _ in range(30):
                    self.scene.apply(twist, 1.0, 0.02)
                end, pointing = self.scene.ee_pose()
                np.testing.assert_allclose(end - begin, 0.06 * sign * np.eye(3)[axis], atol=0.01)
                np.testing.assert_allclose(np.abs(pointing), [1, 0, 0, 0], atol=0.02)

    def test_a_turn_about_the_vertical_turns_the_tool(self):
        self.scene.reset(1)
        for _ in range(25):
            self.scene.apply([0, 0, 0, 0, 0, 0.6], 1.0, 0.02)
        _, q = self.scene.ee_pose()
        self.assertAlmostEqual(2 * np.arctan2(abs(q[1]), abs(q[0])), 0.3, delta=0.04)

    def test_zero_holds_the_arm_still(self):
        self.scene.reset(2)
        begin, _ = self.scene.ee_pose()
        self.scene.apply(np.zeros(6), 1.0, 5.0)
        self.assertLess(np.linalg.norm(self.scene.ee_pose()[0] - begin), 0.001)

    def test_the_gripper_opens_and_closes(self):
        self.scene.reset(2)
        self.scene.apply(np.zeros(6), 0.0, 1.0)
        self.assertLess(self.scene.gripper_opening(), 0.05)
        self.scene.apply(np.zeros(6), 1.0, 1.0)
        self.assertGreater(self.scene.gripper_opening(), 0.95)

    def test_an_arm_pressed_against_the_table_stays_finite_and_comes_free(self):
        self.scene.reset(3)
        for _ in range(100):
            self.scene.apply([0, 0, -0.25, 0, 0, 0], 0.0, 0.02)
        self.assertTrue(np.isfinite(self.scene.data.qpos).all())
        self.assertGreater(self.scene.ee_pose()[0][2], -0.01)
        for _ in range(60):
            self.scene.apply([0, 0, 0.1, 0, 0, 0], 0.0, 0.02)
        self.assertGreater(self.scene.ee_pose()[0][2], 0.05)

    def test_far_beyond_its_reach_the_arm_stays_finite(self):
        self.scene.reset(3)
        for _ in range(150):
            self.scene.apply([0.5, 0, 0.5, 2, 2, 2], 1.0, 0.02)
        self.assertTrue(np.isfinite(self.scene.data.qpos).all() and np.isfinite(self.scene.data.qvel).all())


class Expert(unittest.TestCase):
    """Figures over 100 seeds are in sim/README.md; here enough of them to notice that something broke."""

    @classmethod
    def setUpClass(cls):
        cls.scene = TabletopScene(0)

    def succeeds(self, task, seeds=12, latency=0.1, noise=0.0):
        good, random = 0, np.random.default_rng(0)

        def policy(scene):
            return expert(scene) + np.concatenate([random.normal(0, noise, 3), np.zeros(4)])

        for seed in range(seeds):
            self.scene.reset(1000 + seed, task=task)
            good += rollout(self.scene, policy, latency=latency).success
        return good

    def test_it_touches_pushes_and_picks(self):
        for task in ("touch", "push", "pick"):
            self.assertEqual(self.succeeds(task), 12, task)

    def test_it_survives_latency_and_noise(self):
        self.assertGreaterEqual(self.succeeds("touch", latency=0.2, noise=0.004), 11)
        self.assertGreaterEqual(self.succeeds("push", latency=0.2, noise=0.004), 11)

    def test_it_places(self):
        scene = TabletopScene(0, blocks=2, bowls=1, tasks=("place",))
        good = 0
        for seed in range(10):
            scene.reset(1000 + seed)
            self.assertRegex(scene.instruction, r"^put the \w+ block in the \w+ bowl$")
            good += rollout(scene, expert, seconds=16.0).success
        self.assertGreaterEqual(good, 9)

    def test_touching_another_block_first_is_no_success(self):
        for seed in range(5):
            self.scene.reset(2000 + seed, task="touch")
            named = self.scene.target
            other = next(c for c in self.scene.colours if c != named)
            self.scene.ask("touch", other)
            self.assertTrue(rollout(self.scene, expert).success)
            self.scene.ask("touch", named)
            rollout(self.scene, expert, seconds=4.0)
            self.assertFalse(self.scene.success())
            self.assertTrue(self.scene.success(block=other))

    def test_nothing_happens_without_a_policy(self):
        for task in ("touch", "push", "pick"):
            self.scene.reset(3000, task=task)
            tracking = NodeTracking(self.scene)
            for _ in range(10):
                tracking.step(np.array([0, 0, 0, 0, 0, 0, 1.0]))
            self.assertFalse(self.scene.success())


class Requirements(unittest.TestCase):
    def test_every_requirement_has_version_and_hash(self):
        for entry in re.split(r"\n(?=\S)", (ROOT / "sim/requirements.txt").read_text().strip()):
            self.assertRegex(entry, r"^[a-z0-9_.-]+==[^ ;]+ ", entry)
            self.assertRegex(entry, r"--hash=sha256:[0-9a-f]{64}", entry)
            self.assertNotIn("://", entry)


if __name__ == "__main__":
    unittest.main()
