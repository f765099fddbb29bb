#!/usr/bin/env python3
"""Load on tools/ray_serve/serve.py while parts of it are killed: what became of every request.

    environment=$(tools/ray_serve/setup --print)
    "$environment/bin/python3" tools/ray_serve/trial.py --openvla target/release/openvla

Starts two replicas of the golden kit on this machine. Each of --clients threads sends `POST /act`,
one request after the other, in three parts: undisturbed; after a replica's actor of Ray got
SIGKILL; after the `openvla serve` of a replica got it. The first part lasts --seconds, the others
last as long from when two servers answer again. At the end serve.py gets the signal --end.

A request counts as in flight at a kill if it ended after the kill and began before it, or at most
DETECTION_S after it, the time until the loss is noticed. The exit status is 0 exactly when

- every request in flight at a kill got 200, or a status of 500 or more with a line, and every other
  one got 200, and all answers of 200 are the same;
- after each kill two servers answered again, by the metrics of each;
- serve.py ended within END_S with status 0, printed nothing on stderr and left no process.
"""

import argparse
import base64
import collections
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from serve import adopt_orphans, descendants

ROOT = Path(__file__).resolve().parents[2]
KIT = ROOT / "tests/data/openvla_tiny"
PICTURE = KIT / "images/07_480x640_RGB.png"
DETECTION_S = 2
# For a replica to be there again, on a busy machine.
RETURN_S = 300
END_S = 10
PARTS = ("undisturbed", "actor killed", "server killed")


def request_body():
    picture = PICTURE.read_bytes()
    array = {"__numpy__": base64.b64encode(picture).decode(), "dtype": "|u1"}
    return json.dumps(
        {"image": {**array, "shape": [len(picture)]}, "instruction": "pick up the block"}
    )


def servers(deployment):
    """The `openvla serve` below a process, in the order of their start: number, actor's number."""
    found = descendants(deployment).items()
    return sorted((number, parent) for number, (parent, name) in found if name[1:2] == [b"serve"])


def answered(server):
    """How many requests an `openvla serve` has answered with an action, by its own metrics; 0 when
    it does not listen yet."""
    try:
        sockets = {os.readlink(link) for link in Path(f"/proc/{server}/fd").iterdir()}
    except OSError:  # it has ended, or a descriptor was closed meanwhile
        return 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
            port = int(fields[1].split(":")[1], 16)
            break
    else:
        return 0
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    found = re.search(r'^openvla_requests_total\{.*outcome="ok".*\} (\d+)', text, re.MULTILINE)
    return int(found[1]) if found else 0


class Request:
    """A request that has ended: status 0 is none."""

    def __init__(self, began, status, text):
        self.began, self.ended, self.status, self.text = began, time.monotonic(), status, text

    def good(self):
        return self.status == 200

    def good_in_flight(self):
        return self.good() or (self.status >= 500 and bool(self.text.strip()))


class Load:
    """Clients, each one request after the other."""

    def __init__(self, port, clients):
        self.port, self.body = port, request_body()
        self.requests, self.stop, self.lock = [], threading.Event(), threading.Lock()
        self.threads = [threading.Thread(target=self.run) for _ in range(clients)]
        for thread in self.threads:
            thread.start()

    def run(self):
        while not self.stop.is_set():
            began = time.monotonic()
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
                connection.request("POST", "/act", self.body, {"content-type": "application/json"})
                answer = connection.getresponse()
                status, text = answer.status, answer.read().decode()
                connection.close()
            except (OSError, http.client.HTTPException) as error:
                status, text = 0, repr(error)
            with self.lock:
                self.requests.append(Request(began, status, text))
            if status != 200:
                time.sleep(0.1)  # as a robot would; errors come faster than answers

    def end(self):
        self.stop.set()
        for thread in self.threads:
            thread.join()


def summary(requests):
    """Statuses, times of the answers, and each kind of other answer on a line."""
    statuses = dict(sorted(collections.Counter(request.status for request in requests).items()))
    text = f"{len(requests)} requests, statuses {statuses}"
    if times := sorted(request.ended - request.began for request in requests if request.good()):
        p50, p99 = (times[int(share * (len(times) - 1))] * 1e3 for share in (0.5, 0.99))
        text += f", of 200: p50 {p50:.0f} ms, p99 {p99:.0f} ms, longest {times[-1] * 1e3:.0f} ms"
    for status, line in {(r.status, r.text) for r in requests if not r.good()}:
        text += f"\n    {status}: {' '.join(line.split())[:200]}"
    return text


def report(requests, kills):
    """Prints what became of the requests; returns whether it is as it should be."""
    good, rest = True, list(requests)
    for part, killed in zip(PARTS[1:], kills):
        flight = [r for r in rest if r.began < killed + DETECTION_S and r.ended > killed]
        rest = [r for r in rest if r not in flight]
        late = sum(not r.good() and r.began > killed for r in flight)
        print(f"{part}, in flight: {summary(flight)}")
        print(f"    errors of requests that began after the kill: {late}")
        good &= all(r.good_in_flight() for r in flight)
    for number, part in enumerate(PARTS):
        begin, end = [0, *kills][number], [*kills, float("inf")][number]
        own = [r for r in rest if begin <= r.began < end]
        print(f"{part}, not in flight: {summary(own)}")
        good &= bool(own) and all(r.good() for r in own)
    actions = {r.text for r in requests if r.good()}
    print(f"{len(actions)} different actions")
    return good and len(actions) == 1


def kill(deployment, whole, seconds):
    """Kills an actor or a server; returns when, and whether two servers answer again."""
    server, actor = servers(deployment)[0]
    os.kill(actor if whole else server, signal.SIGKILL)
    killed, back = time.monotonic(), None
    while time.monotonic() < (back + seconds if back else killed + RETURN_S):
        time.sleep(0.2)
        if back is None and server not in (now := dict(servers(deployment))):
            counts = [answered(number) for number in now]
            if len(counts) == 2 and min(counts) > 0:
                back = time.monotonic()
                print(f"two servers answer {back - killed:.1f} s after the kill", flush=True)
    return killed, back is not None


def end(deployment, number, errors):
    """Sends a signal; returns whether everything ends as it should."""
    before, began = len(descendants(deployment.pid)), time.monotonic()
    deployment.send_signal(number)
    try:
        status = deployment.wait(END_S)
    except subprocess.TimeoutExpired:
        status = "none"
    # Orphans are this process's children: see adopt_orphans.
    left = descendants(os.getpid())
    errors.seek(0)
    lines = errors.read().decode(errors="replace")
    print(
        f"{number.name}: status {status} after {time.monotonic() - began:.1f} s, {len(left)} of "
        f"{before} processes left, {len(lines.splitlines())} lines on stderr"
    )
    for number, (_, command) in left.items():
        print(f"    {number}: {b' '.join(command).decode(errors='replace')[:200]}")
    print(lines, end="")
    return status == 0 and not left and not lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--openvla", required=True)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--end", choices=("SIGTERM", "SIGINT"), default="SIGTERM")
    options = parser.parse_args()
    command = [sys.executable, ROOT / "tools/ray_serve/serve.py", "--replicas", "2"]
    command += ["--port", str(options.port), "--openvla", options.openvla, "--"]
    command += ["--checkpoint", KIT / "ckpt", "--unnorm-key", "bridge_orig", "--decode", "actions"]
    adopt_orphans()
    began, errors, load = time.monotonic(), tempfile.TemporaryFile(), None
    deployment = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=errors)
    try:
        if not deployment.stdout.readline():
            errors.seek(0)
            sys.stderr.write(errors.read().decode(errors="replace"))
            return 1
        print(f"ready after {time.monotonic() - began:.0f} s, load {os.getloadavg()[0]:.1f}")
        load = Load(options.port, options.clients)
        time.sleep(options.seconds)
        kills, good = [], True
        for whole in (True, False):
            killed, back = kill(deployment.pid, whole, options.seconds)
            kills.append(killed)
            good &= back
        load.end()
        print(f"load {os.getloadavg()[0]:.1f}")
        good &= report(load.requests, kills)
        good &= end(deployment, signal.Signals[options.end], errors)
        print("passed" if good else "FAILED")
        return 0 if good else 1
    finally:
        if load is not None:
            load.end()
        deployment.terminate()
        deployment.wait()


if __name__ == "__main__":
    sys.exit(main())
