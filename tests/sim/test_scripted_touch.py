"""tools/sim_eval/scripted_touch.py in every space and over every interface, with a stand-in node.

The stand-in (stand_in_node.py) answers the same instructions, so the chain is tested without the
node: instruction, commands, the arm, the success check and the referee.
"""

import json
import os
import unittest
import unittest.mock

from processes import ROOT
from programs import Marked

STAND_IN = ROOT / "tests/sim/stand_in_node.py"


class ScriptedTouch(Marked):
    def touch(self, *arguments):
        """Exit status, episodes, summary and errors of the program."""
        with unittest.mock.patch.dict(os.environ, VLA_NODE=str(STAND_IN)):
            # The stand-in needs no images; drawing them is most of the work.
            process = self.start(
                ROOT / "tools/sim_eval/scripted_touch.py", "--image-hz", "0.5", *arguments
            )
        status, out, err = self.finish(process)
        lines = list(map(json.loads, out.splitlines()))
        return status, lines[:-1], lines[-1]["summary"] if lines else None, err

    def succeeds(self, space, output, quantities):
        """One touch over that interface, all of these quantities measured and within the limits."""
        status, (episode,), summary, err = self.touch(
            "--space", space, "--output", output, "--seeds", "1", "--first-seed", "3"
        )
        self.assertEqual((summary["successes"], summary["refused"]), (1, 0), episode)
        self.assertEqual((status, err, summary["exceeded"]), (0, "", []))
        self.assertLessEqual(set(summary["judged"]), set(summary["commanded"]))
        for quantity in quantities:
            self.assertGreater(summary["commanded"][quantity], 0.1, summary)
        self.assertEqual(episode["first_touched"], episode["target"])
        self.assertEqual([name for name, _ in episode["reached"]], ["above", "touch"])
        self.assertGreater(episode["commands"], 30)
        self.assertFalse(episode["seam_largest"])  # the stand-in reports none

    def test_end_effector(self):
        self.succeeds("end_effector", "twist", ["linear_velocity", "linear_acceleration"])

    def test_joint_trajectory(self):
        quantities = ["position", "velocity", "acceleration", "jerk"]
        self.succeeds("joint_position", "joint_trajectory", quantities)

    def test_joint_velocity_array(self):
        self.succeeds("joint_velocity", "joint_velocity_array", ["velocity", "acceleration"])

    def test_failures_are_reported(self):
        # Too short for a touch.
        status, (episode,), _, err = self.touch(
            *("--space", "joint_position", "--output", "joint_state"),
            *("--seeds", "1", "--seconds", "1"),
        )
        self.assertEqual((status, episode["success"]), (1, False))
        self.assertGreater(episode["commands"], 20)
        self.assertLess(max(episode["limit_ratios"]["commanded"].values()), 1.0)
        self.assertIn("1 of 1 touches failed", err)
        for arguments, words in (
            (["--space", "joint_position", "--output", "twist"], "twist does not take actions in"),
            (["--space", "end_effector", "--seeds", "0"], "seeds: 0"),
            (["--space", "end_effector", "--parameter", "a=x"], "are not all NAME=JSON"),
        ):
            status, _, _, err = self.touch(*arguments)
            self.assertEqual(status, 2)
            self.assertIn(words, err)


if __name__ == "__main__":
    unittest.main()
