"""Images in every encoding give the golden tokens on ~/action and the right ~/command/twist."""

import io
import sys
import tempfile
import time

import numpy
from PIL import Image as Picture

import peer
from peer import KIT, NodeProcess, Peer, expected_twist, kit_cases, pixels


HZ = 1.0


def check_case(graph, case, how):
    """The next action has the golden tokens, and the command becomes the golden twist."""
    before = len(graph.actions)
    graph.say(case["instruction"])
    wanted = case["instruction"].lower()
    action = graph.until(
        f"an action for case {case['id']}",
        lambda: next((a for a in graph.actions[before:] if a.instruction == wanted), None),
    )
    golden = case["actions"]["bridge_orig"]
    # The image may still have been the one before: what counts is the one that follows.
    action = graph.until(
        f"golden tokens of case {case['id']} {how}; "
        f"last {[list(a.token_ids) for a in graph.actions[-2:]]}",
        lambda: next(
            (
                a
                for a in graph.actions[before:]
                if a.instruction == wanted and list(a.token_ids) == case["generated_ids"]
            ),
            None,
        ),
    )
    assert numpy.allclose(action.action, golden, rtol=0, atol=1e-12), (list(action.action), golden)
    assert numpy.allclose(action.normalized, case["normalized_action"], rtol=0, atol=1e-12)
    assert (action.horizon, action.dimension, action.policy_hz, action.unnorm_key) == (
        1,
        7,
        HZ,
        "bridge_orig",
    )
    assert list(action.stage_names)[0] == "image" and len(action.stage_ms) == len(
        action.stage_names
    )
    assert all(
        a < b
        for a, b in zip(
            (a.generation for a in graph.actions), (a.generation for a in graph.actions[1:])
        )
    )
    graph.steady(expected_twist(golden, HZ))
    print(
        f"case {case['id']:2} {how:24} tokens equal, "
        f"twist {numpy.round(expected_twist(golden, HZ), 4)}"
    )


def scenario(executable, logs):
    cases = kit_cases()
    folder = tempfile.mkdtemp()
    common = dict(
        checkpoint=str(KIT / "ckpt"),
        policy_file=peer.slow_policy_file(folder),
        unnorm_key="bridge_orig",
        autostart=True,
        dry_run=False,
    )
    # A machine that is busy with other tests is no failure here; timing is measured elsewhere.
    common |= dict(
        overrun_s=0.4,
        observation_timeout_s=5.0,
        inference_timeout_s=20.0,
        stamp_past_tolerance_s=5.0,
        **peer.EXACT_PICTURES,
    )

    logs.append(f"{folder}/raw.log")
    node, graph = NodeProcess(executable, logs[-1], **common), Peer(noise=False)
    try:
        graph.run(cases[0])
        check_case(graph, cases[0], "rgb8")
        graph.film(pixels(cases[1])[:, :, ::-1], encoding="bgr8")
        check_case(graph, cases[1], "bgr8")
        graph.film(pixels(cases[2], "L"), encoding="mono8")
        check_case(graph, cases[2], "mono8")
        graph.film(pixels(cases[3]), padding=13)
        check_case(graph, cases[3], "rgb8, 13 bytes of padding")
        graph.film(pixels(cases[6], "RGBA"), encoding="rgba8")
        check_case(graph, cases[6], "rgba8")
        graph.film(pixels(cases[7])[:, :, ::-1], encoding="bgr8", padding=1)
        check_case(graph, cases[7], "bgr8, 1 byte of padding")
        # The stamp on ~/action is the source image's.
        graph.film(pixels(cases[4]), hz=2)
        check_case(graph, cases[4], "rgb8")
        assert graph.grippers and all(0.0 <= value <= 1.0 for value in graph.grippers)
        graph.spin(2.1)
        rate = len([t for t, _ in graph.twists if graph.twists[-1][0] - 2.0 <= t]) / 2.0
        assert 40 < rate < 60, f"command rate {rate} Hz"
        assert graph.twists[-1][1].header.frame_id == "base_link"
        graph.check_limits()
        assert node.stop() == 0
        graph.rested(time.time(), "the last command is zero")
    finally:
        graph.close()
        node.process.kill()

    logs.append(f"{folder}/compressed.log")
    node, graph = NodeProcess(executable, logs[-1], **common, image_transport="compressed"), Peer()
    try:
        case = cases[5]
        graph.film_bytes((KIT / case["image"]).read_bytes())
        graph.say(case["instruction"])
        graph.until("active", graph.in_state("IDLE"))
        graph.enable_when_possible()
        check_case(graph, case, "PNG")
        graph.film_bytes((KIT / cases[10]["image"]).read_bytes())
        check_case(graph, cases[10], "PNG with a palette")
        before = len(graph.actions)
        jpeg = io.BytesIO()
        Picture.fromarray(pixels(cases[0])).save(jpeg, "JPEG", quality=95)
        graph.film_bytes(jpeg.getvalue(), format="jpeg")
        graph.say("pick up the block")
        action = graph.until(
            "an action from a JPEG",
            lambda: next(
                (a for a in graph.actions[before:] if a.instruction == "pick up the block"), None
            ),
        )
        assert len(action.token_ids) == 7 and all(
            31744 <= token < 32000 for token in action.token_ids
        )
        # A truncated JPEG is no image: the robot stops and the status has the cause; a good one
        # and it goes on.
        graph.film_bytes(jpeg.getvalue()[:2000], format="jpeg")
        graph.until(
            "malformed",
            lambda: (
                "IMAGE_MALFORMED" in graph.reasons(graph.status)
                and graph.state in ("HOLDING", "IDLE")
            ),
        )
        assert "JPEG" in graph.status.detail and graph.status.images_rejected > 0, graph.shown()
        graph.film_bytes(jpeg.getvalue(), format="jpeg")
        graph.resume()
        print(f"truncated JPEG: stopped, then resumed")
        assert node.stop() == 0
    finally:
        graph.close()
        node.process.kill()


if __name__ == "__main__":
    peer.main(scenario)
