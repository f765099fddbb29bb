"""Real-time chunking live: seams between chunks with it and without it, in one run.

pi0 and pi0.5 with the weights of consensus.py, whose chunks are smooth and unrelated to each other.
`added_latency_s` makes every inference as slow as on another device; the robot executes the present
chunk meanwhile. A seam is what Status reports: the difference of the steps on both sides of a
take-over. With RTC_LATENCIES_S, both models and all modes at each of these latencies
(tools/bench/real_time_chunking).
"""

import os
import pathlib
import tempfile

import chunks
import consensus
import numpy
from peer import Peer, NodeProcess, main, noisy

EXECUTE = 3  # of 10 steps, at 5 Hz: 7 steps, 1.4 s, are left for an inference
SEAMS = 5


def measure(executable, logs, kit, mode, latency_s, **config):
    """The translation of each seam, m per step, and the node's notes on the policy."""
    folder = pathlib.Path(tempfile.mkdtemp())
    consensus.write(kit["kit"], folder / "ckpt", **config)
    kit = kit | dict(more=kit["more"].replace("}", f", real_time_chunking: {mode}}}"))
    path = chunks.policy_file(folder, kit, EXECUTE)
    logs.append(f"{folder}/node.log")
    node = NodeProcess(
        executable,
        logs[-1],
        checkpoint=str(folder / "ckpt"),
        policy_file=str(path),
        autostart=True,
        dry_run=False,
        seed=1,
        added_latency_s=latency_s,
        # A machine that does other things.
        inference_niceness=0,
        observation_timeout_s=5.0,
        inference_timeout_s=20.0,
        state_timeout_s=5.0,
        overrun_s=0.4,
    )
    graph = Peer(publish=False)
    seams, remarks = {}, set()
    try:
        robot = chunks.Robot(graph, kit, change=noisy)
        graph.camera = robot.publish
        graph.say(kit["instruction"])
        graph.until("active", graph.in_state("IDLE", "RUNNING", "HOLDING"), timeout=60.0)
        graph.enable_when_possible()

        def enough():
            status = graph.status
            if status.seams:
                seams[status.seams] = status.seam_last[0]
            if "real-time chunking: " in status.detail:
                remarks.add(status.detail.split("real-time chunking: ")[1])
            return SEAMS <= len(seams)

        graph.until(f"{SEAMS} seams", enough, 60.0)
        failed = [m for _, m in graph.statuses if "INFERENCE_FAILED" in graph.reasons(m)]
        assert not failed and not graph.status.latched, graph.shown()
        assert node.stop() == 0
    finally:
        graph.close()
        node.process.kill()
    return numpy.array(list(seams.values())), remarks


def shown(name, latency_s, mode, seams):
    median = 1e3 * numpy.median(seams)
    each = " ".join(f"{1e3 * seam:.3f}" for seam in seams)
    print(f"{name:18} {latency_s:4.1f} s  {mode:8} median {median:6.3f} mm of {each}", flush=True)


def smaller(executable, logs, kit, modes, latency_s):
    """Every mode's seams are smaller than those of chunks that start anew."""
    name = kit["kit"].name
    plain, _ = measure(executable, logs, kit, "none", latency_s)
    shown(name, latency_s, "none", plain)
    for mode, bound, config in modes:
        seams, remarks = measure(executable, logs, kit, mode, latency_s, **config)
        shown(name, latency_s, mode, seams)
        # The median: on a busy machine a chunk may take over later than was expected.
        assert numpy.median(seams) < bound * numpy.median(plain), (mode, seams, plain)
        # On a busy machine a chunk may end before the next one is there; that is said too.
        assert not any("rtc_training_max_delay" in text for text in remarks), remarks


def scenario(executable, logs):
    pi0 = chunks.pi("pi0_lerobot_tiny", "action")
    pi05 = chunks.pi("pi05_lerobot_tiny", "action")
    guided = ("guided", 0.3, {})
    latencies = os.environ.get("RTC_LATENCIES_S")
    if latencies:
        # As trained for any delay of these latencies. Its rows behind the frozen ones only tend to
        # them, since these weights were not trained.
        trained = ("trained", 0.7, {"rtc_training_max_delay": 9})
        for latency_s in map(float, latencies.split(",")):
            smaller(executable, logs, pi0, [guided], latency_s)
            smaller(executable, logs, pi05, [guided, trained], latency_s)
    else:
        smaller(executable, logs, pi0, [guided], 0.3)
    # A delay beyond the training's is no fault: what can be is continued, and Status says so.
    seams, remarks = measure(executable, logs, pi05, "trained", 0.3, rtc_training_max_delay=1)
    shown("pi05, at most 1", 0.3, "trained", seams)
    assert any("at most 1 (rtc_training_max_delay)" in text for text in remarks), remarks


if __name__ == "__main__":
    main(scenario)
