"""The shipped policy: its files match its model card, and with it the node does the tasks."""

import hashlib
import json
import pathlib
import re
import tempfile
import unittest

from programs import Marked, has_node

from processes import ROOT

MODEL = ROOT / "models/tabletop"


class Card(unittest.TestCase):
    def test_weights_match_the_card(self):
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

    def test_published_results_are_of_these_weights(self):
        digest = hashlib.sha256((MODEL / "model.safetensors").read_bytes()).hexdigest()
        self.assertIn(f"sha256 `{digest[:16]}...`", (ROOT / "sim/README.md").read_text())


@unittest.skipUnless(has_node(), "the node is not built")
class Behaviour(Marked):
    """Three layouts outside the training data; in lockstep, independent of the machine's speed."""

    def test_touches_the_named_block_and_needs_the_image(self):
        with tempfile.TemporaryDirectory() as folder:
            rows = "policy,swapped,first-image"
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
        # Success rates are about 95 % and 5 %: two wrong outcomes of three are not by chance.
        self.assertGreaterEqual(done["policy"], 2, out)
        self.assertGreaterEqual(done["swapped"], 2, out)
        self.assertLessEqual(done["first-image"], 1, out)
        for episode in episodes:
            if episode["row"] == "swapped":
                self.assertNotIn("touch", episode["done"][episode["drawn"]])


if __name__ == "__main__":
    unittest.main()
