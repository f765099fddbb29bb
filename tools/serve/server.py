"""`openvla serve` as a process, and `openvla predict` to compare it with."""

import json
import os
import pathlib
import select
import signal
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
OPENVLA = os.environ["OPENVLA"]
SCRIPTED = ROOT / "models" / "scripted" / "end_effector"
LOAD_S = 120


class Server:
    """A server on a free port of loopback; ends with the `with` block."""

    def __init__(self, *arguments, environment=None, listen="127.0.0.1:0"):
        command = [OPENVLA, "serve", "--listen", listen, "--json", *map(str, arguments)]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        ready, _, _ = select.select([self.process.stdout], [], [], LOAD_S)
        line = self.process.stdout.readline() if ready else ""
        if not line:
            self.process.kill()
            raise RuntimeError(f"no server: {self.process.communicate()[1]}")
        self.about = json.loads(line)
        self.port = self.about["port"]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def terminate(self, number=signal.SIGTERM, timeout=60):
        """Exit status and stderr after a signal."""
        self.process.send_signal(number)
        _, error = self.process.communicate(timeout=timeout)
        return self.process.returncode, error

    def resident(self):
        """Resident memory, bytes."""
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in text.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024

    def peak(self):
        """Largest resident memory so far, bytes."""
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in text.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024

    def descriptors(self):
        """Open file descriptors."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


def predict(*arguments):
    """The JSON of `openvla predict`."""
    command = [OPENVLA, "predict", "--json", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout)


def wait_for(condition, seconds=30):
    """Waits for what the server does a moment later."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"it did not happen within {seconds} s")
        time.sleep(0.01)
