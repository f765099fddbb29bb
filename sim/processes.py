"""Child processes of the demo, the evaluation, the tests and the training. Needs no ROS."""

import ctypes
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
PR_SET_PDEATHSIG = 1


class RunnerError(RuntimeError):
    """A process or an episode failed; the text has the reason and the path of the log."""


def die_with_parent():
    """Sends the calling process SIGTERM when its parent ends in any way (Linux)."""
    try:
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    except (OSError, AttributeError):
        pass


def node_executable():
    """Path of the node: $VLA_NODE, or the release build, or the debug build."""
    found = (
        [pathlib.Path(os.environ["VLA_NODE"])]
        if os.environ.get("VLA_NODE")
        else [ROOT / f"target/{kind}/vla_node" for kind in ("release", "debug")]
    )
    for path in found:
        if path.is_file():
            return str(path)
    raise RunnerError(f"no node at {' or '.join(map(str, found))}; run `make node`")


def openvla_executable():
    """Path of the program `openvla`: beside the node."""
    path = pathlib.Path(node_executable()).with_name("openvla")
    if path.is_file():
        return str(path)
    raise RunnerError(f"no program openvla at {path}; run `make build`")


class Program:
    """A program, its output in a log file. With `parameters` it is a ROS program.

    It runs in a session of its own, so that Ctrl-C reaches only the caller, which then stops it in
    order.
    """

    def __init__(self, name, command, parameters=None):
        arguments = [*command] if parameters is None else [*command, "--ros-args"]
        for key, value in (parameters or {}).items():
            arguments += ["-p", f"{key}:={json.dumps(value)}"]
        self.name = name
        self.log = tempfile.NamedTemporaryFile(prefix=f"{name}-", suffix=".log", delete=False)
        self.process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )

    def check(self):
        """Raises RunnerError when the process has ended."""
        if self.process.poll() is not None:
            raise RunnerError(
                f"{self.name} ended with status {self.process.returncode}; its log"
                f" {self.log.name} ends: {self.tail(3)}"
            )

    def tail(self, lines):
        """The last lines of the log, joined into one."""
        self.log.flush()
        return " | ".join(
            pathlib.Path(self.log.name).read_text(errors="replace").splitlines()[-lines:]
        )

    def stop(self, wait=lambda: time.sleep(0.02), seconds=8.0):
        """Sends SIGINT, calls `wait` until the process has ended, and kills it after `seconds`.

        Deletes the log of a process that ended with status 0. Returns the status.
        """
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            end = time.monotonic() + seconds
            while self.process.poll() is None and time.monotonic() < end:
                wait()
            if self.process.poll() is None:
                self.process.kill()
        status = self.process.wait()
        self.log.close()
        if status == 0 and os.path.exists(self.log.name):
            os.unlink(self.log.name)
        return status
