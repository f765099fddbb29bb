"""Records ~/action while `openvla replay` plays a bag to the node in dry_run.

Arguments: NODE OPENVLA BAG IMAGE_TOPIC TRANSPORT ACTIONS_FILE.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import peer
from peer import POLICY_FILE, KIT, NodeProcess, Peer

# Recorded at 5 Hz; a fifth of that leaves an inference a whole second, also where the machine is
# busy.
RATE = "0.2"


def scenario(arguments, logs):
    node_path, openvla, bag, image_topic, transport, actions_path = arguments
    folder = tempfile.mkdtemp()
    logs.append(f"{folder}/node.log")
    # The images are as old as the bag: the node must live in recorded time.
    node = NodeProcess(
        [node_path],
        logs[-1],
        checkpoint=str(KIT / "ckpt"),
        policy_file=POLICY_FILE,
        unnorm_key="bridge_orig",
        autostart=True,
        dry_run=True,
        use_sim_time=True,
        image_transport=transport,
        overrun_s=0.4,
        observation_timeout_s=5.0,
        inference_timeout_s=20.0,
        stamp_past_tolerance_s=5.0,
    )
    graph, player = Peer(), None
    try:
        publishers = graph.node.count_publishers
        graph.until(
            "active", lambda: graph.status and graph.state not in ("UNCONFIGURED", "INACTIVE"), 60.0
        )
        logs.append(f"{folder}/replay.log")
        with open(logs[-1], "wb") as log:
            player = subprocess.Popen(
                [
                    openvla,
                    "replay",
                    "--bag",
                    bag,
                    "--rate",
                    RATE,
                    "--image-topic",
                    image_topic,
                    "--instruction-topic",
                    "/task",
                    "--clock",
                    "--wait",
                    "20",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        unasked = 0
        while player.poll() is None:
            graph.spin(0.1)
            unasked = max(unasked, publishers("/vla/command/recorded"))
        text = pathlib.Path(logs[-1]).read_text()
        assert player.returncode == 0, text
        assert "/vla/command/recorded" in text and unasked == 0, (
            f"a recorded command was published unasked: {text}"
        )
        assert "/task -> instruction: 12 messages" in text, text
        # The last inference may still be under way.
        last = len(graph.actions)
        graph.spin(2.0)
        print(
            f"{text.strip()}\n{len(graph.actions)} actions ({len(graph.actions) - last} after the "
            f"replay), node {graph.shown()}"
        )
        assert not graph.twists, "dry_run commands nothing"
        found = [
            {
                "stamp": a.header.stamp.sec * 10**9 + a.header.stamp.nanosec,
                "instruction": a.instruction,
                "token_ids": [int(t) for t in a.token_ids],
            }
            for a in graph.actions
        ]
        pathlib.Path(actions_path).write_text(json.dumps(found))
        assert node.stop() == 0
    finally:
        if player and player.poll() is None:
            player.kill()
            player.wait()
        graph.close()
        node.process.kill()


if __name__ == "__main__":
    peer.main(scenario)
