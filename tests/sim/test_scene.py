"""The simulated cell without ROS: seeds, commands, tasks and the scripted expert."""

import os
import pathlib
import re
import subprocess
import sys
import unittest
import unittest.mock

import numpy as np
import yaml
from motion_estimate import MotionEstimate
from tabletop import BLOCK_COLOURS, NodeTracking, TabletopScene, expert, random_policy, rollout
from tabletop import model as cell
from tabletop.random_policy import BOX
from tabletop.expert import LARGEST

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Seeds(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scene = TabletopScene(0)

    def test_seed_determines_layout_looks_and_task(self):
        self.scene.reset(5)
        image, blocks, instruction = (
            self.scene.render().copy(),
            self.scene.targets(),
            self.scene.instruction,
        )
        self.scene.reset(6)
        self.assertFalse(np.array_equal(image, self.scene.render()))
        again = TabletopScene(5)
        np.testing.assert_array_equal(image, again.render())
        self.assertEqual((blocks.keys(), instruction), (again.targets().keys(), again.instruction))
        for colour, place in blocks.items():
            np.testing.assert_array_equal(place, again.targets()[colour])

    def test_task_does_not_change_the_image(self):
        self.scene.reset(8, task="touch", block=None)
        image, colours = self.scene.render().copy(), list(self.scene.colours)
        for colour in colours:
            self.scene.reset(8, task="push", block=colour)
            self.assertEqual(self.scene.instruction, f"push the {colour} block")
            np.testing.assert_array_equal(image, self.scene.render())

    def test_images_show_every_block(self):
        for seed in range(12):
            self.scene.reset(seed)
            image = self.scene.render()
            self.assertEqual((image.shape, image.dtype), ((224, 224, 3), np.uint8))
            for colour in self.scene.colours:
                # Pixels of the block's hue, shaded or not: at least a part is visible.
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
                self.assertTrue(
                    0.35 < one[0] < 0.54 and abs(one[1]) < 0.15 and 0.0 < one[2] < 0.03, one
                )
                for other in places[:i]:
                    self.assertGreater(np.hypot(*(one - other)[:2]), 0.09)

    def test_layouts_of_known_seeds_are_unchanged(self):
        # A change invalidates models/tabletop and the tables of sim/README.md.
        for seed, first, target, tool in (
            (0, ("blue", 0.4610, 0.0975), "pick up the blue block", (0.381, -0.030, 0.136)),
            (1, ("red", 0.4071, -0.0950), "push the green block", (0.386, 0.006, 0.162)),
            (99, ("red", 0.4922, 0.1303), "push the blue block", (0.508, 0.016, 0.180)),
            (1000000, ("red", 0.4269, 0.1209), "touch the yellow block", (0.468, -0.034, 0.179)),
            (1000001, ("green", 0.3664, 0.0550), "pick up the green block", (0.413, 0.067, 0.195)),
        ):
            self.scene.reset(seed)
            colour, place = next(iter(self.scene.targets().items()))
            self.assertEqual((colour, self.scene.instruction), (first[0], target))
            np.testing.assert_allclose(place[:2], first[1:], atol=2e-4)
            np.testing.assert_allclose(self.scene.ee_pose()[0], tool, atol=2e-3)

    def test_invalid_arguments_are_refused(self):
        for wanted, call in {
            "blocks: 9": lambda: TabletopScene(0, blocks=9),
            "tasks: ['place']": lambda: TabletopScene(0, tasks=("place",)),
            "task: 'juggle'": lambda: self.scene.reset(0, task="juggle"),
            "there is no 'pink' block": lambda: self.scene.reset(0, block="pink"),
            "there is no 'white' bowl on the table, only none": lambda: self.scene.reset(
                0, task="touch", bowl="white"
            ),
            "are not six and one finite": lambda: self.scene.apply(
                [0, 0, np.nan, 0, 0, 0], 1.0, 0.02
            ),
        }.items():
            with self.assertRaisesRegex(ValueError, re.escape(wanted)):
                call()

    def test_refused_reset_changes_nothing(self):
        self.scene.reset(9)
        self.scene.apply([0.1, 0, 0, 0, 0, 0], 0.5, 0.4)
        before = (
            self.scene.render().copy(),
            self.scene.instruction,
            self.scene.time,
            self.scene.colours,
            self.scene.seed,
        )

        def unreachable(*_):
            raise ValueError("the arm does not reach it")

        with self.assertRaises(ValueError):
            self.scene.reset(10, block="pink")
        for step, refusal in ((self.scene.kinematics, "solve"), (self.scene, "_bowl_places")):
            with unittest.mock.patch.object(
                step, refusal, unreachable if refusal == "solve" else lambda *_: None
            ):
                with self.assertRaisesRegex(
                    ValueError, "does not reach|no layout found for 3 blocks and 0 bowls"
                ):
                    self.scene.reset(10)
        np.testing.assert_array_equal(before[0], self.scene.render())
        self.assertEqual(
            before[1:],
            (self.scene.instruction, self.scene.time, self.scene.colours, self.scene.seed),
        )


class Bowls(unittest.TestCase):
    def test_layouts_for_all_numbers_of_objects(self):
        box = yaml.safe_load((ROOT / "config/robots/tabletop.yaml").read_text())["workspace"]
        low, high = np.array(box["min"]) + box["margin"], np.array(box["max"]) - box["margin"]
        for blocks in range(1, 5):
            for bowls in range(3):
                scene = TabletopScene(0, blocks=blocks, bowls=bowls)
                for seed in range(200):
                    scene.reset(seed)
                    of_blocks, of_bowls = (
                        np.array(list(scene.targets().values())),
                        np.array(list(scene.bowl_places().values())).reshape(-1, 3),
                    )
                    self.assertEqual((len(of_blocks), len(of_bowls)), (blocks, bowls))
                    for k, bowl in enumerate(of_bowls):
                        # Above a bowl the tool is within the workspace.
                        self.assertTrue(
                            (low[:2] <= bowl[:2]).all() and (bowl[:2] <= high[:2]).all(), bowl
                        )
                        away = np.abs(of_blocks - bowl)[:, :2]
                        # Room for the open fingers, 51 mm to each side of a block; none in the way
                        # of a push by 3 cm and of the way to its beginning.
                        self.assertGreater(
                            np.hypot(*away.T).min(), cell.BOWL_RADIUS + 0.004 + 0.051
                        )
                        self.assertTrue(
                            (
                                (away[:, 1] > cell.BOWL_RADIUS + 0.004 + cell.BLOCK_SIZE / 2)
                                | (away[:, 0] > cell.BOWL_RADIUS + 0.004 + 0.055 + 0.009)
                            ).all()
                        )
                        for other in of_bowls[:k]:
                            self.assertGreater(
                                np.hypot(*(bowl - other)[:2]), 2 * (cell.BOWL_RADIUS + 0.004)
                            )

    def test_bowls_do_not_change_the_blocks(self):
        without, beside = TabletopScene(0), TabletopScene(0, bowls=1)
        for seed in range(20):
            without.reset(seed)
            beside.reset(seed)
            self.assertEqual(without.colours, beside.colours)
            np.testing.assert_allclose(without.ee_pose()[0], beside.ee_pose()[0], atol=1e-6)
            for one, other in zip(without.targets().values(), beside.targets().values()):
                np.testing.assert_allclose(one, other, atol=1e-6)

    def test_bowls_are_visible(self):
        scene, round_about = (
            TabletopScene(0, bowls=2),
            np.linspace(0, 2 * np.pi, 36, endpoint=False),
        )
        for seed in range(40):
            scene.reset(seed)
            camera = scene.model.camera("camera").id
            turned, at = scene.data.cam_xmat[camera].reshape(3, 3), scene.data.cam_xpos[camera]
            for place in scene.bowl_places().values():
                rim = place + np.column_stack(
                    [
                        cell.BOWL_RADIUS * np.cos(round_about),
                        cell.BOWL_RADIUS * np.sin(round_about),
                        np.full(36, cell.BOWL_HEIGHT),
                    ]
                )
                seen = (np.vstack([rim, place]) - at) @ turned
                inside = np.abs(seen[:, :2] / -seen[:, 2:]).max(axis=1) < np.tan(
                    np.radians(scene.model.cam_fovy[camera]) / 2
                )
                self.assertTrue(inside[-1])
                self.assertGreater(inside[:-1].mean(), 0.7, (seed, place))


class Changes(unittest.TestCase):
    """What makes an episode harder than those of the training."""

    def test_distractors_change_nothing_else(self):
        plain = TabletopScene(0, bowls=2, tasks=("place",))
        scene = TabletopScene(0, bowls=2, tasks=("place",), distractors=2)
        shown = 0
        for seed in range(10):
            plain.reset(seed)
            image = plain.render().copy()
            scene.reset(seed, distractors=0)
            np.testing.assert_array_equal(image, scene.render())
            scene.reset(seed)
            self.assertEqual(plain.instruction, scene.instruction)
            for colour, place in plain.targets().items():
                np.testing.assert_allclose(place, scene.targets()[colour], atol=1e-9)
            places = [scene.model.body(f"distractor{k}").pos for k in range(2)]
            on_table = [place for place in places if place[2] > 0]
            shown += len(on_table)
            for place in on_table:
                for other in [*scene.targets().values(), *scene.bowl_places().values()]:
                    self.assertGreater(np.hypot(*(place - other)[:2]), 0.08)
            self.assertEqual(scene.distractors(), len(on_table))
            changed = np.abs(scene.render().astype(int) - image).max(axis=2) > 30
            self.assertEqual(changed.sum() > 40, bool(on_table), f"seed {seed}")
        self.assertGreater(shown, 15)
        for count in (-1, 3):
            with self.assertRaisesRegex(ValueError, f"distractors: {count}"):
                scene.reset(0, distractors=count)
            with self.assertRaisesRegex(ValueError, f"distractors: {count}"):
                TabletopScene(0, distractors=count)

    def test_a_displaced_block_is_somewhere_else_and_the_expert_follows(self):
        tasks = ("touch", "push", "pick", "place")
        scene, displaced = TabletopScene(0, bowls=2, tasks=tasks), 0
        for seed in range(5):
            for task in tasks:
                scene.reset(seed, task=task, displaced_after_m=0.06)
                before = scene.targets()
                rest = {c: p for c, p in before.items() if c != scene.target}
                while scene.path_length < 0.05:
                    scene.apply([0, 0, 0.1, 0, 0, 0], 1.0, 0.02)
                self.assertFalse(scene.displaced)
                scene.apply([0, 0, 0.1, 0, 0, 0], 1.0, 0.2)
                after = scene.targets()
                displaced += scene.displaced
                moved = np.hypot(*(after[scene.target] - before[scene.target])[:2])
                self.assertEqual(moved > 0.045, scene.displaced)
                self.assertLess(moved, 0.155)
                for colour, place in rest.items():
                    np.testing.assert_allclose(after[colour], place, atol=1e-4)
                self.assertFalse(any(scene.success(t) for t in tasks[:3]))
                # The next episode is not changed.
                scene.reset(seed, task=task)
                scene.apply([0, 0, 0.1, 0, 0, 0], 1.0, 0.8)
                self.assertFalse(scene.displaced)
                scene.reset(seed, task=task, displaced_after_m=0.06)
                self.assertTrue(rollout(scene, expert).success, f"{task} {seed}")
        self.assertGreaterEqual(displaced, 16)


class Commands(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scene = TabletopScene(0)

    def test_tool_follows_a_twist(self):
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

    def test_tool_follows_a_rotation(self):
        self.scene.reset(1)
        for _ in range(25):
            self.scene.apply([0, 0, 0, 0, 0, 0.6], 1.0, 0.02)
        _, q = self.scene.ee_pose()
        self.assertAlmostEqual(2 * np.arctan2(abs(q[1]), abs(q[0])), 0.3, delta=0.04)

    def test_zero_twist_holds_the_arm(self):
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

    def test_arm_pressed_against_the_table_recovers(self):
        self.scene.reset(3)
        for _ in range(100):
            self.scene.apply([0, 0, -0.25, 0, 0, 0], 0.0, 0.02)
        self.assertTrue(np.isfinite(self.scene.data.qpos).all())
        self.assertGreater(self.scene.ee_pose()[0][2], -0.01)
        for _ in range(60):
            self.scene.apply([0, 0, 0.1, 0, 0, 0], 0.0, 0.02)
        self.assertGreater(self.scene.ee_pose()[0][2], 0.05)

    def test_arm_out_of_reach_stays_finite(self):
        self.scene.reset(3)
        for _ in range(150):
            self.scene.apply([0.5, 0, 0.5, 2, 2, 2], 1.0, 0.02)
        self.assertTrue(
            np.isfinite(self.scene.data.qpos).all() and np.isfinite(self.scene.data.qvel).all()
        )


class Expert(unittest.TestCase):
    """The scripted expert on a few seeds; sim/README.md has success rates over 100 seeds."""

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
        for bowls in (1, 2):
            scene = TabletopScene(0, bowls=bowls, tasks=("place",))
            for seed in range(1000, 1020):
                scene.reset(seed)
                self.assertRegex(scene.instruction, r"^put the \w+ block in the \w+ bowl$")
                self.assertTrue(rollout(scene, expert, seconds=16.0).success, (bowls, seed))

    def test_bowls_do_not_obstruct_the_tasks(self):
        scene = TabletopScene(0, blocks=4, bowls=2)
        for task in ("push", "pick"):
            for seed in range(1000, 1006):
                scene.reset(seed, task=task)
                self.assertTrue(rollout(scene, expert).success, (task, seed))

    def test_touching_another_block_first_fails(self):
        for seed in range(5):
            self.scene.reset(2000 + seed, task="touch")
            named = self.scene.target
            other = next(c for c in self.scene.colours if c != named)
            self.scene.set_task("touch", other)
            self.assertTrue(rollout(self.scene, expert).success)
            self.scene.set_task("touch", named)
            rollout(self.scene, expert, seconds=4.0)
            self.assertFalse(self.scene.success())
            self.assertTrue(self.scene.success(block=other))

    def test_no_success_without_motion(self):
        for task in ("touch", "push", "pick"):
            self.scene.reset(3000, task=task)
            tracking = NodeTracking(self.scene)
            for _ in range(10):
                tracking.step(np.array([0, 0, 0, 0, 0, 0, 1.0]))
            self.assertFalse(self.scene.success())


class Rendering(unittest.TestCase):
    @unittest.skipUnless(pathlib.Path("/proc/self/task").is_dir(), "threads are listed by Linux")
    def test_images_are_rendered_in_the_calling_thread(self):
        # In a process of its own, whose environment requests rendering threads.
        program = (
            "import pathlib, tabletop\n"
            "tabletop.TabletopScene(0).render()\n"
            "for name in pathlib.Path('/proc/self/task').glob('*/comm'):\n"
            "    print(name.read_text().strip())"
        )
        environment = os.environ | {"LP_NUM_THREADS": "2"}
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(
            [name for name in done.stdout.splitlines() if re.match(r"llvmpipe-\d", name)], []
        )


class Measured(unittest.TestCase):
    def test_ramp_has_its_acceleration(self):
        scene = TabletopScene(1)
        motion, speed = MotionEstimate(scene.ee_pose()[0], 0.02), 0.0
        for k in range(60):
            speed = min(speed + 0.01, 0.15) if k < 40 else max(speed - 0.01, 0.0)
            scene.apply([0, speed, 0, 0, 0, 0], 1.0, 0.02)
            motion.take(scene.ee_pose()[0])
        self.assertAlmostEqual(motion.peaks["linear_speed"], 0.15, delta=0.01)
        self.assertAlmostEqual(motion.peaks["linear_acceleration"], 0.5, delta=0.05)

    def test_rounding_is_not_an_acceleration(self):
        # 0.1 mm back and forth, as from a coarse encoder: plain differences would be 0.5 m/s2.
        motion = MotionEstimate(np.zeros(3), 0.02)
        for k in range(50):
            motion.take(np.array([0.0001 * (k % 2), 0.0, 0.0]))
        self.assertLess(motion.peaks["linear_acceleration"], 0.2)


class RandomPolicy(unittest.TestCase):
    def test_depends_on_seed_and_time_only(self):
        box = yaml.safe_load((ROOT / "config/robots/tabletop.yaml").read_text())["workspace"]
        self.assertTrue(
            (BOX[:, 0] >= np.array(box["min"]) + box["margin"] - 1e-9).all()
            and (BOX[:, 1] <= np.array(box["max"]) - box["margin"] + 1e-9).all()
        )
        scene = TabletopScene(3)
        try:
            first, drawn = random_policy(scene), []
            np.testing.assert_array_equal(first, random_policy(scene))
            self.assertLessEqual(np.linalg.norm(first[:3]), LARGEST + 1e-9)
            for _ in range(40):
                drawn.append(random_policy(scene))
                scene.apply(drawn[-1][:6] * 5, drawn[-1][6], 0.2)
                self.assertTrue(
                    (scene.ee_pose()[0] > box["min"]).all()
                    and (scene.ee_pose()[0] < box["max"]).all()
                )
            # The same direction for five policy periods, then another.
            directions = [
                a[:3] / np.linalg.norm(a[:3]) for a in drawn if np.linalg.norm(a[:3]) > 0.029
            ]
            self.assertGreater(len({tuple(d.round(6)) for d in directions}), 3)
            scene.reset(4)
            self.assertFalse(np.allclose(first, random_policy(scene)))
        finally:
            scene.close()


class Requirements(unittest.TestCase):
    def test_every_requirement_has_version_and_hash(self):
        for entry in re.split(r"\n(?=\S)", (ROOT / "sim/requirements.txt").read_text().strip()):
            self.assertRegex(entry, r"^[a-z0-9_.-]+==[^ ;]+ ", entry)
            self.assertRegex(entry, r"--hash=sha256:[0-9a-f]{64}", entry)
            self.assertNotIn("://", entry)


if __name__ == "__main__":
    unittest.main()
