"""tools/eval/ray_eval.py on a local Ray of two workers. `tools/eval/test_ray` runs it; OPENVLA is
the program `openvla`."""

import csv
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RAY_EVAL = ROOT / "tools/eval/ray_eval.py"
OPENVLA = os.environ["OPENVLA"]
NAMES = ("mcap_plain", "sqlite_plain", "mcap_chunk_zstd", "split_sqlite", "lz4.mcap", "zstd.mcap")
BAGS = [str(ROOT / "tests/data/bags" / name) for name in NAMES]
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


def writer_of(path):
    """The process that has a file open."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(link) == str(path):
                return int(link.parts[2])
        except OSError:
            continue
    return None


def parent(process):
    """Its parent."""
    status = Path(f"/proc/{process}/stat").read_text()
    return int(status.rsplit(")", 1)[1].split()[1])


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

    def kill_on_the_way(self, killed):
        """Kills the evaluation of a worker in the middle of a shard, then a whole worker of Ray in
        the middle of another one. `killed` gets the journals and what was in them."""
        while len(killed) < 2:
            time.sleep(0.002)
            for journal in (self.folder / "parts").glob("*/journal.jsonl"):
                unfinished = not (journal.parent / "report.json").exists()
                before = [path for path, _ in killed]
                if journal in before or not unfinished or journal.read_bytes().count(b"\n") < 3:
                    continue
                evaluation = writer_of(journal)
                if evaluation is None:
                    continue
                # Stopped, it finishes nothing while it is looked at.
                os.kill(evaluation, signal.SIGSTOP)
                worker = parent(evaluation)
                if not (journal.parent / "report.json").exists():
                    killed.append((journal, journal.read_text()))
                    os.kill(worker if len(killed) == 2 else evaluation, signal.SIGKILL)
                os.kill(evaluation, signal.SIGCONT)
                break

    def test_lost_workers_are_replaced_and_the_result_is_that_of_a_single_run(self):
        log, killed = self.folder / "commands", []
        program = self.program(f'echo "$*" >>{log}\nexec {OPENVLA} "$@"\n')
        killer = threading.Thread(target=self.kill_on_the_way, args=(killed,), daemon=True)
        killer.start()
        arguments = ("--shards", "3", "--workers", "2", "--cpus", "1")
        done = self.ray_eval(*arguments, openvla=program)
        self.assertEqual(done.returncode, 0, done.stderr + done.stdout)
        self.assertEqual(len(killed), 2)
        for part in ("was ended by SIGKILL", "a worker was lost"):
            self.assertIn(part, done.stdout)
        for journal, text in killed:
            self.assertTrue(journal.read_text().startswith(text), "a frame was evaluated twice")
        runs = [line for line in log.read_text().splitlines() if line.startswith("eval run")]
        # One for each worker, and one for each that was killed: not one for each shard.
        self.assertLessEqual(len(runs), 4, runs)
        self.assertTrue(all("--threads 1" in line for line in runs), runs)

        single = self.folder / "single"
        command = [OPENVLA, "eval", "run", *EVALUATION, "--quiet", "--threads", "1"]
        subprocess.run([*command, "--out", single], check=True, stdout=subprocess.DEVNULL)
        self.assertEqual(report(self.folder / "merged"), report(single))
        self.assertEqual(table(self.folder / "merged"), table(single))
        self.assertEqual(len(table(single)), 36)

        # Again: complete shards are left as they are.
        journals = list((self.folder / "parts").glob("*/journal.jsonl"))
        written = [journal.stat().st_mtime_ns for journal in journals]
        self.assertEqual(self.ray_eval(*arguments).returncode, 0)
        self.assertEqual([journal.stat().st_mtime_ns for journal in journals], written)

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
        for option in (["--shard", "0/2"], ["--threads=1"]):
            done = subprocess.run([*command, "--", *option], capture_output=True, text=True)
            self.assertEqual(done.returncode, 2)
            self.assertIn("is passed to each shard", done.stderr)


if __name__ == "__main__":
    unittest.main()
