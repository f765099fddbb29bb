"""Runs programs as a user starts them and finds the processes that they leave behind.

An environment variable, which child processes inherit, marks the processes of a test.
"""

import os
import pathlib
import subprocess
import sys
import time
import unittest

from processes import RunnerError, node_executable

MARK = "OPENVLA_TT_SIM_TEST"


def has_node():
    """Whether a node was built. A wrong VLA_NODE is an error: it must not skip tests silently."""
    try:
        return bool(node_executable())
    except RunnerError:
        if os.environ.get("VLA_NODE"):
            raise
        return False


def alive(mark):
    """Command lines of the processes that have inherited the mark."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:120])
        except OSError:
            continue
    return found


class Marked(unittest.TestCase):
    def start(self, *command):
        self.mark = f"{os.getpid()}-{self.id()}"
        environment = os.environ | {MARK: self.mark}
        return subprocess.Popen(
            [sys.executable, *map(str, command)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, process, seconds=120):
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        # A process may still be listed for a moment after its parent has reaped it.
        end = time.monotonic() + 5
        while alive(self.mark) and time.monotonic() < end:
            time.sleep(0.05)
        self.assertEqual(alive(self.mark), [])
        return process.returncode, out, err
