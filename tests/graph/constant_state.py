"""A policy whose state has constants only: no message brings it, and the policy decides anyway.

The policy is on a server of OpenVLA's protocol, which this process plays; it notes the states.
"""

import base64
import http.server
import json
import pathlib
import tempfile
import threading

import numpy

import peer
from peer import NodeProcess, Peer, kit_cases

INSTRUCTION = "pick up the fork"
CONSTANTS = [0.25, -1.5]
# With scale and offset of the second part.
STATE = [0.25, -1.5, 2.0]
POLICY = f"""
name: a policy with a constant state
unnorm_keys: [test]
cameras: [{{name: base, topic: image}}]
state:
  - {{from: constant, values: {CONSTANTS}}}
  - {{from: constant, values: [1.0], scale: 1.5, offset: 0.5}}
action:
  frame: base
  rotation: rotation_vector
  composition: left
  translation_scale_m: 1.0
  rotation_scale_rad: 1.0
gripper: {{polarity: one_is_open, threshold: 0.5}}
policy_hz: 5.0
horizon: 1
image: {{steps: [{{step: bicubic, size: 224}}]}}
remote:
  images: {{base: image}}
  state: [{{key: state, values: 3}}]
  answers: physical
  bounds: [[-0.1, 0.1], [-0.1, 0.1], [-0.1, 0.1], [-0.5, 0.5], [-0.5, 0.5], [-0.5, 0.5], [0, 1]]
"""


def array(value):
    """A list, or an array of json_numpy."""
    if isinstance(value, dict):
        data = base64.b64decode(value["__numpy__"])
        return numpy.frombuffer(data, value["dtype"]).reshape(value["shape"]).tolist()
    return value


class Server(http.server.ThreadingHTTPServer):
    """`POST /act`; keeps (instruction, state) of each request."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.requests = []
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Answers(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        request = json.loads(body)
        self.server.requests.append((request["instruction"], array(request["state"])))
        step = numpy.array([0.01, 0, 0, 0, 0, 0.02, 1.0])
        answer = {
            "__numpy__": base64.b64encode(step.tobytes()).decode(),
            "dtype": "<f8",
            "shape": [7],
        }
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def scenario(executable, logs):
    folder, server = pathlib.Path(tempfile.mkdtemp()), Server()
    (folder / "policy.yaml").write_text(POLICY)
    logs.append(f"{folder}/node.log")
    node = NodeProcess(
        executable,
        logs[-1],
        remote=f"act://127.0.0.1:{server.server_port}",
        policy_file=str(folder / "policy.yaml"),
        autostart=True,
        dry_run=False,
        overrun_s=0.4,
        observation_timeout_s=2.0,
        stamp_past_tolerance_s=5.0,
    )
    graph = Peer()
    try:
        graph.run({"instruction": INSTRUCTION, "image": kit_cases()[0]["image"]})
        states = [state for said, state in server.requests if said == INSTRUCTION]
        assert states and all(state == STATE for state in states), states
        assert graph.actions and graph.actions[-1].instruction == INSTRUCTION
        missing = {"STATE_MISSING", "STATE_STALE", "STATE_INVALID"}
        seen = {reason for _, status in graph.statuses for reason in graph.reasons(status)}
        assert not missing & seen, seen
        print(f"{len(states)} decisions from the constant state {states[-1]}")
        assert node.stop() == 0
    finally:
        graph.close()
        node.process.kill()
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    peer.main(scenario)
