"""tools/eval/ray_eval.py on a local Ray of two workers. `tools/eval/test_ray` runs it; OPENVLA is
the program `openvla`."""

import csv
import json
import os
import stat
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RAY_EVAL = ROOT / "tools/eval/ray_eval.py"
OPENVLA = os.environ["OPENVLA"]
BAGS = [str(ROOT / "tests/data/bags" / name) for name in ("mcap_plain", "sqlite_plain")]
EVALUATION = [
    *("--checkpoint", str(ROOT / "tests/data/openvla_tiny/ckpt"), "--unnorm-key", "bridge_orig"),
    *("--decode", "actions", "--bag", *BAGS, "--image-topic", "/camera/image"),
    *("--instruction-topic", "/instruction", "--action-topic", "/vla/action"),
]


def report(folder):
    """report.json without what is measured or differs between a shard's settings."""
    value = json.loads((folder / "report.json").read_text())
    del value["latency_ms"]
    return value


def table(folder):
    """actions.csv without the measured times."""
    with open(folder / "actions.csv", newline="") as file:
        return [
            {name: cell for name, cell in row.items() if not name.startswith("ms_")}
            for row in csv.DictReader(file)
        ]


def processes_of(folder):
    """Command lines of processes that name a folder: Ray's name their session's."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in command:
            found.append(command)
    return found


class RayEval(unittest.TestCase):
    def setUp(self):
        # Short: Ray puts sockets into it, whose paths are limited to 107 bytes.
        temporary = tempfile.TemporaryDirectory(prefix="re", dir="/tmp")
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)

    def ray_eval(self, *options, openvla=OPENVLA):
        command = [sys.executable, RAY_EVAL, "--openvla", openvla]
        command += ["--parts", self.folder / "parts", "--out", self.folder / "merged", *options]
        command = list(map(str, command)) + ["--", *EVALUATION]
        environment = {**os.environ, "TMPDIR": str(self.folder)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
        self.assertEqual(processes_of(self.folder), [], "processes are left")
        return done

    def program(self, script):
        path = self.folder / "program"
        path.write_text("#!/bin/bash\n" + script)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    def test_shards_equal_a_single_run(self):
        # The first attempt at shard 1 fails; all commands are recorded.
        log, flag = self.folder / "commands", self.folder / "failed"
        program = self.program(
            f'echo "$*" >>{log}\n'
            f'if [[ "$*" == *"--shard 1/3"* && ! -e {flag} ]]; then\n'
            f"    touch {flag}\n    echo 'no luck' >&2\n    exit 1\nfi\n"
            f'exec {OPENVLA} "$@"\n'
        )
        done = self.ray_eval("--shards", "3", "--workers", "2", "--cpus", "1", openvla=program)
        self.assertEqual(done.returncode, 0, done.stderr)
        commands = log.read_text().splitlines()
        runs = [line for line in commands if line.startswith("eval run")]
        self.assertEqual(len(runs), 4, commands)
        self.assertTrue(all("--threads 1" in line for line in runs), runs)
        self.assertTrue(flag.exists())

        single = self.folder / "single"
        command = [OPENVLA, "eval", "run", *EVALUATION, "--quiet", "--threads", "1"]
        subprocess.run([*command, "--out", single], check=True, stdout=subprocess.DEVNULL)
        self.assertEqual(report(self.folder / "merged"), report(single))
        self.assertEqual(table(self.folder / "merged"), table(single))
        self.assertEqual(len(table(single)), 12)

    def test_failed_shard_is_one_line(self):
        program = self.program("echo 'first line' >&2\necho 'no such device' >&2\nexit 1\n")
        done = self.ray_eval("--shards", "2", "--workers", "2", "--retries", "1", openvla=program)
        self.assertEqual(done.returncode, 1)
        lines = done.stderr.strip().splitlines()
        self.assertEqual(len(lines), 1, done.stderr)
        self.assertIn("2 of 2 shards failed after 1 retries, the first is 0/2", lines[0])
        self.assertIn("no such device", lines[0])
        self.assertFalse((self.folder / "merged").exists())

    def test_more_cpus_than_the_machine_has(self):
        done = self.ray_eval("--shards", "2", "--cpus", "100000")
        self.assertEqual(done.returncode, 1)
        self.assertIn("--cpus is 100000", done.stderr)
        self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)

    def test_options_of_the_shards_are_refused(self):
        command = [sys.executable, RAY_EVAL, "--shards", "2", "--parts", "p", "--out", "o"]
        done = subprocess.run([*command, "--", "--shard", "0/2"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 2)
        self.assertIn("--shard is passed to each shard", done.stderr)


if __name__ == "__main__":
    unittest.main()
