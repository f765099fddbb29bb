"""openpi's websocket server, as it is on PyPI, with a policy of one constant motion.

`policy_server.py PORT` in the environment of tools/remote. Lines on standard input change the
next answer: `nan`, `shape`, `far`, `error`, `slow SECONDS`.
"""

import sys
import threading
import time

import numpy
from openpi_client.base_policy import BasePolicy
from openpi_server.websocket_policy_server import WebsocketPolicyServer

HORIZON, WIDTH = 4, 7


class Constant(BasePolicy):
    """Answers every observation with the same steps, unless the next answer is to be another."""

    def __init__(self):
        self.next = []

    def infer(self, observation):
        image = observation["observation/image"]
        assert image.shape == (224, 224, 3) and image.dtype == numpy.uint8, image.shape
        asked = (observation["prompt"], observation["observation/state"].tolist())
        # The node's self-test, and the scenario.
        known = [("pick up the block", [0.0, 0.0]), ("pick up the fork", [0.5, 1.0])]
        assert asked in known, asked
        steps = numpy.zeros((HORIZON, WIDTH), numpy.float32)
        steps[:, 0], steps[:, 5], steps[:, 6] = 0.01, 0.02, 1.0
        match self.next.pop(0).split() if self.next else []:
            case ["nan"]:
                steps[1, 2] = numpy.nan
            case ["shape"]:
                steps = steps[:, :6]
            case ["far"]:
                steps[2, 0] = 0.7
            case ["error"]:
                raise ValueError("no such observation")
            case ["slow", seconds]:
                time.sleep(float(seconds))
        return {"actions": steps}

    def reset(self):
        pass


def main():
    policy = Constant()

    def listen():
        for line in sys.stdin:
            policy.next.append(line.strip())

    threading.Thread(target=listen, daemon=True).start()
    server = WebsocketPolicyServer(policy, "127.0.0.1", int(sys.argv[1]), {"robot": "test arm"})
    server.serve_forever()


if __name__ == "__main__":
    main()
