#!/usr/bin/env python3
"""Puts several `openvla serve` behind one address with Ray Serve.

    serve.py --replicas 2 --cpus 4 -- --checkpoint DIR --unnorm-key bridge_orig

Everything behind `--` goes to each `openvla serve`. A replica is an actor of Ray that reserves
--cpus CPUs, owns one `openvla serve` on a free port of its machine's loopback interface with as
many --threads, and forwards `POST /act` and `GET /healthz` to it; Ray Serve chooses the replica. A
server that has ended is started again before the next request of its replica; a replica that is
lost is replaced by Ray Serve. A request that was under way then gets a status of 500 or more.

Without --address, Ray starts on this machine alone. The address of clients is 127.0.0.1 unless
--host names another one, which needs `--api-key-file FILE` behind `--`. One line of JSON on stdout
says when clients can connect. SIGTERM and SIGINT end everything, within 10 s on this machine. Linux
only. See docs/serving.md.
"""

import argparse
import contextlib
import ctypes
import ipaddress
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LOOPBACK = "127.0.0.1"
# Options that this program passes to `openvla serve` itself.
OWN = ("--listen", "--json", "--threads")
# Ray's raylet ends when the agents that it starts have not bound their ports after 15 s, which is
# fixed in its source. On a busy machine they exceed that.
START_ATTEMPTS = 4
# Seconds for an orderly end, before what is left is killed. On a cluster nothing is killed but the
# connection to it: what is not ended in time stays there.
END_LOCAL_S = 7
END_CLUSTER_S = 60
KILL_S = 2
PR_SET_CHILD_SUBREAPER = 36


def parse(argv):
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], usage="%(prog)s OPTIONS -- OPENVLA_SERVE_OPTIONS"
    )
    parser.add_argument("--replicas", type=int, default=2, help="default 2")
    parser.add_argument("--cpus", type=int, default=1, help="CPUs of a replica (default 1)")
    parser.add_argument("--host", default=LOOPBACK, help=f"address for clients ({LOOPBACK})")
    parser.add_argument("--port", type=int, default=8000, help="port for clients (8000)")
    parser.add_argument("--openvla", default="openvla", help="the program, if not on the PATH")
    parser.add_argument("--address", help="an existing cluster; default: Ray on this machine alone")
    split = argv.index("--") if "--" in argv else len(argv)
    options, command = parser.parse_args(argv[:split]), argv[split + 1 :]
    if not command:
        parser.error("no options for `openvla serve`; write them behind `--`")
    given = [argument.split("=")[0] for argument in command]
    for name in OWN:
        if name in given:
            parser.error(f"{name} is passed to each server by this program; remove it behind `--`")
    if min(options.replicas, options.cpus) < 1:
        parser.error("--replicas and --cpus are 1 or more")
    if not 1 <= options.port <= 65535:
        parser.error(f"--port {options.port} is not from 1 to 65535")
    if not is_loopback(options.host) and "--api-key-file" not in given:
        parser.error(f"--host {options.host} needs `--api-key-file FILE` behind `--`")
    if options.address is None and shutil.which(options.openvla) is None:
        parser.error(f"there is no program {options.openvla}; name it with --openvla")
    return options, command


def is_loopback(host):
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def descendants(ancestor):
    """The processes below a process: number to parent's number and command line."""
    parents, commands = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            status = (folder / "stat").read_text()
            commands[int(folder.name)] = (folder / "cmdline").read_bytes().split(b"\0")
            parents[int(folder.name)] = int(status.rsplit(")", 1)[1].split()[1])
    found = {ancestor}
    while more := {n for n, parent in parents.items() if parent in found and n not in found}:
        found |= more
    return {number: (parents[number], commands[number]) for number in found - {ancestor}}


def adopt_orphans():
    """Makes this process the parent of descendants whose parent ends, so that they can be found."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def kill_descendants():
    limit = time.monotonic() + KILL_S
    while (found := descendants(os.getpid())) and time.monotonic() < limit:
        for number in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0] != 0:
                pass
        time.sleep(0.02)


class Signals:
    """SIGTERM and SIGINT as a descriptor that becomes readable. Nothing is interrupted by them."""

    def __init__(self):
        self.read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)

    def wait(self, seconds):
        """Whether one has come within that time."""
        if select.select([self.read], [], [], seconds)[0]:
            os.read(self.read, 64)
            return True
        return False


class Attempt:
    """One start of Ray with the deployment, in processes of its own, without this program's
    terminal: Ctrl-C reaches this program alone."""

    def __init__(self, options, command, folder):
        self.local, self.ready = options.address is None, False
        self.error, self.again = None, False
        serve = [options.openvla, "serve", "--listen", f"{LOOPBACK}:0", "--json", *command]
        serve += ["--threads", str(options.cpus)]
        settings = {**vars(options), "command": serve, "folder": folder}
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("deployment.py"), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            start_new_session=True,
        )

    def run(self, signals):
        """Returns at a signal, or when the deployment has failed: `error` is the reason."""
        while True:
            lines = self.process.stdout
            if signals.read in select.select([signals.read, lines], [], [])[0]:
                signals.wait(0)
                return
            line = lines.readline()
            if not line:
                break
            message = json.loads(line)
            if "url" in message:
                self.ready = True
                print(json.dumps(message), flush=True)
            else:
                self.error, self.again = message["error"], message["again"]
        if self.error is None:
            self.log.seek(0)
            lines = self.log.read()[-4096:].decode(errors="replace").strip().splitlines()
            self.error = (lines or ["Ray's driver ended without a line"])[-1]

    def end(self, signals):
        """Ends Ray Serve and Ray; what is left after a time, or at a signal, is killed."""
        self.process.stdin.close()
        seconds = END_LOCAL_S if self.ready else 0
        limit = time.monotonic() + (seconds if self.local else END_CLUSTER_S)
        while self.process.poll() is None and time.monotonic() < limit:
            if signals.wait(0.05):
                break
        kill_descendants()
        self.process.wait()
        self.process.stdout.close()
        self.log.close()


def main(argv):
    options, command = parse(argv)
    signals = Signals()
    adopt_orphans()
    for left in reversed(range(START_ATTEMPTS)):
        with tempfile.TemporaryDirectory(prefix="rs", ignore_cleanup_errors=True) as folder:
            attempt = Attempt(options, command, folder)
            try:
                attempt.run(signals)
            finally:
                attempt.end(signals)
        if not (attempt.again and left):
            break
    if attempt.error is not None:
        print(f"ray_serve: {attempt.error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
