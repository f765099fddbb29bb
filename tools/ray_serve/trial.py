#!/usr/bin/env python3
"""Load on tools/ray_serve/serve.py while parts of it are killed: what became of every request.

    environment=$(tools/ray_serve/setup --print)
    "$environment/bin/python3" tools/ray_serve/trial.py --openvla target/release/openvla

Starts two replicas of the golden kit on this machine. Each of --clients threads sends `POST /act`,
one request after the other, for three times --seconds: undisturbed, after a replica's actor of Ray
was killed with SIGKILL, and after the `openvla serve` of a replica was. Prints how many requests of
each part got which status, with times. Exit status 1 when a request got no answer at all, an error
without a line, an error while nothing was killed, or another action than the others.
"""

import argparse
import base64
import collections
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KIT = ROOT / "tests/data/openvla_tiny"
PICTURE = KIT / "images/07_480x640_RGB.png"
PARTS = ("undisturbed", "actor killed", "server killed")


def request_body():
    picture = PICTURE.read_bytes()
    array = {"__numpy__": base64.b64encode(picture).decode(), "dtype": "|u1"}
    return json.dumps(
        {"image": {**array, "shape": [len(picture)]}, "instruction": "pick up the block"}
    )


def servers(port_owner):
    """The processes `openvla serve` below a process, by number, and the actors that own them."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text()
            names[int(folder.name)] = (folder / "cmdline").read_bytes().split(b"\0")
            parents[int(folder.name)] = int(status.rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
    found = [number for number, name in names.items() if name[1:2] == [b"serve"]]

    def below(number):
        while number in parents:
            if number == port_owner:
                return True
            number = parents[number]
        return False

    return [(number, parents[number]) for number in sorted(found) if below(number)]


class Load:
    """Requests of one thread each, with the part in which they began."""

    def __init__(self, port, clients):
        self.port, self.body, self.part = port, request_body(), 0
        self.results, self.ended, self.lock = [], threading.Event(), threading.Lock()
        self.threads = [threading.Thread(target=self.run) for _ in range(clients)]
        for thread in self.threads:
            thread.start()

    def run(self):
        while not self.ended.is_set():
            part, began = self.part, time.monotonic()
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
                connection.request("POST", "/act", self.body, {"content-type": "application/json"})
                answer = connection.getresponse()
                status, text = answer.status, answer.read().decode()
                connection.close()
            except OSError as error:
                status, text = 0, repr(error)
            seconds = time.monotonic() - began
            with self.lock:
                self.results.append((part, status, seconds, text))

    def end(self):
        self.ended.set()
        for thread in self.threads:
            thread.join()


def report(results):
    """Prints the table; returns whether everything is as it should be."""
    good, actions = True, {text for _, status, _, text in results if status == 200}
    for part, name in enumerate(PARTS):
        own = [result for result in results if result[0] == part]
        by_status = collections.Counter(status for _, status, _, _ in own)
        times = sorted(seconds for _, status, seconds, _ in own if status == 200)
        at = lambda share: times[int(share * (len(times) - 1))] * 1e3 if times else float("nan")
        print(
            f"{name}: {dict(by_status)}, of 200: p50 {at(0.5):.0f} ms, p99 {at(0.99):.0f} ms, "
            f"longest {at(1):.0f} ms"
        )
        for status, text in {(status, text) for _, status, _, text in own if status != 200}:
            print(f"    {status}: {' '.join(text.split())[:200]}")
            good &= status >= 500 and bool(text.strip()) and part > 0
    print(f"{len(actions)} different answers")
    return good and len(actions) == 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--openvla", required=True)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    command = [sys.executable, ROOT / "tools/ray_serve/serve.py", "--replicas", "2"]
    command += ["--port", str(options.port), "--openvla", options.openvla, "--"]
    command += ["--checkpoint", KIT / "ckpt", "--unnorm-key", "bridge_orig", "--decode", "actions"]
    began = time.monotonic()
    deployment = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    try:
        while not (line := deployment.stdout.readline()).startswith("{"):
            if not line:
                return 1
        print(f"ready after {time.monotonic() - began:.0f} s")
        load = Load(options.port, options.clients)
        time.sleep(options.seconds)
        for part, whole in ((1, True), (2, False)):
            server, actor = servers(deployment.pid)[0]
            load.part = part
            os.kill(actor if whole else server, signal.SIGKILL)
            time.sleep(options.seconds)
            print(f"{len(servers(deployment.pid))} servers run again")
        load.end()
        return 0 if report(load.results) else 1
    finally:
        deployment.terminate()
        deployment.wait()


if __name__ == "__main__":
    sys.exit(main())
