"""`openvla serve` as a child process on loopback. Needs no ROS."""

import json
import pathlib

from processes import Program, openvla_executable

PROTOCOLS = ("openpi", "act")


class PolicyServer(Program):
    """A policy server. `port` 0 takes a free one; `address` is known once clients can connect."""

    def __init__(self, checkpoint, *options, port=0):
        command = [openvla_executable(), "serve", "--checkpoint", checkpoint]
        command += ["--listen", f"127.0.0.1:{port}", "--json", *options]
        super().__init__("openvla-serve", [str(part) for part in command])

    def port(self):
        """The port, or None while clients cannot connect yet."""
        for line in pathlib.Path(self.log.name).read_text(errors="replace").splitlines():
            # Whole, since the line may still be under way.
            if line.startswith("{") and line.endswith("}"):
                return json.loads(line)["port"]
        return None

    def address(self, protocol):
        """What the node's parameter `remote` is for this server."""
        return f"{protocol}://127.0.0.1:{self.port()}"
