"""The node on a simulated N300 in bf16 publishes the golden actions, as on the CPU."""

import tempfile

import numpy

import peer
from peer import KIT, NodeProcess, Peer, expected_twist, kit_cases, pixels

HZ = 1.0
# A token may differ on a mesh only where the reference's margin is below this
# (golden::Bounds::BF16).
MARGIN = 0.1
DEVICES = {"cpu": {}, "sim:n300": {"precision": "bf16"}}


def answers(executable, logs, folder, device, cases):
    """What the node publishes for each case, and what the robot is told in the end."""
    parameters = dict(
        checkpoint=str(KIT / "ckpt"),
        policy_file=peer.slow_policy_file(folder),
        unnorm_key="bridge_orig",
        autostart=True,
        dry_run=False,
    )
    # How fast a simulated mesh is says nothing: what is published is compared.
    parameters |= dict(
        overrun_s=0.4,
        observation_timeout_s=10.0,
        inference_timeout_s=60.0,
        load_timeout_s=600.0,
        stamp_past_tolerance_s=10.0,
        **peer.EXACT_PICTURES,
    )
    logs.append(f"{folder}/{device.replace(':', '_')}.log")
    node, graph = (
        NodeProcess(executable, logs[-1], **parameters, device=device, **DEVICES[device]),
        Peer(noise=False),
    )
    published = []
    try:
        graph.film(pixels(cases[0]))
        graph.say(cases[0]["instruction"])
        graph.until("active", graph.in_state("IDLE", "RUNNING", "HOLDING"), timeout=600.0)
        graph.enable_when_possible()
        for case in cases:
            graph.film(pixels(case))
            before = len(graph.actions)
            graph.say(case["instruction"])
            wanted = case["instruction"].lower()
            # The first action may still be that of the image before.
            action = graph.until(
                f"golden tokens of case {case['id']} on {device}; "
                f"last {[list(a.token_ids) for a in graph.actions[-2:]]}",
                lambda: next(
                    (
                        a
                        for a in graph.actions[before:]
                        if a.instruction == wanted and list(a.token_ids) == case["generated_ids"]
                    ),
                    None,
                ),
                timeout=120.0,
            )
            published.append((list(action.token_ids), list(action.normalized), list(action.action)))
            stages = ", ".join(
                f"{name} {ms:.0f}" for name, ms in zip(action.stage_names, action.stage_ms)
            )
            print(f"{device:9} case {case['id']:2} tokens {published[-1][0]}; ms: {stages}")
        graph.steady(expected_twist(cases[-1]["actions"]["bridge_orig"], HZ), timeout=60.0)
        assert node.stop() == 0
    finally:
        graph.close()
        node.process.kill()
    return published


def scenario(executable, logs):
    cases = [
        case
        for case in kit_cases()
        if min(step["margin"] for step in case["top5_per_step"]) >= MARGIN
    ][:4]
    assert len(cases) == 4 and len({case["instruction"] for case in cases}) == 4
    folder = tempfile.mkdtemp()
    on = {device: answers(executable, logs, folder, device, cases) for device in DEVICES}
    assert on["cpu"] == on["sim:n300"], on
    for case, (_, normalized, action) in zip(cases, on["sim:n300"]):
        assert numpy.allclose(action, case["actions"]["bridge_orig"], rtol=0, atol=1e-12)
        assert numpy.allclose(normalized, case["normalized_action"], rtol=0, atol=1e-12)
    print(f"{len(cases)} cases: the same actions on cpu and on sim:n300 in bf16")


if __name__ == "__main__":
    peer.main(scenario)
