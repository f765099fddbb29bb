"""Programs as a user starts them: with a mark that their children inherit, so that nothing can be left behind unseen."""

import os
import pathlib
import subprocess
import sys
import time
import unittest

from session import SessionError, node_executable

MARK = "OPENVLA_TT_SIM_TEST"


def has_node():
    """Whether a node was built. One that is named and not there is an error: a typing mistake must not skip half of the tests."""
    try:
        return bool(node_executable())
    except SessionError:
        if os.environ.get("VLA_NODE"):
            raise
        return False


def alive(mark):
    """Processes that have inherited the mark."""
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
        # A child may take a moment to vanish after its parent has reaped it.
        end = time.monotonic() + 5
        while alive(self.mark) and time.monotonic() < end:
            time.sleep(0.05)
        self.assertEqual(alive(self.mark), [])
        return process.returncode, out, err
