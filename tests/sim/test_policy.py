"""The shipped policy: its files match its model card, and with it the node does the tasks."""

import hashlib
import json
import pathlib
import re
import tempfile
import unittest

from programs import Marked, has_node

from processes import ROOT

MODELS = [ROOT / "models/tabletop", ROOT / "models/tabletop_pi05"]


class Card(unittest.TestCase):
    def test_weights_match_the_card(self):
        for model in MODELS:
            with self.subTest(model=model.name):
                card = (model / "README.md").read_text()
                weights = (model / "model.safetensors").read_bytes()
                self.assertEqual(
                    re.findall(r"sha256 of `model.safetensors` `([0-9a-f]{64})`", card),
                    [hashlib.sha256(weights).hexdigest()],
                )
                self.assertIn(f"{len(weights):,} bytes", card)
                size = sum(path.stat().st_size for path in model.rglob("*") if path.is_file())
                self.assertLess(size, 10_000_000)

    def test_published_results_are_of_these_weights(self):
        for model in MODELS:
            digest = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
            text = (ROOT / "sim/README.md").read_text()
            self.assertIn(f"sha256 `{digest[:16]}...`", text, model.name)


@unittest.skipUnless(has_node(), "the node is not built")
class Behaviour(Marked):
    """Layouts outside the training data; in lockstep, independent of the machine's speed."""

    def evaluate(self, rows, tasks, seeds, seconds, *more):
        """The episodes, and the output."""
        with tempfile.TemporaryDirectory() as folder:
            status, out, err = self.finish(
                self.start(
                    ROOT / "tools/sim_eval/run",
                    *("--lockstep", "--rows", rows, "--tasks", tasks, "--seeds", str(seeds)),
                    *("--seconds", str(seconds), "--out", folder, *more),
                ),
                300,
            )
            self.assertEqual(status, 0, err + out)
            lines = (pathlib.Path(folder) / "episodes.jsonl").read_text().splitlines()
            return list(map(json.loads, lines)), out

    def test_touches_the_named_block_and_needs_the_image(self):
        rows = "policy,swapped,first-image"
        episodes, out = self.evaluate(rows, "touch", 3, 5)
        done = {
            row: sum(e["success"] for e in episodes if e["row"] == row) for row in rows.split(",")
        }
        self.assertEqual(
            [e["row"] for e in episodes], [row for row in rows.split(",") for _ in range(3)]
        )
        # Success rates are about 95 % and 5 %: two wrong outcomes of three are not by chance.
        self.assertGreaterEqual(done["policy"], 2, out)
        self.assertGreaterEqual(done["swapped"], 2, out)
        self.assertLessEqual(done["first-image"], 1, out)
        for episode in episodes:
            if episode["row"] == "swapped":
                self.assertNotIn("touch", episode["done"][episode["drawn"]])

    def test_chunks_of_two_cameras_and_a_state_do_the_tasks(self):
        pi05 = (
            *("--checkpoint", str(ROOT / "models/tabletop_pi05")),
            *("--policy-file", str(ROOT / "config/policies/tabletop_pi05.yaml")),
        )
        episodes, out = self.evaluate("policy,first-image", "touch,place", 2, 8, *pi05)
        done = [e["success"] for e in episodes if e["row"] == "policy"]
        self.assertGreaterEqual(sum(done), 3, out)
        blind = [e["success"] for e in episodes if e["row"] == "first-image"]
        self.assertLessEqual(sum(blind), 2, out)


if __name__ == "__main__":
    unittest.main()
