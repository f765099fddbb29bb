"""The demo and the evaluation as processes, with the golden kit's weights; and the statistics."""

import json
import math
import pathlib
import signal
import sys
import tempfile
import time
import unittest
import zipfile

import numpy as np
from PIL import Image
from programs import Marked, has_node
from processes import ROOT

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
    def test_episodes_video_and_no_processes_left(self):
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
            self.assertRegex(out, r"of 1 instructions done; repeat with --seed 5")
            self.assertRegex(out, r"largest commanded speed 0\.[012]\d* m/s")
            self.assertIn("everything came to rest and ended", out)
            with Image.open(gif) as film:
                self.assertGreater(film.n_frames, 3)
                self.assertEqual(film.size, (672, 478))

    def test_interrupt_brings_the_robot_to_rest(self):
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

    def test_refused_checkpoint_is_reported_at_once(self):
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

    def test_missing_checkpoint_is_reported(self):
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

    def test_finished_episodes_are_not_repeated(self):
        with tempfile.TemporaryDirectory() as folder:
            arguments = [
                "--rows",
                "expert,random-actions",
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
                    ("random-actions", 0),
                    ("random-actions", 1),
                    ("expert", 2),
                    ("random-actions", 2),
                ],
            )
            self.assertTrue(all(e["success"] for e in episodes if e["row"] == "expert"))
            self.assertIn("3/3 = 100 %", (pathlib.Path(folder) / "report.txt").read_text())
            # A truncated line is run again and the line after it is kept; only the requested
            # episodes are reported.
            file.write_text(file.read_text()[:-40])
            for count in ("[1/1", ""):
                status, out, err = self.evaluate(*arguments, "--seeds", "1", "--first-seed", "2")
                self.assertEqual((status, "[1/1" in out), (0, bool(count)), err + out)
            self.assertIn("1/1 = 100 %", out)
            self.assertNotIn("3/3", out)
            # Other settings do not reuse these results.
            status, out, err = self.evaluate(
                *arguments[:-4], "--seconds", "6", "--out", folder, "--seeds", "1"
            )
            self.assertEqual(status, 0, err)
            self.assertIn("[2/2", out)

    @unittest.skipUnless(has_node(), "the node is not built")
    def test_rows_on_the_node(self):
        with tempfile.TemporaryDirectory() as folder:
            rows = "random-weights,swapped,no-instruction,no-image,frozen"
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
            if status != 0:
                # On a busy machine the simulation may fall behind real time; nothing else may fail.
                self.assertRegex(err, r"^sim-eval: the simulation lost [^;]*\n$")
            episodes = {
                e["row"]: e
                for e in map(
                    json.loads, (pathlib.Path(folder) / "episodes.jsonl").read_text().splitlines()
                )
            }
            self.assertEqual(set(episodes), set(rows.split(",")))
            swapped = episodes["swapped"]
            self.assertIn(swapped["named"], swapped["instruction"])
            self.assertNotEqual(swapped["named"], swapped["drawn"])
            for row in ("no-instruction", "no-image", "frozen"):
                self.assertLess(episodes[row]["tool_moved"], table.STILL)
            self.assertLessEqual(episodes["random-weights"]["peaks"]["linear_speed"], 0.25 + 1e-9)

    @unittest.skipUnless(has_node(), "the node is not built")
    def test_lockstep_is_deterministic(self):
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
            self.assertEqual((first["row"], first["variant"]), ("policy", "cpu, lockstep"))
            self.assertGreater(first["path_length"], 0.01)
            for name in ("path_length", "tool_moved", "seconds", "done", "instruction"):
                self.assertEqual(first[name], second[name], name)

    def test_invalid_arguments_are_refused(self):
        for arguments, words in (
            (["--rows", "policy,miracle"], "'miracle'"),
            (["--rows", ""], "row: ''"),
            (["--seeds", "0"], "seeds"),
            (["--seconds", "nan"], "seconds: nan must be in 1..600"),
            (
                ["--rows", "no-image", "--lockstep"],
                "row: 'no-image' is not possible with --lockstep",
            ),
            (
                ["--rows", "expert", "--out", "/dev/null/results"],
                "sim-eval: /dev/null/results: Not a directory",
            ),
            (["--first-seed", "1000000"], "0..999999"),
            (["--tasks", "juggle"], "task: 'juggle'"),
            (["--latency", "0.3", "-1"], "latency: -1 must be in 0..5"),
            (["--real-time-chunking", "guided"], "the policy file has no `flow`"),
            (["--rows", "wrist-lost"], "row: 'wrist-lost' needs wrist_image"),
            (["--policy-file", "/none.yaml"], "policy-file: /none.yaml: FileNotFoundError"),
            (["--checkpoint", "/none", "--rows", "policy"], "no checkpoint at /none"),
        ):
            status, _, err = self.evaluate(*arguments)
            self.assertIn(status, (1, 2))
            self.assertIn(words, err)


class Statistics(unittest.TestCase):
    def test_wilson_matches_published_values(self):
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

    def test_percentiles_are_nearest_rank(self):
        self.assertEqual(intervals.percentile(range(1, 101), 0.99), 99)
        self.assertEqual(intervals.median([3, 1, 2]), 2)
        self.assertTrue(math.isnan(intervals.median([])))

    def test_pairs_have_equal_seeds(self):
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

    def test_expected_outcome_of_each_row(self):
        def good(
            row,
            success,
            moved,
            later,
            reasons=("IMAGE_STALE: the newest camera image is too old (0.6 s, limit 0.5 s)",),
        ):
            return table.as_expected(
                dict(row=row, success=success, tool_moved=moved, moved_later=later, reasons=reasons)
            )

        self.assertTrue(good("policy", True, 0.3, 0.3) and not good("policy", False, 0.3, 0.0))
        for row in table.MUST_NOT_MOVE:
            self.assertTrue(good(row, False, 0.004, 0.0) and not good(row, True, 0.006, 0.0), row)
        # Neither an arm that never moved nor one that rests for another reason was stopped.
        for row in table.MUST_STOP:
            self.assertTrue(
                good(row, False, 0.1, 0.004)
                and not good(row, False, 0.1, 0.006)
                and not good(row, False, 0.0, 0.0),
                row,
            )
            self.assertFalse(good(row, False, 0.1, 0.0, ["", "WAITING_FOR_ACTION: enabled"]))
            # With several cameras the reason names the one.
            named = ["IMAGE_STALE (camera wrist_image): the newest camera image is too old"]
            self.assertTrue(good(row, False, 0.1, 0.0, named))

    def test_problems_are_limits_and_lost_time(self):
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
        (problem,) = problems(angular_speed=0.601)
        self.assertIn(
            "angular_speed: 0.6010 of 0.6 was commanded in policy cpu push seed 7", problem
        )
        (problem,) = problems(lost=0.2)
        self.assertIn("lost 0.2 s in 1 episodes", problem)


class RandomWeights(unittest.TestCase):
    def test_random_weights_replace_every_tensor(self):
        source = pathlib.Path(GOLDEN[1])
        with tempfile.TemporaryDirectory() as folder:
            made = random_weights.make(source, pathlib.Path(folder) / "checkpoint", seed=3)
            for path in sorted(source.iterdir()):
                same = path.read_bytes() == (made / path.name).read_bytes()
                self.assertEqual(same, path.suffix != ".safetensors", path.name)
                self.assertEqual(path.stat().st_size, (made / path.name).stat().st_size)

    def test_the_values_of_torch_files_change_places(self):
        source, kinds = ROOT / "tests/data/oft_tiny/ckpt", {}
        with tempfile.TemporaryDirectory() as folder:
            made = random_weights.make(source, pathlib.Path(folder) / "checkpoint", seed=3)
            for path in sorted(source.glob("*.pt")):
                with zipfile.ZipFile(path) as before, zipfile.ZipFile(made / path.name) as after:
                    self.assertEqual(before.namelist(), after.namelist())
                    pickle = next(n for n in before.namelist() if n.endswith("data.pkl"))
                    kind = "<f4" if b"torch\nFloatStorage" in before.read(pickle) else "<u2"
                    kinds[path.name.split("--")[0]] = kind
                    changed = 0
                    for name in before.namelist():
                        one, other = before.read(name), after.read(name)
                        if "/data/" not in name:
                            self.assertEqual(one, other, name)
                            continue
                        one, other = np.frombuffer(one, kind), np.frombuffer(other, kind)
                        np.testing.assert_array_equal(np.sort(one), np.sort(other))
                        changed += int((one != other).any())
                    self.assertGreater(changed, 2)
        self.assertEqual(kinds, {"action_head": "<u2", "proprio_projector": "<f4"})

    def test_bfloat16_rounds_ties_to_even(self):
        # 1 + 1/256 is half-way between two values; so is 1 + 3/256, whose even one is above.
        values = np.array([1.0, -2.0, 1 + 1 / 256, 1 + 3 / 256, 1 + 1.1 / 256])
        self.assertEqual(
            [hex(v) for v in random_weights.as_bfloat16(values)],
            ["0x3f80", "0xc000", "0x3f80", "0x3f82", "0x3f81"],
        )


if __name__ == "__main__":
    unittest.main()
