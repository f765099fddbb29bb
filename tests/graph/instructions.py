"""The instruction changes about every second, to other lengths, on a mesh that compiles slowly.

Every launch of the simulated mesh takes a millisecond, and 20 of them the first time its program
runs. The inference deadline is the node's own, from its self-test: work that compiles within it
would stop the robot with INFERENCE_TIMEOUT.
"""

import os
import tempfile
import time

import peer
from peer import KIT, NodeProcess, Peer, kit_cases, pixels

LAUNCH_US = 1000
# Words of one token each: prompts of both buckets of the traces, 288 and 320 positions.
WORDS = (0, 1, 2, 9, 4, 30, 3, 20, 0, 34, 7)
# More tokens than both buckets have: compiled and captured before its first inference.
LONG = 60
SETTINGS = dict(
    checkpoint=str(KIT / "ckpt"),
    policy_file=peer.slow_policy_file(tempfile.mkdtemp(), 0.5),
    unnorm_key="bridge_orig",
    decode="actions",
    device="sim:n300",
    precision="bf16",
    autostart=True,
    dry_run=False,
    # What is not tested here may be late on a busy machine.
    overrun_s=0.4,
    observation_timeout_s=10.0,
    stamp_past_tolerance_s=10.0,
    load_timeout_s=600.0,
    **peer.EXACT_PICTURES,
)


def stops(graph):
    """The reasons of all statuses but those of a node that works or has just begun to."""
    causes = {cause for _, status in graph.statuses for cause in graph.reasons(status)}
    return causes & {"INFERENCE_TIMEOUT", "INFERENCE_FAILED", "INFERENCE_DEAD"}


def scenario(executable, logs):
    case = kit_cases()[0]
    logs.append(f"{tempfile.mkdtemp()}/node.log")
    environment = dict(os.environ, TT_MESH_SIM_LAUNCH_US=str(LAUNCH_US))
    node = NodeProcess(executable, logs[-1], popen=dict(env=environment), **SETTINGS)
    graph = Peer()
    try:
        graph.film(pixels(case))
        graph.say(case["instruction"])
        graph.until("active", graph.in_state("IDLE", "RUNNING", "HOLDING"), timeout=600.0)
        graph.enable_when_possible()
        stages = set()
        for words in (*WORDS, LONG, 0, LONG, 5):
            text = " ".join(["pick up", *["a"] * words])
            began, before = time.monotonic(), len(graph.actions)
            graph.say(text)
            action = graph.until(
                f"an action of {words} words more",
                lambda: next((a for a in graph.actions[before:] if a.instruction == text), None),
                timeout=120.0,
            )
            stages |= set(action.stage_names)
            assert not stops(graph), stops(graph)
            graph.spin(max(0.0, 1.0 - (time.monotonic() - began)))
            print(f"{words:2} words more: {time.monotonic() - began:5.1f} s, {graph.shown()}")
        assert not stops(graph), stops(graph)
        assert stages == {"image", "preprocess", "execute"}, stages
        # The long prompt alone was prepared; the usual ones were at the start, and stay so.
        prepared = node.text().count("before its first inference")
        assert prepared == 1, prepared
        assert node.stop(timeout=60.0) == 0
    finally:
        graph.close()
        node.process.kill()


if __name__ == "__main__":
    peer.main(scenario)
