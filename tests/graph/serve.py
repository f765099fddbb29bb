"""The node with its policy on `openvla serve`, a process of its own, by both protocols.

Commands are those of the policy in the node: actions equal `openvla predict` to the last bit, and
the twist is theirs. A server that ends, in order or not, is a bounded stop with a named cause; when
one listens there again, motion goes on by itself. Network and server time are in ~/action and in
flight recordings.
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

import numpy
import peer
from peer import KIT, POLICY_FILE, ROOT, NodeProcess, Peer, expected_twist, kit_cases, pixels
from remote import ENDED_S, fault

sys.path.insert(0, str(ROOT / "sim"))

HZ = 1.0  # an action is held for a second, so that the command reaches it on a loaded machine
TIMEOUT_S = 2.0
CASES = (0, 3)
# Random weights: a gripper's number may be anywhere.
REMOTE = """
remote:
  images: {image: image}
  answers: physical
  bounds: [[-1, 1], [-1, 1], [-1, 1], [-1, 1], [-1, 1], [-1, 1], [-2, 2]]
"""


class Server:
    """`openvla serve` with the golden kit, always on the same port."""

    def __init__(self, logs):
        from policy_server import PolicyServer

        self.make, self.logs, self.port, self.ended = PolicyServer, logs, 0, None
        self.start()
        end = time.monotonic() + 60.0
        while (port := self.program.port()) is None:
            self.program.check()
            assert time.monotonic() < end, "the server does not listen"
            time.sleep(0.02)
        self.port = port

    def start(self):
        if self.ended is not None:
            status = self.program.process.wait(15.0)
            assert status == (0 if self.ended == signal.SIGTERM else -self.ended), status
        options = ("--policy-file", POLICY_FILE, "--unnorm-key", "bridge_orig")
        self.program = self.make(KIT / "ckpt", *options, port=self.port)
        self.logs.append(self.program.log.name)

    def end(self, how):
        """Ends the process by a signal. Not awaited here: the peer must go on publishing images,
        since an image is what makes the node see the connection's end."""
        self.program.process.send_signal(how)
        self.ended = how


def predicted(openvla, case):
    """The action of `openvla predict`."""
    command = [openvla, "predict", "--json", "--checkpoint", KIT / "ckpt"]
    command += ["--policy-file", POLICY_FILE, "--unnorm-key", "bridge_orig"]
    command += ["--image", KIT / case["image"], "--instruction", case["instruction"]]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["action"]


def equal(graph, case, wanted, protocol):
    """The same actions, and the command that follows from them."""
    graph.film(pixels(case))
    graph.say(case["instruction"])
    action = graph.until(
        f"case {case['id']} by {protocol}",
        lambda: next((a for a in graph.actions[-1:] if list(a.action) == wanted), None),
    )
    assert action.instruction == case["instruction"].lower(), action.instruction
    assert numpy.allclose(action.action, case["actions"]["bridge_orig"], rtol=0, atol=1e-12)
    names = ["image", "preprocess", "network", "server"]
    assert list(action.stage_names) == names, action.stage_names
    assert min(action.stage_ms) >= 0.0 and action.stage_ms[3] > 0.0, action.stage_ms
    assert sum(action.stage_ms) <= 1e3 * action.latency_s + 1.0, action
    graph.steady(expected_twist(wanted, HZ))
    print(f"{protocol}: case {case['id']} as predict, to the bit; the twist is its", flush=True)


def recorded(graph):
    """A requested flight recording has the same times."""
    answer = graph.call(peer.Trigger, "dump", peer.Trigger.Request())
    assert answer.success, answer.message
    data = pathlib.Path(answer.message.split(" (")[0]).read_bytes()
    found = re.findall(rb'\{[^{}]*"stages_ms":\{[^{}]*\}[^{}]*\}', data)
    chunks = [chunk for chunk in map(json.loads, found) if "generation" in chunk]
    by_generation = {chunk["generation"]: chunk for chunk in chunks}
    both = [a for a in graph.actions if a.generation in by_generation]
    assert len(both) >= len(CASES), (len(graph.actions), len(chunks))
    for action in both:
        chunk = by_generation[action.generation]
        stages = dict(zip(action.stage_names, action.stage_ms))
        assert chunk["stages_ms"].keys() == stages.keys(), chunk
        assert all(abs(chunk["stages_ms"][k] - ms) < 1e-3 + 1e-6 * ms for k, ms in stages.items())
        assert sum(stages.values()) < 1e3 * chunk["image_to_command_s"] + 1.0, chunk
    median = sorted(chunk["image_to_command_s"] for chunk in chunks)[len(chunks) // 2]
    print(f"recording: {len(both)} chunks, image to command p50 {1e3 * median:.0f} ms", flush=True)


def drive(executable, logs, folder, server, protocol, wanted, ends):
    """The node against the server by one protocol."""
    policy, records = folder / "remote.yaml", folder / f"records-{protocol}"
    of_checkpoint = pathlib.Path(peer.slow_policy_file(folder, HZ)).read_text()
    policy.write_text(of_checkpoint.replace("prompt: openvla\n", "") + REMOTE)
    logs.append(f"{folder}/{protocol}.log")
    node = NodeProcess(
        executable,
        logs[-1],
        remote=f"{protocol}://127.0.0.1:{server.port}",
        remote_timeout_s=TIMEOUT_S,
        policy_file=str(policy),
        unnorm_key="bridge_orig",
        record_directory=str(records),
        autostart=True,
        dry_run=False,
        # One end after the other: that three within 10 s latch is not the point here.
        faults_to_latch=8,
        fault_window_s=0.5,
        rearm_window_s=60.0,
        # Only the server is to fail, also on a loaded machine.
        observation_timeout_s=5.0,
        stamp_past_tolerance_s=5.0,
        overrun_s=0.4,
        **peer.EXACT_PICTURES,
    )
    graph, cases = Peer(noise=False), kit_cases()
    try:
        graph.run(cases[CASES[0]])
        for number in CASES:
            equal(graph, cases[number], wanted[number], protocol)
        recorded(graph)
        for name, how in ends:
            fault(
                graph,
                f"{protocol}, {name}",
                "REMOTE_GONE",
                r"closed|lost|listens|ended",
                ENDED_S,
                lambda how=how: server.end(how),
                server.start,
            )
        equal(graph, cases[CASES[-1]], wanted[CASES[-1]], protocol)
        graph.check_limits()
        assert not any(status.latched for _, status in graph.statuses)
        assert node.stop() == 0
    finally:
        graph.close()
        node.process.kill()


def scenario(executable, logs):
    os.environ["VLA_NODE"] = executable[0]
    openvla = executable[0].replace("vla_node", "openvla")
    folder = pathlib.Path(tempfile.mkdtemp())
    server = Server(logs)
    try:
        cases = kit_cases()
        wanted = {number: predicted(openvla, cases[number]) for number in CASES}
        killed, ended = ("server killed", signal.SIGKILL), ("server ended", signal.SIGTERM)
        drive(executable, logs, folder, server, "openpi", wanted, (ended, killed))
        drive(executable, logs, folder, server, "act", wanted, (killed,))
    finally:
        server.end(signal.SIGKILL)
        server.program.process.wait()


if __name__ == "__main__":
    peer.main(scenario)
