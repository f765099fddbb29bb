"""The shipped policy: its files are those that its card describes, and the node with it does what it is told, judged by what the robot did."""

import hashlib
import json
import pathlib
import re
import tempfile
import unittest

from programs import Marked, has_node
from session import ROOT

MODEL = ROOT / "models/tabletop"


class Card(unittest.TestCase):
    def test_weights_are_those_of_the_card(self):
        card, weights = (
            (MODEL / "README.md").read_text(),
            (MODEL / "model.safetensors").read_bytes(),
        )
        self.assertEqual(
            re.findall(r"sha256 of `model.safetensors` `([0-9a-f]{64})`", card),
            [hashlib.sha256(weights).hexdigest()],
        )
        self.assertIn(f"{len(weights):,} bytes", card)
        self.assertLess(sum(path.stat().st_size for path in MODEL.iterdir()), 10_000_000)

    def test_results_in_the_docs_are_of_these_weights(self):
        digest = hashlib.sha256((MODEL / "model.safetensors").read_bytes()).hexdigest()
        self.assertIn(f"sha256 `{digest[:16]}...`", (ROOT / "sim/README.md").read_text())


@unittest.skipUnless(has_node(), "the node is not built")
class Behaviour(Marked):
    """In step with simulated time, so that a slow machine changes nothing. Three layouts that the policy was not trained on."""

    def test_it_goes_to_the_block_that_is_named_and_needs_the_picture_for_it(self):
        with tempfile.TemporaryDirectory() as folder:
            rows = "policy,swapped,first-picture"
            status, out, err = self.finish(
                self.start(
                    ROOT / "tools/sim_eval/run",
                    "--lockstep",
                    "--rows",
                    rows,
                    "--tasks",
                    "touch",
                    "--seeds",
                    "3",
                    "--seconds",
                    "5",
                    "--out",
                    folder,
                ),
                300,
            )
            self.assertEqual(status, 0, err + out)
            episodes = list(
                map(json.loads, (pathlib.Path(folder) / "episodes.jsonl").read_text().splitlines())
            )
        done = {
            row: sum(e["success"] for e in episodes if e["row"] == row) for row in rows.split(",")
        }
        self.assertEqual(
            [e["row"] for e in episodes], [row for row in rows.split(",") for _ in range(3)]
        )
        # Rates of some 95 % and of some 5 %: two of three on the wrong side is no bad luck.
        self.assertGreaterEqual(done["policy"], 2, out)
        self.assertGreaterEqual(done["swapped"], 2, out)
        self.assertLessEqual(done["first-picture"], 1, out)
        for episode in episodes:
            if episode["row"] == "swapped":
                self.assertNotIn("touch", episode["done"][episode["named_before"]])


if __name__ == "__main__":
    unittest.main()
