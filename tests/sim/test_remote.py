"""The simulated robot with its policy on `openvla serve`, by both protocols."""

import json
import pathlib
import tempfile
import unittest

from programs import Marked, has_node

from processes import ROOT, RunnerError, openvla_executable


def has_server():
    """Whether `openvla` was built beside the node."""
    try:
        return bool(openvla_executable())
    except RunnerError:
        return False


@unittest.skipUnless(has_node() and has_server(), "the node or openvla is not built")
class Served(Marked):
    def demo(self, *arguments):
        with tempfile.TemporaryDirectory() as folder:
            more = ("--seed", "5", "--plain", "--gif", pathlib.Path(folder) / "demo.gif")
            return self.finish(self.start(ROOT / "tools/demo/tabletop", *arguments, *more), 180)

    def test_episodes_are_those_of_the_local_policy(self):
        """In lockstep, independent of the machine's speed: the same actions, so the same paths."""
        with tempfile.TemporaryDirectory() as folder:
            where = [part for name in ("cpu", "openpi", "act") for part in ("--on", name)]
            more = ("--rows", "policy", "--tasks", "touch,pick", "--seeds", "1", "--out", folder)
            program = self.start(ROOT / "tools/sim_eval/run", "--lockstep", *where, *more)
            status, out, err = self.finish(program, 300)
            self.assertEqual(status, 0, err + out)
            lines = (pathlib.Path(folder) / "episodes.jsonl").read_text().splitlines()
        paths = {}
        for episode in map(json.loads, lines):
            self.assertTrue(episode["success"], episode)
            path = [episode[key] for key in ("task", "success_s", "path_length", "tool_moved")]
            paths.setdefault(episode["variant"].split(",")[0], []).append(path)
        self.assertEqual([len(these) for these in paths.values()], [2, 2, 2], out)
        self.assertEqual(paths["openpi"], paths["cpu"])
        self.assertEqual(paths["act"], paths["cpu"])

    def test_the_demo_serves_and_shows_where_time_goes(self):
        status, out, err = self.demo("--remote", "openpi", "--episodes", "1", "--seconds", "2")
        self.assertEqual(status, 0, err + out)
        self.assertRegex(out, r"the policy is at openpi://127\.0\.0\.1:\d+\n")
        stages = ", ".join(rf"{name} [\d.]+ ms" for name in ("preprocess", "network", "server"))
        self.assertRegex(out, rf"image to action, p50: image [\d.]+ ms, {stages}\n")
        self.assertIn("everything came to rest and ended", out)

    def test_an_absent_server_and_a_wrong_protocol_are_named(self):
        status, _, err = self.demo("--remote", "openpi://127.0.0.1:9", "--episodes", "1")
        self.assertEqual(status, 1)
        self.assertRegex(
            err.strip().splitlines()[-1],
            r"^demo: .*openpi://127\.0\.0\.1:9: no server listens at 127\.0\.0\.1:9",
        )
        status, _, err = self.demo("--remote", "grpc")
        self.assertEqual(status, 2)
        self.assertIn("'grpc' is neither openpi nor act", err)


if __name__ == "__main__":
    unittest.main()
