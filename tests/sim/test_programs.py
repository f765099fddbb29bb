"""The demo and the evaluation as a user starts them, on the golden kit's random weights; and the statistics of the tables."""

import json
import math
import pathlib
import signal
import sys
import tempfile
import time
import unittest

import numpy as np
from PIL import Image
from programs import Marked, has_node
from session import ROOT

sys.path.insert(0, str(ROOT / "tools/sim_eval"))
import intervals  # noqa: E402
import random_weights  # noqa: E402
import table  # noqa: E402

GOLDEN = [
    "--checkpoint",
    str(ROOT / "tests/data/openvla_tiny/ckpt"),
    "--policy-file",
    str(ROOT / "config/policies/openvla_tiny.yaml"),
    "--unnorm-key",
    "bridge_orig",
]


@unittest.skipUnless(has_node(), "the node is not built")
class Demo(Marked):
    def test_it_shows_episodes_writes_a_video_and_leaves_nothing_behind(self):
        with tempfile.TemporaryDirectory() as folder:
            gif = pathlib.Path(folder) / "demo.gif"
            status, out, err = self.finish(
                self.start(
                    ROOT / "tools/demo/tabletop",
                    *GOLDEN,
                    "--episodes",
                    "1",
                    "--seconds",
                    "2",
                    "--seed",
                    "5",
                    "--gif",
                    gif,
                )
            )
            self.assertEqual(status, 0, err + out)
            self.assertRegex(out, r"of 1 instructions done; again with --seed 5")
            self.assertRegex(out, r"largest commanded speed 0\.[012]\d* m/s")
            self.assertIn("everything came to rest and ended", out)
            with Image.open(gif) as film:
                self.assertGreater(film.n_frames, 3)
                self.assertEqual(film.size, (224, 252))

    def test_interrupted_it_comes_to_rest_and_says_so(self):
        with tempfile.TemporaryDirectory() as folder:
            process = self.start(
                ROOT / "tools/demo/tabletop",
                *GOLDEN,
                "--episodes",
                "3",
                "--seconds",
                "60",
                "--seed",
                "5",
                "--gif",
                f"{folder}/demo.gif",
            )
            for line in process.stdout:
                if line.startswith("1/3"):
                    break
            process.send_signal(signal.SIGINT)
            status, out, err = self.finish(process)
            self.assertEqual(status, 130, err + out)
            self.assertIn("interrupted", out)
            self.assertNotIn("Traceback", err)

    def test_a_checkpoint_that_the_node_refuses_is_named_at_once(self):
        begin = time.monotonic()
        status, _, err = self.finish(
            self.start(ROOT / "tools/demo/tabletop", *GOLDEN[:-1], "no_such_key", "--episodes", "1")
        )
        self.assertEqual(status, 1)
        self.assertRegex(
            err.strip().splitlines()[-1], "^demo: vla_node ended with status 2; .*no_such_key"
        )
        with tempfile.TemporaryDirectory() as folder:
            for path in pathlib.Path(GOLDEN[1]).iterdir():
                if path.name != "model-00002-of-00002.safetensors":
                    (pathlib.Path(folder) / path.name).symlink_to(path)
            status, _, err = self.finish(
                self.start(
                    ROOT / "tools/demo/tabletop",
                    "--checkpoint",
                    folder,
                    *GOLDEN[2:],
                    "--episodes",
                    "1",
                )
            )
            self.assertEqual(status, 1)
            self.assertRegex(
                err.strip().splitlines()[-1],
                "^demo: the node cannot be configured: .*model-00002-of-00002",
            )
        self.assertLess(time.monotonic() - begin, 100)

    def test_what_is_not_there_is_named(self):
        for arguments, words in (
            (["--checkpoint", "/no/such/folder"], "no checkpoint at /no/such/folder; train one"),
            ([*GOLDEN, "--tasks", "dance"], "'dance'"),
            ([*GOLDEN, "--episodes", "0"], "1..100"),
        ):
            status, _, err = self.finish(self.start(ROOT / "tools/demo/tabletop", *arguments))
            self.assertEqual(status, 2)
            self.assertIn(words, err)


class Evaluation(Marked):
    def evaluate(self, *arguments):
        return self.finish(self.start(ROOT / "tools/sim_eval/run", *arguments))

    def test_what_was_run_is_not_run_again(self):
        with tempfile.TemporaryDirectory() as folder:
            arguments = [
                "--rows",
                "expert,chance",
                "--tasks",
                "touch",
                "--checkpoint",
                "/none",
                "--seconds",
                "5",
                "--out",
                folder,
            ]
            status, out, err = self.evaluate(*arguments, "--seeds", "2")
            self.assertEqual(status, 0, err)
            self.assertIn("[4/4", out)
            status, out, err = self.evaluate(*arguments, "--seeds", "3")
            self.assertEqual(status, 0, err)
            self.assertIn("[2/2", out)
            file = pathlib.Path(folder) / "episodes.jsonl"
            episodes = [json.loads(line) for line in file.read_text().splitlines()]
            self.assertEqual(
                [(e["row"], e["seed"]) for e in episodes],
                [
                    ("expert", 0),
                    ("expert", 1),
                    ("chance", 0),
                    ("chance", 1),
                    ("expert", 2),
                    ("chance", 2),
                ],
            )
            self.assertTrue(all(e["success"] for e in episodes if e["row"] == "expert"))
            self.assertIn("3/3 = 100 %", (pathlib.Path(folder) / "report.txt").read_text())
            # A line that a crash cut off is run again, and the one after it is not lost; only what
            # is asked for is reported.
            file.write_text(file.read_text()[:-40])
            for count in ("[1/1", ""):
                status, out, err = self.evaluate(*arguments, "--seeds", "1", "--first-seed", "2")
                self.assertEqual((status, "[1/1" in out), (0, bool(count)), err + out)
            self.assertIn("1/1 = 100 %", out)
            self.assertNotIn("3/3", out)
            # Other conditions are another experiment.
            status, out, err = self.evaluate(
                *arguments[:-4], "--seconds", "6", "--out", folder, "--seeds", "1"
            )
            self.assertEqual(status, 0, err)
            self.assertIn("[2/2", out)

    @unittest.skipUnless(has_node(), "the node is not built")
    def test_rows_on_the_node(self):
        with tempfile.TemporaryDirectory() as folder:
            rows = "random-weights,swapped,no-instruction,dark,frozen"
            status, out, err = self.evaluate(
                "--rows",
                rows,
                "--tasks",
                "push",
                "--seeds",
                "1",
                "--seconds",
                "2",
                "--decode",
                "full",
                "--out",
                folder,
                *GOLDEN,
            )
            self.assertEqual(status, 0, err + out)
            episodes = {
                e["row"]: e
                for e in map(
                    json.loads, (pathlib.Path(folder) / "episodes.jsonl").read_text().splitlines()
                )
            }
            self.assertEqual(set(episodes), set(rows.split(",")))
            swapped = episodes["swapped"]
            self.assertIn(swapped["said"], swapped["instruction"])
            self.assertNotEqual(swapped["said"], swapped["named_before"])
            for row in ("no-instruction", "dark", "frozen"):
                self.assertLess(episodes[row]["tool_moved"], table.STILL)
            self.assertLessEqual(episodes["random-weights"]["peaks"]["linear_speed"], 0.25 + 1e-9)

    @unittest.skipUnless(has_node(), "the node is not built")
    def test_in_step_the_same_seed_goes_the_same_way(self):
        with tempfile.TemporaryDirectory() as folder:
            for out in ("one", "two"):
                status, text, err = self.evaluate(
                    "--lockstep",
                    "--rows",
                    "policy",
                    "--tasks",
                    "push",
                    "--seeds",
                    "1",
                    "--seconds",
                    "1",
                    "--decode",
                    "full",
                    "--out",
                    f"{folder}/{out}",
                    *GOLDEN,
                )
                self.assertEqual(status, 0, err + text)
            first, second = (
                json.loads((pathlib.Path(folder) / out / "episodes.jsonl").read_text())
                for out in ("one", "two")
            )
            self.assertEqual((first["row"], first["variant"]), ("policy", "cpu, in step"))
            self.assertGreater(first["path_length"], 0.01)
            for name in ("path_length", "tool_moved", "seconds", "done", "instruction"):
                self.assertEqual(first[name], second[name], name)

    def test_nonsense_is_refused(self):
        for arguments, words in (
            (["--rows", "policy,miracle"], "'miracle'"),
            (["--rows", ""], "row: ''"),
            (["--seeds", "0"], "seeds"),
            (["--seconds", "nan"], "seconds: nan must lie in 1..600"),
            (["--rows", "dark", "--lockstep"], "row: 'dark' is not there with --lockstep"),
            (
                ["--rows", "expert", "--out", "/dev/null/results"],
                "sim-eval: /dev/null/results: Not a directory",
            ),
            (["--first-seed", "1000000"], "0..999999"),
            (["--checkpoint", "/none", "--rows", "policy"], "no checkpoint at /none"),
        ):
            status, _, err = self.evaluate(*arguments)
            self.assertIn(status, (1, 2))
            self.assertIn(words, err)


class Statistics(unittest.TestCase):
    def test_wilson_is_as_published(self):
        # Newcombe 1998, Statistics in Medicine 17, table I, method 3.
        for successes, trials, low, high in (
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
        ):
            found = intervals.wilson(successes, trials)
            self.assertAlmostEqual(found[0], low, places=4)
            self.assertAlmostEqual(found[1], high, places=4)
        self.assertEqual(intervals.wilson(0, 0), (0.0, 1.0))

    def test_mcnemar_is_a_sign_test(self):
        self.assertEqual(intervals.mcnemar(0, 0), 1.0)
        self.assertEqual(intervals.mcnemar(5, 5), 1.0)
        self.assertAlmostEqual(intervals.mcnemar(0, 5), 2 / 32)
        self.assertAlmostEqual(intervals.mcnemar(8, 1), 2 * 10 / 512)

    def test_percentiles_are_values_that_occurred(self):
        self.assertEqual(intervals.percentile(range(1, 101), 0.99), 99)
        self.assertEqual(intervals.median([3, 1, 2]), 2)
        self.assertTrue(math.isnan(intervals.median([])))

    def test_pairs_compare_equal_seeds_only(self):
        def episode(variant, seed, success):
            return dict(
                row="swapped",
                variant=variant,
                task="touch",
                seed=seed,
                success=success,
                tool_moved=0.1,
                moved_later=0.1,
            )

        found = table.groups(
            [episode("cpu", s, s != 1) for s in range(4)]
            + [episode("sim:n300/bf16", s, s != 2) for s in range(1, 6)]
        )
        _, rows = table.pairs(found)
        self.assertEqual(
            rows, [["swapped", "touch", "cpu", "sim:n300/bf16", "3", "1", "1", "1", "1.00"]]
        )

    def test_each_row_is_judged_by_what_it_is_about(self):
        def good(
            row,
            success,
            moved,
            later,
            reasons=("IMAGE_STALE: the newest camera image is too old (0.6 s, limit 0.5 s)",),
        ):
            return table.good(
                dict(row=row, success=success, tool_moved=moved, moved_later=later, reasons=reasons)
            )

        self.assertTrue(good("policy", True, 0.3, 0.3) and not good("policy", False, 0.3, 0.0))
        for row in table.MUST_NOT_MOVE:
            self.assertTrue(good(row, False, 0.004, 0.0) and not good(row, True, 0.006, 0.0), row)
        # An arm that never moved did not stop either, and one that stands for another reason was
        # not stopped.
        for row in table.MUST_STOP:
            self.assertTrue(
                good(row, False, 0.1, 0.004)
                and not good(row, False, 0.1, 0.006)
                and not good(row, False, 0.0, 0.0),
                row,
            )
            self.assertFalse(good(row, False, 0.1, 0.0, ["", "WAITING_FOR_ACTION: enabled"]))

    def test_a_command_past_the_limits_and_a_simulation_that_lags_are_problems(self):
        allowed = table.limits(ROOT / "config/robots/tabletop.yaml")
        self.assertEqual(
            allowed,
            dict(
                linear_speed=0.25,
                linear_acceleration=1.0,
                angular_speed=0.6,
                angular_acceleration=3.0,
            ),
        )

        def problems(lost=0.0, **peaks):
            return table.problems(
                [
                    dict(
                        row="policy",
                        variant="cpu",
                        task="push",
                        seed=7,
                        seconds=5.0,
                        lost_s=lost,
                        peaks=allowed | peaks,
                    ),
                    dict(peaks={}, seconds=1.0, lost_s=0.0),
                ],
                allowed,
            )

        self.assertEqual(problems(), [])
        (said,) = problems(angular_speed=0.601)
        self.assertIn("angular_speed: 0.6010 of 0.6 was commanded in policy cpu push seed 7", said)
        (said,) = problems(lost=0.2)
        self.assertIn("lost 0.2 s in 1 episodes", said)


class RandomWeights(unittest.TestCase):
    def test_a_network_as_before_training_in_every_file_of_the_same_checkpoint(self):
        source = pathlib.Path(GOLDEN[1])
        with tempfile.TemporaryDirectory() as folder:
            made = random_weights.make(source, pathlib.Path(folder) / "checkpoint", seed=3)
            for path in sorted(source.iterdir()):
                same = path.read_bytes() == (made / path.name).read_bytes()
                self.assertEqual(same, path.suffix != ".safetensors", path.name)
                self.assertEqual(path.stat().st_size, (made / path.name).stat().st_size)

    def test_bfloat16_is_rounded_to_the_nearest_and_ties_to_even(self):
        # 1 + 1/256 lies half-way between two; so does 1 + 3/256, whose even neighbour is above.
        values = np.array([1.0, -2.0, 1 + 1 / 256, 1 + 3 / 256, 1 + 1.1 / 256])
        self.assertEqual(
            [hex(v) for v in random_weights.as_bfloat16(values)],
            ["0x3f80", "0xc000", "0x3f80", "0x3f82", "0x3f81"],
        )


if __name__ == "__main__":
    unittest.main()
