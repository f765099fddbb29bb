"""The node with a policy on openpi's own server, and faults on the way there.

The server is the one from PyPI, in its own environment; a proxy injects the faults. Each is a
bounded stop with a named cause, and motion goes on by itself. Ends with a table. The bound: the
longest time to the next request, the client's deadline, one control period, and the stop.
"""

import os
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import time

import peer
from diagnostic_msgs.msg import DiagnosticArray
from peer import REASONS, ROOT, STATES, STOP_S, NodeProcess, Peer, kit_cases
from proxy import Proxy
from std_msgs.msg import Float64

INSTRUCTION = "pick up the fork"
TIMEOUT_S, CONNECT_S = 1.0, 2.0
HZ, EXECUTE = 5.0, 2
NOTICE_S, SLACK_S = 0.02, 0.35
# An end of the connection is noticed when the next image wakes the worker.
IMAGE_S = 0.1
ENDED_S = IMAGE_S + NOTICE_S + STOP_S
ANSWERED_S = EXECUTE / HZ + ENDED_S
LATE_S = ANSWERED_S + TIMEOUT_S
ROWS = []

POLICY = f"""
name: a policy server
unnorm_keys: [test]
cameras: [{{name: base, topic: image}}]
state: [{{from: gripper, topic: opening}}, {{from: constant, values: [1.0]}}]
action:
  frame: base
  rotation: rotation_vector
  composition: left
  translation_scale_m: 1.0
  rotation_scale_rad: 1.0
gripper: {{polarity: one_is_open, threshold: 0.5}}
policy_hz: {HZ}
horizon: 4
execute: {EXECUTE}
image: {{steps: [{{step: bilinear_pad, size: 224}}]}}
remote:
  images: {{base: observation/image}}
  state: [{{key: observation/state, values: 2}}]
  answers: physical
  bounds: [[-0.1, 0.1], [-0.1, 0.1], [-0.1, 0.1], [-0.5, 0.5], [-0.5, 0.5], [-0.5, 0.5], [0, 1]]
"""


def free_ports(count):
    """Ports that are free now, each another one."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class Server:
    """openpi's server as a process of its own."""

    def __init__(self, logs, folder, name, port):
        setup = [str(ROOT / "tools/remote/setup"), "--print"]
        folder_of_python = subprocess.run(setup, check=True, stdout=subprocess.PIPE, text=True)
        self.python = pathlib.Path(folder_of_python.stdout.strip()) / "bin/python3"
        self.port = port
        logs.append(f"{folder}/{name}.log")
        self.log = logs[-1]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                [self.python, ROOT / "tests/graph/policy_server.py", str(self.port)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
            )

    def listens(self):
        """Waits until it accepts connections."""
        end = time.monotonic() + 60.0
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except ConnectionRefusedError:
                assert self.process.poll() is None, "the server ended; see its log"
                assert time.monotonic() < end, "the server does not listen"
                time.sleep(0.05)

    def next_answer(self, what):
        self.process.stdin.write(f"{what}\n".encode())
        self.process.stdin.flush()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()


def fault(graph, name, reason, words, promised, begin, undo=lambda: None):
    """Injects a fault into a motion; measures, names and recovers."""
    graph.spin(0.5)
    graph.until("motion", lambda: graph.state == "RUNNING" and graph.moving(), 60.0)
    first, began, at = len(graph.statuses), time.monotonic(), time.time()
    begin()
    stop = graph.time_to_stop(began)
    # By the stamp of the command: the peer's own delays are none of the node's.
    took = max(0.0, graph.zero.header.stamp.sec + graph.zero.header.stamp.nanosec * 1e-9 - at)
    named = lambda: next(
        (
            m
            for _, m in graph.statuses[first:]
            if reason in graph.reasons(m) and STATES[m.state] in ("HOLDING", "RUNNING")
        ),
        None,
    )
    status = graph.until(f"{name}: {reason}", named)
    text = status.cause_details[graph.reasons(status).index(reason)]
    assert re.match(rf"{reason}: (openpi|act)://127\.0\.0\.1:\d+(/act)?: ", text), text
    assert re.search(words, text), text
    undo()
    undone = time.monotonic()
    graph.until(
        f"{name}: motion by itself", lambda: graph.state == "RUNNING" and graph.moving(), 60.0
    )
    back = time.monotonic() - undone
    ROWS.append((name, took, promised, reason, back))
    told = f"{took:6.3f} s (promised {promised:.3f} s), seen after {stop:.3f} s"
    print(f"{name:20} {told}  {text}", flush=True)
    assert took <= promised + SLACK_S, f"{name}: {took:.3f} s, promised {promised:.3f} s"


def faults(graph, server, spare, proxy):
    late, gone = r"not answered within 1\.000 s \(remote_timeout_s\)", r"closed|lost|listens"
    answer = lambda what: lambda: spare.next_answer(what)

    def replace():
        graph.spin(0.5)
        proxy.target = spare.port

    def once(what):
        def begin():
            proxy.once = what

        return begin

    fault(graph, "server killed", "REMOTE_GONE", gone, ENDED_S, server.kill, replace)
    fault(graph, "network gone", "REMOTE_GONE", gone, ENDED_S, proxy.kill, proxy.listen)
    fault(graph, "hung", "REMOTE_LATE", r"not answered", LATE_S, proxy.hang, proxy.go_on)
    fault(graph, "stall of 2 s", "REMOTE_LATE", late, LATE_S, lambda: proxy.stall(2.0))
    fault(graph, "answer too late", "REMOTE_LATE", late, LATE_S, answer(f"slow {TIMEOUT_S + 0.6}"))
    fault(graph, "server's exception", "REMOTE_REFUSED", "no such obs", ANSWERED_S, answer("error"))
    malformed = lambda name, words, what: fault(
        graph, name, "REMOTE_MALFORMED", words, ANSWERED_S, what
    )
    malformed("wrong shape", "4 steps of 6 numbers; .* 4 .horizon. of 7", answer("shape"))
    malformed("NaN", r"number 2 \(dz\) of step 1 of its answer is NaN", answer("nan"))
    malformed("out of bounds", r"number 0 \(dx\) .* outside -0.1..0.1", answer("far"))
    malformed("answer twice", "no request has asked for|byte for byte", once("duplicate"))
    malformed("answers reordered", "byte for byte|no request has asked for", once("outdated"))


def losses(graph, proxy, seconds):
    """30 % of the answers are lost: every stop is the server's, and motion goes on after it."""
    # On a loaded machine control's own deadline may pass before the client's is noticed.
    named, allowed = {"REMOTE_LATE", "REMOTE_GONE"}, {"INFERENCE_TIMEOUT"}
    first = len(graph.statuses)
    proxy.loss = 0.3
    graph.spin(seconds)
    proxy.loss = 0.0
    graph.until("motion after losses", lambda: graph.state == "RUNNING" and graph.moving(), 30.0)
    seen = [m for _, m in graph.statuses[first:]]
    stops = [m for m in seen if STATES[m.state] == "HOLDING"]
    causes = {REASONS[code] for m in stops for code in m.causes} - {"RECOVERING"}
    assert stops and causes & named and causes <= named | allowed, causes
    assert not any(m.latched for m in seen)
    print(f"30 % of the answers lost for {seconds:.0f} s: causes {', '.join(sorted(causes))}")


def scenario(executable, logs):
    folder = tempfile.mkdtemp()
    policy = pathlib.Path(folder) / "policy.yaml"
    policy.write_text(POLICY)
    names = ("server", "spare")
    ports = free_ports(len(names))
    server, spare = (Server(logs, folder, *each) for each in zip(names, ports))
    server.listens()
    spare.listens()
    proxy = Proxy(server.port)
    logs.append(f"{folder}/node.log")
    address = f"openpi://127.0.0.1:{proxy.port}"
    node = NodeProcess(
        executable,
        logs[-1],
        remote=address,
        remote_timeout_s=TIMEOUT_S,
        remote_connect_timeout_s=CONNECT_S,
        policy_file=str(policy),
        autostart=True,
        dry_run=False,
        # One fault after the other: that three within 10 s latch is not the point here, nor is that
        # a long hold withdraws the enabling.
        faults_to_latch=8,
        fault_window_s=0.5,
        rearm_window_s=60.0,
        # Only the server is to fail: a loaded machine delays this peer's images.
        observation_timeout_s=3.0,
        state_timeout_s=3.0,
    )
    graph = Peer()
    try:
        opening = graph.node.create_publisher(Float64, "opening", 10)
        graph.node.create_timer(0.05, lambda: opening.publish(Float64(data=0.5)))
        diagnostics = []
        graph.node.create_subscription(
            DiagnosticArray, "/diagnostics", lambda m: diagnostics.append(m), 10
        )
        graph.run(kit_cases()[0], INSTRUCTION)
        action = graph.actions[-1]
        assert list(action.stage_names) == ["image", "preprocess", "network", "server"], action
        assert action.device == address, action.device
        assert f"policy server {address}; the server's metadata: robot: test arm" in node.text()
        faults(graph, server, spare, proxy)
        losses(graph, proxy, 8.0)
        graph.check_limits()
        stages = {
            value.key: float(value.value)
            for status in diagnostics[-1].status
            for value in status.values
            if value.key.startswith(("network", "server"))
        }
        assert set(stages) == {
            f"{part} {share} [ms]" for part in ("network", "server") for share in ("p50", "p99")
        }
        # The server's time rounds to zero; equal shares of it are no error.
        assert 0.0 <= stages["server p50 [ms]"] <= stages["server p99 [ms]"], stages
        assert 0.0 < stages["network p50 [ms]"] <= stages["network p99 [ms]"], stages
        lifecycle(graph, proxy, address)
        assert node.stop(signal.SIGINT) == 0
    finally:
        graph.close()
        node.process.kill()
        server.kill()
        spare.kill()
    print(f"\n{'fault':20} {'time_to_stop':>12} {'promised':>9} {'moving again':>13}  cause")
    for name, took, promised, reason, back in ROWS:
        print(f"{name:20} {took:10.3f} s {promised:7.3f} s {back:11.3f} s  {reason}")


def lifecycle(graph, proxy, address):
    """Cleanup closes the connection; configuring without a server fails in time, by name."""
    assert proxy.connections
    assert graph.change("deactivate") and graph.change("cleanup")
    graph.until("the connection's end", lambda: not proxy.connections)
    proxy.kill()
    began = time.monotonic()
    assert not graph.change("configure")
    assert time.monotonic() - began < CONNECT_S + 5.0
    graph.until("the reason", lambda: graph.reason == "CONFIGURATION_INVALID")
    assert f"{address}: no server listens at 127.0.0.1:" in graph.status.detail, graph.shown()
    proxy.listen()
    assert graph.change("configure")


if __name__ == "__main__":
    peer.main(scenario)
