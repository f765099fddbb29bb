"""The set-up scripts: pinned packages, repeatable, one-line errors."""

import re
import subprocess
import sys
import tempfile
import unittest

from tree import ROOT, bare_environment, shell

SHOW = (
    'printf "%s\\n" "$AMENT_PREFIX_PATH" "$LD_LIBRARY_PATH" "$PYTHONPATH" "$PATH"'
    ' "$ROS_DISTRO" "$IDL_PACKAGE_FILTER"'
)


class Requirements(unittest.TestCase):
    def test_requirements_have_version_and_hash(self):
        for name in ("requirements.txt", "requirements-build.txt"):
            text = (ROOT / "tools/ros" / name).read_text()
            entries = re.split(r"\n(?=\S)", text.strip())
            self.assertTrue(entries)
            for entry in entries:
                self.assertRegex(entry, r"^[a-z0-9_.-]+==[^ ;]+ ", entry)
                self.assertRegex(entry, r"--hash=sha256:[0-9a-f]{64}", entry)
                self.assertNotIn("://", entry)

    def test_requirements_are_pinned(self):
        for name in ("requirements", "requirements-build"):
            pinned = (ROOT / f"tools/ros/{name}.txt").read_text().replace("_", "-")
            for line in (ROOT / f"tools/ros/{name}.in").read_text().splitlines():
                asked = line.split("#")[0].strip().replace("_", "-")
                if asked:
                    self.assertIn(f"{asked} ", pinned)


class SetUp(unittest.TestCase):
    def test_second_run_changes_nothing(self):
        stamps = lambda: {
            path: path.stat().st_mtime_ns for path in (ROOT / ".ros").glob("*/.complete")
        }
        before = stamps()
        done = shell("tools/ros/setup")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(len(done.stdout.splitlines()), 1, done.stdout)
        self.assertIn("ready", done.stdout)
        self.assertEqual(stamps(), before)

    def test_environment_in_strict_shells_and_twice(self):
        once = shell(f"set -euo pipefail; . tools/ros/env.sh; {SHOW}")
        twice = shell(f"set -euo pipefail; . tools/ros/env.sh; . tools/ros/env.sh; {SHOW}")
        self.assertEqual((once.returncode, once.stderr), (0, ""))
        self.assertEqual(once.stdout, twice.stdout)
        self.assertIn("openvla_tt_msgs", once.stdout)

    def test_run_without_command_is_an_error(self):
        done = shell("tools/ros/run")
        self.assertEqual(done.returncode, 2)
        self.assertEqual(len(done.stderr.splitlines()), 1)

    def test_run_returns_the_exit_status(self):
        self.assertEqual(shell("tools/ros/run bash -c 'exit 7'").returncode, 7)

    def test_unsupported_ros_is_one_line(self):
        done = shell("tools/ros/setup", AMENT_PREFIX_PATH="/nowhere", ROS_DISTRO="kilted")
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"^tools/ros/setup: ROS 2 'kilted' .* OPENVLA_ROS=private\n$")

    def test_private_prefix_can_be_forced(self):
        if "private" not in shell(". tools/ros/env.sh; echo $OPENVLA_ROS_MODE").stdout:
            self.skipTest("a ROS 2 is sourced")
        done = shell(
            "tools/ros/setup",
            AMENT_PREFIX_PATH="/nowhere",
            ROS_DISTRO="kilted",
            OPENVLA_ROS="private",
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn("private", done.stdout)

    def test_unusable_python_is_one_line(self):
        # A copy of the scripts without anything built: the check precedes every download.
        with tempfile.TemporaryDirectory() as folder:
            done = shell(
                f"mkdir {folder}/tools && cp -r tools/ros tools/lib {folder}/tools/ "
                f"&& cp -r msg {folder}/ && {folder}/tools/ros/setup",
                OPENVLA_PYTHON="/no/such/python",
                OPENVLA_ROS="private",
            )
        self.assertEqual(done.returncode, 1)
        self.assertRegex(
            done.stderr,
            r"^tools/ros/setup: no Python 3.10 to 3.13 .*\(tried /no/such/python\).*\n$",
        )


class Isolated(unittest.TestCase):
    def start(self):
        return subprocess.Popen(
            [
                sys.executable,
                ROOT / "tools/ros/isolated.py",
                "bash",
                "-c",
                "echo $ROS_DOMAIN_ID $ROS_AUTOMATIC_DISCOVERY_RANGE$ROS_LOCALHOST_ONLY; read",
            ],
            env=bare_environment(ROS_STATIC_PEERS="10.0.0.1"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def test_concurrent_runs_have_different_domains(self):
        running = [self.start() for _ in range(6)]
        try:
            lines = [process.stdout.readline().split() for process in running]
        finally:
            for process in running:
                process.communicate("\n")
        domains = {int(domain) for domain, _ in lines}
        self.assertEqual(len(domains), len(running))
        self.assertTrue(domains <= set(range(1, 102)), domains)
        self.assertEqual({scope for _, scope in lines} - {"LOCALHOST", "1"}, set())

    def test_missing_command_is_one_line(self):
        done = subprocess.run(
            [sys.executable, ROOT / "tools/ros/isolated.py", "/no/such/program"],
            capture_output=True,
            text=True,
        )
        self.assertEqual(done.returncode, 1)
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)


if __name__ == "__main__":
    unittest.main()
